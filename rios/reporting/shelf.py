"""Where reports are published: whole or not at all, each version for ever, beside a link to the last good one.

OUT/cost/2026-11-27/v1/     cost-2026-11-27.html .json .ipynb .pdf, and manifest.json with the hash of each
OUT/cost/latest             a link to the folder that was published last
OUT/cost/2026-11-27/partial-1/   what came of an attempt that failed; the page has a banner

A folder is written beside, flushed to the disk, and renamed: who looks sees all of it or nothing. Several machines may
have one such folder; what is in none of them may be on hosts (`services.reports.keeping`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rios.words.durable import sync_names
from rios.words.errors import Elsewhere

MANIFEST = "manifest.json"
EXACT = ("html", "json", "ipynb")
"""What a repetition has to have byte for byte."""
_WORK = ".work"
_LEFT_S = 86_400.0
"""Publishing takes seconds; what another machine has not ended after this, it has left."""
_VERSION = re.compile(r"v(\d+)")
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Published:
    """A published version."""

    version: int
    folder: Path
    files: Mapping[str, Any]
    """Name to `sha256` and `bytes`."""
    new: bool
    """Whether it was not there before."""


def plain(text: str) -> str:
    """`text` as the name of a file."""
    return _PLAIN.sub("-", text).strip(".-") or "x"


class Shelf:
    """The folder of reports."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def folder(self, name: str, label: str, subject: str = "") -> Path:
        """The folder of a report's versions."""
        return self.out / plain(name) / (plain(label) + (f"-{plain(subject)}" if subject else ""))

    def latest(self, name: str) -> Path | None:
        """The folder of the version that was published last, or None."""
        found = self.out / plain(name) / "latest"
        return found.resolve() if found.exists() else None

    def read(self, folder: str, name: str, sha256: str) -> bytes:
        """A published file, by what the history says of it. Raises Elsewhere where it is not here, or not readable,
        or is another one: gateways with folders of their own number versions for themselves."""
        try:
            found = (self.out / folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            found = b""
        except OSError as error:  # of the disk, a file server or its rights: others may have it nevertheless
            why = error.strerror or type(error).__name__
            raise Elsewhere(f"{folder}/{name} cannot be read here: {why}; look after RIOS_REPORTS") from error
        if hashlib.sha256(found).hexdigest() != sha256:
            raise Elsewhere(
                f"{folder}/{name} is not here: it was removed, or another gateway published it in a folder of its own; "
                "RIOS_REPORTS gives all gateways of a network one folder"
            )
        return found

    def publish(
        self,
        name: str,
        label: str,
        subject: str,
        files: Mapping[str, bytes],
        manifest: Mapping[str, Any],
        *,
        good: bool,
    ) -> Published:
        """Publish files by extension with what `manifest` says of them; a `key` in it that is there changes nothing.

        good: False keeps them as a partial attempt, of which nothing else takes notice.
        """
        parent = self.folder(name, label, subject)
        parent.mkdir(parents=True, exist_ok=True)
        stem = f"{plain(name)}-{plain(label)}"
        listed = {f"{stem}.{kind}": _entry(content) for kind, content in sorted(files.items())}
        if good and (found := self._same(parent, str(manifest["key"]), listed)) is not None:
            self._link(name, found.folder)
            return found
        work = self.out / _WORK / f"{_machine()}-{os.getpid()}-{secrets.token_hex(6)}"
        work.mkdir(parents=True)
        try:
            for kind, content in files.items():
                _write(work / f"{stem}.{kind}", content)
            text = json.dumps({**manifest, "files": listed}, sort_keys=True, indent=1) + "\n"
            _write(work / MANIFEST, text.encode())
            sync_names(work)
            version, folder = self._rename(work, parent, "v" if good else "partial-")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if good:
            self._link(name, folder)
        return Published(version, folder, listed, True)

    def versions(self, parent: Path) -> list[tuple[int, dict[str, Any]]]:
        """Number and manifest of the versions in a folder, the first first."""
        found = []
        for path in parent.glob("v*"):
            number = _VERSION.fullmatch(path.name)
            if number is not None and (path / MANIFEST).is_file():
                found.append((int(number[1]), json.loads((path / MANIFEST).read_text())))
        return sorted(found, key=lambda one: one[0])

    def sweep(self) -> None:
        """Remove what processes that are gone left half written; of other machines, what is old."""
        for path in (self.out / _WORK).glob("*-*-*"):
            machine, pid, _ = path.name.rsplit("-", 2)
            ours = machine == _machine() and pid.isdigit()
            try:
                left = time.time() - path.stat().st_mtime > _LEFT_S
            except FileNotFoundError:  # it is published, or somebody else sweeps
                continue
            if left or (ours and not is_alive(int(pid))):
                shutil.rmtree(path, ignore_errors=True)

    def _same(self, parent: Path, key: str, listed: Mapping[str, Any]) -> Published | None:
        for number, manifest in self.versions(parent):
            there = manifest["files"]
            exact = all(there.get(name) == entry for name, entry in listed.items() if name.rpartition(".")[2] in EXACT)
            if manifest["key"] == key and exact:
                return Published(number, parent / f"v{number}", there, False)
        return None

    def _rename(self, work: Path, parent: Path, kind: str) -> tuple[int, Path]:
        number = 1
        while True:
            folder = parent / f"{kind}{number}"
            if not folder.exists():
                try:
                    work.rename(folder)
                except OSError:
                    if not folder.exists():  # nobody was faster: it is something else
                        raise
                else:
                    sync_names(parent)
                    return number, folder
            number += 1

    def _link(self, name: str, folder: Path) -> None:
        place = self.out / plain(name) / "latest"
        new = place.with_name(f".latest-{secrets.token_hex(4)}")
        new.symlink_to(folder.relative_to(place.parent))
        new.replace(place)


def _machine() -> str:
    """This machine, or this container of it: whose process ids say something here."""
    return plain(socket.gethostname())


def _entry(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
