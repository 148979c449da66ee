"""The demo model's text: two voices of public-domain English, split by chapter.

- ``austen``: six novels by Jane Austen, from the Debian package
  ``r-cran-janeaustenr`` (an R data file, read by :mod:`rios.demo.rdata`).
- ``bible``: the King James Version, printed by the ``bible`` command of the
  Debian packages ``bible-kjv`` and ``bible-kjv-text``.

Two voices that differ plainly let a reader *see* experts specialise.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rios.demo.rdata import read_vectors

VOICES = ("austen", "bible")

# Whole chapters are held out, so that no held-out sentence has its neighbours in
# training; one in 25 (4 %) leaves 330 kB to measure on.
HOLD_OUT_EVERY = 25

NOVELS = {
    "emma": "Emma",
    "mansfieldpark": "Mansfield Park",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
    "prideprejudice": "Pride and Prejudice",
    "sensesensibility": "Sense and Sensibility",
}

# In the order of the text. Its tool prints abbreviations of its own ("SSol", "Phmn").
# fmt: off
BOOKS = (
    "Genesis", "Exodus", "Leviticus", "Numbers", "Deuteronomy", "Joshua", "Judges", "Ruth", "1 Samuel",
    "2 Samuel", "1 Kings", "2 Kings", "1 Chronicles", "2 Chronicles", "Ezra", "Nehemiah", "Esther", "Job",
    "Psalm", "Proverbs", "Ecclesiastes", "Song of Solomon", "Isaiah", "Jeremiah", "Lamentations", "Ezekiel",
    "Daniel", "Hosea", "Joel", "Amos", "Obadiah", "Jonah", "Micah", "Nahum", "Habakkuk", "Zephaniah",
    "Haggai", "Zechariah", "Malachi", "Matthew", "Mark", "Luke", "John", "Acts", "Romans", "1 Corinthians",
    "2 Corinthians", "Galatians", "Ephesians", "Philippians", "Colossians", "1 Thessalonians",
    "2 Thessalonians", "1 Timothy", "2 Timothy", "Titus", "Philemon", "Hebrews", "James", "1 Peter",
    "2 Peter", "1 John", "2 John", "3 John", "Jude", "Revelation",
)
# fmt: on

_HEADING = re.compile(r"chapter\s+[\divxlc]+\.?", re.IGNORECASE)
_VOLUME = re.compile(r"(volume|end of volume)\s+[\divxlc]+\.?|finis|the end", re.IGNORECASE)
_VERSE = re.compile(r"(?P<book>\d?[A-Za-z]+)(?P<chapter>\d+):\d+ (?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter: the unit that is held out, and one document in training."""

    voice: str
    source: str  # for example "Emma 3" or "Genesis 3"
    text: str


@dataclass(frozen=True, slots=True)
class Split:
    """The corpus, parted into what is trained on and what is measured on."""

    train: tuple[Chapter, ...]
    held_out: tuple[Chapter, ...]


def load(root: Path = Path("/")) -> Split:
    """Read both voices and hold out every 25th chapter of each.

    ``root`` is where the Debian packages are installed, or a folder into which
    they were unpacked with ``dpkg -x``.
    """
    train: list[Chapter] = []
    held_out: list[Chapter] = []
    for chapters in (list(_austen(root)), list(_bible(root))):
        for number, chapter in enumerate(chapters, start=1):
            (train if number % HOLD_OUT_EVERY else held_out).append(chapter)
    return Split(tuple(train), tuple(held_out))


def _austen(root: Path) -> Iterator[Chapter]:
    """Yield the novels' chapters: unwrapped paragraphs, an empty line between two."""
    novels = read_vectors(root / "usr/lib/R/site-library/janeaustenr/data")
    for name, title in NOVELS.items():
        chapters: list[list[str]] = []
        for line in map(str.strip, novels[name]):
            if _HEADING.fullmatch(line):
                chapters.append([])
            elif chapters and not _VOLUME.fullmatch(line):  # before the first: title page
                chapters[-1].append(line)
        for number, lines in enumerate(chapters, start=1):
            paragraphs = [" ".join(group) for has_text, group in groupby(lines, key=bool) if has_text]
            yield Chapter("austen", f"{title} {number}", "\n\n".join(paragraphs) + "\n")


def _bible(root: Path) -> Iterator[Chapter]:
    """Yield the Bible's chapters: one verse a line, without its number."""
    command = [str(root / "usr/bin/bible"), "-p", f"{root / 'usr/lib'}/", "-f", "Gen1:1-Rev22:21"]
    printed = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    verses = [m for m in map(_VERSE.fullmatch, printed.decode("latin-1").splitlines()) if m]
    by_book = groupby(verses, key=lambda verse: verse["book"])
    for title, (_, book) in zip(BOOKS, by_book, strict=True):
        for number, chapter in groupby(book, key=lambda verse: verse["chapter"]):
            text = "\n".join(" ".join(verse["text"].split()) for verse in chapter)
            yield Chapter("bible", f"{title} {number}", text + "\n")
