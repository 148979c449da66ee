"""Applications that take all they can get: it is theirs alone, and the host and its other applications go on."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from rios.deploy.runtimes import rootfs
from rios.deploy.runtimes.protocol import Limits, Mount
from rios.words.errors import InvalidRequest
from tests.deploy.conftest import Bench

FORKS = """
import os, sys, time
made = 0
while made < 5000:
    try:
        if os.fork() == 0:
            time.sleep(100)
            os._exit(0)
        made += 1
    except OSError:
        break
print(made, flush=True)
"""
FILLER = """
import os, sys
for place in sys.argv[1:]:
    written = 0
    try:
        with open(place + "/big", "wb", buffering=0) as file:
            while written < 64 << 20:
                written += file.write(bytes(1 << 18))
    except OSError as error:
        pass
    print(place, written)
    try:
        os.unlink(place + "/big")
    except OSError:
        pass
"""
DESCRIPTORS = """
import os
opened = 0
try:
    while opened < 5000:
        os.open("/dev/null", os.O_RDONLY)
        opened += 1
except OSError:
    pass
print(opened)
"""


def test_a_fork_bomb_ends_at_its_limit(bench: Bench) -> None:
    status = bench.start("python3", "-S", "-c", FORKS, limits=Limits(pids=50, memory_bytes=512 << 20, cpu=2.0))
    # A kernel of its own takes threads of the host for its processes, and may itself end when there are no more.
    ended = bench.runtime.wait(status.instance, timeout_s=120)
    said = bench.output(status.instance)
    assert int(said or 0) < 500
    if bench.name != "gvisor":
        assert 40 <= int(said) <= 60
        assert ended.exit_code == 0


def test_a_disk_filler_fills_its_own(bench: Bench) -> None:
    before = psutil.disk_usage("/").free
    limits = Limits(tmp_bytes=4 << 20, memory_bytes=256 << 20)
    places = ["/tmp", "/home", "/run", "/dev/shm", "/etc", "/bin", "/usr/local", "/proc", "/dev"]
    status, said = bench.python(FILLER, *places, limits=limits)
    assert status.exit_code == 0
    written = {place: int(count) for place, count in (line.split() for line in said.splitlines())}
    assert written["/tmp"] >= 3 << 20
    assert max(written.values()) <= (5 << 20 if bench.name != "gvisor" else 64 << 20)
    assert before - psutil.disk_usage("/").free < 1 << 30


def test_lines_without_end_are_bounded(bench: Bench) -> None:
    limits = Limits(log_bytes=1 << 20, cpu=2.0)
    _, said = bench.python("for n in range(60000): print(n, 'x' * 100)", limits=limits)
    assert len(said) < 3 << 20
    assert said.splitlines()[-1].startswith("59999 ")


def test_descriptors_are_bounded(bench: Bench) -> None:
    _, said = bench.python(DESCRIPTORS, limits=Limits(files=200, memory_bytes=128 << 20))
    assert 150 < int(said) < 200


Entry = tuple[str, dict[str, Any]]
NOWHERE = "/nowhere-of-this-host"
POISONED: dict[str, list[Entry]] = {
    "an absolute name": [("/etc/cron.d/mine", {})],
    "a name that climbs": [("a/../../../etc/mine", {})],
    "a link that climbs, and a file behind it": [
        ("out", {"type": tarfile.SYMTYPE, "linkname": "../../../../tmp"}), ("out/mine", {}),
    ],
    "an absolute link, and a file behind it": [
        ("out", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}), ("out/mine", {}),
    ],
    "a hard link to the host": [("shadow", {"type": tarfile.LNKTYPE, "linkname": "/etc/shadow"})],
    "a hard link that climbs": [("shadow", {"type": tarfile.LNKTYPE, "linkname": "../../etc/shadow"})],
    "a device": [("disk", {"type": tarfile.BLKTYPE, "devmajor": 254})],
    "a character device": [("mem", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 1})],
    "a pipe": [("pipe", {"type": tarfile.FIFOTYPE})],
    "an abyss": [("d/" * rootfs.DEPTH_MAX + "x", {})],
    "a link where secrets are mounted": [("run", {"type": tarfile.SYMTYPE, "linkname": "/tmp"})],
    "a link where names are mounted": [
        ("etc/x", {}), ("etc/hosts", {"type": tarfile.SYMTYPE, "linkname": "/etc/shadow"}),
    ],
    "a hard link to a link where names are mounted": [
        ("x", {"type": tarfile.SYMTYPE, "linkname": NOWHERE}), ("etc", {"type": tarfile.LNKTYPE, "linkname": "x"}),
    ],
    "the same by another spelling": [
        ("./x", {"type": tarfile.SYMTYPE, "linkname": NOWHERE}),
        (".//etc/.", {"type": tarfile.LNKTYPE, "linkname": "./x"}),
    ],
    "a hard link to a link": [
        ("x", {"type": tarfile.SYMTYPE, "linkname": NOWHERE}), ("y", {"type": tarfile.LNKTYPE, "linkname": "x"}),
    ],
    "a hard link to a hard link to a link": [
        ("x", {"type": tarfile.SYMTYPE, "linkname": NOWHERE}), ("y", {"type": tarfile.LNKTYPE, "linkname": "x"}),
        ("x", {}), ("z", {"type": tarfile.LNKTYPE, "linkname": "y"}), ("z/mine", {}),
    ],
    "a hard link to a link with a long name": [
        ("x" * 200, {"type": tarfile.SYMTYPE, "linkname": NOWHERE}),
        ("y", {"type": tarfile.LNKTYPE, "linkname": "x" * 200}),
    ],
    "a hard link to what lies behind a link": [
        ("x", {"type": tarfile.SYMTYPE, "linkname": NOWHERE}), ("y", {"type": tarfile.LNKTYPE, "linkname": "x/mine"}),
    ],
    "a hard link where names are mounted": [
        ("mine", {}), ("etc/hosts", {"type": tarfile.LNKTYPE, "linkname": "mine"}),
    ],
    "a hard link where a directory is mounted": [("mine", {}), ("etc", {"type": tarfile.LNKTYPE, "linkname": "mine"})],
    "a file where a directory is mounted": [("etc", {})],
    "a link that takes a directory's place": [
        ("etc/x", {}), ("etc", {"type": tarfile.SYMTYPE, "linkname": NOWHERE}),
    ],
    "a directory where names are mounted": [("etc/hosts", {"type": tarfile.DIRTYPE})],
    "a file in a file's place": [("etc/hosts/mine", {})],
    "a link in the root's place": [(".", {"type": tarfile.SYMTYPE, "linkname": NOWHERE})],
    "a link to no name": [
        ("x", {"type": tarfile.SYMTYPE, "pax_headers": {"linkpath": "a\0b"}}),
    ],
}  # fmt: skip


def _archive(path: Path, entries: list[Entry]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, fields in entries:
            member = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(member, field, value)
            content = b"" if fields else b"mine"
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("what", POISONED)
def test_archives_that_lead_outside_are_refused(what: str, tmp_path: Path) -> None:
    archive = _archive(tmp_path / "poisoned.tar", POISONED[what])
    with pytest.raises(InvalidRequest, match="nothing of it is used"):
        rootfs.check(archive)
    store = rootfs.RootStore(tmp_path / "store")
    with pytest.raises(InvalidRequest):
        store.add(archive)
    assert not list(store.directory.iterdir())


def test_nothing_is_made_behind_a_link_that_no_rule_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second lock: places are made without following links, whatever the rules for entries let through."""
    monkeypatch.setattr(rootfs, "check", lambda archive, *, bytes_max: None)
    host = tmp_path / "host"
    host.mkdir()
    link: Entry = ("x", {"type": tarfile.SYMTYPE, "linkname": str(host)})
    hard = {"type": tarfile.LNKTYPE, "linkname": "x"}
    for number, name in enumerate(("etc", "tmp", "etc/hosts")):
        into = tmp_path / str(number)
        into.mkdir()
        with pytest.raises(InvalidRequest, match=f"{name} of the root file system is no"):
            rootfs.unpack(_archive(tmp_path / f"{number}.tar", [link, (name, hard)]), into)
    assert not list(host.iterdir())


def test_a_root_that_was_unpacked_before_these_rules_is_looked_at_again(tmp_path: Path) -> None:
    store, host = rootfs.RootStore(tmp_path / "store"), tmp_path / "host"
    digest = store.add(_archive(tmp_path / "good.tar", [("bin/tool", {})]))
    store.make_places(digest, ["/data"])
    root = store.path(digest)
    assert (root / "data").is_dir()
    host.mkdir()
    for name in rootfs.FILES:
        (root / name).unlink()
    (root / "etc").rmdir()
    (root / "etc").symlink_to(host)
    with pytest.raises(InvalidRequest, match="etc of the root file system"):
        store.make_places(digest, [])
    assert not list(host.iterdir())


def test_every_runtime_refuses_them(bench: Bench, tmp_path: Path) -> None:
    for number, entries in enumerate(POISONED.values()):
        with pytest.raises(InvalidRequest):
            bench.runtime.prepare_archive(_archive(tmp_path / f"{number}.tar", entries))
    sparse = {"GNU.sparse.map": "a,b", "GNU.sparse.size": "9"}
    with pytest.raises(InvalidRequest, match="no archive"):
        bench.runtime.prepare_archive(_archive(tmp_path / "sparse.tar", [("x", {"pax_headers": sparse})]))
    (tmp_path / "text").write_text("no archive at all")
    with pytest.raises(InvalidRequest, match="no archive"):
        bench.runtime.prepare_archive(tmp_path / "text")


def test_archives_are_bounded(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "large.tar", [(f"file{n}", {}) for n in range(10)])
    rootfs.check(archive, bytes_max=40)
    with pytest.raises(InvalidRequest, match="39 bytes"):
        rootfs.check(archive, bytes_max=39)


def test_links_inside_are_unpacked_as_they_are_and_privileges_are_not(tmp_path: Path) -> None:
    archive = tmp_path / "good.tar"
    _archive(archive, [("usr/bin/tool", {}), ("bin", {"type": tarfile.SYMTYPE, "linkname": "usr/bin"})])
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("usr/bin/privileged")
        member.mode, member.size = 0o6777, 4
        tar.addfile(member, io.BytesIO(b"mine"))
        again = tarfile.TarInfo("usr/bin/same")
        again.type, again.linkname = tarfile.LNKTYPE, "usr/bin/tool"
        tar.addfile(again)
    store = rootfs.RootStore(tmp_path / "store")
    digest = store.add(archive)
    assert store.add(archive) == digest
    root = store.path(digest)
    assert (root / "bin" / "tool").read_text() == "mine"
    assert (root / "usr/bin/same").read_text() == "mine"
    assert oct((root / "usr/bin/privileged").stat().st_mode & 0o7777) == "0o755"
    assert {path.name for path in root.iterdir() if path.is_dir()} >= set(rootfs.MOUNTED)


def test_a_volume_is_not_mounted_behind_a_link_of_the_image(
    bench: Bench, tmp_path: Path, sandbox_directory: Path
) -> None:
    """The image makes /data a link to /etc; what is mounted at /data must not land on the host, or over /etc."""
    volume = sandbox_directory / f"behind-{bench.name}"
    volume.mkdir()
    (volume / "passwd").write_text("theirs")
    original = sandbox_directory / "rootfs.tar"
    archive = tmp_path / "linked.tar"
    archive.write_bytes(original.read_bytes())
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("data")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    before = Path("/etc/passwd").read_bytes()
    bench.base = bench.runtime.prepare_archive(archive)
    launch = bench.launch("cat", "/etc/passwd", mounts=(Mount(source=volume, path="/data"),))
    bench.base = bench.runtime.prepare_archive(original)
    if bench.name == "bubblewrap":
        with pytest.raises(InvalidRequest, match="/data cannot be mounted"):
            bench.runtime.start(launch)
    else:  # an engine mounts it inside the image's own /etc
        status = bench.runtime.start(launch)
        bench.runtime.wait(status.instance, timeout_s=60)
        assert before.decode().splitlines()[0] not in bench.output(status.instance)
    assert Path("/etc/passwd").read_bytes() == before
