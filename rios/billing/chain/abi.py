"""The contracts' own interface: artifacts as they are shipped, calls into bytes and bytes into answers and errors."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rios.words.errors import ChainMismatch
from rios.words.ids import Address

CONTRACTS = (
    "RosToken",
    "RiosEscrow",
    "RiosSettlement",
    "RiosStaking",
    "RiosPriceBook",
    "TimelockController",
    "RiosGovernor",
)
_ERROR = "08c379a0"  # Error(string), what `require` and `revert` with a text give
_PANIC = "4e487b71"  # Panic(uint256), what the compiler's own checks give


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract."""

    name: str
    creation: bytes
    """The code that makes it, without the arguments."""
    code: bytes
    """What lies on the chain, zero where `immutables` are."""
    immutables: tuple[tuple[int, int], ...]
    """Start and length of what a constructor fills in."""
    functions: Mapping[str, Mapping[str, Any]]
    """By name, and overloaded ones by signature as well."""
    events: Mapping[str, Mapping[str, Any]]
    """By topic."""
    constructor: tuple[str, ...]
    """The types of its arguments."""


def types(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The types of a list of parameters, tuples written out."""
    return [_type(item) for item in inputs]


def signature(entry: Mapping[str, Any]) -> str:
    """As it is hashed: "transfer(address,uint256)"."""
    return f"{entry['name']}({','.join(types(entry['inputs']))})"


@functools.cache
def artifact(name: str) -> Artifact:
    """The contract `name` of `CONTRACTS`."""
    raw = json.loads((importlib.resources.files("rios.billing") / "artifacts" / f"{name}.json").read_text())
    functions: dict[str, Mapping[str, Any]] = {}
    for entry in (entry for entry in raw["abi"] if entry["type"] == "function"):
        functions.setdefault(entry["name"], entry)
        functions[signature(entry)] = entry
    return Artifact(
        name=name,
        creation=bytes.fromhex(raw["bytecode"].removeprefix("0x")),
        code=bytes.fromhex(raw["deployedBytecode"].removeprefix("0x")),
        immutables=tuple((start, length) for start, length in raw["immutableReferences"]),
        functions=functions,
        events={topic(entry): entry for entry in raw["abi"] if entry["type"] == "event"},
        constructor=tuple(
            kind for entry in raw["abi"] if entry["type"] == "constructor" for kind in types(entry["inputs"])
        ),
    )


def keccak(data: bytes) -> bytes:
    """Keccak-256 by a compiled library, 50 times faster than the one of rios.words."""
    from eth_hash.auto import keccak as hashed

    return hashed(data)


@functools.lru_cache(maxsize=1 << 14)
def address(text: str) -> Address:
    """The spelling of EIP-55 of what a chain calls an address: `check_address` for those that come by the thousand.

    Raises ValueError for what is none.
    """
    from eth_utils.address import is_hex_address, to_checksum_address

    if not is_hex_address(text):
        raise ValueError(f"{text!r} is no address")
    return Address(to_checksum_address(text))


def topic(entry: Mapping[str, Any]) -> str:
    """The hash by which logs name an event."""
    return "0x" + keccak(signature(entry).encode()).hex()


@functools.cache
def topic_of(contract: str, event: str) -> str:
    """The topic of an event by its name."""
    return next(hashed for hashed, entry in artifact(contract).events.items() if entry["name"] == event)


def encode(contract: str, function: str, *arguments: Any) -> bytes:
    """The data of a call. `function` is a name, or a signature where the name is overloaded."""
    from eth_abi.abi import encode as encoded

    entry = artifact(contract).functions[function]
    return keccak(signature(entry).encode())[:4] + encoded(types(entry["inputs"]), arguments)


def creation(contract: str, *arguments: Any) -> bytes:
    """The data of the transaction that makes a contract."""
    from eth_abi.abi import encode as encoded

    made = artifact(contract)
    return made.creation + encoded(made.constructor, arguments)


def decode(contract: str, function: str, answer: bytes) -> Any:
    """What a function returned: one value, a tuple of several, or None. Addresses are spelt by EIP-55.

    Raises ChainMismatch where the answer has another form: there is another contract, or none.
    """
    from eth_abi.abi import decode as decoded
    from eth_abi.exceptions import DecodingError

    entry = artifact(contract).functions[function]
    kinds = types(entry["outputs"])
    try:
        values = decoded(kinds, answer)
    except DecodingError as error:
        raise ChainMismatch(
            f"{function} of {contract} answered {len(answer)} bytes that are none of ({', '.join(kinds)}): "
            "there is another contract at its address, or none"
        ) from error
    spelt = tuple(spell(kind, value) for kind, value in zip(kinds, values, strict=True))
    return spelt[0] if len(spelt) == 1 else (spelt or None)


def spell(kind: str, value: Any) -> Any:
    """A decoded value as rios writes it: addresses by EIP-55, lists as tuples."""
    if kind == "address":
        return address(value)
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        return tuple(spell(inner, item) for item in value)
    return value


def explain(data: bytes) -> str:
    """What a revert says, in words: the text of `require`, or the name and arguments of a custom error of ours."""
    from eth_abi.abi import decode as decoded
    from eth_abi.exceptions import DecodingError

    code, body = data[:4].hex(), data[4:]
    try:
        if code == _ERROR:
            return str(decoded(["string"], body)[0])
        if code == _PANIC:
            return f"Panic(0x{decoded(['uint256'], body)[0]:02x})"
        if entry := _errors().get(code):
            values = decoded(types(entry["inputs"]), body)
            named = [f"{i['name']}={_shown(value)}" for i, value in zip(entry["inputs"], values, strict=True)]
            return f"{entry['name']}({', '.join(named)})"
    except (DecodingError, UnicodeDecodeError):
        return f"0x{data.hex()}"
    return f"0x{data.hex()}" if data else "no reason given"


@functools.cache
def _errors() -> Mapping[str, Mapping[str, Any]]:
    """The custom errors of all contracts, by the four bytes that name them."""
    return {keccak(signature(entry).encode())[:4].hex(): entry for name in CONTRACTS for entry in _error_entries(name)}


def _error_entries(name: str) -> Iterator[Mapping[str, Any]]:
    raw = json.loads((importlib.resources.files("rios.billing") / "artifacts" / f"{name}.json").read_text())
    yield from (entry for entry in raw["abi"] if entry["type"] == "error")


def _type(item: Mapping[str, Any]) -> str:
    kind = str(item["type"])
    if kind.startswith("tuple"):
        return f"({','.join(types(item['components']))}){kind.removeprefix('tuple')}"
    return kind


def _shown(value: Any) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
