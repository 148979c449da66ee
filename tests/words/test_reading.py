"""Readers of documents: what fits is returned, what does not is named by its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.words.errors import InvalidRequest
from rios.words.reading import (
    read_bytes32,
    read_count,
    read_decimal,
    read_list,
    read_mapping,
    read_object,
    read_text,
)


def test_what_fits_is_returned() -> None:
    assert read_object("it", {"a": 1}, ["a"]) == {"a": 1}
    assert read_object("it", {"a": 1, "b": 2}, ["a"], more=True) == {"a": 1, "b": 2}
    assert read_list("it", [1, 2]) == [("it[0]", 1), ("it[1]", 2)]
    assert read_mapping("it", {}) == {}
    assert read_text("it", "") == ""
    assert read_count("it", 0) == 0
    assert read_decimal("it", "10") == 10
    assert read_bytes32("it", "ab" * 32) == b"\xab" * 32


@pytest.mark.parametrize(
    ("read", "raw", "says"),
    [
        (read_mapping, [], r"it is \[\]; it must be a JSON object"),
        (read_mapping, {1: 2}, "a JSON object"),
        (read_list, {}, "a list"),
        (read_list, "ab", "a list"),
        (read_text, b"", "text"),
        (read_count, -1, "at least 0"),
        (read_count, True, "at least 0"),
        (read_count, 1.0, "at least 0"),
        (read_count, -(10**1000), "a very large number"),
        (read_decimal, 10, "decimal text"),
        (read_decimal, "010", "decimal text"),
        (read_decimal, "-1", "decimal text"),
        (read_decimal, "1 ", "decimal text"),
        (read_decimal, "1\n", "decimal text"),
        (read_decimal, "١", "decimal text"),
        (read_decimal, "9" * 79, r"99\.\.\.; it must be decimal text"),
        (read_bytes32, "AB" * 32, "lower case"),
        (read_bytes32, "ab" * 31, "64 hex digits"),
        (read_bytes32, "0x" + "ab" * 32, "64 hex digits"),
        (read_bytes32, None, "64 hex digits"),
    ],
)
def test_what_does_not_fit_is_named(read: Callable[[str, Any], Any], raw: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        read("it", raw)
    assert len(str(caught.value)) < 200


def test_fields_are_complete_and_known() -> None:
    with pytest.raises(InvalidRequest, match="it: 'b' is missing"):
        read_object("it", {"a": 1, "c": 2}, ["a", "b"])
    with pytest.raises(InvalidRequest, match="it: 'c' is unknown"):
        read_object("it", {"a": 1, "c": 2}, ["a"])


@settings(deadline=None)
@given(st.integers(0, 10**78 - 1))
def test_each_number_has_one_text(number: int) -> None:
    assert read_decimal("it", str(number)) == number
