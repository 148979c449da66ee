"""Read character vectors out of an R package's lazy-load database, without R.

An installed R package keeps its data in two files: ``Rdata.rdx``, a compressed
R object that maps each name to the offset and length of its record, and
``Rdata.rdb``, the records themselves: four bytes of length, then a zlib stream.
Both hold R's XDR serialization, of which only the few node types that occur in
such files are read here.

Source: R Internals, section 1.8 "Serialization Formats", and
``makeLazyLoadDB`` in R's own ``makeLazyLoad.R``.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

# Node types of R's serialization that occur in an index or a character vector.
_SYMBOL, _PAIRLIST, _CHARS, _LOGICALS, _INTEGERS, _STRINGS, _LIST = 1, 2, 9, 10, 13, 16, 19
_NIL, _REFERENCE = 254, 255
_HAS_ATTRIBUTES, _HAS_TAG = 0x200, 0x400
_LATIN1 = 0x4000  # bit of a CHARSXP's flags: bytes are ISO 8859-1, not UTF-8

# zlib reads both of the wrappers R uses (zlib and gzip) with this window size.
_ANY_WRAPPER = 32 + zlib.MAX_WBITS


class RNode:
    """A value read from R, with its attributes (names, dimensions, ...)."""

    def __init__(self, value: object, attributes: dict[str, RNode] | None = None) -> None:
        self.value = value
        self.attributes = attributes or {}

    def strings(self) -> list[str]:
        """Return a character vector's elements."""
        if not isinstance(self.value, list) or not all(isinstance(v, str) for v in self.value):
            raise ValueError("this R object is not a character vector")
        return self.value

    def named(self) -> dict[str, RNode]:
        """Return a named list as a dictionary."""
        if not isinstance(self.value, list) or "names" not in self.attributes:
            raise ValueError("this R object is not a named list")
        return dict(zip(self.attributes["names"].strings(), self.value, strict=True))


class _Reader:
    """One pass over a serialized R object."""

    def __init__(self, data: bytes) -> None:
        if data[:2] != b"X\n":
            raise ValueError("not R's XDR serialization: it must begin with 'X'")
        self._data, self._at = data, 2
        self._symbols: list[str] = []
        version, _writer, _oldest = self._ints(3)
        if version == 3:  # version 3 names the writer's native encoding
            self._bytes(self._ints(1)[0])

    def _bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _ints(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f">{count}i", self._bytes(4 * count))

    def node(self) -> RNode:
        flags = self._ints(1)[0]
        kind = flags & 0xFF
        value: object
        if kind == _NIL:
            return RNode(None)
        if kind == _CHARS:
            return RNode(self._chars(flags))
        if kind == _SYMBOL:
            self._symbols.append(str(self.node().value))
            return RNode(self._symbols[-1])
        if kind == _REFERENCE:
            return RNode(self._symbols[(flags >> 8) - 1])
        if kind == _PAIRLIST:
            return RNode(None, self._pairs(flags))
        size = self._ints(1)[0]
        if kind in (_LOGICALS, _INTEGERS):
            value = list(self._ints(size))
        elif kind == _STRINGS:
            value = [self.node().value for _ in range(size)]
        elif kind == _LIST:
            value = [self.node() for _ in range(size)]
        else:
            raise ValueError(f"R node type {kind} is not one this reader knows")
        return RNode(value, self.node().attributes if flags & _HAS_ATTRIBUTES else None)

    def _chars(self, flags: int) -> str:
        size = self._ints(1)[0]
        if size < 0:  # NA_character_
            return ""
        return self._bytes(size).decode("latin-1" if flags & _LATIN1 else "utf-8")

    def _pairs(self, flags: int) -> dict[str, RNode]:
        """Read a pairlist whose first cell's flags are already read."""
        pairs: dict[str, RNode] = {}
        while flags & 0xFF == _PAIRLIST:
            tag = str(self.node().value) if flags & _HAS_TAG else ""
            pairs[tag] = self.node()
            flags = self._ints(1)[0]
        return pairs


def read_vectors(directory: Path) -> dict[str, list[str]]:
    """Return every character vector of an R package's data, by name.

    ``directory`` is the package's ``data`` folder, with ``Rdata.rdx`` and ``Rdata.rdb``.
    """
    index = _Reader(zlib.decompress((directory / "Rdata.rdx").read_bytes(), _ANY_WRAPPER)).node()
    records = (directory / "Rdata.rdb").read_bytes()
    vectors = {}
    for name, place in index.named()["variables"].named().items():
        assert isinstance(place.value, list)
        offset, length = place.value
        data = zlib.decompress(records[offset + 4 : offset + length])
        vectors[name] = _Reader(data).node().strings()
    return vectors
