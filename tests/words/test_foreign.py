"""What a stranger leaves in a directory leads nowhere, holds nobody up and goes away."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rios.words import foreign
from rios.words.errors import InvalidRequest
from rios.words.foreign import opened_folder, read_plain, remove_tree

# What is waited for here would be waited for for ever.
pytestmark = pytest.mark.timeout(300)
DEPTH = 3_000
"""Python calls itself a thousand times at most, and a process has a thousand files open on most machines."""


def dig(at: Path, depth: int = DEPTH) -> None:
    """Directories in each other, and a file of 100 kB in the last: no path is long enough for it."""
    here = os.open(at, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    with os.fdopen(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
        file.write(bytes(100_000))
    os.close(here)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that a stranger writes to, and its descriptor."""
    path = tmp_path / "folder"
    path.mkdir()
    with opened_folder(path) as descriptor:
        yield path, descriptor


def test_a_plain_file_is_read(folder: tuple[Path, int]) -> None:
    (folder[0] / "a").write_bytes(b"12345")
    assert read_plain(folder[1], "a", bytes_max=5) == b"12345"
    with pytest.raises(InvalidRequest, match="more than 4 bytes"):
        read_plain(folder[1], "a", bytes_max=4)
    with pytest.raises(FileNotFoundError):
        read_plain(folder[1], "b", bytes_max=5)


def _link(path: Path) -> None:
    outside = path.parents[1] / "outside"
    outside.write_text("outside")
    path.symlink_to(outside)


def _second_name(path: Path) -> None:
    _link(path.with_name("other"))
    path.hardlink_to(path.with_name("other").resolve())


def _device(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


@pytest.mark.parametrize(
    "make",
    [
        _link,
        _second_name,
        lambda path: path.symlink_to("/dev/zero"),
        os.mkfifo,
        Path.mkdir,
        lambda path: (path.touch(), os.truncate(path, 1 << 40)),
        pytest.param(_device, marks=pytest.mark.needs("root")),
    ],
    ids=["link", "second-name", "endless", "pipe", "directory", "giant", "device"],
)
def test_nothing_else_is(folder: tuple[Path, int], make: Callable[[Path], object]) -> None:
    make(folder[0] / "a")
    with pytest.raises(InvalidRequest, match=r"^a "):
        read_plain(folder[1], "a", bytes_max=1_000)


def test_a_folder_is_not_its_name(folder: tuple[Path, int]) -> None:
    """Whoever puts another in its place has it read by nobody."""
    path, descriptor = folder
    path.rename(path.with_name("elsewhere"))
    path.mkdir()
    (path / "a").write_text("put there")
    with pytest.raises(FileNotFoundError):
        read_plain(descriptor, "a", bytes_max=1_000)


def test_a_tree_goes_away_however_deep(folder: tuple[Path, int], tmp_path: Path) -> None:
    path, outside = folder[0], tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (path / "link").symlink_to(outside)
    dig(path)
    remove_tree(path)
    assert not path.exists()
    assert (outside / "kept").read_text() == "kept"
    remove_tree(path)
    (tmp_path / "name").symlink_to(outside)
    remove_tree(tmp_path / "name")
    assert (outside / "kept").read_text() == "kept"


def test_what_a_link_leads_to_keeps_its_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside, link = tmp_path / "outside", tmp_path / "link"
    outside.write_text("")
    outside.chmod(0o400)
    link.symlink_to(outside)
    real = foreign._run

    def run(*command: str) -> str:
        return "Read-only file system" if command[0] == "rm" else real(*command)

    monkeypatch.setattr(foreign, "_run", run)
    with pytest.raises(OSError, match="Read-only file system"):
        remove_tree(link)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o400


def test_what_takes_too_long_is_an_error_of_the_system(
    folder: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "_REMOVE_TIMEOUT_S", 0.0)
    with pytest.raises(OSError, match="rm was not done within 0 s"):
        remove_tree(folder[0])


def test_rights_that_were_taken_away_are_no_hindrance(folder: tuple[Path, int]) -> None:
    path, uid = folder[0], os.getuid() or 65_534  # root is hindered by nothing
    shut = path / "shut"
    (shut / "inner").mkdir(parents=True)
    (shut / "inner" / "file").touch()
    for one in (path, shut, shut / "inner", shut / "inner" / "file"):
        os.chown(one, uid, -1)
    shut.chmod(0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(path)  # another user may not pass through the directories above
            os.setresuid(uid, uid, uid)
            remove_tree(Path("shut"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not shut.exists()
