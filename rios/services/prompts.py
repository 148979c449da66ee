"""The front door: what a caller may give as prompts and parameters, made plain before anything is sent."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

from rios.dmoe.params import SamplingParams
from rios.words.errors import InvalidRequest
from rios.words.money import Wei, parse_ros

_BYTES = (bytes, bytearray, memoryview)
_INTEGERS = ("top_k", "max_new_tokens", "seed", "logprobs")


def prompts_of(prompt: object) -> tuple[list[str | list[int]], bool]:
    """Each prompt as text or plain ids, and whether it was one prompt rather than a list of them.

    Ids may be numpy's or torch's, alone or in arrays: a 1-d array is one prompt, a 2-d array a list.
    """
    if isinstance(prompt, str):
        return [prompt], True
    parts = _parts(prompt)
    if parts is None:
        raise InvalidRequest(f"a prompt is text or a list of token ids, not {type(prompt).__name__}")
    if not parts:
        raise InvalidRequest("the prompt is empty; it needs at least one token")
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        return list(texts), False
    lists = [_parts(part) for part in parts]
    if not texts and not any(ids is not None for ids in lists):
        return [_ids(parts, "the prompt")], True
    found: list[str | list[int]] = []
    for place, ids in enumerate(lists):
        if ids is None:
            raise InvalidRequest(
                f"a list of prompts holds texts or lists of token ids, a prompt holds token ids, none of them a "
                f"mixture: part {place} is {parts[place]!r}"
            )
        found.append(_ids(ids, f"prompt {place}"))
    return found, False


def one_of(prompt: object, verb: str) -> str | list[int]:
    """The only prompt, for what takes just one."""
    found, one = prompts_of(prompt)
    if not one:
        raise InvalidRequest(f"{verb} takes one prompt, this is a list of {len(found)}; call it once for each")
    return found[0]


def params_of(given: Mapping[str, Any]) -> SamplingParams:
    """Parameters as a request carries them; their bounds are checked by `SamplingParams.validate`."""
    plain = dict(given)
    if "stop" in plain:
        stop = plain["stop"]
        plain["stop"] = (stop,) if isinstance(stop, str) else _listed("stop", stop, "a text or a list of texts")
    if "stop_token_ids" in plain:
        ids = _listed("stop_token_ids", plain["stop_token_ids"], "a list of token ids")
        plain["stop_token_ids"] = tuple(_ids(ids, "stop_token_ids"))
    for field in _INTEGERS:
        value = plain.get(field)
        if isinstance(value, SupportsIndex) and not isinstance(value, bool):
            plain[field] = operator.index(value)
    try:
        return SamplingParams(**plain)
    except TypeError as error:
        known = ", ".join(SamplingParams.__dataclass_fields__)
        raise InvalidRequest(f"unknown parameter ({error}); known are {known}, timeout, max_price") from error


def max_price_of(params: dict[str, Any]) -> Wei | None:
    """Take `max_price`, the most that a request pays, out of its parameters; None without. Raises InvalidAmount."""
    said = params.pop("max_price", None)
    return None if said is None else parse_ros(said, name="max_price")


def count_of(field: str, value: object) -> int | None:
    """A whole number, at least 1, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < 1:
        raise InvalidRequest(f"{field} is {value!r}; it must be a whole number, at least 1")
    return operator.index(value)


def _parts(value: object) -> list[Any] | None:
    """What a list, tuple or array holds; None for anything else. Text and bytes are no lists."""
    if isinstance(value, (str, *_BYTES)):
        return None
    if isinstance(value, Sequence):
        return list(value)
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        return list(value.tolist())
    return None


def _listed(field: str, value: object, wanted: str) -> tuple[Any, ...]:
    parts = _parts(value)
    if parts is None:
        raise InvalidRequest(f"{field} is {value!r}; it must be {wanted}")
    return tuple(parts)


def _ids(parts: Sequence[Any], where: str) -> list[int]:
    ids: list[int] = []
    for place, part in enumerate(parts):
        try:
            if isinstance(part, bool):
                raise TypeError("a bool")
            ids.append(operator.index(part))
        except TypeError as error:
            raise InvalidRequest(f"token {place} of {where} is {part!r}; token ids are whole numbers") from error
    return ids
