"""Loopback ports of this process, one for each deployment that somebody asked the address of."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

from rios.services.deployments.proxy import Proxy
from rios.services.deployments.routing import Route, Routes
from rios.services.deployments.sockets import MESSAGE_BYTES, Refused
from rios.words.errors import DeadlineExceeded

_START_S = 10.0
_END_S = 5.0


class Front:
    """Serves deployments on loopback ports. Close it."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._proxy = Proxy(routes)
        self._lock = threading.Lock()
        self._ports: dict[str, int] = {}
        self._servers: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Front of {len(self._ports)} deployments>"

    def port(self, app_id: str) -> int:
        """The port where a deployment answers; opened when it is first asked for."""
        with self._lock:
            if app_id not in self._ports:
                loop = self._started()
                opened = asyncio.run_coroutine_threadsafe(self._serve(app_id), loop)
                self._ports[app_id] = opened.result(_START_S)
            return self._ports[app_id]

    def close(self) -> None:
        """Close all ports."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result(_START_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_START_S)
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="rios-front", daemon=True)
            self._thread.start()
        return self._loop

    async def _serve(self, app_id: str) -> int:
        import uvicorn

        routes, proxy = self._routes, self._proxy

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                return
            route = routes.of(app_id)
            if scope["type"] == "websocket":
                await _socket(proxy, route, scope, receive, send)
                return
            if route is None:
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b"this deployment is not there any more\n"})
                return
            path = scope["raw_path"].decode("ascii").partition("?")[0]
            await proxy.forward(route, scope, receive, send, path=path)

        listener = socket.create_server(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            answer, log_config=None, access_log=False, lifespan="off", server_header=False, date_header=False,
            timeout_graceful_shutdown=1, ws="websockets-sansio", ws_max_size=MESSAGE_BYTES,
            ws_per_message_deflate=False,
        )  # fmt: skip
        server = uvicorn.Server(config)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        deadline = asyncio.get_running_loop().time() + _START_S
        while not server.started:
            if task.done() or asyncio.get_running_loop().time() > deadline:
                raise DeadlineExceeded(f"port {port} of this machine was not served after {_START_S:g} s")
            await asyncio.sleep(0.005)
        self._servers.append(server)
        self._tasks.append(task)
        return port

    async def _end(self) -> None:
        for server in self._servers:
            server.should_exit = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END_S)
        await self._proxy.close()


async def _socket(proxy: Proxy, route: Route | None, scope: Any, receive: Any, send: Any) -> None:
    path = scope["raw_path"].decode("ascii").partition("?")[0]
    try:
        if route is None:
            raise Refused(404, "this deployment is not there any more")
        await proxy.forward_socket(route, scope, receive, send, path=path)
    except Refused as error:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": f"{error}\n".encode()})
