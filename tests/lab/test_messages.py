"""Every text of the panels is given to a translation; the template is what the sources say; German is whole."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.campaigns import ROOT
from tests.lab.messages import LOCALE, TEMPLATE, messages, placeholders, sources, template, unread, untranslated

LANGUAGES = sorted(LOCALE.glob("*/LC_MESSAGES/rios.json"))


def test_no_text_is_left_out_of_translation() -> None:
    views = [path for path in sources() if path.suffix == ".tsx"]
    found = [f"{path.name}: {text!r}" for path in views for text in untranslated(path.read_text())]
    assert found == [], "give them to trans.__(...)"
    assert unread() == [], "a text must stand in the call itself"


@pytest.mark.parametrize(
    "literal",
    [
        "<b>Deposit</b>",
        '<button aria-label="Close it" />',
        "<p>\n  Nothing here\n</p>",
        "<p title='Search' />",
    ],
)
def test_a_text_that_is_left_out_is_seen(literal: str) -> None:
    assert list(untranslated(f"return ({literal});"))
    assert not list(untranslated("return (<b title={trans.__('Deposit')}>{trans.__('Deposit')}</b>);"))


def test_the_template_is_what_the_sources_say() -> None:
    assert TEMPLATE.read_text() == template(), "write it anew: python -m tests.lab.messages"


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.parent.parent.name)
def test_a_language_is_whole(path: Path) -> None:
    found = json.loads(path.read_text())
    head = found.pop("")
    # JupyterLab's front end looks for a language with a hyphen, and shows English where the catalogue says de_DE.
    assert (head["domain"], head["language"]) == ("rios", path.parent.parent.name.replace("_", "-"))
    assert set(found) == set(messages()), "python -m tests.lab.messages says what is missing"
    for text, said in found.items():
        assert len(said) == 1
        assert said[0].strip()
        assert placeholders(said[0]) == placeholders(text), text


def test_jupyterlab_finds_them() -> None:
    """By the entry point, as `jupyterlab_server.translation_utils` looks for the texts of an extension."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["jupyterlab.locale"] == {"rios": "rios.lab"}
    assert LANGUAGES == [LOCALE / "de_DE" / "LC_MESSAGES" / "rios.json"]
