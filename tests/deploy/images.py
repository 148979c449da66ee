"""Root file systems and images for sandboxes, made of this machine's own programs: no registry is asked."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import SYSTEM_PATH

_APPLETS = "cat chmod cp dd echo env false grep id kill ln ls mkdir mount nc ps rm sh sleep true umount wc wget"
PYTHON = "/usr/local/bin/python3"
_PACKAGES = {"collections", "concurrent", "ctypes", "encodings", "importlib", "json", "logging", "re"}
_EXTENSIONS = """
    _bisect _contextvars _ctypes _heapq _json _opcode _posixsubprocess _random _socket _struct _uuid array binascii
    fcntl grp math mmap resource select termios unicodedata
"""


def add(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))


def libraries(binaries: list[Path]) -> set[Path]:
    out = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=True).stdout
    return {Path(found) for found in re.findall(r"^\s.*?(/\S+)", out, re.MULTILINE)}


def _add_python(tar: tarfile.TarFile) -> None:
    """This interpreter and most of its standard library."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    binary = Path(sys.base_prefix, "bin", version)
    extensions = [path for name in _EXTENSIONS.split() for path in (library / "lib-dynload").glob(f"{name}.*.so")]
    binaries = [binary, *extensions]
    add(tar, "usr/local/bin/python3", binary.read_bytes(), 0o755)
    for needed in sorted(libraries(binaries)):
        at = f"lib64/{needed.name}" if needed.name.startswith("ld-linux-x86-64") else f"lib/{needed.name}"
        add(tar, at, needed.read_bytes(), 0o755)
    sources = [*library.glob("*.py"), *(path for name in _PACKAGES for path in (library / name).rglob("*.py"))]
    for path in sorted((*sources, *extensions)):
        add(tar, f"usr/local/lib/{version}/{path.relative_to(library)}", path.read_bytes())


def make_rootfs(path: Path, *, python: bool = True) -> Path:
    """A tar archive with busybox, one privileged copy of it, and Python."""
    busybox = subprocess.run(
        ["sh", "-c", "command -v busybox"], env={"PATH": SYSTEM_PATH}, capture_output=True, text=True, check=True
    )
    program = Path(busybox.stdout.strip()).read_bytes()
    with tarfile.open(path, "w") as tar:
        add(tar, "bin/busybox", program, 0o755)
        add(tar, "bin/privileged", program, 0o6755)
        for name in _APPLETS.split():
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        add(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        if python:
            _add_python(tar)
    return path


def make_image(
    path: Path,
    tag: str,
    *,
    command: tuple[str, ...],
    env: tuple[str, ...] = (),
    rootfs: Path | None = None,
    labels: Mapping[str, str] | None = None,
) -> Path:
    """An image as `docker save` writes it, with that tag: one layer, and a command of its own.

    rootfs: the layer; one without Python is made where it is not given.
    """
    layer = (rootfs or make_rootfs(path.with_suffix(".layer"), python=False)).read_bytes()
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": {"Cmd": list(command), "Env": list(env), "User": "0", "Labels": dict(labels or {})},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for entry, content in ((name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            add(tar, entry, content)
    return path
