"""`make audit` finds what it is for, and SECURITY.md says what is true: what it names is there."""

from __future__ import annotations

import json
import re
import secrets as random
from pathlib import Path

import pytest

from tests import audit
from tests.campaigns import ROOT

TEXT = (ROOT / "SECURITY.md").read_text()


def test_findings_of_the_sources_are_answered_one_by_one() -> None:
    found = {*audit.python(), *audit.sinks(), *audit.secrets(), *audit.licences()}
    elsewhere = ("advisory", "TS")  # which the package index and the compiler say
    known = {one for one in audit.answered() if not one[0].startswith(elsewhere)}
    assert found - known == set(), "answer it in SECURITY.md, or mend it"
    assert known - found == set(), "an answer to nothing"
    assert len(found) > 5, "nothing was looked at"


def test_every_test_that_defends_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN " + "EC PRIVATE KEY-----",
        "rios_sk_" + random.token_urlsafe(32),
        "AKIA" + "A1" * 8,
        "ghp_" + "a" * 36,
        f'password = "{random.token_hex(32)}"',
        f"'private_key': '0x{random.token_hex(32)}'",
        "eyJhbGciOi" + "J9." + "a" * 20 + "." + "b" * 20,
    ],
    ids=["key file", "ours", "AWS", "GitHub", "password", "private key", "token"],
)
def test_a_secret_is_found(text: str) -> None:
    assert audit.secrets_in(f"before\n{text}\nafter")
    assert not audit.secrets_in("rios_sk_... is how a key begins, and sha256 = " + "a" * 64)


@pytest.mark.parametrize(
    "text",
    [
        "node.innerHTML = said", "<p dangerouslySetInnerHTML={{ __html: said }} />", "eval(said)", "new Function(said)",
        "document.write(said)", 'setTimeout("run()", 5)', 'window.postMessage(said, "*")', "localStorage.token = key",
        "<a href={`javascript:${said}`}>", "new DOMParser()",
    ],
)  # fmt: skip
def test_a_sink_is_found(text: str) -> None:
    assert audit.sinks_in(f"before\n{text}\nafter")
    assert not audit.sinks_in("node.textContent = said; setTimeout(() => run(), 5); const evaluated = html(said)")


@pytest.mark.long
@pytest.mark.needs("node")
def test_the_compiler_finds_what_is_wrong_in_the_panels(tmp_path: Path) -> None:
    """Strictly: what may be undefined is no number. And in the sources there is nothing."""
    options = json.loads((audit.PANELS / "tsconfig.json").read_text())["compilerOptions"]
    (tmp_path / "src").mkdir()
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": options | {"types": []}, "include": ["src/**/*"]})
    )
    source = tmp_path / "src" / "wrong.ts"
    source.write_text("export const first = (all: number[]): number => all[0];\n")
    assert list(audit.typescript(tmp_path)) == [("TS2322", f"{tmp_path.name}/src/wrong.ts")]
    source.write_text("export const first = (all: number[]): number => all[0] ?? 0;\n")
    assert list(audit.typescript(tmp_path)) == []
    assert list(audit.typescript()) == []


@pytest.mark.parametrize(
    ("licence", "good"),
    [
        ("MIT", True),
        ("Apache-2.0 AND BSD-3-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("BSD License AND GNU General Public License v3 (GPLv3)", False),
        ("AGPL-3.0", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_licences_are_told_apart(licence: str, good: bool) -> None:
    assert audit.is_permissive(licence) == good


def test_what_is_not_answered_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "SECURITY.md"
    answers.write_text("\n## Findings\n| S105 | `rios/a.py` | No. |\n| S311 | `rios/b.py` | Mended long ago. |\n")
    monkeypatch.setattr(audit, "ANSWERS", answers)

    def found() -> object:
        yield "S105", "rios/a.py"
        yield "secret", "rios/c.py"

    monkeypatch.setattr(audit, "CHECKS", (found,))
    assert audit.main() == 1
    said = capsys.readouterr().out
    assert "no answer in SECURITY.md: secret in rios/c.py" in said
    assert "an answer to nothing in SECURITY.md: S311 in rios/b.py" in said
    answers.write_text("\n## Findings\n| S105 | `rios/a.py` | No. |\n| secret | `rios/c.py` | None. |\n")
    assert audit.main() == 0
