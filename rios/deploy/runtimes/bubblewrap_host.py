"""What a host can do with bubblewrap, found out by trying."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rios.deploy.runtimes import arguments, cgroup, seccomp
from rios.deploy.runtimes.gpus import Gpus
from rios.deploy.runtimes.protocol import Capabilities, Isolation


class BubblewrapHost:
    """The program, the system call filter and the control groups of this host."""

    def __init__(self, directory: Path, uid: int, gpus: Gpus) -> None:
        """directory: where the filter is written. uid: whom sandboxes run as on the host."""
        self._directory, self._gpus = directory, gpus
        self.root = os.getuid() == 0
        self.uid = uid if self.root else os.getuid()

    @functools.cached_property
    def program(self) -> str | None:
        """Its path, or None where it is not installed."""
        return shutil.which("bwrap")

    @functools.cached_property
    def filter(self) -> Path | None:
        """The file with the system call filter, or None where it cannot be made here."""
        if not seccomp.available():
            return None
        path = self._directory / "seccomp.bpf"
        program = seccomp.program()
        if not path.exists() or path.read_bytes() != program:
            with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as file:
                file.write(program)
            Path(file.name).replace(path)
        return path

    @functools.cached_property
    def layout(self) -> int:
        """The version of the control groups, 0 where none can be made."""
        return cgroup.version()

    @functools.cached_property
    def why_not(self) -> str:
        """Why no sandbox can be made here; empty where one can."""
        if self.program is None:
            return "bubblewrap is not installed: install the package bubblewrap"
        tried = subprocess.run(
            [self.program, "--unshare-all", "--ro-bind", "/usr", "/usr", *arguments.host_links(), "true"],
            capture_output=True,
            timeout=30,
            check=False,
            user=self.uid if self.root else None,
            group=self.uid if self.root else None,
            extra_groups=[] if self.root else None,
        )
        if tried.returncode != 0:
            said = tried.stderr.decode(errors="replace").strip()
            return f"bubblewrap cannot make a sandbox here ({said}): allow unprivileged user namespaces"
        return ""

    def no_gpus(self) -> str:
        """Why no sandbox gets a GPU; empty where it does."""
        why = self._gpus.why_not()
        if not why and not self.layout:
            why = (
                "gets no GPU: without control groups memory is limited as addresses, of which CUDA takes far more than "
                "memory; run the host agent as root"
            )
        return why

    def capabilities(self) -> Capabilities:
        """As the protocol has it."""
        group = self.layout != 0
        notes = []
        if not group:
            notes.append(
                "no control group can be made here (not root, or no controllers): memory and processes are limited one "
                "process at a time, CPU time is not, and what is used is not metered"
            )
        if self.filter is None:
            notes.append("no system call filter: libseccomp is missing")
        return Capabilities(
            name="bubblewrap",
            isolation=Isolation.PROCESS,
            why_not=self.why_not,
            host_base=True,
            cpu="cgroup" if group else "none",
            memory="cgroup" if group else "rlimit",
            pids="cgroup" if group else "none",
            port=True,
            egress=True,
            pause=True,
            metered=group,
            volume_quota="enforced" if self.root else "watched",
            seccomp=self.filter is not None,
            notes=tuple(notes),
        )
