"""A process that has imported torch once, of which the serving processes of an embedded network are forked.

`import torch` and what models need beside it takes seconds of a core, and hundreds of megabytes, in each process. The
workers of an embedded network are on one machine, so one process does it for them all, and for the next network of the
same program: it waits for orders on a socket that only its children and their parent have, and does nothing but fork. A
fork is a supervisor (`rios.dmoe.supervisor`) with the environment and the standard streams of the worker that asked, or
reads a checkpoint for a client that has no torch (`rios.dmoe.examined`). It ends when nobody is left who could ask, or
when it had no child for `_IDLE_S`. With `RIOS_WARM_S` it serves all programs of its user (`rios.dmoe.warm`), and ends
when it had no child for so long.

A worker that was started by anybody else, or whose template has gone, starts its supervisor as a command.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, ClassVar, NoReturn, Protocol

from rios.dmoe import warm
from rios.words.config import settings

log = logging.getLogger(__name__)

CHANNEL = "RIOS_TEMPLATE"
"""Environment variable of workers: the descriptor of the socket to the template."""
_IDLE_S = 60.0
_LOOK_S = 5.0
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
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with socket.socket(fileno=os.dup(channel)) as asked, mine, theirs:
                order = json.dumps({"environment": dict(os.environ), "folder": str(Path.cwd()), **wanted}).encode()
                socket.send_fds(asked, [order], [orders_read, said_write, 2, theirs.fileno()])
                theirs.close()
                mine.settimeout(settings().start_timeout_s)
                answer, found, _, _ = socket.recv_fds(mine, 64, 1)
                if not found:
                    raise ConnectionError("the template has gone")
        except BaseException:
            os.close(orders)
            os.close(said)
            raise
        finally:
            os.close(orders_read)
            os.close(said_write)
        self.pid = int(answer)
        self._process = found[0]  # whoever has this descriptor cannot mistake another process for it
        self.stdin: IO[bytes] | None = os.fdopen(orders, "wb")
        self.stdout: IO[bytes] | None = os.fdopen(said, "rb")

    def wait(self) -> None:
        """Until it ends."""
        select.select([self._process], [], [])
        os.close(self._process)


class Template:
    """The template of this program's embedded networks."""

    _shared: ClassVar[Template | None] = None
    _guard: ClassVar[threading.Lock] = threading.Lock()
    _all: ClassVar[weakref.WeakSet[Template]] = weakref.WeakSet()

    @classmethod
    def shared(cls, environment: Mapping[str, str], *, warm_s: float = 0.0) -> Template:
        """The one that there is; started anew where it has ended. It may still be importing: who asks waits.

        warm_s: it waits so long for the next program of this user, or is one that waited; 0: it ends with this program.
        """
        with cls._guard:
            known = cls._shared
            if known is not None and not known.ended:
                return known
            if known is not None:
                known._channel.close()
            cls._shared = cls(environment, warm_s=warm_s)
            return cls._shared

    def __init__(self, environment: Mapping[str, str], *, warm_s: float = 0.0) -> None:
        """environment: what it imports with; each of its children gets that of the worker that asked."""
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
            return warm.join(environment, start)
        except OSError as error:
            log.warning("no template is kept warm", extra={"reason": repr(error)})
            return None

    def _start(self, environment: dict[str, str], theirs: socket.socket) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rios.dmoe.template"],
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
        """The one that there is, if it has not ended."""
        with cls._guard:
            return cls._shared if cls._shared is not None and not cls._shared.ended else None

    def read_checkpoint(self, path: str, dtype: str | None) -> Serving:
        """A fork that says on its standard output what `rios.dmoe.examined.answer` says. Raises OSError."""
        return _Forked(self.fileno(), checkpoint=path, dtype=dtype)

    def fileno(self) -> int:
        """The descriptor that workers are given."""
        return self._channel.fileno()

    @classmethod
    def _let_go(cls) -> None:
        """In a process forked of this program: it must not keep the template alive."""
        for template in cls._all:
            template._channel.close()
        cls._shared = None


def _standing_alone(environment: Mapping[str, str]) -> dict[str, str]:
    """With what it takes to import rios from anywhere, and to ask nobody for anything."""
    root = str(Path(__file__).resolve().parents[2])
    known = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place and place != root]
    return {"HF_HUB_OFFLINE": "1", **environment, "PYTHONPATH": os.pathsep.join([root, *known])}


os.register_at_fork(after_in_child=Template._let_go)


def main() -> None:
    """Import, then fork whenever somebody asks.

    Standard input is the socket to the one program that this template is for, or one that programs connect to.
    """
    first = socket.socket(fileno=0)
    listens = bool(first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    idle_s = settings().warm_s if listens else _IDLE_S
    # By its name: as `__main__` this module is another one.
    from rios.dmoe import checkpoint, supervisor  # noqa: F401  what reads checkpoints, for the client

    supervisor.heavy_imports()
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page that the children share
    children: set[int] = set()
    idle_since = time.monotonic()
    sockets = {first}
    while children or time.monotonic() - idle_since < idle_s:
        for one in select.select([*sockets], [], [], _LOOK_S)[0]:
            if one is first and listens:
                if (channel := warm.accepted(first)) is not None:
                    sockets.add(channel)
                continue
            order, found = _order(one)
            if order:
                children.add(_fork(json.loads(order), found, sockets))
                continue
            sockets.discard(one)
            one.close()
            if not listens:
                return
        for child in list(children):
            if os.waitpid(child, os.WNOHANG)[0]:
                children.discard(child)
                idle_since = time.monotonic()


def _order(channel: socket.socket) -> tuple[bytes, list[int]]:
    """What somebody asks for, and the descriptors that come with it; nothing once they have gone."""
    try:
        order, found, _, _ = socket.recv_fds(channel, _ORDER_MAX, 4)
    except ConnectionError:
        return b"", []
    return order, found


def _fork(order: dict[str, object], streams: list[int], sockets: Iterable[socket.socket]) -> int:
    """A process with somebody's environment and streams; `sockets` are not for it."""
    child = os.fork()
    if child == 0:
        for one in sockets:
            one.close()
        _become(order, streams)
    with socket.socket(fileno=streams.pop()) as answer:
        process = os.pidfd_open(child)
        with contextlib.suppress(OSError):  # whoever asked has gone, and the supervisor finds no orders
            socket.send_fds(answer, [str(child).encode()], [process])
        os.close(process)
    for stream in streams:
        os.close(stream)
    return child


def _become(order: dict[str, object], streams: list[int]) -> NoReturn:
    """In the child: what was ordered itself."""
    code = 1
    try:
        os.setsid()
        for place, stream in enumerate(streams[:3]):
            os.dup2(stream, place)
        for stream in streams:
            os.close(stream)
        environment = order["environment"]
        assert isinstance(environment, dict)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:0] = [x for x in environment.get("PYTHONPATH", "").split(os.pathsep) if x and x not in sys.path]
        with contextlib.suppress(OSError):  # it may have gone, as for the worker itself
            os.chdir(str(order["folder"]))
        settings.cache_clear()
        signal.set_wakeup_fd(-1)
        _work(order)
        code = 0
    except Exception:
        log.exception("a process of the template failed")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _work(order: dict[str, object]) -> None:
    if "checkpoint" in order:
        from rios.dmoe.examined import answer

        dtype = order["dtype"]
        answer(str(order["checkpoint"]), None if dtype is None else str(dtype))
    else:
        from rios.dmoe import supervisor

        supervisor.main()


if __name__ == "__main__":
    main()
