"""The process beside each bubblewrap sandbox: starts it, writes its log, relays its streams, says how it ended.

It outlives the host agent that started it, so that an agent's restart is nothing to the application. Where it dies
itself, the kernel ends the sandbox. It is told on standard input what to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import selectors
import signal
import sys
import termios
import time
from pathlib import Path
from typing import Any, NamedTuple

from rios.deploy.runtimes.durable import write_json
from rios.deploy.runtimes.log_writer import LogWriter
from rios.deploy.runtimes.relay import Inside, run_ready
from rios.deploy.runtimes.relaying import Wanted, be_silent, enter_namespaces, say, set_up, told

_STARTED_WITHIN_S = 30.0
_DRAINED_WITHIN_S = 2.0
_LOOK_S = 0.001
_PIPE_BYTES = 1 << 16
COMMAND_NOT_FOUND = 127


class _Child(NamedTuple):
    """bubblewrap as this process sees it."""

    pid: int
    outputs: dict[str, int]
    info: int
    """Says, as JSON, the id of the first process inside."""
    block: int
    """The sandbox waits for a byte here before it runs the command."""


def _become_bubblewrap(task: dict[str, Any], ends: dict[str, int]) -> None:
    """In the forked process: join the group, take on limits and user, and turn into bubblewrap."""
    os.setsid()
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signal_number, signal.SIG_DFL)  # what is ignored stays so in programs that are run
    for entrance in task["entrances"]:
        Path(entrance).write_text("0")
    for name, value in task["rlimits"].items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (limit, limit))
    if task["uid"] is not None:
        os.setgroups([])
        os.setresgid(task["uid"], task["uid"], task["uid"])
        os.setresuid(task["uid"], task["uid"], task["uid"])
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (ends["stdout"], 1), (ends["stderr"], 2)):
        os.dup2(source, target)
    arguments = os.memfd_create("arguments", 0)
    os.write(arguments, b"\0".join(text.encode() for text in task["arguments"]) + b"\0")
    os.lseek(arguments, 0, os.SEEK_SET)
    given = ["--args", str(arguments), "--info-fd", str(ends["info"]), "--block-fd", str(ends["block"])]
    if task["seccomp"] is not None:
        given += ["--seccomp", str(task["seccomp"])]
        os.set_inheritable(task["seccomp"], True)
    os.set_inheritable(ends["info"], True)
    os.set_inheritable(ends["block"], True)
    os.execve(  # noqa: S606 -- no shell is wanted
        task["bubblewrap"], ["bwrap", *given, "--", *task["command"]], {}
    )


def _start(task: dict[str, Any]) -> _Child:
    pipes = {name: os.pipe() for name in ("stdout", "stderr", "info", "block")}
    # Of `block`, the sandbox reads; of the others, it writes.
    theirs = {name: pipe[0] if name == "block" else pipe[1] for name, pipe in pipes.items()}
    ours = {name: pipe[1] if name == "block" else pipe[0] for name, pipe in pipes.items()}
    pid = os.fork()
    if pid == 0:
        try:
            _become_bubblewrap(task, theirs)
        except BaseException as error:  # noqa: BLE001 -- a forked process must end here, whatever happens
            os.write(theirs["stderr"], f"rios: {error}\n".encode())
        finally:
            os._exit(126)
    for fd in theirs.values():
        os.close(fd)
    for fd in (ours["stdout"], ours["stderr"]):
        os.set_blocking(fd, False)
    return _Child(pid, {"stdout": ours["stdout"], "stderr": ours["stderr"]}, ours["info"], ours["block"])


def _first_inside(child: _Child) -> int:
    """The id, on the host, of the sandbox's first process. OSError with bubblewrap's own words where there is none."""
    deadline, text = time.monotonic() + _STARTED_WITHIN_S, b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.info, selectors.EVENT_READ)
        while time.monotonic() < deadline and selector.select(1.0):
            data = os.read(child.info, 4096)
            text += data
            with contextlib.suppress(ValueError):
                return int(json.loads(text)["child-pid"])
            if not data:
                break
    os.kill(child.pid, signal.SIGKILL)
    raise OSError(_last_words(child) or f"bubblewrap said nothing within {_STARTED_WITHIN_S:g} s")


def _unblock(child: _Child) -> None:
    """Let the sandbox run its command, and see that it has come that far.

    Before, it is being made: whoever entered it then, as a command does that is run inside, would find the host's files
    there. It waits for this byte at the end of that, and takes it. OSError, with bubblewrap's own words, where it ends
    before.
    """
    deadline = time.monotonic() + _STARTED_WITHIN_S
    try:
        os.write(child.block, b"g")
    except BrokenPipeError as error:
        raise OSError(_last_words(child) or "bubblewrap ended while it made the sandbox") from error
    while int.from_bytes(fcntl.ioctl(child.block, termios.FIONREAD, bytes(4)), sys.byteorder):
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise OSError(_last_words(child) or "bubblewrap ended while it made the sandbox")
        if time.monotonic() > deadline:
            raise OSError(f"bubblewrap did not make the sandbox within {_STARTED_WITHIN_S:g} s")
        time.sleep(_LOOK_S)
    os.close(child.block)


def _last_words(child: _Child) -> str:
    """Of one that has ended."""
    os.set_blocking(child.outputs["stderr"], True)
    return os.read(child.outputs["stderr"], _PIPE_BYTES).decode(errors="replace").strip()


class _Watch:
    """Waits for the end of the sandbox; meanwhile writes its lines and runs its relay."""

    def __init__(self, child: _Child, log: LogWriter, selector: selectors.BaseSelector) -> None:
        self._child, self._log, self._selector = child, log, selector
        self._open = len(child.outputs)
        self._began = b""
        self.code: int | None = None
        for stream, fd in child.outputs.items():
            selector.register(fd, selectors.EVENT_READ, lambda _, stream=stream, fd=fd: self._read(stream, fd))
        self._pidfd = os.pidfd_open(child.pid)
        selector.register(self._pidfd, selectors.EVENT_READ, self._end)

    def _read(self, stream: str, fd: int) -> None:
        try:
            data = os.read(fd, _PIPE_BYTES)
        except BlockingIOError:
            return
        if stream == "stderr" and len(self._began) < 100:
            self._began += data
        self._log.feed(stream, data)
        if not data:
            self._selector.unregister(fd)
            os.close(fd)
            self._open -= 1

    def _end(self, _: int) -> None:
        self._selector.unregister(self._pidfd)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self._child.pid, 0)[1])

    def run(self) -> int:
        """The exit code: the command's own, or 128 + the signal that ended it."""
        while self.code is None:
            run_ready(self._selector, None)
        deadline = time.monotonic() + _DRAINED_WITHIN_S
        while self._open and time.monotonic() < deadline:
            run_ready(self._selector, 0.1)
        if self._began.startswith(b"bwrap: execvp"):
            return COMMAND_NOT_FOUND
        return self.code if self.code >= 0 else 128 - self.code


def main() -> None:
    """Start the sandbox that its starter tells of, keep its lines, and write down its end."""
    task = told()
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    directory = Path(task["directory"])
    wanted = Wanted.of(task["relay"])
    child = _start(task)
    os.umask(0o077)  # logs are for who asks this host; the sandbox was given the usual one
    selector = selectors.DefaultSelector()
    try:
        first = _first_inside(child)
        port = None
        if wanted.needed:
            descriptors = [*child.outputs.values(), child.info, child.block, task["life"]]
            inside = Inside(lambda: enter_namespaces(first), wanted.listens(), close=descriptors)
            port = set_up(wanted, inside, selector, directory / "bytes")
        _unblock(child)
    except OSError as error:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        say("failed", why=str(error))
        raise SystemExit(1) from error
    log = LogWriter(directory / "log", task["log_bytes"] // 2)
    started = {"at": time.time(), "first": first, "watcher": os.getpid(), "port": port}
    write_json(directory / "started.json", started)
    say("started", **started)
    be_silent()
    code = _Watch(child, log, selector).run()
    write_json(directory / "exit.json", {"code": code, "at": time.time()})
