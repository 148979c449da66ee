"""Sockets in a closed directory, to which relays lead sandboxes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rios.deploy.runtimes import doors


def _answers(directory: Path, listener: socket.socket) -> bool:
    """Whether it is this one that a connection reaches."""
    with doors.connect(directory, 5.0) as mine:
        mine.sendall(b"it is me")
        listener.settimeout(0.2)
        while True:  # who swept has knocked, too, and said nothing
            try:
                theirs, _ = listener.accept()
            except TimeoutError:
                return False
            with theirs:
                if theirs.recv(100):
                    return True


def test_the_newest_that_lives_answers_and_the_dead_are_swept(tmp_path: Path) -> None:
    place = tmp_path / ("far" * 30) / ("away" * 20)  # longer than an address of a socket may be
    with pytest.raises(OSError, match="No such file"):
        doors.connect(place, 1.0)
    first, first_file = doors.bind(place)
    assert place.stat().st_mode & 0o777 == 0o700
    assert _answers(place, first)
    second, second_file = doors.bind(place)
    assert _answers(place, second)
    assert not _answers(place, first)
    second.close()  # killed: its file stays
    assert _answers(place, first)
    third, third_file = doors.bind(place)
    assert sorted(place.iterdir()) == sorted([first_file, third_file])
    assert not second_file.exists()
    for one, file in ((first, first_file), (third, third_file)):
        one.close()
        file.unlink()
    with pytest.raises(OSError, match="nobody answers"):
        doors.connect(place, 1.0)


def test_what_does_not_listen_yet_is_found_by_nobody_and_stays(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as coming:
        coming.bind(str(tmp_path / "coming"))
        found, _ = doors.bind(tmp_path)
        with found:
            assert _answers(tmp_path, found)
            assert (tmp_path / "coming").exists()
