"""The directory of an instance: removed as a whole, by one or by many at once, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rios.deploy.runtimes.protocol import HostBase, Launch, Limits
from rios.deploy.runtimes.records import Records
from rios.words.errors import NotFound
from tests.campaigns import ROOT

KILLED = """
import os, shutil, sys
from pathlib import Path
from rios.deploy.runtimes.records import Records
shutil.rmtree = lambda path: os._exit(9)
record = Records(Path(sys.argv[1])).of("a")
with record.turn():
    record.remove()
"""


def _made(records: Records, instance: str, files: int = 3) -> Path:
    record = records.of(instance)
    with record.turn(make=True):
        record.make(Launch(instance=instance, base=HostBase(), command=("true",), limits=Limits(), labels={"of": "me"}))
        for number in range(files):
            (record.directory / f"file-{number}").write_text("x")
    return record.directory


def test_many_remove_one_at_once(tmp_path: Path) -> None:
    records, failures = Records(tmp_path / "instances"), []

    def remove() -> None:
        record = records.of("a")
        try:
            with contextlib.suppress(NotFound), record.turn():
                record.remove()
        except BaseException as error:
            failures.append(error)
            raise

    for _ in range(30):
        _made(records, "a", files=20)
        threads = [threading.Thread(target=remove) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        assert not failures
        assert list(records.directory.iterdir()) == []


def test_what_is_not_there_is_not_made_by_who_wants_it_away(tmp_path: Path) -> None:
    records = Records(tmp_path / "instances")
    with pytest.raises(NotFound, match="no instance a on this host"), records.of("a").turn():
        raise AssertionError("there is nothing")
    assert list(records.directory.iterdir()) == []


def test_what_a_killed_one_left_is_no_instance_and_goes(tmp_path: Path) -> None:
    records = Records(tmp_path / "instances")
    directory = _made(records, "a")
    done = subprocess.run([sys.executable, "-c", KILLED, str(records.directory)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 9
    assert not directory.exists()
    assert list(records.directory.iterdir()), "it was killed before all of it had gone"
    assert records.all({"of": "me"}) == []
    assert list(records.directory.iterdir()) == []
