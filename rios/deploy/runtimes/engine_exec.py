"""Running a command in an engine's container, with a deadline, which the engine's API does not have."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import docker
from docker.errors import APIError
from docker.utils import socket as frames

from rios.deploy.runtimes.executing import OUTPUT_MAX
from rios.deploy.runtimes.protocol import Executed
from rios.words.errors import DeadlineExceeded

_KILLED_WITHIN_S = 15.0
_SURE_WITHIN_S = 2.0
_ENDED = "container state improper"
"""What podman says where nothing can be run because the container has ended."""


def run_inside(
    client: docker.APIClient,
    container: str,
    command: tuple[str, ...],
    *,
    user: int,
    env: Mapping[str, str],
    timeout_s: float,
    kill_inside: Callable[[str, str], None] | None,
) -> Executed:
    """The command's exit code and output, each output up to its bound. DeadlineExceeded kills it.

    kill_inside: given container and command, ends it where the process on the host is not the command itself.
    """
    made = _created(client, container, command, user=user, env=env)
    outputs = {frames.STDOUT: bytearray(), frames.STDERR: bytearray()}
    failed: list[Exception] = []
    stream = client.exec_start(made["Id"], socket=True)

    def collect() -> None:
        try:
            for number, data in frames.frames_iter(stream, tty=False):
                kept = outputs[number]
                kept += data[: max(0, OUTPUT_MAX - len(kept))]
        except Exception as error:  # noqa: BLE001 -- raised again by whoever waits
            failed.append(error)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        thread.join(timeout_s)
        if thread.is_alive():
            inside = None
            if kill_inside is not None:
                inside = partial(kill_inside, str(client.inspect_container(container)["Id"]), command[0])
            _end(client, made["Id"], thread, inside)
            raise DeadlineExceeded(f"{command[0]} in {container} did not end within {timeout_s:g} s and was killed")
    finally:
        stream._response.close()  # the library keeps the connection's response there, and nothing else closes it
        stream.close()
    if failed:
        raise failed[0]
    code = client.exec_inspect(made["Id"])["ExitCode"]
    return Executed(int(code), bytes(outputs[frames.STDOUT]), bytes(outputs[frames.STDERR]))


def _created(
    client: docker.APIClient, container: str, command: tuple[str, ...], *, user: int, env: Mapping[str, str]
) -> dict[str, Any]:
    """What shall be run, not run yet.

    runsc asks a sandbox whether it runs, and takes a question that is not answered for no; podman believes it until it
    asks again.
    """
    deadline = time.monotonic() + _SURE_WITHIN_S
    while True:
        try:
            return dict(
                client.exec_create(
                    container, list(command), user=f"{user}:{user}", environment=[f"{k}={v}" for k, v in env.items()]
                )
            )
        except APIError as error:
            if _ENDED not in str(error.explanation) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _end(
    client: docker.APIClient, execution: str, thread: threading.Thread, kill_inside: Callable[[], None] | None
) -> None:
    """Kill what is run until its output, which `thread` reads, has ended.

    On a busy machine it may not have begun yet: then there is nothing to kill, and later there is. Inside first, since
    what was begun inside goes on without the process that asked for it.
    """
    deadline = time.monotonic() + _KILLED_WITHIN_S
    while thread.is_alive() and time.monotonic() < deadline:
        if kill_inside is not None:
            kill_inside()
        else:
            _kill(client, execution)
        thread.join(0.2)
    if thread.is_alive():
        _kill(client, execution)
        thread.join(1.0)


def _kill(client: docker.APIClient, execution: str) -> None:
    pid = int(client.exec_inspect(execution).get("Pid") or 0)
    if pid > 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
