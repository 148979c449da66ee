"""An API server for tests: a real HTTPS server with the state of one namespace, which refuses what Kubernetes refuses.

Objects are checked by the official schemas and by `kubernetes_rules`. Pods run on one node (`kubernetes_node`), really:
their logs, commands and ports are those of processes of this machine. No network policy is enforced here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import secrets
import threading
import time
import uuid
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import WSMsgType, web

from rios.deploy.runtimes.rootfs import unpack
from tests.deploy.kubernetes_node import Node, Running, now_text
from tests.deploy.kubernetes_rules import APPS, Object, changed_wrongly, forbidden, without_limits, wrong
from tests.deploy.kubernetes_tls import server_context

NAMESPACE = "rios-apps"
IMAGE = "registry.example.org/rios/tests"
KINDS = {
    "pods": ("v1", "Pod"),
    "secrets": ("v1", "Secret"),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    "resourcequotas": ("v1", "ResourceQuota"),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
}
_LOOK_S = 0.02


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    def response(self) -> web.Response:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": str(self)}
        return web.json_response({**body, "reason": self.reason, "code": self.status}, status=self.status)


def merged(target: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


class KubernetesServer:
    """One namespace of one cluster. Close it."""

    def __init__(self, directory: Path) -> None:
        """directory: for the kubeconfig, and for what Pods are given; other users must be able to pass through."""
        self.directory = directory
        self._lock = threading.RLock()
        self.objects: dict[str, dict[str, Object]] = {kind: {} for kind in KINDS}
        self.classes: dict[str, str] = {"gvisor": "runsc"}
        self.measures = True
        self.splits_streams = self.knows_streams = True
        self.refused: list[str] = []
        """What was refused for what it said, and not for what there is."""
        self.forwarded = 0
        """Connections to ports that were led to a Pod so far."""
        self._version = 0
        self._token = secrets.token_hex(16)
        self._tls, self._authority = server_context(directory)
        self.node = Node(directory, self._told, self._confirmed, lambda kind, name: self.objects[kind].get(name))
        self.create("resourcequotas", copy.deepcopy(next(one for one in APPS if one["kind"] == "ResourceQuota")))
        self._loop = asyncio.new_event_loop()
        self._connections: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self.port = 0
        self._thread = threading.Thread(target=self._serve, name="kubernetes", daemon=True)
        self._up = threading.Event()
        self._thread.start()
        assert self._up.wait(20)
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(self._config()))

    def _config(self) -> Object:
        name = "fake"
        trusted = {"certificate-authority-data": base64.b64encode(self._authority).decode()}
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": f"https://127.0.0.1:{self.port}", **trusted}}],
            "users": [{"name": name, "user": {"token": self._token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.node.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    # --- objects ----------------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """What rios has made and not taken away."""
        with self._lock:
            return [name for kind, found in self.objects.items() if kind != "resourcequotas" for name in found]

    def of(self, kind: str, instance: str) -> list[Object]:
        """What there is of an instance."""
        with self._lock:
            return [
                one
                for one in self.objects[kind].values()
                if one["metadata"].get("labels", {}).get("rios.instance") == instance
            ]

    def _changed(self, kind: str, one: Object) -> None:
        self._version += 1
        one["metadata"]["resourceVersion"] = str(self._version)
        self.objects[kind][one["metadata"]["name"]] = one

    def create(self, kind: str, one: Object) -> Object:
        with self._lock:
            if (why := wrong(one)) is not None:
                raise self._invalid(one, why)
            name = one["metadata"]["name"]
            if name in self.objects[kind]:
                raise Refusal(409, "AlreadyExists", f'{kind} "{name}" already exists')
            one["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now_text(), "namespace": NAMESPACE}
            if kind == "pods":
                if (wanted := one["spec"].get("runtimeClassName")) is not None and wanted not in self.classes:
                    raise Refusal(403, "Forbidden", f'pods "{name}": RuntimeClass "{wanted}" not found')
                for quota in self.objects["resourcequotas"].values():
                    if (lacks := without_limits(one, quota)) is not None:
                        self.refused.append(lacks)
                        raise Refusal(403, "Forbidden", f'pods "{name}" is forbidden: {lacks}')
                one["spec"]["nodeName"] = "node-1"
                one["status"] = {"phase": "Pending"}
                self.node.run(one)
            self._changed(kind, one)
            return one

    def _invalid(self, one: Object, why: str) -> Refusal:
        text = f"{one['kind']} {one['metadata'].get('name')}: {why}"
        self.refused.append(text)
        return Refusal(422, "Invalid", text)

    def _found(self, kind: str, name: str) -> Object:
        found = self.objects[kind].get(name)
        if found is None:
            raise Refusal(404, "NotFound", f'{kind} "{name}" not found')
        return found

    def patch(self, kind: str, name: str, change: Object) -> Object:
        with self._lock:
            one = self._found(kind, name)
            has = one["metadata"]["resourceVersion"]
            if change.get("metadata", {}).get("resourceVersion", has) != has:
                raise Refusal(409, "Conflict", f'{kind} "{name}": the object has been modified')
            after = merged(copy.deepcopy(one), change)
            if (why := wrong(after) or changed_wrongly(one, after)) is not None:
                raise self._invalid(one, why)
            for key in one.keys() - after.keys():
                del one[key]
            one.update(after)  # the node has the same object
            self._changed(kind, one)
            self._let_go(kind, one)
            if kind == "pods":
                self.node.synchronise(one)
            return one

    def delete(self, kind: str, name: str, grace_s: int | None) -> Object:
        with self._lock:
            one = self._found(kind, name)
            metadata = one["metadata"]
            if kind != "pods":
                metadata["deletionGracePeriodSeconds"] = 0
            else:
                grace = one["spec"].get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
                if one["status"].get("phase") in ("Succeeded", "Failed"):
                    grace = 0
                before = metadata.get("deletionGracePeriodSeconds")
                metadata["deletionGracePeriodSeconds"] = grace if before is None else min(grace, before)
                ends_at = time.time() + metadata["deletionGracePeriodSeconds"]
                metadata["deletionTimestamp"] = now_text(ends_at)
            self._changed(kind, one)
            self._let_go(kind, one)
            return one

    def _let_go(self, kind: str, one: Object) -> None:
        metadata = one["metadata"]
        if metadata.get("deletionGracePeriodSeconds") == 0 and not metadata.get("finalizers"):
            self.objects[kind].pop(metadata["name"], None)

    def _told(self, name: str, uid: str, status: Object) -> None:
        with self._lock:
            one = self.objects["pods"].get(name)
            if one is not None and one["metadata"]["uid"] == uid:
                one["status"] = {**one["status"], **status}
                self._changed("pods", one)

    def _confirmed(self, name: str, uid: str) -> None:
        with self._lock:
            one = self.objects["pods"].get(name)
            if one is not None and one["metadata"]["uid"] == uid:
                one["metadata"]["deletionGracePeriodSeconds"] = 0
                self._let_go("pods", one)

    # --- HTTP -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(middlewares=[self._guarded])
        core, network = f"/api/v1/namespaces/{NAMESPACE}", f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}"
        for kind in KINDS:
            base = f"{network if kind == 'networkpolicies' else core}/{kind}"
            app.router.add_get(base, self._for(self._list, kind))
            app.router.add_post(base, self._for(self._create, kind))
            app.router.add_get(f"{base}/{{name}}", self._for(self._read, kind))
            app.router.add_patch(f"{base}/{{name}}", self._for(self._patch, kind))
            app.router.add_delete(f"{base}/{{name}}", self._for(self._delete, kind))
        app.router.add_get(f"{core}/pods/{{name}}/log", self._log)
        app.router.add_get(f"{core}/pods/{{name}}/exec", self._exec)
        app.router.add_get(f"{core}/pods/{{name}}/portforward", self._forward)
        measured = "/apis/metrics.k8s.io/v1beta1"
        app.router.add_get(measured, self._measured_at_all)
        app.router.add_get(f"{measured}/namespaces/{NAMESPACE}/pods/{{name}}", self._measured)
        app.router.add_get("/apis/node.k8s.io/v1/runtimeclasses/{name}", self._class)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._up.set()
        self._loop.run_forever()
        self._abort()  # a client that keeps a connection open would not take part in closing it
        self._loop.run_until_complete(runner.cleanup())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def break_off(self) -> None:
        """Abort every connection, as a server whose machine loses power, and go on."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for transport in list(self._connections):
            transport.abort()

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        assert request.transport is not None
        self._connections.add(request.transport)
        try:
            if request.headers.get("Authorization") != f"Bearer {self._token}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            if (why := forbidden(request.method, request.path)) is not None:
                self.refused.append(why)
                raise Refusal(403, "Forbidden", f'User "rios" {why}')
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()

    @staticmethod
    def _for(handler: Callable[[web.Request, str], Awaitable[web.Response]], kind: str) -> Any:
        async def of_kind(request: web.Request) -> web.Response:
            return await handler(request, kind)

        return of_kind

    async def _list(self, request: web.Request, kind: str) -> web.Response:
        wanted = dict(part.split("=", 1) for part in request.query.get("labelSelector", "").split(",") if part)
        version, name = KINDS[kind]
        with self._lock:
            items = [
                one
                for one in self.objects[kind].values()
                if wanted.items() <= one["metadata"].get("labels", {}).items()
            ]
            found = {"kind": f"{name}List", "apiVersion": version, "metadata": {"resourceVersion": str(self._version)}}
            return web.json_response({**found, "items": items})

    async def _create(self, request: web.Request, kind: str) -> web.Response:
        made = await request.json()
        with self._lock:  # what comes back is the object itself, which its node goes on with
            return web.json_response(self.create(kind, made), status=201)

    async def _read(self, request: web.Request, kind: str) -> web.Response:
        with self._lock:
            return web.json_response(self._found(kind, request.match_info["name"]))

    async def _patch(self, request: web.Request, kind: str) -> web.Response:
        if request.content_type != "application/merge-patch+json":
            raise Refusal(415, "UnsupportedMediaType", request.content_type)
        change = await request.json()
        with self._lock:
            return web.json_response(self.patch(kind, request.match_info["name"], change))

    async def _delete(self, request: web.Request, kind: str) -> web.Response:
        options = await request.json() if request.can_read_body else {}
        with self._lock:
            return web.json_response(self.delete(kind, request.match_info["name"], options.get("gracePeriodSeconds")))

    async def _class(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.classes:
            raise Refusal(404, "NotFound", f'runtimeclasses.node.k8s.io "{name}" not found')
        return web.json_response({"kind": "RuntimeClass", "metadata": {"name": name}, "handler": self.classes[name]})

    # --- what nodes answer ------------------------------------------------------------------------------------

    def _running(self, request: web.Request) -> Running:
        with self._lock:
            name = request.match_info["name"]
            self._found("pods", name)
            running = self.node.pods[name]
        if not running.started_at:
            state = "is waiting to start: ContainerCreating"
            raise Refusal(400, "BadRequest", f'container "app" in pod "{name}" {state}')
        return running

    async def _log(self, request: web.Request) -> web.StreamResponse:
        running, stream = self._running(request), request.query.get("stream") if self.knows_streams else None
        if stream not in (None, "All", "Stdout", "Stderr"):
            raise Refusal(422, "Invalid", f'PodLogOptions is invalid: stream: Unsupported value: "{stream}"')
        if stream is not None and not self.splits_streams:
            raise Refusal(422, "Invalid", "PodLogOptions is invalid: stream: Forbidden: may not be specified")
        since = request.query.get("sinceTime", "").removesuffix("Z")
        response = web.StreamResponse()
        await response.prepare(request)
        sent = 0
        while True:
            pod = running.pod
            ended = "terminated" in pod["status"].get("containerStatuses", [{}])[0].get("state", {})
            now = list(running.lines)
            for at, name, text, whole in now[sent:]:
                if stream in (None, "All", name.capitalize()) and at >= since:
                    await response.write(f"{at} {text}{chr(10) if whole else ''}".encode())
            sent = len(now)
            if ended or request.query.get("follow") != "true":
                return response
            await asyncio.sleep(_LOOK_S)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        running = self._running(request)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        process = running.execute(request.query.getall("command"))
        await asyncio.gather(self._sent(socket, 1, process.stdout), self._sent(socket, 2, process.stderr))
        code = await asyncio.to_thread(process.wait)
        verdict: Object = {"metadata": {}, "status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            verdict = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(b"\3" + json.dumps(verdict).encode())
            await socket.close()
        return socket

    @staticmethod
    async def _sent(socket: web.WebSocketResponse, channel: int, pipe: Any) -> None:
        """What a command writes. One that nobody listens to any more runs on, as on real nodes."""
        while data := await asyncio.to_thread(pipe.read1, 1 << 15):
            with contextlib.suppress(ConnectionError):
                await socket.send_bytes(bytes([channel]) + data)
        pipe.close()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        running, port = self._running(request), int(request.query["ports"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            there = await self._connected(running, port)
        except OSError as error:
            await socket.send_bytes(b"\1" + f"an error occurred forwarding {port}: {error}".encode())
            await socket.close()
            return socket
        reader, writer = await asyncio.open_connection(sock=there)
        self.forwarded += 1

        async def back() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(1 << 15):
                    await socket.send_bytes(b"\0" + data)
            await socket.close()

        task = asyncio.create_task(back())
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY and message.data[:1] == b"\0":
                    writer.write(message.data[1:])
                    with contextlib.suppress(ConnectionError):
                        await writer.drain()
        finally:
            writer.close()
            await task
        return socket

    async def _connected(self, running: Running, port: int) -> Any:
        """A connection to a port of a Pod, made in a thread of its own, for it leaves this process's network."""
        found: asyncio.Future[Any] = self._loop.create_future()

        def hand_over(connection: Any, error: OSError | None = None) -> None:
            if found.done():  # who asked has gone
                if connection is not None:
                    connection.close()
            elif error is not None:
                found.set_exception(error)
            else:
                found.set_result(connection)

        def run() -> None:
            try:
                self._loop.call_soon_threadsafe(hand_over, running.connected(port))
            except OSError as error:
                self._loop.call_soon_threadsafe(hand_over, None, error)

        threading.Thread(target=run, daemon=True).start()
        return await found

    async def _measured_at_all(self, _: web.Request) -> web.Response:
        if not self.measures:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return web.json_response({"kind": "APIResourceList", "groupVersion": "metrics.k8s.io/v1beta1"})

    async def _measured(self, request: web.Request) -> web.Response:
        """The rate since the last sample, and that sample's time, as metrics-server has them."""
        if not self.measures:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        running = self._running(request)
        if running.over.is_set() or "running" not in running.pod["status"]["containerStatuses"][0]["state"]:
            raise Refusal(404, "NotFound", f'podmetrics.metrics.k8s.io "{running.name}" not found')
        used_s, memory = await asyncio.to_thread(running.used)
        now = float(int(time.time()))
        before_s, before = running.sampled or (0.0, float(int(running.started_at)))
        rate = (used_s - before_s) / max(now - before, 1.0)
        running.sampled = (used_s, now) if now > before else running.sampled
        usage = {"cpu": f"{int(rate * 1e9)}n", "memory": f"{memory // 1024}Ki"}
        return web.json_response(
            {
                "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {"name": running.name},
                "timestamp": now_text(now), "window": "15s", "containers": [{"name": "app", "usage": usage}],
            }
        )  # fmt: skip


@contextlib.contextmanager
def cluster_of(place: Path, rootfs: Path) -> Iterator[KubernetesServer]:
    """A cluster whose only image is a root file system. place: is made; others can pass through what it lies in."""
    root = place / "image"
    for directory in (place, root):
        directory.mkdir(mode=0o755)
    unpack(rootfs, root)
    with KubernetesServer(place) as server:
        server.node.images[IMAGE] = root
        yield server
