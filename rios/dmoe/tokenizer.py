"""A checkpoint's tokenizer: its files as they travel, and the object that transformers makes of them."""

from __future__ import annotations

import base64
import tempfile
import threading
from pathlib import Path
from typing import Any

from rios.words.errors import CheckpointCorrupt, InvalidRequest

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "config.json",
)


def read_files(path: Path) -> dict[str, str] | None:
    """The tokenizer files of a checkpoint as base64, or None where it has no tokenizer."""
    found = {name: path / name for name in FILES if (path / name).is_file()}
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & set(found):
        return None
    return {name: base64.b64encode(file.read_bytes()).decode() for name, file in found.items()}


class Tokenizing:
    """Loads the tokenizer at its first use, from files that came over the wire."""

    def __init__(self, files: dict[str, str] | None) -> None:
        self._files = files
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    @property
    def present(self) -> bool:
        """Whether the checkpoint has a tokenizer."""
        return self._files is not None

    def load(self) -> Any:
        """The tokenizer (a transformers object), or `InvalidRequest` where the checkpoint has none."""
        with self._lock:
            if self._tokenizer is None:
                if self._files is None:
                    raise InvalidRequest(
                        "this checkpoint has no tokenizer: give token ids instead of text, and no stop strings"
                    )
                self._tokenizer = _load(self._files)
        return self._tokenizer


def _load(files: dict[str, str]) -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="rios-tokenizer-") as folder:
        for name, text in files.items():
            if name not in FILES:
                raise CheckpointCorrupt(f"{name!r} is not a tokenizer file")
            (Path(folder) / name).write_bytes(base64.b64decode(text))
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointCorrupt(f"the tokenizer cannot be loaded: {error}") from error
