"""The parent of a host process: `python -m rios.dmoe.supervisor`, started by the Dask preload, or a fork of a template.

It owns the listening port and imports torch once; the host is a fork of it. A host that dies is forked again in
milliseconds, on the same port, so whoever reconnects finds it. One that has not turned to its connections for
`RIOS_HOST_SILENCE_S`, frozen for good, is killed, and so followed by another. It reads its orders from standard input:

    first line   JSON: name, key, bind, port, threads, memory_bytes, ram_bytes, device_index, host_class
    "stop"       end now
    end of file  the Dask worker has gone: serve the clients that are there, then end

and writes one JSON line to standard output for each host that it starts: {"pid", "port", "machine"}; where it cannot go
on, {"last_words"}.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from rios.dmoe.pulse import Pulse
from rios.words.config import settings
from rios.words.importing import uncollected
from rios.words.logs import configure

log = logging.getLogger("rios.dmoe.supervisor")

_PR_SET_PDEATHSIG = 1
_FORK_PAUSE_S = 0.02  # between a host's death and the next, doubled up to a second while they die at once


def main() -> None:
    """Read the orders, then keep one host alive."""
    orders: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    os.environ["RIOS_DEVICE_INDEX"] = str(orders.get("device_index", 0))
    configure(context={"worker": orders["name"]})
    try:
        _prepared(orders).run()
    except BaseException as error:
        with contextlib.suppress(OSError):
            _say({"last_words": f"{type(error).__name__}: {error}"})
        raise


def heavy_imports() -> None:
    """What hosts need, once: a fork shares its memory."""
    # Torch asks NVML then how many devices there are: asked of CUDA, it could no longer be used after a fork.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with uncollected():
        import transformers.generation.utils
        import transformers.masking_utils
        import transformers.modeling_layers  # noqa: F401  what nearly every architecture imports

        from rios.dmoe import host  # noqa: F401


def _prepared(orders: dict[str, Any]) -> _Supervisor:
    """The port is open and torch imported."""
    address = orders.get("bind") or "127.0.0.1", int(orders.get("port", 0))
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family, backlog=256)
    except OSError as error:
        raise OSError(f"cannot listen at {address[0]}:{address[1]}: {error.strerror}") from error
    heavy_imports()
    import torch

    from rios.dmoe import host as _host

    torch.set_num_threads(int(orders.get("threads", 1)))
    torch.set_grad_enabled(False)
    return _Supervisor(orders, listener, _host.machine_id())


def _say(line: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")


class _Supervisor:
    def __init__(self, orders: dict[str, Any], listener: socket.socket, machine: str) -> None:
        self.orders = orders
        self.listener = listener
        self.machine = machine
        self.child = 0
        self.pulse = Pulse()
        self.orphaned = False
        self.stopping = False

    def run(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal reaches the Dask worker, which tells us
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        pause, born = _FORK_PAUSE_S, 0.0
        while not self.stopping:
            if not self.child:
                if self.orphaned:
                    return
                born = time.monotonic()
                self.fork()
            watched = [wake_read] if self.orphaned else [wake_read, sys.stdin.fileno()]
            readable, _, _ = select.select(watched, [], [], 1.0)
            if wake_read in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
            if not self.orphaned and sys.stdin.fileno() in readable:
                self.orders_arrive()
            if self.child and (ended := os.waitpid(self.child, os.WNOHANG))[0]:
                log.warning("host process ended", extra={"pid": self.child, "status": ended[1]})
                self.child = 0
                if not self.orphaned:
                    pause = min(2 * pause, 1.0) if time.monotonic() - born < 1.0 else _FORK_PAUSE_S
                    time.sleep(pause)
            elif self.child:
                self.end_frozen()
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)

    def end_frozen(self) -> None:
        """A host that is silent for too long is killed; it is followed by another as any that ended."""
        silent_s, most_s = self.pulse.silent_s(), settings().host_silence_s
        if not self.pulse.beats:  # what it takes to begin, such as a GPU's driver, is none of its turns
            most_s = max(most_s, settings().start_timeout_s)
        if silent_s > most_s:
            about = {"pid": self.child, "silent_s": round(silent_s, 1), "bound": "RIOS_HOST_SILENCE_S"}
            log.error("host process does not answer; starting another", extra=about)
            os.kill(self.child, signal.SIGKILL)
            self.pulse = Pulse()  # it is collected at the next turn; one that even this does not end is told of again

    def orders_arrive(self) -> None:
        data = os.read(sys.stdin.fileno(), 4096)
        if not data:
            self.orphaned = True
            if self.child:
                os.kill(self.child, signal.SIGUSR1)
        elif b"stop" in data:
            self.stop()

    def stop(self) -> None:
        self.stopping = True

    def fork(self) -> None:
        self.pulse = Pulse()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                self.serve()
                code = 0
            except Exception:
                log.exception("host failed")
            finally:
                os._exit(code)
        self.child = child
        self.say({"pid": child, "port": self.listener.getsockname()[1], "machine": self.machine})

    def say(self, line: dict[str, Any]) -> None:
        try:
            _say(line)
        except OSError:
            self.orphaned = True  # nobody listens any more: the same as the end of standard input

    def serve(self) -> None:
        """In the child: the host itself. It dies with its supervisor."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        module, _, name = str(self.orders.get("host_class") or "rios.dmoe.host:Host").partition(":")
        host_class = getattr(importlib.import_module(module), name)
        host = host_class(
            self.listener,
            name=self.orders["name"],
            key=self.orders["key"],
            settings=settings(),
            memory_bytes=self.orders.get("memory_bytes"),
            ram_bytes=self.orders.get("ram_bytes"),
        )

        def orphan(*_: object) -> None:
            host.orphaned_at = time.monotonic()

        signal.signal(signal.SIGUSR1, orphan)
        signal.signal(signal.SIGTERM, lambda *_: host.stop())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        host.run(self.pulse.beat)


if __name__ == "__main__":
    main()
