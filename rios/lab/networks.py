"""The networks that a Jupyter Server shows: made in its kernels, or started by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rios.lab.announce import PREFIX, VERSION, runtime_dir
from rios.words import errors
from rios.words.errors import InvalidRequest, NotFound, NoWorkers, RiosError

log = logging.getLogger(__name__)

START_S = 120.0
"""A network that was asked for is there within this, or its process is ended."""
_END_S = 10.0
_SIZE_MAX = 1 << 16
WORKERS_MAX = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A network that can be asked. Neither socket nor key leaves the server."""

    id: str
    kind: str
    address: str
    pid: int
    kernel: str | None
    child: str | None
    started_at: float
    socket: str
    key: str

    def __repr__(self) -> str:
        return f"<Found {self.kind} network {self.id} of process {self.pid}>"

    def to_dict(self) -> dict[str, Any]:
        """As a browser may see it."""
        return {name: getattr(self, name) for name in ("id", "kind", "address", "kernel", "started_at")}


class Networks:
    """Finds networks by their files, and starts and ends those of its own. Close it."""

    def __init__(self, kernels: Callable[[], set[str]]) -> None:
        """kernels: the ids of the kernels of this server."""
        self._kernels = kernels
        self._children: dict[str, asyncio.subprocess.Process] = {}

    def all(self) -> list[Found]:
        """Those of this server, oldest first. Files of other users, or of processes that have gone, are not taken."""
        kernels = self._kernels()
        found = [one for file in runtime_dir().glob(f"{PREFIX}*.json") if (one := _read(file)) is not None]
        ours = [one for one in found if one.kernel in kernels or one.child in self._children]
        return sorted(ours, key=lambda one: (one.started_at, one.id))

    async def shown(self, sessions: Any) -> list[dict[str, Any]]:
        """As a browser may see them, with the path of a kernel's notebook. sessions: Jupyter's session manager."""
        found = self.all()
        paths: dict[str, str] = {}
        if any(one.kernel for one in found):
            for one in await sessions.list_sessions():
                paths[(one.get("kernel") or {}).get("id", "")] = one.get("path") or ""
        return [{**one.to_dict(), "notebook": paths.get(one.kernel or "", "")} for one in found]

    def get(self, network_id: str) -> Found:
        """One of them. Raises NotFound."""
        for one in self.all():
            if one.id == network_id:
                return one
        raise NotFound("this network has gone: its kernel was restarted, or it was closed; choose another one")

    async def start(self, wanted: dict[str, Any]) -> Found:
        """Start a network in a process of its own: {"kind": "local", "workers": 2}, or {"kind": "remote", "url": ...,
        "token": ..., "ca": ...}; `ca` is a file of this machine.

        Raises InvalidRequest, NoWorkers, and what making it raises.
        """
        wanted = _checked(wanted)
        name = secrets.token_hex(8)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rios.lab.child", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._children[name] = process
        try:
            process.stdin.write(json.dumps({**wanted, "child": name}).encode() + b"\n")
            line = await asyncio.wait_for(process.stdout.readline(), START_S)
            said = json.loads(line) if line.strip() else {}
            if "ready" not in said:
                raise _error_of(said)
            return next(one for one in self.all() if one.child == name)
        except BaseException as error:
            await self._end(name)
            if isinstance(error, (TimeoutError, OSError, ValueError, StopIteration)) and not isinstance(
                error, RiosError
            ):
                raise NoWorkers(
                    f"the network was not there within {START_S:g} s; the server's log says more"
                ) from error
            raise

    async def stop(self, network_id: str) -> None:
        """End a network that was started here. Raises NotFound, InvalidRequest for one of a kernel."""
        found = self.get(network_id)
        if found.child is None:
            raise InvalidRequest("this network lives in a notebook's kernel: close it there, or shut the kernel down")
        await self._end(found.child)

    async def close(self) -> None:
        """End all that was started here."""
        await asyncio.gather(*(self._end(name) for name in list(self._children)))

    async def _end(self, name: str) -> None:
        process = self._children.pop(name, None)
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _checked(wanted: dict[str, Any]) -> dict[str, Any]:
    kind = wanted.get("kind")
    if kind == "local":
        workers = wanted.get("workers", 2)
        if type(workers) is not int or not 1 <= workers <= WORKERS_MAX:
            raise InvalidRequest(f"workers is {workers!r}; it must be a whole number from 1 to {WORKERS_MAX}")
        return {"kind": kind, "workers": workers}
    if kind == "remote":
        url, token, ca = wanted.get("url"), wanted.get("token") or None, wanted.get("ca") or None
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            raise InvalidRequest(f"url is {url!r}; it must be that of a gateway, such as https://rios.lab.example")
        if not all(one is None or isinstance(one, str) for one in (token, ca)):
            raise InvalidRequest("token and ca must be texts")
        return {"kind": kind, "url": url, "token": token, "ca": ca}
    raise InvalidRequest(f"kind is {kind!r}; it must be local or remote")


def _error_of(said: dict[str, Any]) -> RiosError:
    kind = getattr(errors, str(said.get("type", "")), None)
    if isinstance(kind, type) and issubclass(kind, RiosError) and kind is not errors.TooManyRequests:
        return kind(str(said.get("detail", "")))
    return NoWorkers(str(said.get("detail") or "the network could not be made; the server's log says more"))


def _read(file: Path) -> Found | None:
    """What a file says, if this user wrote it for itself and the process lives; what a dead one left is removed."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # gone meanwhile, or no file of ours
    with os.fdopen(descriptor, "rb") as opened:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
            log.warning("a file of a network is not this user's alone, and is not believed", extra={"file": str(file)})
            return None
        try:
            said = json.loads(opened.read(_SIZE_MAX))
            if said.pop("version") != VERSION:
                return None
            found = Found(**said)
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("a file of a network cannot be read", extra={"file": str(file)})
            return None
    if not _lives(found.pid):
        file.unlink(missing_ok=True)
        return None
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
