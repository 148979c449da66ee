"""Ends what a network without a home had run, when its process was killed before it could do so itself.

A process of its own that waits for its parent's end; then it removes all instances of a directory, and the directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_LOOK_S = 0.5
_ENDS_S = 5.0


def start_reaper(directory: Path) -> subprocess.Popen[bytes]:
    """Begin to wait for the end of this process. Ended by `end_reaper` where this process has cleared up itself."""
    return subprocess.Popen(
        [sys.executable, "-m", "rios.services.deployments.reaper", str(directory), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_reaper(reaper: subprocess.Popen[bytes]) -> None:
    """It is not needed any more."""
    reaper.kill()
    reaper.wait(_ENDS_S)


def main(directory: Path, parent: int) -> None:
    """Wait, and clear up."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    from rios.services.deployments.machine import clear_up

    clear_up(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
