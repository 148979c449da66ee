"""What gVisor is asked for directly, because no engine passes it on."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import PurePosixPath

_WITHIN_S = 10.0
GPU_FLAG = "nvproxy"
_NAME_MAX = 15
"""Characters that the kernel keeps of a command's name."""


def kill_inside(program: str, container: str, command: str) -> None:
    """End commands of that name which were run inside a container after its start.

    The process on the host is only the one that asked for it. Two of one name are not told apart: both end. Nothing
    happens where the sandbox does not answer in time.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        _kill_named(program, container, command)


def _kill_named(program: str, container: str, command: str) -> None:
    # It looks for containers in the runtime directory of a session where there is one; podman starts it without.
    env = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    listed = subprocess.run(
        [program, "ps", container], capture_output=True, text=True, timeout=_WITHIN_S, check=False, env=env
    ).stdout
    name = PurePosixPath(command).name[:_NAME_MAX]
    for row in listed.splitlines()[1:]:
        _, pid, parent, *_, running = row.split()
        if parent == "0" and pid != "1" and running[:_NAME_MAX] == name:
            kill = [program, "kill", "-pid", pid, container, "KILL"]
            subprocess.run(kill, capture_output=True, timeout=_WITHIN_S, check=False, env=env)


def why_no_gpu(program: str) -> str:
    """Why this runsc passes no GPU on; empty where it does. It says what its flags are."""
    said = subprocess.run([program, "flags"], capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    words = f"{said.stdout}\n{said.stderr}".split()
    if any(word.lstrip("-") == GPU_FLAG for word in words if word.startswith("-")):
        return ""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    named = version.stdout.partition("\n")[0] or "this runsc"
    return f"passes no GPU on: {named} knows no --{GPU_FLAG}; install a newer release, or ask for runc or bubblewrap"
