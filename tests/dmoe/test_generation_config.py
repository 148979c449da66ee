"""Where an answer ends is found wherever a checkpoint says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rios.dmoe.generation_config import eos_of
from rios.words.errors import CheckpointCorrupt


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"config.json": {"eos_token_id": 2}}, [2]),
        ({"config.json": {"eos_token_id": [2, 7]}, "generation_config.json": {"eos_token_id": 5}}, [5]),
        ({"config.json": {"eos_token_id": 2}, "generation_config.json": {"note": "\u00fc"}}, [2]),
        ({"config.json": {"text_config": {"eos_token_id": [3]}, "vision_config": {"eos_token_id": 9}}}, [3]),
        ({"config.json": {"text_config": None}}, []),
        ({}, []),
    ],
)
def test_the_first_file_that_says_it(tmp_path: Path, files: dict[str, Any], ids: list[int]) -> None:
    for name, said in files.items():
        (tmp_path / name).write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    assert eos_of(tmp_path) == ids


def test_what_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointCorrupt, match=r"config\.json"):
        eos_of(tmp_path)
