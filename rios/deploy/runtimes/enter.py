"""Becoming one more process of a running sandbox, with its namespaces, its user, its limits and its filter.

`main` is run with the number of a descriptor that says, as JSON, what to do; then it is the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from rios.deploy.runtimes import kernel

# The user namespace last: it is one inside that which the others belong to, and has no rights over them.
_NAMESPACES = ("net", "cgroup", "ipc", "uts", "pid", "mnt", "user")
CANNOT = 126


def _join(task: dict[str, Any]) -> None:
    """All but the process namespace, which only children are born into."""
    for entrance in task["entrances"]:
        Path(entrance).write_text("0")
    for name, value in task["rlimits"].items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (limit, limit))
    opened = [os.open(f"/proc/{task['first']}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES]
    if os.getuid() != 0:
        kernel.setns(kernel.owner_of(opened[0]), kernel.CLONE_NEWUSER)
    for fd in opened:
        kernel.setns(fd)


def _become(task: dict[str, Any], filter_program: bytes) -> None:
    for signal_number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signal_number, signal.SIG_DFL)  # Python ignores them, and so would the command
    with contextlib.suppress(PermissionError):  # a user namespace may forbid it, and then there are none to lose
        os.setgroups([])
    os.setresgid(task["user"], task["user"], task["user"])
    os.setresuid(task["user"], task["user"], task["user"])
    os.chdir(task["workdir"])
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    if filter_program:
        kernel.load_seccomp(filter_program)
    os.execvpe(task["command"][0], task["command"], task["env"])  # noqa: S606 -- no shell is wanted


def main() -> None:
    """Join the sandbox that its starter tells of, and become the command."""
    task = json.loads(os.read(int(sys.argv[1]), 8 << 20))
    filter_program = Path(task["seccomp"]).read_bytes() if task["seccomp"] else b""
    os.umask(0o022)
    try:
        _join(task)
        child = os.fork()
    except OSError as error:
        sys.stderr.write(f"the sandbox cannot be entered: {error}\n")
        sys.exit(CANNOT)
    if child == 0:
        try:
            kernel.die_with_parent(signal.SIGKILL)
            _become(task, filter_program)
        except FileNotFoundError:
            os.write(2, f"{task['command'][0]}: not found\n".encode())
            os._exit(127)
        except BaseException as error:  # noqa: BLE001 -- a forked process must end here, whatever happens
            os.write(2, f"{task['command'][0]}: {error}\n".encode())
        finally:
            os._exit(CANNOT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)
