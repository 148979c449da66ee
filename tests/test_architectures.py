"""docs/architectures.md: complete, enough of it exact, and true where it is tried again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers

import rios
from tests import checkpoints
from tests.architectures import Row, check
from tests.campaigns import ROOT

PAGE = ROOT / "docs" / "architectures.md"
EXACT_MIN = 45
# One of each kind: a shared forward, a sliding window, a recurrent state.
AGAIN = ("glm4_moe", "dots1", "qwen3_next")


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """The rows of the page."""
    found = [
        Row(name, exact == "yes", batching, note)
        for name, exact, batching, note in re.findall(
            r"^\| (\S+) \| (yes|no) \| (.*?) ?\| (.*?) ?\|$", PAGE.read_text(), re.MULTILINE
        )
    ]
    assert len({row.name for row in found}) == len(found)
    return {row.name: row for row in found}


def test_the_page_lists_every_architecture_of_the_installed_transformers(rows: dict[str, Row]) -> None:
    assert sorted(rows) == sorted(checkpoints.causal_architectures()), "run `make docs`"
    assert f"transformers {transformers.__version__} " in PAGE.read_text(), "run `make docs`"


def test_enough_architectures_are_exact_and_the_others_say_why(rows: dict[str, Row]) -> None:
    exact = {row.name for row in rows.values() if row.exact}
    assert len(exact) >= EXACT_MIN
    assert exact.issuperset(checkpoints.NAMED)
    assert f" {len(exact)} of {len(rows)} are exact" in PAGE.read_text()
    for row in rows.values():
        assert row.note or (row.exact and row.batching == "shared"), row


def test_the_page_is_true(rows: dict[str, Row], tmp_path: Path) -> None:
    assert not set(AGAIN) & set(checkpoints.NAMED)
    with rios.local(workers=2, threads=1) as net:
        for name in AGAIN:
            found = check(net, name, tmp_path)
            assert found == rows[name]
            assert found.exact
