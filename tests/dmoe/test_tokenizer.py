"""Token ids and text are those of transformers, whether it is asked or the library below it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.dmoe.tokenizer import Tokenizing, read_files
from rios.words.errors import CheckpointCorrupt, InvalidRequest
from tests.campaigns import ROOT

DEMO = ROOT / "rios" / "demo" / "model"


def changed(**config: Any) -> Tokenizing:
    """The demo model's, with other words in tokenizer_config.json; None takes one away."""
    files = read_files(DEMO)
    assert files is not None
    said = json.loads(base64.b64decode(files["tokenizer_config.json"])) | config
    text = json.dumps({key: value for key, value in said.items() if value is not None})
    return Tokenizing({**files, "tokenizer_config.json": base64.b64encode(text.encode()).decode()})


@pytest.fixture(scope="module")
def demo() -> Tokenizing:
    return changed()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.lists(st.integers(0, 4095), max_size=12))
def test_the_library_alone_says_the_same(demo: Tokenizing, text: str, tokens: list[int]) -> None:
    assert demo._library() is not None
    transformers = demo.load()
    assert demo.encode(text) == transformers(text)["input_ids"]
    ids = [token % len(transformers) for token in tokens]
    for special in (False, True):
        expected = transformers.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        assert demo.decode(ids, special=special) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"add_bos_token": True},
        {"tokenizer_class": "GPT2Tokenizer"},
        {"tokenizer_class": None},
        {"eos_token": "<|never seen|>"},
        {"eos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": True, "special": True}},
        {"extra_special_tokens": ["<|never seen|>"]},
    ],
)
def test_what_transformers_would_change_it_does(config: dict[str, Any]) -> None:
    found = changed(**config)
    assert found._library() is None
    assert found.encode("It was") == found.load()("It was")["input_ids"]


def test_a_conversation_can_be_written_where_the_files_say_how(demo: Tokenizing) -> None:
    assert demo.has_chat_template == bool(demo.load().chat_template)
    with_one = changed(chat_template="{{ messages[0].content }}")
    assert with_one.has_chat_template
    assert with_one.load().chat_template
    assert not Tokenizing(None).has_chat_template


def test_without_a_tokenizer_and_with_a_broken_one() -> None:
    for use in (Tokenizing(None).load, lambda: Tokenizing(None).encode("a"), lambda: Tokenizing(None).decode([1])):
        with pytest.raises(InvalidRequest, match="token ids instead of text"):
            use()
    files = read_files(DEMO)
    assert files is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with pytest.raises(CheckpointCorrupt, match=name):
            Tokenizing({**files, name: base64.b64encode(b"{").decode()}).encode("a")


CLIENT = """
import sys
import rios
if __name__ == "__main__":
    with rios.local(workers=1) as net:
        model = net.dmoe.deploy("demo", progress=False)
        out = model.generate("It was a fine morning,", max_new_tokens=4)
        assert model.placement.trunk and out.text and model.decode(out.token_ids)
        print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_a_client_of_an_embedded_network_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT], capture_output=True, text=True, timeout=240, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["[]"]
