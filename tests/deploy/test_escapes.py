"""Attempts to get out of a sandbox, each denied in each runtime."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretBytes

from rios.deploy.runtimes import doors
from rios.deploy.runtimes.protocol import Allowed, HostBase, Limits, Mount
from rios.words.errors import SandboxFailed
from tests.deploy.conftest import POLICY, Bench, make_runtime
from tests.deploy.escapes import ATTEMPTS
from tests.waiting import until


def _program() -> bytes:
    """The attempts as one file that an interpreter runs."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(Path(__file__).with_name("escapes").glob("*.py")):
            file.write(path, f"tests/deploy/escapes/{path.name}")
        for package in ("tests", "tests/deploy"):
            file.writestr(f"{package}/__init__.py", "")
        file.writestr("__main__.py", "from tests.deploy.escapes.run import main\nmain()\n")
    return archive.getvalue()


PROGRAM = _program()
MARKER = "a-word-of-the-host"
OF_ITS_OWN_KERNEL = {"set_up_a_ring_of_calls"}
"""What gVisor offers itself, without asking the host's kernel."""


@dataclass
class Outside:
    """What an escaped application would find, and where."""

    told: dict[str, Any]
    volume: Path


@pytest.fixture
def outside(bench: Bench, sandbox_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    monkeypatch.setenv("RIOS_TEST_MARKER", MARKER)
    canary = sandbox_directory / "canary"
    canary.write_text("canary")
    canary.chmod(0o644)
    volume, other_volume = (sandbox_directory / f"{name}-{bench.name}" for name in ("own", "other"))
    for place in (volume, other_volume):
        place.mkdir(exist_ok=True)
    (other_volume / "private").write_text("private")
    serve = "import socket, time\ns = socket.create_server(('0.0.0.0', 8123))\nprint('up', flush=True); time.sleep(300)"
    other = bench.start("python3", "-S", "-c", serve, port=8123, secrets={"TOKEN": SecretBytes(b"theirs")},
                        mounts=(Mount(source=other_volume, path="/data"),))  # fmt: skip
    assert other.endpoint is not None
    until(lambda: bench.output(other.instance) == "up", "another application that listens", deadline_s=60)
    disk = next((part.device for part in psutil.disk_partitions() if part.mountpoint == "/"), "/dev/vda")
    addresses = [a.address for all_of in psutil.net_if_addrs().values() for a in all_of if a.family == socket.AF_INET]
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0rios-test-abstract")
        abstract.listen()
        gateway, file = doors.bind(sandbox_directory / "ways")
        yield Outside(
            {
                "canary": str(canary),
                "directory": str(sandbox_directory),
                "other_volume": str(other_volume),
                "other_secret": f"/dev/shm/rios-{os.getuid()}/{other.instance}/secrets/TOKEN",
                "other_port": other.endpoint[1],
                "other_inside": 8123,
                "host_pid": os.getpid(),
                "host_port": server.getsockname()[1],
                "host_addresses": addresses,
                "abstract": "rios-test-abstract",
                "engine_sockets": [
                    "/var/run/docker.sock",
                    "/run/podman/podman.sock",
                    *map(str, (sandbox_directory / "engine").glob("*.sock")),
                ],
                "gateway_sockets": [str(file)],
                "disk": disk,
                "marker": MARKER,
                "kernel": os.uname().release,
            },
            volume,
        )
        gateway.close()
        file.unlink()


def test_no_attempt_gets_out(bench: Bench, outside: Outside) -> None:
    assert len(ATTEMPTS) >= 30
    # Nothing else is open to one that may ask the gateway.
    policy = replace(POLICY, ways={"gateway": bench.directory / "ways"})
    bench = replace(bench, runtime=make_runtime(bench.name, bench.directory, policy))
    status, said = bench.run(
        "python3", "-S", "/run/rios/escapes", json.dumps(outside.told), files={"escapes": PROGRAM},
        mounts=(Mount(source=outside.volume, path="/data"),), limits=Limits(cpu=2.0, memory_bytes=256 << 20),
        egress=(Allowed("gateway", 80),),
    )  # fmt: skip
    errors = [line.text for line in bench.runtime.logs(status.instance) if line.stream == "stderr"]
    bench.runtime.close()
    assert status.exit_code == 0, errors
    results = json.loads(said)
    assert results.keys() == ATTEMPTS.keys()
    own = OF_ITS_OWN_KERNEL if bench.name == "gvisor" else set()
    assert not {name: got for name, got in results.items() if got and name not in own}


@pytest.mark.parametrize("bench", ["bubblewrap"], indirect=True)
@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
@pytest.mark.needs("busybox")
def test_what_is_run_inside_at_once_finds_it_closed(bench: Bench) -> None:
    """While a sandbox is being made it has all files of the host. Many places of its own have it take a while."""
    scratch = tuple(f"/tmp/place-{number}" for number in range(100))
    for _ in range(3):
        launch = replace(bench.launch("sleep", "60"), base=HostBase(), scratch=scratch)
        instance = bench.runtime.start(launch).instance
        started = json.loads((bench.directory / "bubblewrap" / instance / "started.json").read_text())
        assert "oldroot" not in Path(f"/proc/{started['first']}/mountinfo").read_text()
        done = bench.runtime.exec(instance, ("sh", "-c", "cat /proc/self/mountinfo; ls -a / /tmp"))
        assert done.exit_code == 0, done.stderr
        said = done.stdout.decode()
        assert "oldroot" not in said
        assert "place-99" in said
        bench.runtime.remove(instance)


@pytest.mark.parametrize("bench", ["bubblewrap"], indirect=True)
@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
@pytest.mark.needs("busybox")
def test_what_cannot_be_made_was_not_started(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(SandboxFailed, match="Can't find source path"):
        bench.start("true", mounts=(Mount(source=tmp_path / "nowhere", path="/data", read_only=True),))
    assert not {status.instance for status in bench.runtime.instances()} & set(bench.started)


HAD_OUTSIDE = """
    become_root find_the_environment_of_the_host have_another_network_device have_capabilities
    open_a_packet_socket open_a_raw_socket reach_an_abstract_socket_of_the_host
    reach_ports_of_the_host reach_ports_of_the_host_where_the_gateway_is reach_the_socket_of_the_gateway
    reach_the_port_of_another_application read_a_file_of_the_host
    read_a_volume_of_another_application read_it_by_climbing read_secrets_of_another_application
    read_the_records_of_instances read_the_shadow_of_the_host
    rename_the_host  see_processes_of_the_host set_up_a_ring_of_calls
    signal_a_process_of_the_host use_the_keyring mount_memory
"""


@pytest.mark.parametrize("bench", ["bubblewrap"], indirect=True)
@pytest.mark.needs("bwrap")
@pytest.mark.needs("root")
@pytest.mark.needs("busybox")
def test_the_same_attempts_succeed_without_a_sandbox(bench: Bench, outside: Outside) -> None:
    """What is denied inside is there to be had: a denial says something. In namespaces of mounts and names alone."""
    script = outside.volume / "escapes"
    script.write_bytes(PROGRAM)
    had = HAD_OUTSIDE.split()
    inside = [sys.executable, "-S", str(script), json.dumps(outside.told), *had]
    command = ["unshare", "--mount", "--uts", "--ipc", *inside]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    results = json.loads(done.stdout)
    assert not {name: got for name, got in results.items() if not got or "BROKEN" in got}
