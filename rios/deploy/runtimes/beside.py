"""Starting a process that stands beside a sandbox and outlives its starter."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from rios.deploy.runtimes.records import Record
from rios.words.errors import SandboxFailed

_FORKED_WITHIN_S = 30.0
_GONE_WITHIN_S = 5.0


class _Spawner:
    """This process's own (`spawner.py`)."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                standalone("rios.deploy.runtimes.spawner"),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
            )

    @property
    def lives(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def fork(self, module: str, descriptors: dict[int, int]) -> int:
        """A process that runs `module.main` with these descriptors, by the numbers it shall have.

        What comes back is a descriptor of the process. Raises OSError where the spawner has gone or does not answer.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with mine, theirs:
            order = json.dumps({"module": module, "numbers": list(descriptors)}).encode()
            socket.send_fds(self._channel, [order], [theirs.fileno(), *descriptors.values()])
            theirs.close()
            mine.settimeout(_FORKED_WITHIN_S)
            _, found, _, _ = socket.recv_fds(mine, 64, 1)
        if not found:
            raise ConnectionError("the process that watchers are forked of has gone")
        return found[0]

    def let_go(self) -> None:
        """In a process forked of this one: it must not keep the spawner alive."""
        self._channel.close()
        self._process.returncode = 0  # it is somebody else's child

    def end(self) -> None:
        """It ends; the watchers that it forked go on."""
        self._channel.close()
        self._process.wait(_GONE_WITHIN_S)


_guard = threading.Lock()
_spawners: list[_Spawner] = []
"""One, or none yet."""


def _spawner() -> _Spawner:
    with _guard:
        if _spawners and not _spawners[0].lives:
            _spawners.pop().end()
        if not _spawners:
            _spawners.append(_Spawner())
        return _spawners[0]


def _forked() -> None:
    global _guard  # noqa: PLW0603 -- another thread may hold it in the parent
    _guard = threading.Lock()
    for one in _spawners:
        one.let_go()
    _spawners.clear()


def _ended() -> None:
    for one in _spawners:
        one.end()


os.register_at_fork(after_in_child=_forked)
atexit.register(_ended)


def get_ready() -> None:
    """Begin to import what watchers need, so that the first one starts as quickly as the next."""
    _spawner()


def start_beside(
    module: str, record: Record, task: dict[str, Any], *, timeout_s: float, give: Iterable[int] = ()
) -> dict[str, Any]:
    """Run `module` with a task, in a session of its own, holding the record's life; what it says when it has started.

    give: descriptors that it shall have, too. Raises SandboxFailed with its reason, or by the deadline.
    """
    life = record.life()
    (orders, stdin), (stdout, answers) = os.pipe(), os.pipe()
    with os.fdopen(stdin, "wb") as tell, os.fdopen(stdout, "rb") as hear:
        try:
            with (record.directory / "watcher.log").open("ab") as errors:
                descriptors = {0: orders, 1: answers, 2: errors.fileno(), life: life, **{fd: fd for fd in give}}
                process = _spawner().fork(module, descriptors)
        except OSError as error:
            raise SandboxFailed(f"the instance {record.instance} could not be started: {error}") from error
        finally:
            for fd in (life, orders, answers):
                os.close(fd)
        message = json.dumps({**task, "life": life, "directory": str(record.directory)}).encode() + b"\n"
        said = _answer(tell, hear, message, timeout_s)
    if said is None:
        _end(process)
    os.close(process)
    if said is None:
        raise SandboxFailed(
            f"the instance {record.instance} did not start within {timeout_s:g} s, or its watcher died: "
            f"{_last_words(record)}"
        )
    if said["said"] != "started":
        raise SandboxFailed(f"the instance {record.instance} could not be started: {said['why']}")
    return said


def _end(process: int) -> None:
    """Kill a process, and wait until it has gone. process: its descriptor."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    select.select([process], [], [], _GONE_WITHIN_S)


def standalone(module: str) -> list[str]:
    """How `main` of a module that needs the standard library alone is run: without what else an environment loads."""
    root = str(Path(__file__).parents[3])
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.append({root!r}); from {module} import main; main()",
    ]


def _answer(stdin: IO[bytes], stdout: IO[bytes], message: bytes, timeout_s: float) -> dict[str, Any] | None:
    """Tell a process its task; the line it answers with, or None where none came by the deadline."""
    deadline, text = time.monotonic() + timeout_s, b""
    with selectors.DefaultSelector() as selector:
        with contextlib.suppress(BrokenPipeError):
            stdin.write(message)
            stdin.close()
        selector.register(stdout, selectors.EVENT_READ)
        while not text.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(stdout.fileno(), 1 << 16)
            if not data:
                return None
            text += data
    answer: dict[str, Any] | None = json.loads(text) if text.endswith(b"\n") else None
    return answer


def _last_words(record: Record) -> str:
    text = (record.directory / "watcher.log").read_text(errors="replace").strip()
    return text.splitlines()[-1] if text else f"{record.directory / 'watcher.log'} is empty"
