"""An embedded Dask cluster: a scheduler and workers as processes of this machine, forked of one that has Dask."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr

from rios.dmoe import ram
from rios.dmoe.comms import environment as comms_environment
from rios.dmoe.template import CHANNEL, Running, Template
from rios.words.config import Settings, settings
from rios.words.errors import DeadlineExceeded, InvalidRequest, RiosError

log = logging.getLogger(__name__)

_MEMBER = "this-machine"
_TOLD_S = 1.0  # for a scheduler to end, and then for workers that it told
_GRACE_S = 3.0  # between asking a process to end and ending it
# Dask looks at itself 50 and 100 times a second in each process: 3 % of a core for a worker that has nothing to do.
_QUIET = {"DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s", "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
# What the scheduler and the workers run first: text with a space in it is a script to Dask.
_WATCH = "from rios.dmoe.cluster import end_with_parent; end_with_parent()"


class LocalCluster:
    """One scheduler and some workers on loopback. `close` ends them all; so does the end of this process.

    They hold one end of a pipe as their standard input, whose other end is here: however this process ends, the kernel
    closes it. (A signal at the parent's death would follow the thread that made the network, not the process.)
    """

    def __init__(
        self,
        workers: int,
        settings: Settings,
        *,
        threads: int | None = None,
        memory_bytes: int | None = None,
        host_class: str | None = None,
        secured: bool = False,
    ) -> None:
        if workers < 1:
            raise InvalidRequest(f"workers is {workers}; a network needs at least 1")
        self.threads = threads or max(1, (os.cpu_count() or 1) // workers)
        self._settings = settings
        self._memory_bytes = memory_bytes
        # Each host would take nearly all that is free, and together they would take it several times.
        self._ram_bytes = int(ram.free_bytes() * settings.memory_fraction) // workers
        self._host_class = host_class
        self._folder = tempfile.TemporaryDirectory(prefix="rios-")
        if secured:
            self._settings = _secured(settings, Path(self._folder.name) / "certs")
        self._closed = False
        self._life_read, self._life = os.pipe()
        _clusters.add(self)
        self.processes: dict[str, Running] = {}
        try:
            self.address = self._start_scheduler()
            for number in range(workers):
                self.add_worker(f"worker-{number}")
        except BaseException:
            self.close()
            raise

    @property
    def settings(self) -> Settings:
        """Those that were given and, where the network is secured here, its certificates."""
        return self._settings

    def _start_scheduler(self) -> str:
        """The scheduler's address, once it listens."""
        file = Path(self._folder.name) / "scheduler.json"
        self._spawn(
            "scheduler",
            [
                "distributed.cli.dask_scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--dashboard-address",
                "127.0.0.1:0",
                *("--preload", _WATCH, "--preload", "rios.dmoe.comms"),
            ],
            ["--scheduler-file", str(file)],
        )
        deadline = time.monotonic() + self._settings.start_timeout_s
        while True:
            with contextlib.suppress(OSError, ValueError):
                return str(json.loads(file.read_text())["address"])
            self._check("scheduler", deadline)
            time.sleep(0.01)

    def add_worker(self, name: str, *, memory_bytes: int | None = None, host_class: str | None = None) -> None:
        """One more worker; it is there when the network lists it."""
        environment = {"RIOS_HOST_CLASS": host_class or self._host_class or "", ram.VARIABLE: str(self._ram_bytes)}
        limit = memory_bytes or self._memory_bytes
        if limit:
            environment["RIOS_MEMORY_BYTES"] = str(limit)
        self._spawn(
            name,
            ["distributed.cli.dask_worker", self.address, "--name", name, "--nthreads", str(self.threads)],
            [
                *("--no-nanny", "--host", "127.0.0.1", "--memory-limit", "0", "--no-dashboard"),
                *("--preload", _WATCH, "--preload", "rios.worker", "--local-directory", self._folder.name),
            ],
            environment,
        )

    def _environment(self) -> dict[str, str]:
        """What every process of the cluster starts with."""
        environment = _QUIET | os.environ
        for setting, value in self._settings:
            if value != getattr(settings(), setting):  # given to `rios.local`; hosts read their environment
                secret = isinstance(value, SecretStr)
                environment[f"RIOS_{setting.upper()}"] = value.get_secret_value() if secret else str(value)
        environment |= comms_environment(self._settings)
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[variable] = str(self.threads)
        environment.setdefault("HF_HUB_OFFLINE", "1")
        # Whoever started this process may not have installed rios: the children import it from where it is.
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        return environment

    def _spawn(
        self,
        name: str,
        command: list[str],
        more: list[str],
        extra: dict[str, str] | None = None,
    ) -> None:
        environment = self._environment()
        environment.update({key: value for key, value in (extra or {}).items() if value})
        module, *arguments = [*command, *more]
        with (Path(self._folder.name) / f"{name}.log").open("ab") as file:
            streams = [self._life_read, file.fileno(), file.fileno()]
            self.processes[name] = self._started(module, arguments, environment, streams)

    def _started(
        self, module: str, arguments: list[str], environment: dict[str, str], streams: Sequence[int]
    ) -> Running:
        # One import of torch for all hosts, and one of Dask, and for those of the next cluster of this process.
        warm_s, timeout_s = self._settings.warm_s, self._settings.start_timeout_s
        serving = Template.shared(self._environment(), warm_s=warm_s)
        try:
            dask = Template.shared(os.environ, libraries="dask", warm_s=warm_s)
            return dask.run(
                module, arguments, environment=environment, streams=streams, serving=serving, timeout_s=timeout_s
            )
        except OSError as error:
            log.info("no process of the template; starting one", extra={"reason": repr(error)})
        stdin, stdout, stderr = streams
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**environment, CHANNEL: str(serving.fileno())},
            pass_fds=[serving.fileno()],
            start_new_session=True,
        )

    def _check(self, name: str, deadline: float) -> None:
        if self.processes[name].poll() is not None:
            raise RiosError(f"{name} ended at once:\n{self.log(name)[-2000:]}")
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"{name} is not there after {self._settings.start_timeout_s:g} s (RIOS_START_TIMEOUT_S):\n"
                f"{self.log(name)[-2000:]}"
            )

    def check(self) -> None:
        """Raise when a process has ended by itself."""
        for name in self.processes:
            self._check(name, float("inf"))

    def log(self, name: str) -> str:
        """What a process has written."""
        path = Path(self._folder.name) / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End every process."""
        if self._closed:
            return
        self._closed = True
        # A scheduler that ends has its workers end in order. A signal in the midst of that cancels it, and then some of
        # them never end; so they get one only where they were not told, or do not listen.
        everybody = list(self.processes.values())
        tells = [one for name, one in self.processes.items() if name == "scheduler" and one.poll() is None]
        _signal(tells, signal.SIGTERM)
        _signal(_left(tells, _TOLD_S), signal.SIGKILL)
        left = _left(everybody, _TOLD_S if tells else 0.0)
        _signal(left, signal.SIGTERM)
        left = _left(left, _GRACE_S)
        _signal(left, signal.SIGKILL)
        for process in left:
            process.wait()
        self._let_go()
        os.close(self._life_read)
        self._folder.cleanup()

    def _let_go(self) -> None:
        """Close this side's end of the pipe."""
        life, self._life = self._life, -1
        if life >= 0:
            os.close(life)


def _signal(processes: Sequence[Running], number: int) -> None:
    """To those that run, and to their groups."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def _left(processes: Sequence[Running], timeout_s: float) -> list[Running]:
    """Those that run on when all have been waited for, `timeout_s` at most."""
    deadline = time.monotonic() + timeout_s
    left = []
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            left.append(process)
    return left


def _secured(given: Settings, folder: Path) -> Settings:
    """Settings with certificates: of the home's authority where there is a home, else of one in `folder`."""
    from rios.dmoe.authority import Authority, ends_soon, member_files

    folder = given.tls_authority or (folder if given.home is None else Path(given.home) / "certs")
    authority = Authority.made(folder)
    files = member_files(folder / "hosts" / _MEMBER)
    if not files.certificate.exists() or ends_soon(files.certificate):
        authority.host(_MEMBER)
    return given.model_copy(update={"tls": files.certificate.parent, "tls_authority": folder})


_clusters: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def _forked() -> None:
    """In a process that was forked of this one: it must not keep the workers of its parent alive."""
    for cluster in _clusters:
        cluster._let_go()


os.register_at_fork(after_in_child=_forked)


def end_with_parent() -> None:
    """In a scheduler or worker: end when standard input does, which is when whoever made the network has gone."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="rios-parent", daemon=True).start()
