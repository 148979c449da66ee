"""Publishing: whole or not at all, once for each key."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from rios.reporting.shelf import Shelf, plain

FILES = {"html": b"<p>", "json": b"{}", "ipynb": b"{}", "pdf": b"%PDF"}


def test_a_version_has_all_its_files_and_their_hashes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    found = shelf.publish("cost", "2026-11-27", "", FILES, {"key": "k"}, good=True)
    assert (found.version, found.new) == (1, True)
    assert sorted(path.name for path in found.folder.iterdir()) == [
        *(f"cost-2026-11-27.{kind}" for kind in sorted(FILES)), "manifest.json",
    ]  # fmt: skip
    manifest = json.loads((found.folder / "manifest.json").read_text())
    assert manifest["files"]["cost-2026-11-27.html"]["bytes"] == 3
    assert shelf.latest("cost") == found.folder


def test_the_same_again_is_the_same_version(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = shelf.publish("cost", "2026-11-27", "", FILES, {"key": "k"}, good=True)
    stamp = first.folder.stat().st_mtime_ns
    # A PDF may differ from machine to machine; what was published stays.
    again = shelf.publish("cost", "2026-11-27", "", {**FILES, "pdf": b"other"}, {"key": "k"}, good=True)
    assert (again.folder, again.new, again.files) == (first.folder, False, first.files)
    assert first.folder.stat().st_mtime_ns == stamp


def test_other_bytes_are_another_version(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.publish("cost", "2026-11-27", "", FILES, {"key": "k"}, good=True)
    second = shelf.publish("cost", "2026-11-27", "", {**FILES, "json": b"[]"}, {"key": "l"}, good=True)
    assert second.version == 2
    assert shelf.latest("cost") == second.folder


def test_a_partial_one_is_kept_and_is_never_the_latest(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    good = shelf.publish("cost", "2026-11-27", "", FILES, {"key": "k"}, good=True)
    bad = shelf.publish("cost", "2026-11-28", "", FILES, {"key": "m"}, good=False)
    assert bad.folder.name == "partial-1"
    assert shelf.latest("cost") == good.folder


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rios.reporting.shelf.sync_names", full)
    with pytest.raises(OSError, match="No space"):
        shelf.publish("cost", "2026-11-27", "", FILES, {"key": "k"}, good=True)
    assert list((tmp_path / "cost").rglob("*.html")) == []
    assert list((tmp_path / ".work").iterdir()) == []


def test_leavings_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    """A process of another machine that has the same folder is not seen from here, whatever its number."""
    machine, dead = plain(socket.gethostname()), 4194399
    kept = (f"{machine}-{os.getpid()}-a", f"gateway-7f9-x2-{dead}-b", f"{machine}-of-rack-2-{dead}-b")
    gone = (f"{machine}-{dead}-b", f"gateway-7f9-x2-{dead}-c", "anything-before-this")
    for name in kept + gone:
        (tmp_path / ".work" / name).mkdir(parents=True)
    for name in gone[1:]:
        os.utime(tmp_path / ".work" / name, (0, 0))
    Shelf(tmp_path).sweep()
    assert {path.name for path in (tmp_path / ".work").iterdir()} == set(kept)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "..", "<script>"])
def test_no_name_leads_elsewhere(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    found = Shelf(out).publish(name, name, name, FILES, {"key": "k"}, good=True)
    assert found.folder.resolve().is_relative_to(out.resolve())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
