"""A checkpoint's tokenizer: its files as they travel, text to token ids and back, and the object of transformers."""

from __future__ import annotations

import base64
import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rios.words.errors import CheckpointCorrupt, InvalidRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
# What transformers makes nothing of but what tokenizer.json says already.
_PLAIN_FILES = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"}
_PLAIN_CLASS = "TokenizersBackend"
_PLAIN_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_PLAIN_KEYS = {
    *("backend", "chat_template", "clean_up_tokenization_spaces", "is_local", "model_input_names"),
    *("model_max_length", "name_or_path", "padding_side", "tokenizer_class", "truncation_side"),
    *_PLAIN_TOKENS,
}
_PLAIN_VOCABULARY_MAX = 100_000  # above, transformers looks whether a pattern has to be mended


def read_files(path: Path) -> dict[str, str] | None:
    """The tokenizer files of a checkpoint as base64, or None where it has no tokenizer."""
    found = {name: path / name for name in FILES if (path / name).is_file()}
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & set(found):
        return None
    return {name: base64.b64encode(file.read_bytes()).decode() for name, file in found.items()}


class Tokenizing:
    """Loads the tokenizer at its first use, from files that came over the wire.

    transformers makes it, which takes torch and seconds to import; where its object would do no more than the library
    below it, that library does it alone, with the same ids and text.
    """

    def __init__(self, files: dict[str, str] | None) -> None:
        self._files = files
        self._tokenizer: Any = None
        self._plain: Tokenizer | None = None
        self._looked = False
        self._lock = threading.Lock()

    @property
    def present(self) -> bool:
        """Whether the checkpoint has a tokenizer."""
        return self._files is not None

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be written as prompts."""
        files = self._files or {}
        return "chat_template.jinja" in files or bool(_config_of(files).get("chat_template"))

    def load(self) -> Any:
        """The tokenizer (a transformers object), or `InvalidRequest` where the checkpoint has none."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _load(self._known())
        return self._tokenizer

    def prepare(self) -> Self:
        """Load now what `encode` and `decode` need; returns this. Raises as `load`."""
        if self._library() is None:
            self.load()
        return self

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens that the checkpoint begins or ends a prompt with.

        Raises as `load`.
        """
        plain = self._library()
        ids = self.load()(text)["input_ids"] if plain is None else plain.encode(text).ids
        return [int(token) for token in ids]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of tokens. special: with that of special tokens, too. Raises as `load`."""
        plain = self._library()
        if plain is not None:
            return plain.decode(list(ids), skip_special_tokens=not special)
        text: str = self.load().decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        return text

    def _known(self) -> dict[str, str]:
        if self._files is None:
            raise InvalidRequest(
                "this checkpoint has no tokenizer: give token ids instead of text, and no stop strings"
            )
        return self._files

    def _library(self) -> Tokenizer | None:
        """What transformers would use, where it adds nothing to it."""
        with self._lock:
            if not self._looked:
                self._plain, self._looked = _plain(self._known()), True
        return self._plain


def _config_of(files: Mapping[str, str]) -> dict[str, Any]:
    """tokenizer_config.json; empty where there is none."""
    if "tokenizer_config.json" not in files:
        return {}
    try:
        found = json.loads(base64.b64decode(files["tokenizer_config.json"]))
    except ValueError as error:
        raise CheckpointCorrupt(f"tokenizer_config.json: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointCorrupt("tokenizer_config.json: not a JSON object")
    return found


def _plain(files: Mapping[str, str]) -> Tokenizer | None:
    """The tokenizer of tokenizer.json alone; None where transformers would change or add anything."""
    config = _config_of(files)
    tokens = [config[name] for name in _PLAIN_TOKENS if config.get(name) is not None]
    if (
        "tokenizer.json" not in files
        or set(files) - _PLAIN_FILES
        or set(config) - _PLAIN_KEYS
        or config.get("tokenizer_class") != _PLAIN_CLASS
        or not all(isinstance(token, str) for token in tokens)
    ):
        return None
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(base64.b64decode(files["tokenizer.json"]).decode())
    except Exception as error:  # the library raises Exception itself
        raise CheckpointCorrupt(f"tokenizer.json: {error}") from error
    known = {token.content for token in found.get_added_tokens_decoder().values()}
    if not known.issuperset(tokens) or found.get_vocab_size() > _PLAIN_VOCABULARY_MAX:
        return None
    found.no_truncation()
    found.no_padding()
    return found


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
