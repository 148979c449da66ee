"""Hosts that do not see a checkpoint which the client sees."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rios.dmoe.host import Host


class BlindHost(Host):
    """Says that no checkpoint is there: for machines on which a test may not mount."""

    def sees(self, path: Path, files: Mapping[str, int]) -> bool:
        return False


def environment(hidden: Path, folder: Path) -> tuple[str, dict[str, str]]:
    """An interpreter for hosts that do not see the directory `hidden`, and what their environment needs.

    It runs in a mount namespace of its own, in which an empty file system lies over the directory.
    """
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs none {shlex.quote(str(hidden))}"
    try:
        subprocess.run([*unshare, "sh", "-c", mount], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return sys.executable, {"RIOS_HOST_CLASS": "tests.blind:BlindHost"}
    script = folder / "python"
    run = f'{mount} && exec {shlex.quote(sys.executable)} "$@"'
    script.write_text(f'#!/bin/sh\nexec {shlex.join([*unshare, "sh", "-c", run])} sh "$@"\n')
    script.chmod(0o755)
    return str(script), {}
