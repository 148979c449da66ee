"""The texts of the front end: what is translated, and what should be.

`python -m tests.lab.messages` writes the template and shows what languages lack.

JupyterLab takes a language's texts from `rios/lab/locale/LANGUAGE/LC_MESSAGES/rios.json`, where its language pack is
installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.campaigns import ROOT

SOURCES = ROOT / "extension" / "src"
LOCALE = ROOT / "rios" / "lab" / "locale"
TEMPLATE = LOCALE / "rios.pot"
# A call with a text in single quotes; texts with an apostrophe are in double quotes.
_CALL = re.compile(r"""\.__\(\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""")
_ANY_CALL = re.compile(r"trans\.__\(")
_COMMENT = re.compile(r"/\*.*?\*/|(?<!:)//[^\n]*", re.DOTALL)
# Words between tags, and in attributes that people read or hear.
_BETWEEN = re.compile(r"(?<!=)>\s*([^<>{}=;()]*[A-Za-z]{2,}[^<>{}=;()]*?)\s*<")
_ATTRIBUTE = re.compile(r"""\b(?:aria-label|placeholder|title|alt)=(["'])(?=[^"']*[A-Za-z]{2})([^"']+)\1""")
_NEVER = {"ROS", "rios"}
"""Names are the same in every language."""


def sources() -> list[Path]:
    """All files of the front end."""
    return sorted([*SOURCES.glob("*.ts"), *SOURCES.glob("*.tsx")])


def messages() -> dict[str, list[str]]:
    """Each text that is translated, with the files that have it."""
    found: dict[str, list[str]] = {}
    for path in sources():
        for single, double in _CALL.findall(_COMMENT.sub("", path.read_text())):
            text = (single or double).replace("\\'", "'").replace('\\"', '"')
            places = found.setdefault(text, [])
            if path.name not in places:
                places.append(path.name)
    return dict(sorted(found.items()))


def unread() -> list[str]:
    """Files that ask for a translation in a form that is not read here."""
    texts = {path.name: _COMMENT.sub("", path.read_text()) for path in sources()}
    return [name for name, text in texts.items() if len(_ANY_CALL.findall(text)) != len(_CALL.findall(text))]


def untranslated(text: str) -> Iterator[str]:
    """Texts of a .tsx file that people read, and that are not given to a translation."""
    text = _COMMENT.sub("", text)
    words = (word.strip() for word in _BETWEEN.findall(text))
    yield from (word for word in words if word not in _NEVER and "\n" not in word)
    yield from (word for _, word in _ATTRIBUTE.findall(text))


def placeholders(text: str) -> list[str]:
    """%1, %2, ..."""
    return sorted(set(re.findall(r"%[1-9]", text)))


def template() -> str:
    """The texts as a template of gettext."""
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n"Domain: rios\\n"\n'
    entries = [
        "".join(f"#: extension/src/{place}\n" for place in places) + f"msgid {json.dumps(text, ensure_ascii=False)}\n"
        'msgstr ""\n'
        for text, places in messages().items()
    ]
    return "\n".join([head, *entries])


def main() -> None:
    """Write the template, and show what languages lack."""
    TEMPLATE.parent.mkdir(parents=True, exist_ok=True)
    TEMPLATE.write_text(template())
    for path in sorted(LOCALE.glob("*/LC_MESSAGES/rios.json")):
        missing = [text for text in messages() if text not in json.loads(path.read_text())]
        print(path.parent.parent.name, "lacks", json.dumps(missing, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
