"""Sees to it that a file system which somebody froze does not stay frozen, whatever becomes of who did: run beside him.

    python -I -S thawing.py FD SECONDS

It says one byte when it watches. When its standard input ends, for who froze was done or was killed, or after so many
seconds, for he was stopped, it thaws the file system that the inherited descriptor FD is of.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import sys

FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878


def thaw(fd: int) -> bool:
    """Let writers of a file system go on; whether it was frozen. Raises OSError."""
    try:
        fcntl.ioctl(fd, _FITHAW, struct.pack("i", 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def main() -> None:
    """As the module says."""
    fd, within_s = int(sys.argv[1]), float(sys.argv[2])
    os.write(1, b".")
    select.select([0], [], [], within_s)
    thaw(fd)


if __name__ == "__main__":
    main()
