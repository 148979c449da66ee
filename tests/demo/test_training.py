"""The two commands by which the demo model is made and measured, as its card shows them, on a text of no meaning."""

from __future__ import annotations

import json
import random
import re
import shlex
import sys
from pathlib import Path

import pytest

from rios.demo import corpus, evaluate, train
from tests.campaigns import ROOT

CARD = ROOT / "rios" / "demo" / "model" / "README.md"
# A step of training reads 16 windows of 512 tokens at most: there must be as many.
CHAPTERS, WORDS = 3, 1500


def _command(module: str, out: Path) -> list[str]:
    """The words of the card's command that runs a module, with a folder of ours."""
    (line,) = re.findall(rf"^.*python -m {re.escape(module)}\b.*$", CARD.read_text(), re.MULTILINE)
    return [str(out) if word == "DIR" else word for word in shlex.split(line.partition(f"-m {module}")[2])]


def _chapter(voice: str, words: int, draw: random.Random) -> corpus.Chapter:
    text = " ".join("".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(words))
    return corpus.Chapter(voice=voice, source=f"{voice} {words}", text=text)


@pytest.mark.long
def test_the_commands_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(1)
    chapters = tuple(_chapter(voice, WORDS, draw) for voice in corpus.VOICES for _ in range(CHAPTERS))
    held_out = tuple(_chapter(voice, 100, draw) for voice in corpus.VOICES)
    monkeypatch.setattr(corpus, "load", lambda _: corpus.Split(train=chapters, held_out=held_out))
    monkeypatch.setattr(sys, "argv", ["train", *_command("rios.demo.train", tmp_path), "--steps", "1"])
    train.main()
    assert (tmp_path / "model.safetensors").exists()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["evaluate", *_command("rios.demo.evaluate", tmp_path)])
    evaluate.main()
    measured = json.loads(capsys.readouterr().out)
    assert set(measured["by_voice"]) == set(corpus.VOICES)
    assert measured["bits_per_byte"] > 0
