"""How the text is cut, on a small stand-in for the packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from rios.demo import corpus, samples

NOVEL = [
    "EMMA",
    "",
    "VOLUME I",
    "",
    "CHAPTER I",
    "",
    "",
    "Emma Woodhouse,",
    "handsome.",
    "",
    "She was",
    "",
    "Chapter 2",
    "Mr. Weston",
    "FINIS",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root whose ``bible`` prints a chapter for each book, and whose novels have two chapters."""
    monkeypatch.setattr(corpus, "read_vectors", lambda _: dict.fromkeys(corpus.NOVELS, NOVEL))
    script = tmp_path / "usr/bin/bible"
    script.parent.mkdir(parents=True)
    verses = [
        f"{i % 3 or ''}Bk{chr(65 + i // 26)}{chr(97 + i % 26)}1:{v} Verse  {v}." for i in range(66) for v in (1, 2)
    ]
    script.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(verses) + "\nEND\n")
    script.chmod(0o755)
    return tmp_path


def test_chapters_are_cut_and_named(root: Path) -> None:
    split = corpus.load(root)
    chapters = {chapter.source: chapter for chapter in (*split.train, *split.held_out)}
    assert len(chapters) == 6 * 2 + 66
    assert chapters["Emma 1"].text == "Emma Woodhouse, handsome.\n\nShe was\n"
    assert chapters["Emma 2"].text == "Mr. Weston\n"
    assert chapters["Genesis 1"].text == chapters["Revelation 1"].text == "Verse 1.\nVerse 2.\n"


def test_every_25th_chapter_of_a_voice_is_held_out(root: Path) -> None:
    held_out = corpus.load(root).held_out
    assert [chapter.source for chapter in held_out] == [f"{corpus.BOOKS[n]} 1" for n in (24, 49)]
    assert {chapter.voice for chapter in held_out} == {"bible"}


def test_passages_are_whole_sentences() -> None:
    sentence = 'Mrs. Elton, who had been "so very kind," was not to be put off with any excuse whatever.'
    text = " ".join([sentence] * 10) + "\n"
    found = list(samples.passages(text))
    assert found == [" ".join([sentence] * 3)] * 3
