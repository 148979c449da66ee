"""Running `enter.py` and collecting what its command writes, up to a bound and a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from typing import Any

from rios.deploy.runtimes.beside import standalone
from rios.deploy.runtimes.protocol import Executed
from rios.words.errors import DeadlineExceeded

OUTPUT_MAX = 1 << 20


def execute(task: dict[str, Any], *, name: str, timeout_s: float) -> Executed:
    """Run a command in a sandbox as `enter.py` reads it. DeadlineExceeded ends it."""
    fd = os.memfd_create("task", 0)
    os.write(fd, json.dumps(task).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        process = subprocess.Popen(
            [*standalone("rios.deploy.runtimes.enter"), str(fd)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[fd],
            start_new_session=True,
            cwd="/",
            env={},
        )
    finally:
        os.close(fd)
    try:
        outputs = _collect(process, timeout_s)
        process.wait(5)
    except (DeadlineExceeded, subprocess.TimeoutExpired):
        raise DeadlineExceeded(f"{name} did not end within {timeout_s:g} s and was killed") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    return Executed(process.returncode, outputs[0], outputs[1])


def _collect(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bytes]:
    """Read both pipes until the process has ended; what exceeds the bound is read and thrown away."""
    deadline = time.monotonic() + timeout_s
    kept: dict[int, bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            kept[pipe.fileno()] = bytearray()
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > deadline:
                raise DeadlineExceeded
            for key, _ in selector.select(0.1):
                data = os.read(key.fd, 1 << 16)
                if data:
                    kept[key.fd] += data[: max(0, OUTPUT_MAX - len(kept[key.fd]))]
                else:
                    selector.unregister(key.fileobj)
            if process.poll() is not None and not selector.select(0):
                break  # it left something behind that holds the pipes
    out, err = kept.values()
    return bytes(out), bytes(err)
