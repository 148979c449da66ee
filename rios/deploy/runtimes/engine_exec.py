"""Running a command in an engine's container, with a deadline, which the engine's API does not have."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping

import docker

from rios.deploy.runtimes.executing import OUTPUT_MAX
from rios.deploy.runtimes.protocol import Executed
from rios.words.errors import DeadlineExceeded

_KILLED_WITHIN_S = 5.0


def run_inside(
    client: docker.APIClient,
    container: str,
    command: tuple[str, ...],
    *,
    user: int,
    env: Mapping[str, str],
    timeout_s: float,
) -> Executed:
    """The command's exit code and output, each output up to its bound. DeadlineExceeded kills it."""
    made = client.exec_create(
        container, list(command), user=f"{user}:{user}", environment=[f"{k}={v}" for k, v in env.items()]
    )
    outputs = [bytearray(), bytearray()]
    failed: list[Exception] = []

    def collect() -> None:
        try:
            for parts in client.exec_start(made["Id"], stream=True, demux=True):
                for kept, data in zip(outputs, parts, strict=True):
                    kept += (data or b"")[: max(0, OUTPUT_MAX - len(kept))]
        except Exception as error:  # noqa: BLE001 -- raised again by whoever waits
            failed.append(error)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        pid = int(client.exec_inspect(made["Id"]).get("Pid") or 0)
        with contextlib.suppress(ProcessLookupError):
            if pid > 1:
                os.kill(pid, signal.SIGKILL)
        thread.join(_KILLED_WITHIN_S)
        raise DeadlineExceeded(f"{command[0]} in {container} did not end within {timeout_s:g} s and was killed")
    if failed:
        raise failed[0]
    code = client.exec_inspect(made["Id"])["ExitCode"]
    return Executed(int(code), bytes(outputs[0]), bytes(outputs[1]))
