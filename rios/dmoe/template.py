"""Processes that have imported torch, or Dask, once, of which the processes of an embedded network are forked.

`import torch` and what models need beside it takes seconds of a core, and hundreds of megabytes, in each process; Dask
takes a second. All processes of an embedded network are on one machine, so one process does it for them all, and for
the next network of the same program: it waits for orders on a socket that only its children and their parent have, and
does nothing but fork. Of the template with torch, a fork is a supervisor (`rios.dmoe.supervisor`) with the environment
and the standard streams of the worker that asked, or reads a checkpoint for a client that has no torch
(`rios.dmoe.examined`); of that with Dask, a scheduler or a worker, as `python -m` would run it. A template ends when
nobody is left who could ask, or when it had no child for `_IDLE_S`. With `RIOS_WARM_S` it serves all programs of its
user (`rios.dmoe.warm`), and ends when it had no child for so long.

A worker that was started by anybody else, or whose template has gone, starts its supervisor as a command; so does a
network its scheduler and workers.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, ClassVar, Literal, NoReturn, Protocol

from rios.dmoe import warm
from rios.words.config import settings
from rios.words.importing import uncollected

log = logging.getLogger(__name__)

CHANNEL = "RIOS_TEMPLATE"
"""Environment variable of workers: the descriptor of the socket to the template with torch."""
Libraries = Literal["torch", "dask"]
_DASK = ("distributed.cli.utils", "distributed.http.scheduler.prometheus", "prometheus_client", "rios.dmoe.comms")
"""What brings in nearly all that schedulers and workers load, and nothing that looks at their settings."""
_IDLE_S = 60.0
_LOOK_S = 5.0
_WORD_S = 60.0  # for whoever asked to take what was forked, which does nothing before
_ORDER_MAX = 1 << 18  # an environment; Linux' own bound on a message of this kind of socket is a little less


class Serving(Protocol):
    """A process, as far as whoever started it deals with it."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """Its orders."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """What it announces."""

    def wait(self) -> int | None:
        """Until it ends. Its exit code; None where it is somebody else's child."""


class Running(Protocol):
    """A process, as far as whoever started it wants to know whether it runs. A `Popen` is one."""

    @property
    def pid(self) -> int:
        """Its process."""

    def poll(self) -> int | None:
        """None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Until it ends; `subprocess.TimeoutExpired` after `timeout` seconds."""

    def kill(self) -> None:
        """End it now."""


def start_supervisor() -> Serving:
    """A supervisor: forked of this worker's template where there is one, else a command of its own."""
    channel = os.environ.get(CHANNEL)
    if channel is not None:
        try:
            return _Forked(int(channel))
        except (OSError, ValueError) as error:
            log.info("no serving process of the template; starting one", extra={"reason": repr(error)})
    return subprocess.Popen(
        [sys.executable, "-m", "rios.dmoe.supervisor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A group of its own: a signal to the worker's group must not end the host in mid-sentence.
        start_new_session=True,
    )


class _Forked:
    """A process that the template forked."""

    def __init__(self, channel: int, **wanted: str | None) -> None:
        """channel: a descriptor of the socket to the template. wanted: what it is to be, if not a supervisor.

        Raises OSError where the template does not answer in time.
        """
        orders_read, orders = os.pipe()
        said, said_write = os.pipe()
        try:
            order = {"environment": dict(os.environ), "folder": str(Path.cwd()), **wanted}
            streams = [orders_read, said_write, 2]
            self.pid, self._process = _asked(channel, order, streams, settings().start_timeout_s)
        except BaseException:
            os.close(orders)
            os.close(said)
            raise
        finally:
            os.close(orders_read)
            os.close(said_write)
        self.stdin: IO[bytes] | None = os.fdopen(orders, "wb")
        self.stdout: IO[bytes] | None = os.fdopen(said, "rb")

    def wait(self) -> None:
        """Until it ends."""
        _readable(self._process, None)
        os.close(self._process)


class _ForkedCommand:
    """A command that a fork of the template runs: see `Running`. How it ended, its parent alone is told."""

    def __init__(self, channel: int, order: Mapping[str, object], streams: Sequence[int], timeout_s: float) -> None:
        self.pid, self._process = _asked(channel, order, streams, timeout_s)
        self._module = str(order["module"])
        weakref.finalize(self, os.close, self._process)

    def poll(self) -> int | None:
        """None while it runs, then 0."""
        return 0 if _readable(self._process, 0) else None

    def wait(self, timeout: float | None = None) -> int:
        """See `Running`. 0, whatever its exit code is."""
        if not _readable(self._process, timeout):
            raise subprocess.TimeoutExpired(self._module, timeout or 0)
        return 0

    def kill(self) -> None:
        """See `Running`."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)


def _readable(descriptor: int, timeout_s: float | None) -> bool:
    """That of a process is when it has ended."""
    return _ready(descriptor, select.POLLIN, timeout_s)


def _ready(descriptor: int, events: int, timeout_s: float | None) -> bool:
    looking = select.poll()  # `select.select` takes no descriptor above 1023
    looking.register(descriptor, events)
    return bool(looking.poll(None if timeout_s is None else 1000 * timeout_s))


def _asked(channel: int, order: Mapping[str, object], streams: Sequence[int], timeout_s: float) -> tuple[int, int]:
    """A fork of the template: its process, and a descriptor of it, whose owner mistakes no other process for it.

    streams: its standard streams, then the socket to another template, if it shall have one.

    Raises OSError where the template does not answer in time; then it does not carry the order out later either.
    """
    deadline = time.monotonic() + timeout_s
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(fileno=os.dup(channel)) as asked, mine, theirs:
        try:
            _send(asked, json.dumps(order).encode(), [*streams, theirs.fileno()], deadline)
            theirs.close()
            mine.settimeout(max(0.0, deadline - time.monotonic()))
            answer, found, _, _ = socket.recv_fds(mine, 64, 1)
            if not found:
                raise ConnectionError("the template has gone")
            try:
                mine.send(b"!")  # it waits for that
            except OSError:
                os.close(found[0])
                raise
        finally:
            with contextlib.suppress(OSError):
                mine.shutdown(socket.SHUT_RDWR)  # a fork of this process may have it, too: closing tells nobody then
    return int(answer), found[0]


def _send(channel: socket.socket, message: bytes, descriptors: Sequence[int], deadline: float) -> None:
    """As `socket.send_fds`, with a deadline: a template that stands still lets the channel fill.

    Others have the channel too, and with it whether it blocks: so each call is told not to.
    """
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    while True:
        try:
            channel.sendmsg([message], passed, socket.MSG_DONTWAIT)
            return
        except BlockingIOError:
            if not _ready(channel.fileno(), select.POLLOUT, max(0.0, deadline - time.monotonic())):
                raise


class Template:
    """A template of this program's embedded networks."""

    _shared: ClassVar[dict[Libraries, Template]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()
    _all: ClassVar[weakref.WeakSet[Template]] = weakref.WeakSet()

    @classmethod
    def shared(cls, environment: Mapping[str, str], *, libraries: Libraries = "torch", warm_s: float = 0.0) -> Template:
        """The one that there is; started anew where it has ended. It may still be importing: who asks waits.

        warm_s: it waits so long for the next program of this user, or is one that waited; 0: it ends with this program.
        """
        with cls._guard:
            known = cls._shared.get(libraries)
            if known is not None and not known.ended:
                return known
            if known is not None:
                known._channel.close()
            cls._shared[libraries] = found = cls(environment, libraries=libraries, warm_s=warm_s)
            return found

    def __init__(self, environment: Mapping[str, str], *, libraries: Libraries = "torch", warm_s: float = 0.0) -> None:
        """environment: what it imports with; each of its children gets that of the worker that asked."""
        self._libraries = libraries
        self._process: subprocess.Popen[bytes] | None = None
        environment = _standing_alone(environment)
        channel = self._join(environment, warm_s) if warm_s > 0 else None
        if channel is None:
            channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._start(environment, theirs)
        self._channel = channel
        Template._all.add(self)

    def _join(self, environment: dict[str, str], warm_s: float) -> socket.socket | None:
        start = partial(self._start, {**environment, "RIOS_WARM_S": str(warm_s)})
        try:
            return warm.join(environment, start, self._libraries)
        except OSError as error:
            log.warning("no template is kept warm", extra={"reason": repr(error)})
            return None

    def _start(self, environment: dict[str, str], theirs: socket.socket) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rios.dmoe.template", self._libraries],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what it cannot import, its worker's own supervisor cannot either, and says
            env=environment,
            cwd="/" if theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else None,  # it outlives the folder
            start_new_session=True,
        )

    @property
    def ended(self) -> bool:
        """Whether it has."""
        if self._process is not None:
            return self._process.poll() is not None
        try:
            return not self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @classmethod
    def alive(cls) -> Template | None:
        """The one with torch, if there is one that has not ended."""
        with cls._guard:
            known = cls._shared.get("torch")
            return known if known is not None and not known.ended else None

    def read_checkpoint(self, path: str, dtype: str | None) -> Serving:
        """A fork that says on its standard output what `rios.dmoe.examined.answer` says. Raises OSError."""
        return _Forked(self.fileno(), checkpoint=path, dtype=dtype)

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        streams: Sequence[int],
        serving: Template,
        timeout_s: float,
    ) -> Running:
        """A fork in a session of its own that runs `python -m module`, and may ask the template `serving`.

        streams: its three standard ones. Raises OSError, at the latest when there is no answer after `timeout_s`.
        """
        order = {
            "environment": dict(environment),
            "folder": str(Path.cwd()),
            "module": module,
            "arguments": list(arguments),
        }
        return _ForkedCommand(self.fileno(), order, [*streams, serving.fileno()], timeout_s)

    def fileno(self) -> int:
        """The descriptor that workers are given."""
        return self._channel.fileno()

    @classmethod
    def _let_go(cls) -> None:
        """In a process forked of this program: it must not keep the template alive."""
        for template in cls._all:
            template._channel.close()
        cls._shared = {}


def _standing_alone(environment: Mapping[str, str]) -> dict[str, str]:
    """With what it takes to import rios from anywhere, and to ask nobody for anything."""
    root = str(Path(__file__).resolve().parents[2])
    known = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place and place != root]
    return {"HF_HUB_OFFLINE": "1", **environment, "PYTHONPATH": os.pathsep.join([root, *known])}


os.register_at_fork(after_in_child=Template._let_go)


def _import_all(libraries: Libraries) -> None:
    if libraries == "dask":
        with uncollected():
            for name in _DASK:
                importlib.import_module(name)
        return
    # By its name: as `__main__` this module is another one.
    from rios.dmoe import examined, supervisor

    supervisor.heavy_imports()
    examined.rehearse()


def main(libraries: Libraries = "torch") -> None:
    """Import, then fork whenever somebody asks.

    Standard input is the socket to the one program that this template is for, or one that programs connect to.
    """
    first = socket.socket(fileno=0)
    listens = bool(first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    idle_s = settings().warm_s if listens else _IDLE_S
    _import_all(libraries)
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page that the children share
    children: dict[int, int] = {}  # by the descriptors of their processes
    idle_since = time.monotonic()
    sockets = {first}
    while children or time.monotonic() - idle_since < idle_s:
        waited_for: list[socket.socket | int] = [*sockets, *children]
        for one in select.select(waited_for, [], [], _LOOK_S)[0]:
            if isinstance(one, int):
                os.waitpid(children.pop(one), 0)
                os.close(one)
                idle_since = time.monotonic()
                continue
            if one is first and listens:
                if (channel := warm.accepted(first)) is not None:
                    sockets.add(channel)
                continue
            order, found = _order(one)
            if order:
                if (forked := _fork(json.loads(order), found, sockets)) is not None:
                    child, process = forked
                    children[process] = child
                continue
            sockets.discard(one)
            one.close()
            if not listens:
                return


def _order(channel: socket.socket) -> tuple[bytes, list[int]]:
    """What somebody asks for, and the descriptors that come with it; nothing once they have gone."""
    try:
        order, found, _, _ = socket.recv_fds(channel, _ORDER_MAX, 5)
    except ConnectionError:
        return b"", []
    return order, found


def _fork(order: dict[str, object], streams: list[int], sockets: Iterable[socket.socket]) -> tuple[int, int] | None:
    """A process with somebody's environment and streams, and a descriptor of it; `sockets` are not for it.

    None where whoever asked has gone: they waited no longer, and have started it themselves.
    """
    forked = None
    with socket.socket(fileno=streams.pop()) as answer:
        if not _ready(answer.fileno(), 0, 0):  # that is told of the other end alone
            child = os.fork()
            if child == 0:
                for one in sockets:
                    one.close()
                _await_word(answer)
                _become(order, streams)
            forked = child, os.pidfd_open(child)
            with contextlib.suppress(OSError):  # they may go now: it gets no word, and ends
                socket.send_fds(answer, [str(child).encode()], [forked[1]])
    for stream in streams:
        os.close(stream)
    return forked


def _await_word(answer: socket.socket) -> None:
    """In the child: until whoever asked knows of it. It ends here where they do not wait for it any more."""
    with contextlib.suppress(OSError), answer:
        if _readable(answer.fileno(), _WORD_S) and answer.recv(1):
            return
    os._exit(1)


def _become(order: dict[str, object], streams: list[int]) -> NoReturn:
    """In the child: what was ordered itself."""
    code = 1
    try:
        os.setsid()
        for place, stream in enumerate(streams[:3]):
            os.dup2(stream, place)
            os.close(stream)
        environment = order["environment"]
        assert isinstance(environment, dict)
        os.environ.clear()
        os.environ.update(environment)
        if len(streams) > 3:
            os.environ[CHANNEL] = str(streams[3])
        _look_in(str(order["folder"]), environment.get("PYTHONPATH", ""))
        with contextlib.suppress(OSError):  # it may have gone, as for the worker itself
            os.chdir(str(order["folder"]))
        settings.cache_clear()
        signal.set_wakeup_fd(-1)
        _work(order)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        log.exception("a process of the template failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _look_in(folder: str, pythonpath: str) -> None:
    """As `python -m` does: the folder, which takes the place of the template's own, then PYTHONPATH."""
    first = [] if sys.flags.safe_path else [folder]
    known = sys.path[len(first) :]
    sys.path[: len(first)] = [*first, *(x for x in pythonpath.split(os.pathsep) if x and x not in known)]


def _work(order: dict[str, object]) -> None:
    if "checkpoint" in order:
        from rios.dmoe.examined import answer

        dtype = order["dtype"]
        answer(str(order["checkpoint"]), None if dtype is None else str(dtype))
    elif "module" in order:
        _run(str(order["module"]), order["arguments"])
    else:
        from rios.dmoe import supervisor

        supervisor.main()


def _run(module: str, arguments: object) -> None:
    """As `python -m module` does."""
    import dask

    assert isinstance(arguments, list)
    dask.config.refresh()  # it was read when Dask was imported, from another environment
    sys.argv = [module, *map(str, arguments)]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # by which Dask removes its folders


if __name__ == "__main__":
    main("dask" if sys.argv[1:] == ["dask"] else "torch")
