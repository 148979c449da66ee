"""`make audit`: static analysis, secrets, licences and known advisories. A finding has its answer in SECURITY.md, or it
is printed and the exit code is 1.

Rows under "Findings" in SECURITY.md answer one finding each: its kind, its place, and why it is none.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.campaigns import ROOT

ANSWERS = ROOT / "SECURITY.md"
HOME = ROOT / ".make" / "audit"
PANELS = ROOT / "extension"
PIP_AUDIT = "pip-audit==2.10.1"
# What reads bytes of strangers, or keeps secrets: whatever else is pinned is reached through these alone.
EXPOSED = (
    "aiohttp", "argon2-cffi", "authlib", "cryptography", "distributed", "fastapi", "h11", "httpx2", "jinja2",
    "joserfc", "psycopg", "pydantic", "redis", "safetensors", "sqlalchemy", "starlette", "tokenizers", "uvicorn",
)  # fmt: skip
SECRET = re.compile(
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----|rios_[a-z]{2}_[\w-]{40,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}\b"
    r"|\bxox[abprs]-[\w-]{10,}|\bsk-[A-Za-z0-9]{32,}|eyJhbGciOi[\w-]+\.[\w-]{20,}\.[\w-]{20,}"
    r"|(?i:(?:private_?key|secret|password|passphrase)\w*[\"']?\s*[:=]\s*[\"'](?:0x)?[0-9a-f]{64}[\"'])"
)
SINK = re.compile(
    r"\b(?:inner|outer)HTML\b|\binsertAdjacentHTML\b|\bdocument\.(?:write|cookie)|\beval\s*\(|\bnew\s+Function\s*\("
    r"|\bdangerouslySetInnerHTML\b|javascript:|\bsrcdoc\b|\bcreateContextualFragment\b|\bDOMParser\b"
    r"|\bset(?:Timeout|Interval)\(\s*[\"'`]|\bpostMessage\([^)]*[\"']\*[\"']|\b(?:local|session)Storage\b"
)
PERMISSIVE = re.compile(
    r"MIT(-0)?( License)?|(0|[23]-Clause )?BSD( License)?|0?BSD(-[23]-Clause)?|Apache([- ]2\.0)?( Software)?( License)?"
    r"|ISC( License \(ISCL\))?|(PSF-2\.0|Python Software Foundation License)|CNRI-Python|Zlib|CC0-1\.0|BSL-1\.0"
    r"|Public Domain|The Unlicense \(Unlicense\)|Unlicense|OSI Approved|DFSG approved|Apache-2\.0 WITH LLVM-exception"
    r"|MIT-CMU|HPND"
)
_BINARY = {".safetensors", ".png", ".ico"}
_TIMEOUT_S = 300
Finding = tuple[str, str]


def python() -> Iterator[Finding]:
    """What ruff's security rules (those of bandit) find in rios, comments that silence them not heard."""
    command = [
        sys.executable, "-m", "ruff", "check", "rios", "--isolated", "--select", "S", "--ignore", "S101",
        "--ignore-noqa", "--output-format", "json", "--exit-zero",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    for one in json.loads(done.stdout):
        yield one["code"], Path(one["filename"]).relative_to(ROOT).as_posix()


def sinks_in(text: str) -> bool:
    """Whether a text of TypeScript takes text for HTML or code, or keeps what pages of this origin can read."""
    return SINK.search(text) is not None


def sinks() -> Iterator[Finding]:
    """Sources of the panels that do: React's own escaping is of use as long as nothing goes past it."""
    for path in sorted((PANELS / "src").rglob("*.ts*")):
        if sinks_in(path.read_text()):
            yield "sink", path.relative_to(ROOT).as_posix()


def typescript(project: Path = PANELS) -> Iterator[Finding]:
    """What the compiler finds in the panels' sources, as strictly as they are built."""
    command = ["node", PANELS / "node_modules" / "typescript" / "bin" / "tsc", "--noEmit", "-p", project]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    found = re.findall(r"^(.+?)\(\d+,\d+\): error (TS\d+)", done.stdout, re.MULTILINE)
    assert bool(found) == bool(done.returncode), f"the compiler did not run: {done.stdout}{done.stderr}"
    for name, code in found:
        yield code, (project / name).resolve().relative_to(project.parent).as_posix()


def secrets_in(text: str) -> bool:
    """Whether a text has something in it that looks like a secret."""
    return SECRET.search(text) is not None


def secrets() -> Iterator[Finding]:
    """Files of the repository that have something in them that looks like a secret."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in _BINARY and secrets_in(path.read_text(errors="replace")):
            yield "secret", name


def licences() -> Iterator[Finding]:
    """Pinned packages that are here and whose licence asks for more than to be named."""
    for name in _pins():
        try:
            told = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform, or of the build alone
        if not is_permissive(licence_of(told)):
            yield "licence", name.lower()


def licence_of(told: importlib.metadata.PackageMetadata) -> str:
    """A package's licence as it says it: its expression, else its classifiers, else its own words."""
    expression = told.get("License-Expression")
    if expression:
        return str(expression)
    classified = [
        one.rpartition("::")[2].strip() for one in told.get_all("Classifier") or () if one.startswith("License")
    ]
    return " AND ".join(classified) or str(told.get("License") or "unknown")


def is_permissive(licence: str) -> bool:
    """Whether each part of an expression is. Of alternatives one is enough."""
    return any(
        all(PERMISSIVE.fullmatch(part.strip(" ()")) or PERMISSIVE.fullmatch(part.strip()) for part in parts)
        for parts in (re.split(r" AND | \| ", way) for way in licence.split(" OR "))
    )


def advisories() -> Iterator[Finding]:
    """Known vulnerabilities of the pins in `EXPOSED`, as far as the package index tells: by pip-audit."""
    pins = _pins()
    wanted = [f"{name}=={version}" for name, version in pins.items() if name.lower() in EXPOSED]
    assert len(wanted) == len(EXPOSED), "a package that is exposed is not pinned"
    if not (HOME / ".installed").exists():
        venv.create(HOME, with_pip=True, clear=True)
        subprocess.run(
            [HOME / "bin" / "pip", "install", "-qq", PIP_AUDIT], check=True, capture_output=True, timeout=_TIMEOUT_S
        )
        (HOME / ".installed").touch()
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(wanted) + "\n")
        command = [
            HOME / "bin" / "pip-audit", "-r", listed, "--no-deps", "--disable-pip", "--format", "json",
            "--progress-spinner", "off",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if not done.stdout.strip():
        print(f"advisories: the package index does not tell: {done.stderr.strip().splitlines()[-1:]}")
        return
    for one in json.loads(done.stdout)["dependencies"]:
        for known in one.get("vulns", ()):
            yield "advisory", f"{one['name']} {known['id']}"


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name: version for name, _, version in found}


def answered() -> set[Finding]:
    """The findings that SECURITY.md answers."""
    _, _, table = ANSWERS.read_text().partition("\n## Findings\n")
    rows = re.findall(r"^\| ([\w-]+) \| `([^`]+)` \| \S", table, re.MULTILINE)
    return {(kind, place) for kind, place in rows}


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python, sinks, typescript, secrets, licences, advisories,
)  # fmt: skip


def main() -> int:
    """Run all checks; 1 where a finding has no answer, or an answer no finding."""
    known, found = answered(), set()
    for check in CHECKS:
        here = set(check())
        found |= here
        print(f"{check.__name__}: {len(here)} findings, {len(here - known)} without an answer")
    for kind, place in sorted(found - known):
        print(f"no answer in SECURITY.md: {kind} in {place}")
    stale = {one for one in known - found if one[0] != "advisory"}
    for kind, place in sorted(stale):
        print(f"an answer to nothing in SECURITY.md: {kind} in {place}")
    return 1 if found - known or stale else 0


if __name__ == "__main__":
    sys.exit(main())
