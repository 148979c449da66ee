"""Keccak-256, the hash of Ethereum, without a library.

The Keccak submission of 2011 with capacity 512 and the padding 0x01 (SHA3-256 of FIPS 202 pads with 0x06, so `hashlib`
has another function). About 5,000 hashes of short messages a second; who hashes a million takes a compiled one.
"""

from __future__ import annotations

from collections.abc import Callable

Hash = Callable[[bytes], bytes]
"""Bytes to 32 bytes."""

_RATE = 136
_MASK = (1 << 64) - 1


def _constants() -> tuple[int, ...]:
    """The 24 constants of iota: bits 2^j - 1 of each come from the shift register x^8 + x^6 + x^5 + x^4 + 1."""
    constants = []
    state = 1
    for _ in range(24):
        constant = 0
        for power in range(7):
            constant |= (state & 1) << ((1 << power) - 1)
            state = (state << 1) ^ (0x171 if state & 0x80 else 0)
        constants.append(constant)
    return tuple(constants)


def _moves() -> tuple[tuple[int, int, int], ...]:
    """Rho and pi in one: (from, to, rotation) for each of the 25 lanes, lane (x, y) at x + 5 y."""
    moves = [(0, 0, 0)]
    x, y = 1, 0
    for turn in range(24):
        to_x, to_y = y, (2 * x + 3 * y) % 5
        moves.append((x + 5 * y, to_x + 5 * to_y, ((turn + 1) * (turn + 2) // 2) % 64))
        x, y = to_x, to_y
    return tuple(moves)


_ROUNDS = _constants()
_MOVES = _moves()
_ROWS = tuple((row, row + 1, row + 2, row + 3, row + 4) for row in range(0, 25, 5))


def keccak256(data: bytes) -> bytes:
    """The 32 bytes of Keccak-256 of `data`."""
    padded = bytearray(data)
    padded += bytes(_RATE - len(data) % _RATE)
    padded[len(data)] ^= 0x01
    padded[-1] ^= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), _RATE):
        for lane in range(_RATE // 8):
            lanes[lane] ^= int.from_bytes(padded[start + 8 * lane : start + 8 * lane + 8], "little")
        lanes = _permuted(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _permuted(a: list[int]) -> list[int]:
    """Keccak-f[1600]."""
    b = [0] * 25
    for constant in _ROUNDS:
        c = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]
        d = [c[x - 1] ^ (((c[x - 4] << 1) & _MASK) | (c[x - 4] >> 63)) for x in range(5)]
        for source, target, turns in _MOVES:
            lane = a[source] ^ d[source % 5]
            b[target] = ((lane << turns) & _MASK) | (lane >> (64 - turns))
        for i, j, k, m, n in _ROWS:
            p, q, r, s, t = b[i], b[j], b[k], b[m], b[n]
            a[i] = p ^ (~q & r)
            a[j] = q ^ (~r & s)
            a[k] = r ^ (~s & t)
            a[m] = s ^ (~t & p)
            a[n] = t ^ (~p & q)
        a[0] ^= constant
    return a
