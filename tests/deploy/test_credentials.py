"""Programs for credentials that hang: whoever asked gets an answer by a deadline, and the program is ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rios.deploy.runtimes import kubernetes_api
from rios.deploy.runtimes.credentials import within
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_service import RUNC
from rios.deploy.runtimes.kubernetes_api import Api
from rios.deploy.runtimes.kubernetes_objects import Cluster
from rios.words.errors import DeadlineExceeded, NotFound, SandboxFailed
from tests.deploy.kubernetes_credentials import config_of
from tests.waiting import PATIENCE, until

WITHIN_S = 1.0 * PATIENCE
"""In which a program that hangs has begun, and said so."""
HELPER = """#!/bin/sh
echo $$ >>{told}
sleep 300 & wait
"""


def _helper(directory: Path, name: str) -> tuple[Path, Callable[[], list[int]]]:
    """A program that hangs, with a child that holds its output; and the ids it had so far."""
    told, program = directory / f"{name}.told", directory / name
    program.write_text(HELPER.format(told=told))
    program.chmod(0o755)
    return program, lambda: [int(line) for line in told.read_text().split()] if told.exists() else []


def _waiting() -> list[threading.Thread]:
    """Threads of this process that wait for credentials."""
    return [one for one in threading.enumerate() if one.name == "rios-credentials"]


def _ended(pids: list[int]) -> bool:
    """Whether these and what they started are gone, or wait to be seen to have ended."""

    def is_over(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(map(is_over, pids))


def test_what_is_in_time_comes_as_it_is() -> None:
    assert within(lambda: 7, 30, late="late") == 7
    with pytest.raises(ZeroDivisionError):
        within(lambda: 1 // 0, 30, late="late")

    def its_own() -> None:
        raise TimeoutError("of the call")

    with pytest.raises(TimeoutError, match="of the call"):
        within(its_own, 30, late="late")


def test_only_what_hangs_and_gives_credentials_is_ended(tmp_path: Path) -> None:
    """Also that of another process, such as an engine's service."""
    (hangs, hung), (other, others) = (_helper(tmp_path, name) for name in ("docker-credential-x", "something-else"))
    code = (
        f"import subprocess, time; [subprocess.Popen([p]) for p in ({str(hangs)!r}, {str(other)!r})]; time.sleep(300)"
    )
    service = subprocess.Popen([sys.executable, "-c", code])
    bystander = subprocess.Popen([str(other)])
    over = threading.Event()
    try:
        until(lambda: len(hung() + others()) == 3, "three programs", deadline_s=20)
        with pytest.raises(DeadlineExceeded, match="too late"):
            within(lambda: over.wait(60), 1.0, late="too late", also=service.pid)
        until(lambda: _ended(hung()), "its end", deadline_s=10)
        assert not _ended(others())
    finally:
        over.set()
        for process in (
            *psutil.Process(service.pid).children(recursive=True),
            *psutil.Process(bystander.pid).children(),
        ):
            process.kill()
        for one in (service, bystander):
            one.kill()
            one.wait(30)


def test_a_kubeconfigs_program_that_hangs_while_it_renews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first credentials come, and have expired as they come; the next do not, for whoever asks meanwhile either."""
    program, hung = _helper(tmp_path, "credentials")
    given = {
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": "t", "expirationTimestamp": "2020-01-01T00:00:00Z"},
    }  # fmt: skip
    once = f"#!/bin/sh\nif [ ! -e {tmp_path}/once ]; then touch {tmp_path}/once; echo '{json.dumps(given)}'; exit; fi\n"
    program.write_text(once + program.read_text())
    api = Api(Cluster(kubeconfig=config_of(tmp_path / "kubeconfig", str(program)), namespace="n"))
    api.client()
    monkeypatch.setattr(kubernetes_api, "CALL_S", WITHIN_S)
    refused: list[str] = []

    def ask() -> None:
        try:
            api.call("GET", "/version")
        except (DeadlineExceeded, SandboxFailed) as error:  # the end of one's program may be that of another's wait
            refused.append(str(error))

    begun = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - begun < 8 * PATIENCE
    assert len(refused) == 3
    assert any(f"no credentials within {WITHIN_S:g} s: the program that it names hangs" in why for why in refused)
    assert len(hung()) >= 1
    until(lambda: _ended(hung()), "the end of what hung", deadline_s=10)
    until(lambda: not _waiting(), "the end of who waited for it", deadline_s=10)
    # It is mended: the next call has credentials, and says what is wrong with the server.
    program.write_text(f"#!/bin/sh\necho '{json.dumps(given)}'\n")
    monkeypatch.setattr(kubernetes_api, "CALL_S", 15.0)
    with pytest.raises(SandboxFailed, match="does not answer"):
        api.call("GET", "/version")
    api.close()


def test_a_kubeconfigs_program_that_hung_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, hung = _helper(tmp_path, "credentials")
    api = Api(Cluster(kubeconfig=config_of(tmp_path / "kubeconfig", str(program)), namespace="n"))
    monkeypatch.setattr(kubernetes_api, "CALL_S", WITHIN_S)
    for asked in (1, 2):
        with pytest.raises(DeadlineExceeded, match=f"gave no credentials within {WITHIN_S:g} s"):
            api.client()
        assert len(hung()) == asked
    until(lambda: _ended(hung()), "the end of what hung", deadline_s=10)


@pytest.mark.needs("root")
@pytest.mark.needs("podman")
@pytest.mark.needs("runc")
def test_a_registry_that_says_nothing_holds_no_thread(sandbox_directory: Path) -> None:
    runtime = EngineRuntime(RUNC, sandbox_directory)
    assert runtime.capabilities().usable
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(NotFound, match="cannot be pulled"):
            runtime.prepare_image(f"127.0.0.1:{silent.getsockname()[1]}/nobody/nothing:1", timeout_s=1.0)
        until(lambda: not _waiting(), "its end", deadline_s=5)
    runtime.close()


@pytest.mark.needs("root")
@pytest.mark.needs("podman")
@pytest.mark.needs("runc")
def test_a_registrys_helper_that_hangs(
    sandbox_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hung = _helper(tmp_path, "docker-credential-hangs")
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"127.0.0.1:1": "hangs"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    runtime = EngineRuntime(RUNC, sandbox_directory)
    assert runtime.capabilities().usable
    begun = time.monotonic()
    with pytest.raises(NotFound, match=f"within {WITHIN_S:g} s; a helper for its registry's credentials may hang"):
        runtime.prepare_image("127.0.0.1:1/nobody/nothing:1", timeout_s=WITHIN_S)
    assert time.monotonic() - begun < 8 * PATIENCE
    assert len(hung()) == 1
    until(lambda: _ended(hung()), "the end of what hung", deadline_s=10)
    runtime.close()
