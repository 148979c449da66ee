"""Every code block of every document is executed: here, in order, against networks of this machine, or by a test that
the table below names."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from rios import demo
from tests.campaigns import ROOT
from tests.client.test_commands import call
from tests.gateway.servers import Door, up
from tests.gateway.services import free_port
from tests.test_house import DOCUMENTS
from tests.waiting import until

DEADLINE_S = 200.0
PASSWORD = "a password that is long enough\n"
OWNER = f"0x{'00' * 19}aa"
SETTLEMENT = "tests/services/test_settlement.py"
TRAINING = "tests/demo/test_training.py::test_the_commands_of_the_card"
GATEWAY_WAYS = "tests/deployments/test_gateway_ways.py"
IMAGE = "tests/cluster/test_image.py"
LAB_PAGE = "tests/test_lab_page.py::test_the_page_is_followed"
# How a line, or the first line of a block, begins that another test executes.
ELSEWHERE = {
    "pip install rios -c": "tests/lab/test_newcomer.py::test_first_generation_and_its_cost",
    "pip install rios-client": "tests/client/test_minimal.py::test_a_client_needs_nothing_but_what_it_requires",
    "pip install rios": LAB_PAGE,
    "pip install 'rios[kubernetes]'": "tests/test_site.py::test_what_documents_install_is_there",
    "python3.11 -m venv": LAB_PAGE,
    "rios doctor": "tests/test_cli.py::test_doctor_finds_what_is_here",
    "rios login": "tests/client/test_device.py::test_a_sign_in_from_a_terminal",
    "rios gateway --scheduler tcp://head:8786 --database": "tests/gateway/test_failover.py::test_two_gateways_are_one",
    "rios verify proof.json --chain": f"{SETTLEMENT}::test_a_stranger_verifies_with_file_and_chain_alone",
    "dask scheduler --port 8786 --preload": LAB_PAGE,
    "dask worker tls://": LAB_PAGE,
    "RIOS_TLS=~/alice python -c": "tests/dmoe/test_secured.py::test_it_answers_as_a_network_in_clear",
    "kubectl apply": "tests/cluster/test_manifests.py::test_manifests_follow_kubernetes_schemas",
    "docker compose -f cluster/": "tests/cluster/test_manifests.py::test_compose_follows_its_specification",
    "podman build -f cluster/Containerfile": f"{IMAGE}::test_each_command_of_the_manifests_is_there",
    "make wheel": f"{IMAGE}::test_each_command_of_the_manifests_is_there",
    'net.deploy.create(name="shop"': "tests/deployments/test_in_kubernetes.py::test_it_is_served_metered_and_ended",
    'app = net.deploy.create(name="teller"': f"{GATEWAY_WAYS}::test_it_asks_by_a_key_of_its_own_in_every_runtime",
    "cluster.adapt(Adaptive=": "tests/dmoe/test_adaptive.py::test_workers_follow_a_load_up_and_down_with_causes",
    "LD_PRELOAD=libtcmalloc_minimal.so.4 python -m rios.demo.train": TRAINING,
    "python -m rios.demo.evaluate": TRAINING,
}
WHOLE = {"docs/run-for-your-lab.md": LAB_PAGE}
"""Documents of which all blocks are."""
SEARCH = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Answer).serve_forever()
"""
# What this machine has in place of what a document shows.
HERE = {
    "docs/deployments.md": {
        'command=["serve", "--port", "8000"]': f'command=["python3", "-c", {SEARCH!r}]',
        '    image="registry.example.org/lab/search:1.4",\n': "",
        'cpu=2, memory="2GiB"': 'cpu=0.1, memory="64MiB"',
        'image="...:1.5"': 'env={"VERSION": "1.5"}',
    },
}
APPS = """
version: 1
apps:
  - name: listed
    command: [sleep, "600"]
    resources: {cpu: 0.1, memory: 32MiB}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    path: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def lines(self) -> list[str]:
        """The commands of a block of bash, without what is said of them."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line for one in joined.splitlines() if (line := re.split(r"\s+# ", one)[0].strip())]


def fences(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document."""
    text = path.read_text()
    for found in re.finditer(r"^ *```([^\n`]*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        yield Block(path, text[: found.start()].count("\n") + 1, found[1].strip(), found[2])


# The first network that a reader makes is used by the blocks after it, and the gateway's own page is the first of its.
ORDER = ("README.md", "docs/gateway.md")
PAGES = sorted(
    {*DOCUMENTS, ROOT / "client" / "README.md", *(ROOT / "contracts").glob("*.md")},
    key=lambda path: (*(path != ROOT / one for one in ORDER), path),
)
BLOCKS = [block for path in PAGES for block in fences(path)]


def elsewhere(line: str) -> str | None:
    """The test that executes a line, where that is another one."""
    return next((test for start, test in ELSEWHERE.items() if line.startswith(start)), None)


class Here:
    """What blocks are executed against. Each is started when a block first needs it."""

    def __init__(self, folder: Path, ends: contextlib.ExitStack) -> None:
        self.folder, self.home = folder, folder / "home"
        self._ends = ends
        (folder / "rios.yaml").write_text(APPS)
        checkpoint = folder / "path" / "to" / "checkpoint"
        shutil.copytree(demo.path(), checkpoint)

    @cached_property
    def names(self) -> dict[str, Any]:
        """What the README's three lines leave: a network of this process."""
        block = next(one for one in BLOCKS if one.name == "README.md" and one.language == "python")
        found: dict[str, Any] = {}
        _exec(block.text, found, block)
        self._ends.callback(found["net"].close)
        return found

    @cached_property
    def door(self) -> Door:
        """What the gateway's page starts."""
        (line,) = [one for block in BLOCKS for one in block.lines if one.startswith("rios up --port 8080")]
        words = shlex.split(line.replace("--port 8080", ""))
        return self._ends.enter_context(up(self.home, *words[2:]))

    @cached_property
    def scheduler(self) -> str:
        """The scheduler and the worker that the README starts on a lab's machines."""
        port = free_port()
        address = f"tcp://127.0.0.1:{port}"
        scheduler, worker = (one for one in self._lab_block().lines if one.startswith("dask "))
        self._start(f"{scheduler} --host 127.0.0.1 --port {port} --dashboard-address 127.0.0.1:0", "scheduler")
        joined = worker.replace("tcp://head:8786", address)
        self._start(f"{joined} --host 127.0.0.1 --nthreads 1 --no-dashboard", "worker")
        until(lambda: self._listens(port), "the scheduler listens", deadline_s=DEADLINE_S, pause_s=0.2)
        look = partial(call, "workers", "--scheduler", address, "--json", home=self.folder / "nowhere")
        until(lambda: json.loads(look()), "the worker joins", deadline_s=DEADLINE_S, pause_s=0.5)
        return address

    @staticmethod
    def _lab_block() -> Block:
        return next(one for one in BLOCKS if one.name == "README.md" and one.text.startswith("dask scheduler"))

    @staticmethod
    def _listens(port: int) -> bool:
        import socket

        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "RIOS_ORPHAN_S": "5"}

    def _start(self, command: str, name: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._ends.callback(_end, process)

    def bash(self, line: str) -> None:
        """A line in a shell."""
        done = subprocess.run(
            ["bash", "-euc", line], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"

    def rios(self, command: str) -> str:
        """A command of rios, as whoever started the gateway."""
        variables, words = {}, shlex.split(command)
        while "=" in words[0]:
            name, _, variables[name] = words.pop(0).partition("=")
        told = PASSWORD if words[1:3] == ["users", "password"] else None
        if "--scheduler" in words:  # on another machine than the gateway's
            return call(*words[1:], home=self.folder / "nowhere", **variables)
        return call(*words[1:], home=self.home, told=told, RIOS_URL=self.door.url, **variables)

    def of_here(self, line: str) -> str:
        """A line with what there is here in place of what it names."""
        if "head:8786" in line:
            line = re.sub(r"(tcp|tls)://head:8786", self.scheduler, line)
        line = line.replace("0x...", OWNER).replace('"..."', '"Once upon a time"')
        if re.search(r"\bRUN\b", line):
            line = re.sub(r"\bRUN\b", json.loads(self.rios("rios report history --json"))[0]["run_id"], line)
        if re.search(r"\bID\b", line):
            line = re.sub(r"\bID\b", json.loads(self.rios("rios usage --json"))[0]["usage_id"], line)
        if "prices.json" in line:
            book = json.loads(self.rios("rios price-book --json"))
            (self.folder / "prices.json").write_text(json.dumps(book | {"version": book["version"] + 1}))
        return line

    def serve(self, line: str) -> None:
        """A command that goes on until it is told to end."""
        with (self.folder / "serve.log").open("w+") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, stdout=log, stderr=log,
                env=self.environment | {"RIOS_HOME": str(self.folder / "served")},
            )  # fmt: skip
            try:
                said = (self.folder / "serve.log").read_text
                until(lambda: "are published in" in said(), f"{line} begins", deadline_s=DEADLINE_S)
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0, (self.folder / "serve.log").read_text()
            finally:
                process.kill()
                process.wait(30)


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            process.wait(20)


def _exec(text: str, names: dict[str, Any], block: Block) -> None:
    exec(compile("\n" * block.line + text, str(block.path), "exec"), names)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with contextlib.ExitStack() as ends:
        yield Here(tmp_path_factory.mktemp("documents"), ends)


def _shell(block: Block, here: Here) -> None:
    for line in block.lines:
        if elsewhere(line) is not None or line.startswith("rios up --port 8080"):  # which `Here.door` does
            continue
        if line.startswith("make "):
            # What the recipes are made of is what tests do; that there are such targets is what may become untrue.
            subprocess.run(
                ["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, check=True, timeout=60
            )
        elif re.match(r"dask (scheduler$|worker tcp:)", line):
            assert here.scheduler
        elif line == "rios report serve":
            here.serve(line)
        elif re.match(r"([A-Z_]+=\S+ )?rios ", line):
            for one in line.split("; "):
                here.rios(here.of_here(one))
        else:
            here.bash(here.of_here(line))


def _key(here: Here) -> str:
    scopes = ("generate", "models:read", "deployments:write", "wallet:read")
    return here.rios(f"rios token create {' '.join(f'--scope {one}' for one in scopes)} --quiet").strip()


def _python(block: Block, here: Here) -> None:
    if elsewhere(block.text) is not None:
        return
    text = block.text
    for there, ours in HERE.get(block.name, {}).items():
        shown = any(there in one.text for one in BLOCKS if one.name == block.name)
        assert shown, f"{block.name} shows {there} no more"
        text = text.replace(there, ours)
    if block.name == "README.md" and text.startswith("import rios"):
        assert here.names["net"].models
    elif block.name == "docs/gateway.md":
        _exec(text.replace("http://127.0.0.1:8080", here.door.url), {"KEY": _key(here)}, block)
    elif block.name == "README.md" or "net.deploy" in text:
        net = here.names["net"]
        _exec(text, here.names | {"model": net.models[0]}, block)
        for app in net.deploy.list():
            if app.name in ("listed", "chat"):
                app.delete()
    else:
        _exec(text, {}, block)


EXECUTED: dict[str, Callable[[Block, Here], None]] = {
    "bash": _shell,
    "python": _python,
    "yaml": lambda block, _: yaml.safe_load(block.text),
    "json": lambda block, _: json.loads(block.text),
    "toml": lambda block, _: tomllib.loads(block.text),
    "text": lambda _, __: None,
}


def _needs(block: Block) -> list[pytest.MarkDecorator]:
    """Without root a host freezes no volume."""
    return [pytest.mark.needs("root")] if "snapshots.take" in block.text else []


@pytest.mark.parametrize(
    "block",
    [pytest.param(one, marks=_needs(one), id=f"{one.name}:{one.line}") for one in BLOCKS if one.name not in WHOLE],
)
def test_it_is_executed(block: Block, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.folder)
    assert block.language in EXECUTED, (
        "say what a block is: ```bash, ```python ..., or ```text where it is nothing to run"
    )
    EXECUTED[block.language](block, here)


def test_what_is_executed_elsewhere_is() -> None:
    """The tests that are named are there, and nothing is named that no document shows."""
    for name, test in (*ELSEWHERE.items(), *WHOLE.items()):
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (name, test)
    shown = [line for one in BLOCKS if one.language in ("bash", "python") for line in one.lines]
    assert not [start for start in ELSEWHERE if not any(line.startswith(start.rstrip()) for line in shown)]
    assert not set(WHOLE) - {one.name for one in BLOCKS}
    assert len(BLOCKS) > 25
