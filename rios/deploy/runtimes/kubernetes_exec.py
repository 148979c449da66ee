"""Running a command in a Pod over the API server's WebSocket, with a deadline, which the API does not have."""

from __future__ import annotations

import json
import re
import shlex
import threading
import time
from collections.abc import Mapping
from typing import Any

from rios.deploy.runtimes.executing import OUTPUT_MAX
from rios.deploy.runtimes.kubernetes_api import Api
from rios.deploy.runtimes.kubernetes_objects import CONTAINER
from rios.deploy.runtimes.kubernetes_sockets import ws_client
from rios.deploy.runtimes.protocol import Executed
from rios.words.errors import DeadlineExceeded, InvalidRequest, SandboxFailed

_STDOUT, _STDERR, _ERROR = 1, 2, 3
_LOOK_S = 0.25
_KILLED_WITHIN_S = 10.0
_NOT_FOUND = 127
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Session:
    """One command and what it has written so far, collected by a thread, for the client's socket has no deadlines."""

    def __init__(self, api: Api, pod: str, command: tuple[str, ...]) -> None:
        self._api, self._pod, self._command = api, pod, command
        self._lock = threading.Lock()
        self.outputs = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self._verdict = b""
        self._failed: Exception | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="rios-exec", daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        socket: Any = None
        try:
            socket = self._connected()
            while socket.is_open() and not self._left.is_set():
                socket.update(timeout=_LOOK_S)
                self._take(socket)
            self._take(socket)
        except Exception as error:  # noqa: BLE001 -- raised again by whoever waits
            self._failed = error
        finally:
            if socket is not None:
                socket.close()
                socket.sock.shutdown()  # the client leaves it open where the server closed it first

    def _connected(self) -> Any:
        query = [("container", CONTAINER), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in self._command]
        url, headers = self._api.prepared(self._api.path("pods", self._pod, "exec"), query)
        return ws_client().websocket_call(
            self._api.client().configuration, "GET", url,
            headers=headers, binary=True, capture_all=False, _preload_content=False,
        )  # fmt: skip

    def _take(self, socket: Any) -> None:
        with self._lock:
            for number, kept in self.outputs.items():
                data = bytes(socket.read_channel(number))
                kept += data[: max(0, OUTPUT_MAX - len(kept))]
            self._verdict += bytes(socket.read_channel(_ERROR))

    def begun(self) -> bytes:
        """What it has written to standard output so far."""
        with self._lock:
            return bytes(self.outputs[_STDOUT])

    def ended(self, timeout_s: float) -> bool:
        """Whether it ended by then."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Let go of the connection."""
        self._left.set()
        self._thread.join(2 * _LOOK_S)

    def code(self) -> int | None:
        """Its exit code; None where it was not run. Raises SandboxFailed where its end was not told."""
        try:
            said = json.loads(self._verdict)
        except ValueError:
            why = self._failed or "the connection ended before the command did"
            raise SandboxFailed(f"{self._command[0]} in {self._pod}: {why}") from self._failed
        if said.get("status") == "Success":
            return 0
        causes = (said.get("details") or {}).get("causes") or []
        return next((int(one["message"]) for one in causes if one.get("reason") == "ExitCode"), None)


def run_inside(api: Api, pod: str, command: tuple[str, ...], *, env: Mapping[str, str], timeout_s: float) -> Executed:
    """The command's exit code and output, each output up to its bound. DeadlineExceeded kills it.

    A shell says its process id first and becomes the command then: so there is something to kill, and an environment.
    An image without a shell runs the command as it is, if no environment is asked for.
    """
    deadline = time.monotonic() + timeout_s
    for name in env:
        if not _ENV_NAME.fullmatch(name):  # a shell would read anything else as more than a name
            raise InvalidRequest(f"{name!r} is no name of an environment variable: letters, digits and _")
    exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in env.items())
    session = _Session(api, pod, ("sh", "-c", f'echo "$$"; {exports}exec "$@"', "sh", *command))
    ended = session.ended(timeout_s)
    pid, _, out = session.begun().partition(b"\n")
    if not ended:
        session.leave()
        killed = pid.isdigit() and _killed(api, pod, int(pid))
        end = "was killed" if killed else "may run on, for it could not be killed"
        raise DeadlineExceeded(f"{command[0]} in {pod} did not end within {timeout_s:g} s and {end}")
    code = session.code()
    if pid.isdigit() and code is not None:
        return Executed(code, out, bytes(session.outputs[_STDERR]))
    if env:
        raise SandboxFailed(f"{command[0]} in {pod}: its image has no shell (sh) to give it an environment by")
    return _run_bare(api, pod, command, deadline - time.monotonic())


def _run_bare(api: Api, pod: str, command: tuple[str, ...], timeout_s: float) -> Executed:
    session = _Session(api, pod, command)
    if not session.ended(max(timeout_s, 0.0)):
        session.leave()
        raise DeadlineExceeded(
            f"{command[0]} in {pod} did not end within {timeout_s:g} s and may run on: "
            "its image has no shell (sh) to kill it by"
        )
    code = session.code()
    return Executed(
        _NOT_FOUND if code is None else code, bytes(session.outputs[_STDOUT]), bytes(session.outputs[_STDERR])
    )


def _killed(api: Api, pod: str, pid: int) -> bool:
    """Kill a command and what it started: engines give each command a session of its own, whose leader it is."""
    session = _Session(api, pod, ("sh", "-c", f"kill -9 -{pid} 2>/dev/null || kill -9 {pid}"))
    if session.ended(_KILLED_WITHIN_S):
        return session.code() == 0
    session.leave()
    return False
