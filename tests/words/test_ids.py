"""Addresses in one spelling, ids that are functions of what they name, the hash and the text beneath both."""

from __future__ import annotations

import hashlib
import json

import pytest
from eth_utils import keccak, to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.words.canonical import canonical, digest
from rios.words.errors import InvalidRequest
from rios.words.ids import check_address, derived_id
from rios.words.keccak import keccak256

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz_", max_size=5), inner, max_size=4),
    max_leaves=12,
)


def test_keccak_of_known_messages() -> None:
    """The empty message and "abc", as the Keccak team published them."""
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak256(b"abc").hex() == "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), st.sampled_from([135, 136, 137, 271, 272, 273]).map(bytes)))
def test_keccak_is_ethereums(data: bytes) -> None:
    assert keccak256(data) == keccak(data)


@settings(deadline=None)
@given(st.binary(min_size=20, max_size=20))
def test_addresses_are_spelt_as_eip_55_has_it(raw: bytes) -> None:
    spelt = to_checksum_address(raw)
    for given_ in (spelt, f"0x{raw.hex()}", f"0x{raw.hex().upper()}"):
        assert check_address(given_) == spelt


@pytest.mark.parametrize(
    "value", ["", "0x", "0x" + "g" * 40, "0x" + "1" * 39, "1" * 40, None, 7, b"0x", "0x" + "1" * 41]
)
def test_what_is_no_address_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"the owner .* 40 hex digits"):
        check_address(value, name="the owner")


def test_a_mistyped_address_is_found() -> None:
    right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    assert check_address(right) == right
    with pytest.raises(InvalidRequest, match="checksum"):
        check_address(right.replace("aA", "Aa"))


@settings(deadline=None)
@given(PLAIN)
def test_canonical_text_is_json_and_one(value: object) -> None:
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text
    assert digest(value) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "value", [0.5, float("nan"), 2**53 + 1, -(2**60), b"x", {1: 2}, {"ä": 1}, [[1.0]], {"a": object()}]
)
def test_what_has_no_canonical_text_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="value"):
        canonical(value)


def test_keys_are_sorted_and_nothing_is_blank() -> None:
    assert canonical({"b": [1, True, None], "a": ("ü",)}) == '{"a":["ü"],"b":[1,true,null]}'.encode()


def test_ids_are_functions_of_what_they_name() -> None:
    assert derived_id("u", "r", 1) == derived_id("u", "r", 1)
    assert (
        len({derived_id("u", "r", 1), derived_id("u", "r1"), derived_id("v", "r", 1), derived_id("u", "r", "1")}) == 4
    )
