"""What a replica stands on, as its specification says it: an image, an archive, or a view of the host's programs."""

from __future__ import annotations

import shutil
import sys

from rios.deploy.runtimes.protocol import HostBase, ImageBase
from rios.deploy.runtimes.rootfs import split_name
from rios.deploy.spec import GATEWAY, App
from rios.words.errors import InvalidRequest, UnsupportedRuntime

_PATH = "/usr/local/bin:/usr/bin:/bin"


def source_of(image: ImageBase | None, rootfs: str | None) -> str | None:
    """What a replica stands on, by its digest. None for the host's programs.

    Raises InvalidRequest for an archive without a digest: no host opens a path that a deployment names.
    """
    if rootfs is None:
        return None if image is None else image.digest
    path, digest = split_name(rootfs)
    if not digest:
        raise InvalidRequest(f"the archive {path} was never taken in: update the deployment with rootfs={path!r}")
    return digest


def _interpreter(app: App) -> str | None:
    """The directory of the interpreter that a function needs, where it is not among the host's own programs."""
    if app.python is None or shutil.which(f"python{app.python.python}", path=_PATH):
        return None
    if app.python.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.base_prefix
    raise UnsupportedRuntime(
        f"{app.name} is a function for Python {app.python.python}, which this host does not have: give it an image"
    )


def view_of(app: App) -> HostBase:
    """The host's programs; for a function its interpreter too, which may lie elsewhere."""
    found = _interpreter(app)
    return HostBase() if found is None else HostBase(also={found: found})


def own_env(app: App) -> dict[str, str]:
    """What an application is told about itself, where it says nothing else."""
    found = {"RIOS_APP": app.name}
    if app.port is not None:
        found["PORT"] = str(app.port)
    if app.asks_gateway:
        found["RIOS_GATEWAY_URL"] = f"http://{GATEWAY}"
    if app.python is not None and (place := _interpreter(app)) is not None:
        found["PATH"] = f"{place}/bin:{_PATH}"
    return found
