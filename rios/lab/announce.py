"""A network lets the panels of its user find it: a file that the user alone can read, and a socket behind it.

The file lies in Jupyter's runtime directory and names a Unix socket, in a directory of its own that nobody else may
enter, and a key that each request must bear. Both go with the network, and what a killed process left is swept up by
whoever lists the files.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rios.lab.service import Service

PREFIX = "rios-network-"
VERSION = 1


def runtime_dir() -> Path:
    """Jupyter's runtime directory of this user, made where it is not there yet."""
    from jupyter_core.paths import jupyter_runtime_dir

    found = Path(jupyter_runtime_dir())
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


def announce(network: Any, *, kind: str, child: str | None = None) -> Callable[[], None]:
    """Serve the panel of a network to this user until what is returned is called. Raises OSError.

    kind: local or remote. child: what the server that started this process calls it.
    """
    network_id = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="rios-"))  # 0700
    key = secrets.token_urlsafe(32)
    service = Service(weakref.ref(network), kind=kind, socket=folder / "panel", key=key)
    file = runtime_dir() / f"{PREFIX}{network_id}.json"

    def end() -> None:
        file.unlink(missing_ok=True)
        service.close()
        shutil.rmtree(folder, ignore_errors=True)

    try:
        service.start()
        _write(
            file,
            {
                "version": VERSION,
                "id": network_id,
                "pid": os.getpid(),
                "kernel": kernel_id(),
                "child": child,
                "kind": kind,
                "address": network.address,
                "started_at": time.time(),
                "socket": str(folder / "panel"),
                "key": key,
            },
        )
    except BaseException:
        end()
        raise
    return end


def kernel_id() -> str | None:
    """The id under which Jupyter Server knows this process, where it is a kernel."""
    module = sys.modules.get("ipykernel.kernelapp")
    if module is None or not module.IPKernelApp.initialized():
        return None
    return Path(module.IPKernelApp.instance().connection_file).stem.removeprefix("kernel-")


def _write(file: Path, said: dict[str, Any]) -> None:
    """Whole or not at all, and never for a moment readable to others."""
    fresh = file.with_suffix(".part")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(said, out)
    fresh.replace(file)
