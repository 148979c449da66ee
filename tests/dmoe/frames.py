"""What nobody should send to a host: frames that are wrong from the start, and right ones with something changed."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from rios.dmoe.calls import encode_exec
from rios.dmoe.manifest import Manifest
from rios.dmoe.params import SamplingParams
from rios.dmoe.wire import HEADER, Kind, dump, encode_header

KEY = "the-key-that-no-log-may-show"
NAME = "hostile-test"


def frame_of(kind: int, seq: int = 0, meta: bytes = b"", body: bytes = b"") -> bytes:
    return encode_header(Kind(kind), seq, meta, [body]) + meta + body


def exec_frame(chance: random.Random, manifest: Manifest, *, handle: int = 1, far: bool = False) -> bytes:
    """A call that can be computed; `far`: of an expert that nobody has."""
    rows = chance.randrange(1, 4)
    meta, bodies = encode_exec(
        deployment=handle,
        layer=chance.randrange(len(manifest.layers)),
        experts=np.array([9999 if far else chance.randrange(manifest.layers[0].num_experts)], dtype=np.int32),
        counts=np.array([rows], dtype=np.int32),
        slot_rows=np.arange(rows, dtype=np.int32),
        hidden=torch.ones(rows, manifest.hidden_size),
        weights=torch.ones(rows) if chance.random() < 0.5 else None,
    )
    return frame_of(Kind.EXEC, chance.randrange(1 << 64), meta, b"".join(bytes(body) for body in bodies))


def submit_meta(**changes: Any) -> dict[str, Any]:
    params = asdict(SamplingParams(max_new_tokens=1))
    params.update(changes.pop("params", {}))
    meta = {"handle": 5, "prompt_tokens": 3, "params": params, "seed": 0, "eos": [0], "metered_from": 0}
    return {**meta, **changes}


def submit(meta: dict[str, Any], tokens: tuple[int, ...] = (5, 6, 7)) -> bytes:
    return frame_of(Kind.SUBMIT, 5, dump(meta), struct.pack(f"<{len(tokens)}i", *tokens))


# Requests that a trunk answers with an error, and goes on with the connection.
REFUSED = [
    submit(submit_meta(params={"temperature": -1})),
    submit(submit_meta(params={"temperature": float("nan")})),
    submit(submit_meta(params={"stop": ["x"]})),  # this deployment has no tokenizer
    submit(submit_meta(params={"stop_token_ids": [1 << 40]})),
    submit(submit_meta(params={"max_new_tokens": 1 << 62})),
    submit(submit_meta(prompt_tokens=0)),
    submit(submit_meta(prompt_tokens=4)),
    submit(submit_meta(prompt_tokens=-(1 << 70))),
    submit(submit_meta(prompt_tokens=2)),  # more is there already than was asked for
    submit(submit_meta(), (5, -6, 7)),
    submit(submit_meta(), (5, 1 << 30, 7)),
    submit(submit_meta(), (5,) * 5000),
]
# Requests that cannot be meant: the connection ends.
NONSENSE = [
    *(
        submit(submit_meta(**{name: value}))
        for name in ("handle", "seed", "metered_from")
        for value in (-1, 1 << 65, None, [], "x", float("inf"))
    ),
    *(submit(submit_meta(eos=value)) for value in (None, 5, ["x"], [None], {"a": 1})),
    *(submit(submit_meta(params=value)) for value in ({"unknown": 1}, {"stop": 5}, {"stop_token_ids": None})),
    *(submit({**submit_meta(), "params": value}) for value in (None, 5, "x", [[1, 2, 3]])),
    submit({}),
    submit(submit_meta(), ()),
    frame_of(Kind.SUBMIT, 1, b"[" * 30_000, bytes(4)),
    frame_of(Kind.SUBMIT, 1, dump(submit_meta()), bytes(13)),
]
ATTACH = {"op": "attach", "pid": 1, "fd": 0, "area_bytes": 4096, "nonce": "00", "spin_us": 10}
BAD_ATTACHES = [
    frame_of(Kind.CALL, 0, dump({**ATTACH, name: value}))
    for name in ("pid", "fd", "area_bytes", "spin_us")
    for value in (None, [], "x", float("inf"), 1 << 5000)
]


def hello(role: str, **changes: Any) -> bytes:
    return frame_of(Kind.HELLO, 0, dump({"role": role, "deployment": NAME, "nonce": "0" * 32, **changes}))


def read_frame(sock: socket.socket) -> tuple[int, dict[str, Any]]:
    """Kind and meta of the next frame."""
    head = sock.recv(HEADER.size, socket.MSG_WAITALL)
    meta_bytes, body_bytes = struct.unpack_from("<IQ", head, 16)
    data = sock.recv(meta_bytes + body_bytes, socket.MSG_WAITALL)
    return head[5], json.loads(data[:meta_bytes] or b"{}")


def proof(greeting: bytes, challenge: dict[str, Any], *, key: str = KEY, side: str = "client") -> str:
    """What answers a challenge in clear, as the module says it: not by its code."""
    meta = greeting[HEADER.size :]
    said = f"rios 2 {side}{json.loads(meta)['nonce']}{challenge['nonce']}".encode() + meta
    return hmac.new(key.encode(), said, hashlib.sha256).hexdigest()


def greeted(sock: socket.socket, greeting: bytes) -> bytes:
    """Greet and be challenged; returns the frame that proves to know the key."""
    sock.sendall(greeting)
    kind, challenge = read_frame(sock)
    assert kind == Kind.CHALLENGE
    return frame_of(Kind.PROOF, 0, dump({"proof": proof(greeting, challenge)}))


def mutated(chance: random.Random, frame: bytes) -> bytes:
    """One frame with something wrong with it."""
    data = bytearray(frame)
    way = chance.randrange(7)
    if way == 0:  # bits
        for _ in range(chance.choice((1, 1, 2, 8))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == 1:  # cut
        del data[chance.randrange(len(data)) :]
    elif way == 2:  # lengths
        field_format, place = chance.choice((("<I", 16), ("<Q", 20)))
        size = struct.calcsize(field_format)
        value = chance.choice((0, 1, 1 << 16, 1 << 26, 1 << 30, (1 << 8 * size) - 1, chance.randrange(1 << 8 * size)))
        struct.pack_into(field_format, data, place, value % (1 << 8 * size))
    elif way == 3:  # the kind
        data[5] = chance.randrange(256)
    elif way == 4:  # bytes that never were a frame
        return chance.randbytes(chance.randrange(1, 200))
    elif way == 5:  # a header that is right, and contents of any kind
        meta, body = chance.randbytes(chance.randrange(64)), chance.randbytes(chance.randrange(256))
        return frame_of(chance.choice(list(Kind)), chance.randrange(1 << 64), meta, body)
    else:  # contents changed, and the checksum made right again
        meta_bytes, body_bytes = struct.unpack_from("<IQ", data, 16)
        for _ in range(chance.randrange(1, 4)):
            if len(data) > HEADER.size:
                data[chance.randrange(HEADER.size, len(data))] = chance.randrange(256)
        meta, body = data[HEADER.size :][:meta_bytes], data[HEADER.size + meta_bytes :]
        assert len(body) == body_bytes
        return frame_of(data[5], 1, bytes(meta), bytes(body))
    return bytes(data)


def as_stranger(chance: random.Random, manifest: Manifest) -> list[bytes]:
    """A connection without the key: only its greeting and what it says is a proof are ever read."""
    way = chance.randrange(6)
    role = chance.choice(("data", "client", "control", "shards"))
    if way == 0:
        wrong = chance.choice(("", "x", "0" * 64, None, 5, [KEY], "\ud800", "\u00e9", KEY))
        return [hello(role), frame_of(Kind.PROOF, 0, dump({"proof": wrong}))]
    if way == 2:
        wrong = chance.choice(("", "x", "0" * 31, "0" * 33, "G" * 32, None, 5, [], {}, "\ud800"))
        return [hello(role, nonce=wrong, key=KEY)]
    if way == 3:
        good = frame_of(Kind.PROOF, 0, dump({"proof": "0" * 64}))
        return [hello(role), mutated(chance, good)]
    if way == 1:
        return [chance.choice((exec_frame(chance, manifest), REFUSED[0], BAD_ATTACHES[0]))]
    return [mutated(chance, hello(role))]


def as_trunk(chance: random.Random, manifest: Manifest) -> list[bytes]:
    """An authorised data connection: frames that it survives, then one that it may not."""
    frames = [hello("data")]
    for _ in range(chance.randrange(8)):
        kept = (
            lambda: exec_frame(chance, manifest),
            lambda: exec_frame(chance, manifest, far=True),
            lambda: frame_of(Kind.RING, chance.randrange(1 << 64)),
            lambda: frame_of(
                Kind.CALL, 0, dump({**ATTACH, "pid": chance.randrange(1 << 20), "fd": chance.randrange(99)})
            ),
        )
        frames.append(chance.choice(kept)())
    last = chance.randrange(4)
    if last == 0:
        frames.append(chance.choice(BAD_ATTACHES))
    elif last == 1:
        frames.append(exec_frame(chance, manifest, handle=chance.choice((0, 2, 1 << 31))))
    else:
        frames.append(mutated(chance, exec_frame(chance, manifest)))
    return frames


def as_client(chance: random.Random, manifest: Manifest) -> list[bytes]:
    """An authorised client of the trunk."""
    frames = [hello("client")]
    for _ in range(chance.randrange(8)):
        kept = (
            lambda: chance.choice(REFUSED),
            lambda: chance.choice(REFUSED),
            lambda: frame_of(Kind.CANCEL, chance.randrange(1 << 64), chance.randbytes(5)),
        )
        frames.append(chance.choice(kept)())
    if chance.random() < 0.05:
        frames.append(submit(submit_meta()))
    frames.append(chance.choice(NONSENSE) if chance.random() < 0.4 else mutated(chance, submit(submit_meta())))
    return frames


ROLES: dict[str, Callable[[random.Random, Manifest], list[bytes]]] = {
    "stranger": as_stranger,
    "trunk": as_trunk,
    "client": as_client,
}
