"""Choose held-out passages for notebooks: ``python -m rios.demo.samples``.

Writes ``samples.json`` beside this file: for each voice, passages the model never
saw, with the chapter each comes from. They show which expert prefers which voice
without the text packages being installed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from rios.demo import corpus

PASSAGES_PER_VOICE = 20
# About 300 characters: 70 to 90 tokens, enough to see a preference.
SHORTEST, LONGEST = 250, 380

# A sentence ends at a stop that is not a title's, with the marks that close on it, and
# the next begins with a capital.
_SENTENCE = re.compile(r"\S.*?(?<!Mr)(?<!Mrs)(?<!Dr)(?<!St)[.!?][\"')_]*(?=\s+[\"'(_]*[A-Z]|\s*$)", re.DOTALL)


def passages(text: str) -> Iterator[str]:
    """Yield disjoint runs of whole sentences, each of about 300 characters."""
    start: int | None = None
    for sentence in _SENTENCE.finditer(text):
        start = sentence.start() if start is None else start
        length = sentence.end() - start
        if length >= SHORTEST:
            if length <= LONGEST:
                yield text[start : sentence.end()]
            start = None


def choose(chapters: tuple[corpus.Chapter, ...]) -> dict[str, list[dict[str, str]]]:
    """Return, for each voice, passages spread evenly over its chapters."""
    chosen = {}
    for voice in corpus.VOICES:
        found = [
            {"source": chapter.source, "text": passage}
            for chapter in chapters
            if chapter.voice == voice
            for passage in passages(chapter.text)
        ]
        chosen[voice] = [found[index * len(found) // PASSAGES_PER_VOICE] for index in range(PASSAGES_PER_VOICE)]
    return chosen


def main() -> None:
    """Write the passages to the package."""
    parser = argparse.ArgumentParser(description="Choose held-out passages for notebooks.")
    parser.add_argument("--corpus", type=Path, default=Path("/"), help="root of the text packages")
    chosen = choose(corpus.load(parser.parse_args().corpus).held_out)
    out = Path(__file__).with_name("samples.json")
    out.write_text(json.dumps(chosen, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
