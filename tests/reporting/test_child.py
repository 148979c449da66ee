"""Processes measured against: their answers, their last words, their deadline, and that nothing of them is left."""

from __future__ import annotations

import sys

import psutil
import pytest

from rios.reporting.child import Child
from rios.words.errors import DeadlineExceeded, RiosError

ECHO = "import sys\nprint('ready', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
# A child of the child that holds its output open.
PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "sys.stdin.read()"
)


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_it_answers_in_json() -> None:
    with Child(python(ECHO)) as child:
        assert child.first_line == "ready"
        assert child.ask({"tokens": [1, 2.5], "way": "at once"}) == {"tokens": [1, 2.5], "way": "at once"}


def test_its_last_words_are_shown() -> None:
    with pytest.raises(RiosError, match=r"ended with code 3:\nno such model"):
        Child(python("import sys; sys.stderr.write('no such model'); sys.exit(3)"))


def test_it_may_end_in_between() -> None:
    with Child(python("import sys; print('ready', flush=True); sys.stdin.readline(); sys.exit(4)")) as child:
        with pytest.raises(RiosError, match="ended with code 4"):
            child.ask("anything")
        with pytest.raises(RiosError, match="ended with code 4"):
            child.ask("anything else")


def test_an_answer_has_a_deadline_though_others_hold_the_output_open() -> None:
    with Child(python(PARENT)) as child:
        child._answer_s = 1.0  # not before: it is the deadline of the beginning, too
        with pytest.raises(DeadlineExceeded, match="within 1 s"):
            child.ask("anything")


def test_what_it_started_ends_with_it() -> None:
    with Child(python(PARENT)) as child:
        grandchild = psutil.Process(int(child.first_line))
    grandchild.wait(60)
    assert not grandchild.is_running()
