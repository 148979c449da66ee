"""The process that serves shards and trunks: one listening port, one thread a connection.

Roles of a connection, named in its greeting:
    control   a client loads, drops and asks; its session keeps deployments alive (a lease)
    data      a trunk sends rows to experts
    client    a client sends requests to a trunk and reads tokens
    shards    a host fetches shard bytes from another
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from rios.dmoe import device as devices
from rios.dmoe.calls import Exec
from rios.dmoe.certified import OwnCertificate
from rios.dmoe.data import serve_data
from rios.dmoe.door import Door
from rios.dmoe.experts import ExpertStore
from rios.dmoe.fetch import PeerSource
from rios.dmoe.hosted import Hosted, MemoryBudget
from rios.dmoe.manifest import Manifest
from rios.dmoe.offer import serve_shards
from rios.dmoe.peer import Peer
from rios.dmoe.serving import TrunkService, serve_client
from rios.dmoe.source import ByteSource, FileSource
from rios.dmoe.tensors import NAMES
from rios.dmoe.wire import Connection, Frame, Kind, dump
from rios.words.config import Settings
from rios.words.errors import (
    HostLost,
    InsufficientMemory,
    InvalidRequest,
    ProtocolError,
    RiosError,
    UnsupportedCheckpoint,
)

log = logging.getLogger(__name__)

# A client that lost its connection is back before; without it an orphan would end in the midst of an answer.
_BETWEEN_S = 5.0


def machine_id() -> str:
    """The same for two processes exactly when they can share memory: boot, IPC and PID namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [boot.read_text().strip() if boot.exists() else platform.node()]
    parts += [str(link.readlink()) for kind in ("ipc", "pid") if (link := Path(f"/proc/self/ns/{kind}")).exists()]
    return "/".join(parts)


class Host:
    """One serving process. `run` blocks until `stop`."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        name: str,
        key: str,
        settings: Settings,
        memory_bytes: int | None = None,
        ram_bytes: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.device = device if device is not None else devices.pick()
        self.machine = machine_id()
        self.incarnation = os.urandom(8).hex()
        self.budget = MemoryBudget(self._capacity_bytes(memory_bytes, ram_bytes))
        self.speed = devices.measure_speed(self.device)
        self.deployments: dict[str, Hosted] = {}
        self.calls = 0
        self.compute_ns = 0
        self.rows = 0
        self.started = time.time()
        self.orphaned_at: float | None = None
        self._work_seen = 0
        self._used_at = -math.inf
        self._door = Door(listener, self._role, key=key, settings=settings, name="rios-serve")
        self._handles = itertools.count(1)
        self._lock = threading.RLock()
        self._controls = 0
        self._operations: dict[str, Callable[[dict[str, Any], Frame, str], dict[str, Any]]] = {
            "info": self._info,
            "look": self._look,
            "open": self._open,
            "load": self._load,
            "drop": self._drop,
            "trunk": self._trunk,
            "untrunk": self._untrunk,
            "route": self._route,
            "load_counts": self._load_counts,
            "close": self._close,
        }
        if self._door.trust is not None:
            self._operations |= OwnCertificate(self._door.trust).operations()

    def _capacity_bytes(self, memory_bytes: int | None, ram_bytes: int | None) -> int:
        """What shards, trunks and caches may take: never more than is free on the device now.

        memory_bytes bounds them wherever they lie, ram_bytes (Dask's limit) in main memory alone.
        """
        bounds = [int(devices.free_bytes(self.device) * self.settings.memory_fraction)]
        if memory_bytes:
            bounds.append(memory_bytes)
        if ram_bytes and self.device.type == "cpu":
            bounds.append(ram_bytes)
        return min(bounds)

    # --- life ------------------------------------------------------------------------------------------------

    def run(self, beat: Callable[[], None] | None = None) -> None:
        """Accept connections until `stop`. beat: called whenever it turns to them, at least twice a second."""
        threading.Thread(target=self._reap, name="rios-reaper", daemon=True).start()
        self._door.run(beat)

    def stop(self) -> None:
        """End `run` and close every connection."""
        self._door.stop()

    def _reap(self) -> None:
        """Drop deployments whose clients have all gone, and end an orphan that nobody uses."""
        while not self._door.stopped.wait(0.25):
            now = time.monotonic()
            for hosted in list(self.deployments.values()):
                if not hosted.sessions and now - hosted.idle_since > self.settings.lease_s:
                    log.info("lease ended", extra={"deployment": hosted.name})
                    with self._lock:
                        self.deployments.pop(hosted.name, None)
                    hosted.close()
            self._look_at_use(now)
            if self.orphaned_at is not None and self._is_left(now, self.orphaned_at):
                self.stop()

    def _look_at_use(self, now: float) -> None:
        """Calls that were answered and steps that trunks made: a client that is merely connected uses nothing."""
        trunks = [hosted.trunk for hosted in list(self.deployments.values()) if hosted.trunk is not None]
        work = self.calls + sum(trunk.batch.steps for trunk in trunks)
        if work != self._work_seen:
            self._work_seen, self._used_at = work, now

    def _is_left(self, now: float, orphaned_at: float) -> bool:
        """Whether an orphan may end: nobody is connected, or it was not used for `orphan_s`."""
        if not self._controls:
            return not self.deployments or now - self._used_at > _BETWEEN_S
        return now - max(self._used_at, orphaned_at) > self.settings.orphan_s

    def _role(self, connection: Connection, hello: dict[str, Any]) -> None:
        role = hello.get("role")
        if role == "control":
            self._serve_control(connection, str(hello.get("session", "")))
        elif role == "data":
            serve_data(self, connection, self._find(connection, hello))
        elif role == "client":
            serve_client(connection, self._find(connection, hello), self.settings)
        elif role == "shards":
            serve_shards(connection, self._find(connection, hello).offer)
        else:
            raise ProtocolError(f"unknown role {role!r}")

    def _find(self, connection: Connection, hello: dict[str, Any]) -> Hosted:
        hosted = self.deployments.get(str(hello.get("deployment")))
        if hosted is None:
            message = f"host {self.name} has no deployment {hello.get('deployment')!r}"
            connection.send(Kind.ERROR, 0, dump({"error": "NotDeployed", "message": message}), timeout_s=1.0)
            raise HostLost(message)
        return hosted

    def reply(self, call: Exec, output: torch.Tensor) -> torch.Tensor:
        """The answer to a call, [slots or rows, hidden]: where a subclass may look at it, delay or change it."""
        return output

    # --- control ---------------------------------------------------------------------------------------------

    def _serve_control(self, connection: Connection, session: str) -> None:
        with self._lock:
            self._controls += 1
        entered: set[str] = set()
        try:
            connection.send(Kind.WELCOME, 0, dump(self._info({}, None, session)), timeout_s=1.0)
            while True:
                frame = connection.receive()
                if frame.kind is not Kind.CALL:
                    raise ProtocolError(f"a control connection carries CALL, not {frame.kind.name}")
                request = frame.json()
                try:
                    operation = self._operations.get(str(request.get("op")))
                    if operation is None:
                        raise InvalidRequest(f"unknown operation {request.get('op')!r}")
                    answer = operation(request, frame, session)
                    if request["op"] == "open" and request["deployment"] not in entered:
                        entered.add(request["deployment"])
                        self.deployments[request["deployment"]].enter(session)
                except RiosError as error:
                    answer = {"error": type(error).__name__, "message": str(error)}
                except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
                    answer = {"error": "InvalidRequest", "message": f"{request.get('op')}: {error!r}"}
                except (MemoryError, RuntimeError) as error:
                    log.exception("operation failed", extra={"op": request.get("op")})
                    kind = InsufficientMemory if devices.out_of_memory(error) else RiosError
                    answer = {"error": kind.__name__, "message": f"host {self.name}: {error}"}
                connection.send(Kind.ANSWER, frame.seq, dump(answer), timeout_s=self.settings.control_timeout_s)
        finally:
            for name in entered:
                hosted = self.deployments.get(name)
                if hosted is not None:
                    hosted.leave(session)
            with self._lock:
                self._controls -= 1

    def _info(self, request: dict[str, Any], frame: Frame | None, session: str) -> dict[str, Any]:
        return {
            "name": self.name,
            "pid": os.getpid(),
            "incarnation": self.incarnation,
            "machine": self.machine,
            "node": platform.node(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "speed": self.speed,
            "memory_bytes": self.budget.capacity_bytes,
            "reserved_bytes": self.budget.reserved_bytes,
            "rss_bytes": psutil.Process().memory_info().rss,
            "gpu": devices.utilisation(self.device),
            "calls": self.calls,
            "rows": self.rows,
            "compute_ns": self.compute_ns,
            "deployments": {hosted.name: hosted.stats() for hosted in list(self.deployments.values())},
        }

    def _open(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        """Make a deployment known: manifest in the body, where its bytes are, its dtype."""
        name = str(request["deployment"])
        with self._lock:
            hosted = self.deployments.get(name)
            if hosted is None:
                manifest = Manifest.from_json(bytes(frame.body).decode())
                dtype = NAMES.get(str(request["dtype"]))
                if dtype is None:
                    raise InvalidRequest(f"dtype {request['dtype']!r} is not one of {', '.join(NAMES)}")
                source = self._source(manifest, request)
                store = ExpertStore(manifest, dtype=dtype, device=self.device)
                hosted = Hosted(name, next(self._handles), manifest, dtype, source, store, self.budget)
                self.deployments[name] = hosted
        return {"held": hosted.held(), "trunk": hosted.trunk is not None, "incarnation": self.incarnation}

    def sees(self, path: Path, files: Mapping[str, int]) -> bool:
        """Whether these files, of these sizes, lie in a directory of this host."""
        try:
            return all((path / file).stat().st_size == size for file, size in files.items())
        except OSError:
            return False

    def _look(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        files = {str(file): int(size) for file, size in request["files"].items()}
        return {"sees": self.sees(Path(str(request["path"])), files)}

    def _source(self, manifest: Manifest, request: dict[str, Any]) -> ByteSource:
        """The checkpoint's own files where this host sees them, else whoever serves its shards."""
        path = Path(str(request["path"]))
        if self.sees(path, manifest.files):
            return FileSource(path, manifest.files)
        peers = [Peer.from_dict(peer) for peer in request.get("sources", ())]
        if not peers:
            raise UnsupportedCheckpoint(
                f"host {self.name} does not see {path} and nobody serves its shards: deploy from a path that every "
                "host sees, or from a client that hosts can reach"
            )
        name, private = str(request["deployment"]), bool(request.get("private"))
        return PeerSource(manifest, name, peers, self.settings, private=private)

    def _hosted(self, request: dict[str, Any]) -> Hosted:
        hosted = self.deployments.get(str(request["deployment"]))
        if hosted is None:
            raise InvalidRequest(f"host {self.name} has no deployment {request['deployment']!r}; open it first")
        return hosted

    def _load(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        hosted = self._hosted(request)
        layer = int(request["layer"])
        pinned = {int(expert): str(digest) for expert, digest in request.get("pinned", {}).items()}
        hashes = hosted.load(layer, [int(expert) for expert in request["experts"]], pinned)
        return {"sha256": {str(expert): digest for expert, digest in hashes.items()}}

    def _drop(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        self._hosted(request).drop(int(request["layer"]), [int(expert) for expert in request["experts"]])
        return {}

    def _trunk(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        """Build the trunk here (once); it answers requests as soon as a client sends some.

        pinned: as of `Trunk`; it is told what was read, so that no other trunk is made of other bytes.
        """
        hosted = self._hosted(request)
        with hosted.lock:
            if hosted.trunk is None:
                need = hosted.size(sum(part.values for part in hosted.manifest.trunk))
                self.budget.reserve(need, f"the trunk of {hosted.name}")
                try:
                    options, pinned = dict(request.get("options", {})), dict(request.get("pinned", {}))
                    hosted.trunk = TrunkService(self, hosted, options, pinned)
                except BaseException:
                    self.budget.release(need)
                    raise
                hosted.trunk_bytes = need + hosted.trunk.kv_bytes
        return {**hosted.trunk.stats(), "sha256": hosted.trunk.trunk.sha256}

    def _untrunk(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        """End the trunk here; the experts stay."""
        self._hosted(request).close_trunk()
        return {}

    def _route(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        """Tell the trunk which hosts there are and what they hold."""
        hosted = self._hosted(request)
        if hosted.trunk is None:
            raise InvalidRequest(f"host {self.name} runs no trunk of {hosted.name}")
        held = {
            str(name): {int(layer): frozenset(experts) for layer, experts in layers.items()}
            for name, layers in request["held"].items()
        }
        peers = [Peer.from_dict(peer) for peer in request["peers"]]
        hosted.trunk.route([peer for peer in peers if peer.name != self.name], held)
        return {}

    def _load_counts(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        hosted = self._hosted(request)
        if hosted.trunk is None:
            return {"load": [], "pairs": []}
        return {"load": hosted.trunk.load(), "pairs": hosted.trunk.dispatcher.pairs.strongest()}

    def _close(self, request: dict[str, Any], frame: Frame, session: str) -> dict[str, Any]:
        with self._lock:
            hosted = self.deployments.pop(str(request["deployment"]), None)
        if hosted is not None:
            hosted.close()
        return {}
