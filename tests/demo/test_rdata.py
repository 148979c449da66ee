"""The reader of R data files, against bytes written by hand from R's specification."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import pytest

from rios.demo.rdata import read_vectors

HEADER = b"X\n" + struct.pack(">3i", 3, 0x40201, 0x30500) + struct.pack(">i", 5) + b"UTF-8"


def chars(text: str | None, encoding: str = "utf-8") -> bytes:
    flags = 0x4009 if encoding == "latin-1" else 0x8009
    if text is None:
        return struct.pack(">2i", flags, -1)
    raw = text.encode(encoding)
    return struct.pack(">2i", flags, len(raw)) + raw


def strings(*texts: bytes) -> bytes:
    return struct.pack(">2i", 16, len(texts)) + b"".join(texts)


def named_list(items: dict[str, bytes], names: bytes) -> bytes:
    """Serialize a list with its names, under the symbol written as ``names``."""
    body = struct.pack(">2i", 0x213, len(items)) + b"".join(items.values())
    attributes = struct.pack(">i", 0x402) + names + strings(*map(chars, items)) + struct.pack(">i", 254)
    return body + attributes


def write(directory: Path, vectors: dict[str, bytes]) -> None:
    records, places = b"", {}
    for name, vector in vectors.items():
        data = HEADER + vector
        record = struct.pack(">i", len(data)) + zlib.compress(data)
        places[name] = struct.pack(">4i", 13, 2, len(records), len(record))
        records += record
    symbol = struct.pack(">i", 1) + chars("names")
    again = struct.pack(">i", (1 << 8) | 255)  # a reference to the first symbol
    parts = {
        "variables": named_list(places, symbol),
        "compressed": struct.pack(">3i", 10, 1, 1),
    }
    (directory / "Rdata.rdx").write_bytes(gzip.compress(HEADER + named_list(parts, again)))
    (directory / "Rdata.rdb").write_bytes(records)


def test_vectors_come_back_by_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "one": strings(chars("a line"), chars(""), chars("£5")),
            "two": strings(chars("café", "latin-1"), chars(None)),
            "none": strings(),
        },
    )
    assert read_vectors(tmp_path) == {"one": ["a line", "", "£5"], "two": ["café", ""], "none": []}


def test_a_vector_of_numbers_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"numbers": struct.pack(">3i", 13, 1, 7)})
    with pytest.raises(ValueError, match="not a character vector"):
        read_vectors(tmp_path)


def test_an_unknown_node_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"closure": struct.pack(">2i", 3, 0)})
    with pytest.raises(ValueError, match="type 3"):
        read_vectors(tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "Rdata.rdx").write_bytes(gzip.compress(b"A\n1234"))
    (tmp_path / "Rdata.rdb").write_bytes(b"")
    with pytest.raises(ValueError, match="XDR"):
        read_vectors(tmp_path)
