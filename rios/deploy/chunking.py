"""Where a stream is cut into chunks: by what it holds, so that two streams that are alike in part are cut alike there.

The idea is that of content-defined chunking (Muthitacharoen et al., "A Low-bandwidth Network File System", SOSP 2001):
a cut follows a place whose content has a certain hash. Places are whole blocks of tar (512 bytes), by which everything
moves in an archive when something is put before it; so a hash of each block alone does, and no window has to roll.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

BLOCK_BYTES = 512
CHUNK_BYTES_MIN, CHUNK_BYTES_MAX = 1 << 18, 1 << 22
_CUT_BITS, _CUT = 11, 1033
"""One block of 2,048 ends a chunk, so that chunks have some 1.2 MiB. Zeros hash to 0, which is not the number that
cuts: holes become chunks of the largest size, all the same one."""
_WORDS = BLOCK_BYTES // 8
_SCAN_BYTES = 1 << 20


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """So many of them at most; none at its end."""


def _weights() -> np.ndarray:
    """Odd numbers of 64 bits, by splitmix64 (Steele et al., 2014): the same on every machine, for ever."""
    found, state, whole = [], 0x5249_4F53, (1 << 64) - 1
    for _ in range(_WORDS):
        state = (state + 0x9E37_79B9_7F4A_7C15) & whole
        mixed = ((state ^ (state >> 30)) * 0xBF58_476D_1CE4_E5B9) & whole
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D0_49BB_1331_11EB) & whole
        found.append((mixed ^ (mixed >> 31)) | 1)
    return np.array(found, dtype=np.uint64)


_WEIGHTS = _weights()


def chunks(stream: Readable) -> Iterator[bytes]:
    """The bytes of a stream in order, in chunks of 256 KiB to 4 MiB; the last may be shorter. Nothing is left out.

    stream: read in pieces until it gives no more.
    """
    held = bytearray()
    while True:
        while len(held) < CHUNK_BYTES_MAX and (more := stream.read(CHUNK_BYTES_MAX - len(held))):
            held += more
        if not held:
            return
        cut = _cut(held)
        yield bytes(held[:cut])
        del held[:cut]


def _cut(held: bytearray) -> int:
    """How many of the bytes are the next chunk."""
    whole = len(held) // BLOCK_BYTES * BLOCK_BYTES
    for start in range(CHUNK_BYTES_MIN - BLOCK_BYTES, whole, _SCAN_BYTES):
        count = min(_SCAN_BYTES, whole - start) // 8
        words = np.frombuffer(held, dtype="<u8", count=count, offset=start).reshape(-1, _WORDS)
        hashes = (words * _WEIGHTS).sum(axis=1, dtype=np.uint64)  # of 64 bits: what is beyond them is not wanted
        cuts = np.flatnonzero(hashes >> np.uint64(64 - _CUT_BITS) == _CUT)
        if len(cuts):
            return start + (int(cuts[0]) + 1) * BLOCK_BYTES
    return min(len(held), CHUNK_BYTES_MAX)
