"""`docs/run-for-your-lab.md` is followed from its first block to its last, by processes of one machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import rios
from rios.services.gate_file import read_file
from tests.campaigns import ROOT
from tests.gateway.services import free_port
from tests.waiting import until

TIMEOUT_S = 300
PASSWORD = "a password that is long enough\n"
# What one machine has otherwise: this environment is installed, its ledger is SQLite, its scheduler is on loopback.
OTHERWISE = ("python3.11 -m venv", "pip install", "export RIOS_DATABASE", "rios doctor")


class Lab:
    """The blocks of the page, with places, ports and names of this machine in them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        (folder / "passphrase").write_text("of a test")
        shutil.copytree(Path(rios.__file__).parent / "demo" / "model", folder / "models" / "some-moe")
        self.here = {
            "/var/lib/rios": str(self.home),
            "/etc/rios/passphrase": str(folder / "passphrase"),
            "/srv/checkpoints": str(folder / "models"),
            "smtp://mail.lab.example:25": (folder / "mail").as_uri(),
            "tls://head:": "tls://127.0.0.1:",
            "0x...": f"0x{'00' * 19}aa",
            "8786": str(free_port()),
            "8443": str(free_port()),
        }
        self.exports = ""
        self.logs: list[Path] = []

    def step(self, number: int) -> list[str]:
        """The blocks of a step."""
        text = (ROOT / "docs" / "run-for-your-lab.md").read_text()
        part = text.partition(f"\n## {number}. ")[2].partition("\n## ")[0]
        found = re.findall(r"^```bash\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        assert found
        return [self._of_here(one) for one in found]

    def _of_here(self, block: str) -> str:
        lines = [line for line in block.splitlines() if not line.startswith(OTHERWISE)]
        text = "\n".join(lines)
        for there, here in self.here.items():
            text = text.replace(there, here)
        return text

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "RIOS_ORPHAN_S": "5"}

    def told(self, command: str) -> str:
        """What a command of the head says."""
        done = subprocess.run(
            ["bash", "-euc", f"{self.exports}\n{command}"], cwd=self.folder, env=self.environment(),
            input=PASSWORD, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}{self.said()}"
        return done.stdout

    def said(self) -> str:
        return "".join(f"\n{log.name}: {log.read_text()[-3000:]}" for log in self.logs)

    @contextmanager
    def running(self, name: str, script: str) -> Iterator[None]:
        """A terminal of a machine, and all that was started in it."""
        log = self.folder / f"{name}.log"
        self.logs.append(log)
        with log.open("wb") as file:
            terminal = subprocess.Popen(
                ["bash", "-euc", f"{script}\nwait"], cwd=self.folder, env=self.environment(),
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        try:
            yield
        finally:
            for sign in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(terminal.pid, sign)
                    terminal.wait(30)
                    until(lambda: not _alive(terminal.pid), "processes end", deadline_s=30)
                except (ProcessLookupError, AssertionError, subprocess.TimeoutExpired):
                    continue


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_page_is_followed(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (first,), (members,), (door,) = lab.step(1), lab.step(2), lab.step(3)
    host, look = lab.step(4)
    lab.exports = "\n".join(line for line in f"{first}\n{door}".splitlines() if line.startswith(("export", "set -a")))
    with lab.running("head", f"{first}\n{members}\n{door}"):
        until(lambda: read_file(lab.home).get("url"), "the gateway listens", deadline_s=TIMEOUT_S, pause_s=0.2)
        shutil.copytree(lab.home / "certs" / "hosts" / "gpu-1", tmp_path / "gpu-1")
        with lab.running("gpu-1", host):
            workers, deploy = look.splitlines()
            until(lambda: "gpu-1" in lab.told(workers), "gpu-1 joins", deadline_s=TIMEOUT_S, pause_s=0.5)
            assert "some-moe serving" in lab.told(deploy)
            said = {}
            for line in lab.step(5)[0].splitlines():
                said[line.split("  #")[0].strip()] = lab.told(line)
                if "> prices.json" in line:  # "make its version the next one"
                    book = json.loads((tmp_path / "prices.json").read_text())
                    (tmp_path / "prices.json").write_text(json.dumps(book | {"version": book["version"] + 1}))
            assert said["rios token create --scope generate --quiet"].startswith("rios_sk_")
            (mail,) = until(lambda: list((tmp_path / "mail").glob("*.eml")), "ann is invited", deadline_s=60)
            assert "ann@lab.example" in mail.read_text()
            assert f"https://rios.lab.example:{lab.here['8443']}" in mail.read_text()
            *schedules, now = lab.step(6)[0].splitlines()
            for line in (*schedules, now):
                lab.told(line)
            listed = lab.told("rios report list")
            assert "0 6 * * *" in listed
            assert "5 6 * * 1" in listed
