"""Where a checkpoint says that an answer ends."""

from __future__ import annotations

import json
from pathlib import Path

from rios.words.errors import CheckpointCorrupt


def eos_of(path: Path) -> list[int]:
    """End-of-sequence token ids from generation_config.json, else from config.json; none where neither has one."""
    for name in ("generation_config.json", "config.json"):
        file = path / name
        if not file.is_file():
            continue
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            # A composite checkpoint's language model has a configuration of its own in the whole one's.
            value = said.get("eos_token_id", (said.get("text_config") or {}).get("eos_token_id"))
        except (ValueError, AttributeError) as error:
            raise CheckpointCorrupt(f"{file.name}: not a JSON object ({error})") from error
        if isinstance(value, int):
            return [value]
        if isinstance(value, list):
            return [int(token) for token in value]
    return []
