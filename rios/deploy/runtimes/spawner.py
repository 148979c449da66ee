"""A process that has imported what watchers need once, of which they are forked: a third of a sandbox's start was that.

One for each process that starts sandboxes. It waits for orders on a socket that its starter alone has, forks, and does
nothing else. When the starter ends it ends too, and its children, which have sessions of their own, go on.

An order is JSON, {"module", "numbers"}, with descriptors: where the child's own is answered, then those that the child
shall have under `numbers`, the first three of which are its standard streams.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import select
import socket
import sys
import traceback

from rios.deploy.runtimes import relay_process, shim  # noqa: F401  what children shall find imported

ORDER_MAX, DESCRIPTORS_MAX = 1 << 12, 16
_LOOK_S = 0.5
_ABOVE = 512
"""Descriptors that arrive are moved up here first, out of the way of the numbers that they shall have."""


def main() -> None:
    """Fork whenever the starter asks, until it ends."""
    channel = socket.socket(fileno=0)
    children: set[int] = set()
    while True:
        asked, _, _ = select.select([channel], [], [], _LOOK_S)
        children = {child for child in children if os.waitpid(child, os.WNOHANG)[0] == 0}
        if not asked:
            continue
        order, found, _, _ = socket.recv_fds(channel, ORDER_MAX, DESCRIPTORS_MAX)
        if not order:
            return
        child = os.fork()
        if child == 0:
            _become(json.loads(order), found)
        children.add(child)
        with contextlib.suppress(OSError), socket.socket(fileno=found.pop(0)) as answer:  # whoever asked may have gone
            process = os.pidfd_open(child)
            socket.send_fds(answer, [b"forked"], [process])
            os.close(process)
        for fd in found:
            os.close(fd)


def _become(order: dict[str, object], found: list[int]) -> None:
    """In the child: a watcher. Does not return."""
    code = 1
    try:
        os.setsid()
        numbers = order["numbers"]
        assert isinstance(numbers, list)
        os.close(found[0])
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in found[1:]]
        for fd in found[1:]:
            os.close(fd)
        for fd, number in zip(moved, numbers, strict=True):
            os.dup2(fd, number)
            os.close(fd)
        importlib.import_module(str(order["module"])).main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 -- a forked process must end here, whatever happens
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
