"""Text from tokens as they come, and stop strings wherever they fall."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe.stopping import Detokenizer, StopText, cut, safe
from rios.dmoe.tokenizer import Tokenizing, read_files
from tests.campaigns import ROOT

TEXTS = [
    "It was a fine morning, and Elizabeth walked out.",
    "na\u00efve caf\u00e9 \u2014 \u201cquoted\u201d \u2026",
    "\u4e2d\u6587\u5b57 \u0440\u0443\u0441 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 end",
    "  leading, trailing  \n\n\ttabs\t",
    "a real \ufffd in the text",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizing:
    return _tokenizer()


def whole(tokenizer: Tokenizing, ids: list[int]) -> str:
    """As transformers has it."""
    return str(tokenizer.load().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def ids_of(tokenizer: Tokenizing, text: str) -> list[int]:
    """As transformers has them, without those that begin a prompt."""
    return list(tokenizer.load().encode(text, add_special_tokens=False))


def incremental(tokenizer: Tokenizing, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_whole(tokenizer: Tokenizing, text: str) -> None:
    ids = ids_of(tokenizer, text)
    pieces = incremental(tokenizer, ids)
    assert "".join(pieces) == whole(tokenizer, ids) == text


def test_half_a_character_is_held_back(tokenizer: Tokenizing) -> None:
    ids = ids_of(tokenizer, "\U0001f600!")
    assert len(ids) > 2  # the demo tokenizer spells it in bytes
    pieces = incremental(tokenizer, ids)
    assert [piece for piece in pieces if piece] == ["\U0001f600", "!"]
    assert "".join(incremental(tokenizer, ids[:2])) == whole(tokenizer, ids[:2]) != ""


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.integers(0, 2**32))
def test_any_text_and_any_tokens(text: str, seed: int) -> None:
    tokenizer = _tokenizer()
    ids = ids_of(tokenizer, text)
    assert "".join(incremental(tokenizer, ids)) == whole(tokenizer, ids)
    # Also what no text is: a model may put any tokens in a row, such as half a character and then a word.
    ids = random.Random(seed).choices(range(len(tokenizer.load())), k=20)
    assert "".join(incremental(tokenizer, ids)) == whole(tokenizer, ids)


@functools.cache
def _tokenizer() -> Tokenizing:
    return Tokenizing(read_files(ROOT / "rios" / "demo" / "model"))


@pytest.mark.parametrize("text", TEXTS[:4])
def test_a_stop_string_across_tokens(tokenizer: Tokenizing, text: str) -> None:
    """Every piece of a text stops it with the token that completes it, not before."""
    ids = ids_of(tokenizer, text)
    for start in range(0, len(text) - 1, 3):
        for length in (1, 2, 7):
            stop = text[start : start + length]
            watch = StopText(tokenizer, [stop, "\x00never"])
            ended = next((count for count, token in enumerate(ids, 1) if watch.push(token)), None)
            shown = [whole(tokenizer, ids[:count]) for count in range(len(ids) + 1)]
            first = next(count for count, so_far in enumerate(shown) if stop in so_far)
            assert ended is not None
            # A character that is not yet whole holds the text before it back, by less than a character's tokens.
            assert first <= ended <= first + 3


def test_a_stop_string_that_is_not_there(tokenizer: Tokenizing) -> None:
    ids = ids_of(tokenizer, "word " * 500)
    watch = StopText(tokenizer, ["wordword"])
    assert not any(watch.push(token) for token in ids)


def test_a_replay_goes_on_within_a_stop_string(tokenizer: Tokenizing) -> None:
    ids = ids_of(tokenizer, "one STOP two")
    for split in range(len(ids)):
        if "STOP" not in whole(tokenizer, ids[:split]):
            watch = StopText(tokenizer, ["STOP"], ids[:split])
            assert any(watch.push(token) for token in ids[split:])


def test_cut() -> None:
    assert cut("abcdef", ["de", "c"]) == ("ab", True)
    assert cut("abcdef", ["x"]) == ("abcdef", False)
    assert cut("abcdef", []) == ("abcdef", False)


@given(
    st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.text("ab", max_size=6)
)
def test_what_is_safe_to_show_stays(text: str, stops: list[str], more: str) -> None:
    """Whatever comes next, the shown characters are part of the answer; nothing is held that could be shown."""
    text, found = cut(text, stops)
    shown = safe(text, stops)
    assert 0 <= shown <= len(text)
    if not found:
        after, _ = cut(text + more, stops)
        assert after.startswith(text[:shown])
        held = text[shown:]
        assert not held or any(stop.startswith(held) for stop in stops)
