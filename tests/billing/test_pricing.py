"""Price books: consistent or refused by place, one text each, and pinned terms that later events cannot change."""

from __future__ import annotations

import copy
import json
import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.books import DeviceClass, Discount, Line, PriceBook, Tier, in_force
from rios.billing.pricing import DEFAULT_BOOK, Host, Terms
from rios.words.errors import PriceBookError
from rios.words.money import WEI_MAX, Wei
from tests.billing import make


def _lines(**changes: Line) -> dict[str, Line]:
    return {**DEFAULT_BOOK.lines, **changes}


TIERED = Line("unit", 10, (Tier(2, Wei(100)), Tier(5, Wei(40)), Tier(None, Wei(70))))


@settings(max_examples=60, deadline=None)
@given(make.books())
def test_books_round_trip(book: PriceBook) -> None:
    again = PriceBook.from_json(book.to_json())
    assert again == book
    assert again.digest == book.digest
    assert again.to_json() == book.to_json()
    assert pickle.loads(pickle.dumps(book)) == book


def test_the_digest_is_that_of_the_published_text() -> None:
    """It is kept by ledgers and chains: it may change with FORMAT, never by accident."""
    assert PriceBook.from_json(DEFAULT_BOOK.to_json()).digest == DEFAULT_BOOK.digest
    assert make.book(version=1).digest != DEFAULT_BOOK.digest
    assert "e" not in json.loads(DEFAULT_BOOK.to_json())["lines"]["gpu"]["tiers"][0]["price_wei"]
    assert "." not in DEFAULT_BOOK.to_json().replace("rios-price-book", "")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"version": -1}, "version"),
        ({"version": True}, "version"),
        ({"effective_from_s": 1.5}, "effective_from_s"),
        ({"platform_bp": 10_001}, "platform_bp"),
        ({"ask_min_bp": 0}, "ask_min_bp"),
        ({"ask_min_bp": 10_001}, "ask_min_bp"),
        ({"ask_max_bp": 9_999}, "ask_max_bp"),
        ({"minimum_wei": 0.5}, "minimum_wei"),
        ({"minimum_wei": WEI_MAX}, "minimum_wei"),
        ({"classes": {}}, "classes is empty"),
        ({"classes": {"a:b": DEFAULT_BOOK.classes["cpu"]}}, "classes has the name 'a:b'"),
        ({"classes": {"cpu": DeviceClass(Line.flat("s", 0, 1))}}, r"classes\.cpu\.size"),
        ({"classes": {"cpu": DeviceClass(Line.flat("s", 1, 1, minimum_wei=1))}}, r"classes\.cpu\.minimum_wei"),
        ({"lines": {}}, "'bytes' is missing"),
        ({"lines": _lines(tea=TIERED)}, "'tea' is unknown"),
        ({"lines": _lines(cpu=Line.flat("", 1, 1))}, r"lines\.cpu\.unit"),
        ({"lines": _lines(cpu=Line.flat("h", 1, -1))}, r"lines\.cpu\.tiers\[0\]\.price_wei"),
        ({"lines": _lines(cpu=Line.flat("h", 1, True))}, r"lines\.cpu\.tiers\[0\]\.price_wei"),
        ({"lines": _lines(cpu=Line("h", 1, ()))}, r"lines\.cpu\.tiers is empty"),
        ({"lines": _lines(cpu=Line("h", 1, (Tier(3, Wei(1)),)))}, r"tiers\[0\]\.up_to is 3: the last tier"),
        ({"lines": _lines(cpu=Line("h", 1, (Tier(None, Wei(1)),) * 2))}, r"tiers\[0\]\.up_to is None: the last tier"),
        (
            {"lines": _lines(cpu=Line("h", 1, (Tier(3, Wei(1)), Tier(3, Wei(1)), Tier(None, Wei(1)))))},
            r"lines\.cpu\.tiers\[1\]\.up_to is 3; it must be a whole number from 4",
        ),
        ({"lines": _lines(tokens_in=Line.flat("token", 1, 1, minimum_wei=5))}, r"lines\.tokens_in\.minimum_wei"),
        ({"discounts": {"x": Discount(10_001)}}, r"discounts\.x\.off_bp"),
        ({"discounts": {"x": Discount(1, ("tea",))}}, r"discounts\.x\.lines: there is no line 'tea'"),
    ],
)
def test_a_book_that_contradicts_itself_is_refused_by_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(PriceBookError, match=place):
        make.book(**changes)


def _spoilt(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    raw: dict[str, Any] = copy.deepcopy(DEFAULT_BOOK.to_dict())
    here: Any = raw
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ([], "the book is .*must be a JSON object"),
        ({}, "'ask_max_bp' is missing"),
        (_spoilt(("more",), 1), "'more' is unknown"),
        (_spoilt(("format",), "rios-price-book/2"), "this version of rios reads"),
        (_spoilt(("lines",), []), r"lines is \[\]; it must be a JSON object"),
        (_spoilt(("lines", "cpu"), None), r"lines\.cpu is None; it must be a JSON object"),
        (_spoilt(("lines", "cpu", "tiers"), {}), r"lines\.cpu\.tiers is {}; it must be a list"),
        (_spoilt(("lines", "cpu", "size"), 3600), r"lines\.cpu\.size is 3600; it must be decimal text"),
        (_spoilt(("lines", "cpu", "size"), "007"), r"lines\.cpu\.size"),
        (_spoilt(("lines", "cpu", "size"), "1e9"), r"lines\.cpu\.size"),
        (_spoilt(("lines", "cpu", "size"), "²"), r"lines\.cpu\.size"),
        (_spoilt(("lines", "cpu", "unit"), 3), r"lines\.cpu\.unit"),
        (_spoilt(("classes", "cpu", "tiers", 0, "price_wei"), "-1"), r"classes\.cpu\.tiers\[0\]\.price_wei"),
        (_spoilt(("classes", "cpu", "tiers", 0, "price_wei"), 0.5), r"classes\.cpu\.tiers\[0\]\.price_wei"),
        (_spoilt(("discounts", "research", "lines"), 1), r"discounts\.research\.lines is 1; it must be a list"),
        (_spoilt(("discounts", "research", "off_bp"), "1"), r"discounts\.research\.off_bp"),
        (_spoilt(("minimum_wei",), "9" * 78), "minimum_wei"),
        (_spoilt(("platform_bp",), None), "platform_bp"),
    ],
)
def test_a_document_that_is_no_book_is_refused_by_place(raw: Any, place: str) -> None:
    with pytest.raises(PriceBookError, match=place):
        PriceBook.from_dict(raw)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(PriceBookError, match="JSON"):
        PriceBook.from_json(text)


def test_the_book_in_force() -> None:
    books = [make.book(version=version, effective_from_s=at) for version, at in ((1, 0), (2, 100), (3, 50), (4, 100))]
    assert in_force(books, 0).version == 1
    assert in_force(books, 50).version == 3
    assert in_force(books, 99).version == 3
    assert in_force(books, 100).version == 4
    with pytest.raises(PriceBookError, match="no price book of 1 is in force at 4"):
        in_force([make.book(effective_from_s=5)], 4)


def test_tiers_are_graduated() -> None:
    """2 units at 100, 3 at 40, the rest at 70; a unit is 10 base units."""
    assert TIERED.price(0) == 0
    assert TIERED.price(1) == 10
    assert TIERED.price(20) == 200
    assert TIERED.price(25) == 200 + 20
    assert TIERED.price(60) == 200 + 120 + 70
    assert TIERED.price(10, before=45) == 20 + 35
    assert TIERED.bounds() == (4, 10)
    assert TIERED.bounds(5) == (10, 10)
    assert TIERED.bounds(21) == (4, 10)
    assert TIERED.bounds(before=20) == (4, 7)
    assert TIERED.bounds(30, before=20) == (4, 4)
    assert TIERED.bounds(before=50) == (7, 7)


@settings(deadline=None)
@given(make.lines(), st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_tiers_add_up_and_stay_within_their_bounds(line: Line, before: int, first: int, second: int) -> None:
    whole = line.price(first + second, before=before)
    assert whole == line.price(first, before=before) + line.price(second, before=before + first)
    low, high = line.bounds(first + second, before=before)
    assert (first + second) * low <= whole <= (first + second) * high
    assert line.bounds(before=before)[1] >= high


def test_lines_are_found_by_key() -> None:
    assert DEFAULT_BOOK.line("expert:cuda") is DEFAULT_BOOK.classes["cuda"].line
    assert DEFAULT_BOOK.line("cpu") is DEFAULT_BOOK.lines["cpu"]
    assert list(DEFAULT_BOOK.keys())[:2] == ["expert:cpu", "expert:cuda"]
    for key in ("expert", "expert:tpu", "expert:", "tea", "cpu:cpu"):
        with pytest.raises(PriceBookError, match="has no line"):
            DEFAULT_BOOK.line(key)


def test_default_prices_are_those_that_are_promised() -> None:
    milli = 10**15
    hour_prices = {name: DEFAULT_BOOK.lines[name].tiers[0].price_wei for name in ("cpu", "gpu", "memory")}
    assert 10 * milli <= hour_prices["cpu"] <= 50 * milli
    assert 500 * milli <= hour_prices["gpu"] <= 2000 * milli
    assert hour_prices["memory"] == 5 * milli
    # A core that computes all the time costs the same as expert work as it does by the hour, and so does a GPU.
    cpu, cuda = (DEFAULT_BOOK.classes[name] for name in ("cpu", "cuda"))
    assert cpu.line.price(3600 * cpu.speed_flops) == hour_prices["cpu"]
    assert cuda.line.price(3600 * cuda.speed_flops) == hour_prices["gpu"]
    # A host that lies about its class earns nothing by it.
    assert cpu.line.bounds() == cuda.line.bounds() == (1000, 1000)
    assert DEFAULT_BOOK.platform_bp == 1_000


def test_terms_pin_what_was_known_at_the_hold() -> None:
    dear = Line.flat("expert-second", 10**9, 9 * 10**12)  # 9,000 wei per FLOP
    book = make.book(classes={**DEFAULT_BOOK.classes, "npu": DeviceClass(dear)})
    terms = Terms.of(book, [make.HOSTS["a"], make.HOSTS["d"]])
    assert (terms.classes, terms.ask_min_bp, terms.ask_max_bp) == (("cpu", "cuda"), 5_000, 10_000)
    assert terms.expert_line("cuda") == "expert:cuda"
    assert terms.expert_line("npu") in ("expert:cpu", "expert:cuda")  # it joined later and may not cost more
    assert terms.expert_line("unheard of") in ("expert:cpu", "expert:cuda")
    assert (terms.ask(15_000), terms.ask(7_000), terms.ask(1)) == (10_000, 7_000, 5_000)
    anybody = Terms.of(book)
    assert (anybody.served_by, anybody.ask_max_bp) == (("cpu", "cuda", "npu"), 15_000)
    assert anybody.expert_line("npu") == "expert:npu"
    only_npu = Terms.of(book, [Host("n", make.OWNERS[0], "npu")])
    assert only_npu.expert_line("cpu") == "expert:cpu"  # not foreseen, and cheaper


@settings(max_examples=60, deadline=None)
@given(make.terms())
def test_terms_round_trip(terms: Terms) -> None:
    raw = json.loads(json.dumps(terms.to_dict()))
    assert Terms.from_dict(raw, {terms.book.digest: terms.book}) == terms
    with pytest.raises(PriceBookError, match="which is not there"):
        Terms.from_dict(raw, {})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"discount": "family"}, "has no discount 'family'; it has research"),
        ({"classes": ("tpu",)}, "expert:tpu"),
        ({"before": {"tea": 1}}, "tea"),
        ({"before": {"bytes": -1}}, r"before\.bytes"),
        ({"ask_max_bp": 15_001}, "from 5000 to 15000"),
        ({"ask_min_bp": 12_000, "ask_max_bp": 11_000}, "above the highest"),
    ],
)
def test_terms_beyond_the_book_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PriceBookError, match=says):
        Terms(DEFAULT_BOOK, **changes)


def test_what_a_worker_may_ask() -> None:
    assert DEFAULT_BOOK.check_ask(5_000) == 5_000
    for ask in (4_999, 15_001, True, 1.0):
        with pytest.raises(PriceBookError, match="worker's price"):
            DEFAULT_BOOK.check_ask(ask)  # type: ignore[arg-type]


def test_discounts_are_of_named_lines() -> None:
    book = make.book(discounts={"all": Discount(2_000), "some": Discount(5_000, ("expert", "bytes"))})
    assert Terms(book, discount="all").factor("tokens_in", 10_000) == Fraction(8, 10)
    assert Terms(book, discount="some").factor("tokens_in", 15_000) == Fraction(15, 10)
    assert Terms(book, discount="some").factor("expert", 15_000) == Fraction(75, 100)
    assert Terms(book).factor("expert", 5_000) == Fraction(1, 2)
