"""What gVisor is asked for directly, because no engine passes it on."""

from __future__ import annotations

import subprocess
from pathlib import PurePosixPath

_WITHIN_S = 10.0
_NAME_MAX = 15
"""Characters that the kernel keeps of a command's name."""


def kill_inside(program: str, container: str, command: str) -> None:
    """End commands of that name which were run inside a container after its start.

    The process on the host is only the one that asked for it. Two of one name are not told apart: both end.
    """
    listed = subprocess.run(
        [program, "ps", container], capture_output=True, text=True, timeout=_WITHIN_S, check=False
    ).stdout
    name = PurePosixPath(command).name[:_NAME_MAX]
    for row in listed.splitlines()[1:]:
        _, pid, parent, *_, running = row.split()
        if parent == "0" and pid != "1" and running[:_NAME_MAX] == name:
            kill = [program, "kill", "-pid", pid, container, "KILL"]
            subprocess.run(kill, capture_output=True, timeout=_WITHIN_S, check=False)
