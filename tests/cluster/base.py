"""A slim Python to build an image upon, of this machine's own files, for `python:3.11-slim`: no registry is asked."""

from __future__ import annotations

import ensurepip
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

from tests.conftest import SYSTEM_PATH
from tests.deploy.images import add, libraries

_LEFT_OUT = {"__pycache__", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter", "turtledemo"}
_LIBRARIES = "libstdc++.so.6 libgcc_s.so.1 libgomp.so.1 libz.so.1 libdl.so.2 libpthread.so.0 librt.so.1"
"""Which wheels expect of a machine."""


def make_base(path: Path) -> Path:
    """A tar archive with busybox, the whole of this Python, and pip."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(path, "w") as tar:
        busybox = shutil.which("busybox", path=SYSTEM_PATH)
        assert busybox is not None
        add(tar, "bin/busybox", Path(busybox).read_bytes(), 0o755)
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in {*listed} - {"busybox"}:
            _link(tar, f"bin/{name}", "busybox")
        add(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        add(tar, "etc/group", b"root:x:0:\n")
        binary = Path(sys.base_prefix, "bin", version)
        add(tar, f"usr/local/bin/{version}", binary.read_bytes(), 0o755)
        for name in ("python3", "python"):
            _link(tar, f"usr/local/bin/{name}", version)
        _link(tar, "usr/bin/env", "/bin/busybox")
        extensions = [*(library / "lib-dynload").glob("*.so")]
        cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
        known = {line.split()[0]: Path(line.split()[-1]) for line in cache.splitlines()[1:] if "x86-64" in line}
        needed = {*libraries([binary, *extensions]), *(known[name] for name in _LIBRARIES.split() if name in known)}
        for one in sorted({*needed, *libraries([*needed])}):
            folder = "lib64" if one.name.startswith("ld-linux-x86-64") else "lib"
            add(tar, f"{folder}/{one.name}", one.read_bytes(), 0o755)
        for one in sorted(library.rglob("*")):
            if one.is_file() and not _LEFT_OUT & {*one.relative_to(library).parts}:
                add(tar, f"usr/local/lib/{version}/{one.relative_to(library)}", one.read_bytes())
        (pip,) = Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")
        with zipfile.ZipFile(pip) as archive:
            for name in archive.namelist():
                add(tar, f"usr/local/lib/{version}/site-packages/{name}", archive.read(name))
    return path


def _link(tar: tarfile.TarFile, path: str, target: str) -> None:
    link = tarfile.TarInfo(path)
    link.type, link.linkname = tarfile.SYMTYPE, target
    tar.addfile(link)
