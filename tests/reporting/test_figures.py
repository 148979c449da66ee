"""The lines of the report: what their state is, and that sections measured apart come together in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rios.reporting.bench import Interval, Machine
from rios.reporting.figures import Figure, Figures


def line(low: float, high: float, target: float | None, *, at_least: bool, section: str = "a") -> Figure:
    found = Interval((low + high) / 2, low, high, 20)
    return Figure(section=section, what="speed", found=found, target=target, at_least=at_least)


@pytest.mark.parametrize(
    ("low", "high", "at_least", "state"),
    [
        (3.0, 4.0, True, "met"),
        (3.1, 4.0, True, "met"),
        (2.9, 3.0, True, "open"),
        (2.0, 2.9, True, "missed"),
        (2.0, 3.0, False, "met"),
        (2.9, 3.1, False, "open"),
        (3.1, 4.0, False, "missed"),
    ],
)
def test_the_interval_decides(low: float, high: float, at_least: bool, state: str) -> None:
    found = line(low, high, 3.0, at_least=at_least)
    assert found.state == state
    assert str(found).endswith(f"wanted at {'least' if at_least else 'most'} 3: {state}")


def test_without_a_target_nothing_is_met_or_missed() -> None:
    found = line(1.0, 2.0, None, at_least=True)
    assert found.state == ""
    assert str(found) == "speed: 1.50 (1.00 to 2.00)"


def test_what_was_not_measured_says_why() -> None:
    found = Figure(section="a", what="speed", found=None, target=3.0, why="no such machine")
    assert str(found) == "speed: not measured: no such machine"
    assert found.to_dict()["why"] == "no such machine"
    assert found.state == "not measured"


def test_sections_measured_apart_lie_in_one_file(tmp_path: Path) -> None:
    for section in ("a", "b"):
        figures = Figures()
        figures.add(line(1.0, 2.0, 1.0, at_least=True, section=section))
        figures.note(section, "tokens_per_second", [1])
        figures.done(section, pairs=20, seconds=1.4)
        path = figures.keep(tmp_path / "figures")
    again = Figures()
    again.add(line(5.0, 6.0, 1.0, at_least=True, section="a"))
    assert again.keep(tmp_path / "figures") == path
    (kept,) = path.parent.iterdir()
    found = json.loads(kept.read_text())
    assert [row["median"] for section in ("a", "b") for row in found["sections"][section]["rows"]] == [5.5, 1.5]
    assert found["sections"]["b"]["beside"] == {"tokens_per_second": [1]}
    assert (found["sections"]["b"]["pairs"], found["sections"]["b"]["seconds"]) == (20, 1)


def test_another_machine_begins_anew(tmp_path: Path) -> None:
    first = Figures(machine=Machine("other", 64, 512))
    first.add(line(1.0, 2.0, 1.0, at_least=True, section="a"))
    first.keep(tmp_path)
    second = Figures()
    second.add(line(1.0, 2.0, 1.0, at_least=True, section="b"))
    assert list(json.loads(second.keep(tmp_path).read_text())["sections"]) == ["b"]
