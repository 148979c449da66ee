"""The command `rios`, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rios
from rios.cli import PANELS
from rios.reporting.pdf import browser
from rios.services.doctor import _PARTS, _parts, _ports
from tests.campaigns import ROOT

TIMEOUT_S = 200  # a network starts by importing torch several times


def call(*arguments: str, path: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    # From elsewhere: the command must not depend on the directory that it is called in.
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "COLUMNS": "200"} | variables
    return subprocess.run(
        [sys.executable, "-m", "rios.cli", *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def good(*arguments: str) -> str:
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def refused(*arguments: str, path: str = "") -> str:
    done = call(*arguments, path=path)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def network() -> Iterator[rios.Network]:
    with rios.local(workers=1, threads=1) as net:
        yield net


def test_version() -> None:
    assert good("--version") == f"rios {rios.__version__}\n"


def test_help_names_the_commands_and_loads_little() -> None:
    shown = good("--help")
    titles = [shown.index(f" {title} ") for title in PANELS]
    assert titles == sorted(titles)
    assert " Commands " not in shown, "a command has no place in PANELS"
    first = shown[: titles[1]]
    assert all(f" {command} " in first for command in ("generate", "workers", "models", "doctor"))
    heavy = ("torch", "distributed", "transformers", "numpy", "plotly", "papermill", "pandas")
    code = f"import sys, rios.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_forgotten_prompt_is_a_usage_error() -> None:
    done = call("generate")
    assert done.returncode == 2
    assert "Usage" in done.stderr


def test_models_shows_the_shipped_one() -> None:
    (row,) = json.loads(good("models", "--json"))
    assert row["model"] == "demo"
    assert row["layers"] > 0
    assert row["experts"] > 0
    assert row["bytes"] > 0
    assert "demo" in good("models")


def test_doctor_finds_what_is_here() -> None:
    done = call("doctor")
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    assert "Python" in done.stdout
    assert "torch" in done.stdout
    assert "shared memory" in done.stdout
    assert (done.returncode == 1) == ("MISSING" in done.stdout)
    package = Path(rios.__file__).parent
    there = {
        **dict.fromkeys(("contracts", "demo model", "reports"), True),
        "widgets": (package / "widgets/static/widget.js").exists(),  # `make lab` makes them
        "dashboard": (package / "gateway/static/dashboard.js").exists(),
        "browser": browser() is not None,
    }
    for what, good in there.items():
        assert f"{'ok     ' if good else 'MISSING'}  {what}: " in done.stdout
    assert " panels: " in done.stdout
    assert " panels' server: " in done.stdout


def test_doctor_names_each_file_that_is_missing(tmp_path: Path) -> None:
    for folder, names, _ in _PARTS.values():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).touch()
    assert all(found.good for found in _parts(tmp_path))
    for what, (folder, names, remedy) in _PARTS.items():
        for name in names:
            (tmp_path / folder / name).unlink()
            (bad,) = [found for found in _parts(tmp_path) if not found.good]
            assert (bad.what, bad.said) == (what, f"{tmp_path / folder} has no {name}: {remedy}")
            (tmp_path / folder / name).touch()


def test_doctor_looks_at_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("RIOS_DATA_PORT", port)
        found = _ports()
        assert not found.good
        assert found.said.startswith(f"port {port} (RIOS_DATA_PORT) cannot be opened: ")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")  # a machine's own name may be known to nobody
    assert _ports().said == f"port {port} (RIOS_DATA_PORT) can be opened and reached at localhost"
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-machine.invalid")
    assert "no-such-machine.invalid" in (found := _ports()).said
    assert not found.good
    monkeypatch.setenv("RIOS_DATA_PORT", "many")
    assert not _ports().good


def test_without_a_scheduler_a_network_is_started_and_ended() -> None:
    said = json.loads(good("generate", "It was", "--workers", "1", "--max-new-tokens", "4", "--json"))
    assert len(said["token_ids"]) == 4
    assert said["finish_reason"] == "length"
    assert said["completion_tokens"] == 4
    assert said["rows"] > 0


def test_an_answer_is_the_same_in_every_form(network: rios.Network) -> None:
    asked = ("generate", "It was", "--scheduler", network.address, "--max-new-tokens", "8")
    sampled = (*asked, "--temperature", "0.7", "--top-p", "0.9", "--top-k", "50", "--seed", "3")
    said = json.loads(good(*sampled, "--json"))
    assert good(*sampled, "--stream") == good(*sampled, "--no-stream") == f"It was{said['text']}\n"
    with network.dmoe.deploy("demo", progress=False) as model:
        answer = model.generate("It was", max_new_tokens=8, temperature=0.7, top_p=0.9, top_k=50, seed=3)
    assert said["token_ids"] == list(answer.token_ids)


def test_workers_and_deployed_models_are_listed(network: rios.Network) -> None:
    (worker,) = json.loads(good("workers", "--scheduler", network.address, "--json"))
    assert worker["state"] == "serving"
    assert worker["pid"] == network.workers[0].pid
    with network.dmoe.deploy("demo", name="mine", progress=False):
        shipped, deployed = json.loads(good("models", "--scheduler", network.address, "--json"))
        with network.dmoe.deploy("demo", name="mine", progress=False):  # the same name once more
            assert [row["model"] for row in network.deployed()] == ["mine", "mine"]
    assert shipped["model"] == "demo"
    assert deployed["model"] == "mine"
    assert deployed["hosts"] == worker["name"]
    assert deployed["experts"] == shipped["experts"]


def test_errors_are_one_line(network: rios.Network) -> None:
    assert "dask scheduler" in refused("workers", "--scheduler", "tcp://127.0.0.1:1")
    assert "not an address" in refused("workers", "--scheduler", "nowhere")
    at = ("--scheduler", network.address)
    assert "/no/such/place" in refused("generate", "x", "--model", "/no/such/place", *at)
    assert "temperature" in refused("generate", "x", "--temperature", "-1", *at)


def test_what_ended_a_process_is_said(tmp_path: Path) -> None:
    """Its last line; the rest is a matter of --verbose."""
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('nothing works here')\n")
    asked = ("generate", "x", "--workers", "1")
    line = refused(*asked, path=str(tmp_path))
    assert re.match(r"error: [\w-]+ ended at once: ImportError: nothing works here \(--verbose shows all", line)
    done = call(*asked, "--verbose", path=str(tmp_path))
    assert done.returncode == 1
    assert " ended at once:\n" in done.stderr
    assert "raise ImportError('nothing works here')" in done.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_shows_the_log_beside_the_answer(place: str, network: rios.Network) -> None:
    asked = ["workers", "--scheduler", network.address]
    asked.insert(0 if place == "before" else len(asked), "--verbose")
    pid = network.workers[0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        done = call(*asked, RIOS_CONNECT_TIMEOUT_S="4")  # the scheduler has as long, which answers
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert "lost" in done.stdout
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert "host does not answer" in {event["event"] for event in events}
    assert all(event["logger"].startswith("rios") for event in events)
