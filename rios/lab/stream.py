"""What happens, to one browser tab: which networks there are, and the events of the one that it looks at.

One WebSocket for all of it: browsers open six HTTP connections to a server, and each tab would keep two of them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import httpx2
from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from rios.lab.networks import Networks
from rios.lab.proxy import client_of, lost
from rios.lab.service import KEY_HEADER
from rios.words.errors import DeadlineExceeded, InvalidRequest, RiosError

# A network made in a kernel shows within this; a look reads one directory.
_LOOK_S = 0.5
# Whoever signs out keeps an open socket: so often it is asked whether he is still let in. Servers of JupyterHub ask the
# hub itself about a session every five minutes (`HubOAuth.cache_max_age`).
_ASK_S = 5.0
_SILENT_S = 12.0
"""Who says nothing for so long, not even that it lives, which it does every five seconds, is frozen."""
SIGNED_OUT = 4401
"""Why a socket was closed, as WebSockets number reasons of applications; by its last digits as HTTP does."""
_MESSAGE_MAX = 1_000


class Stream(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """Says {"networks": [...]} when they change; follows one network when it is told {"follow": id, "last": event}."""

    auth_resource: ClassVar[str] = "rios"
    _looking: asyncio.Task[None] | None = None
    _following: asyncio.Task[None] | None = None

    @property
    def networks(self) -> Networks:
        """The networks of this server."""
        found: Networks = self.settings["rios_networks"]
        return found

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Who may read may follow."""
        allowed = await ensure_async(self.authorizer.is_authorized(self, self.current_user, "read", self.auth_resource))
        if not allowed:
            raise HTTPError(403)
        await super().get(*args, **kwargs)

    def open(self, *_: str, **__: str) -> None:
        """Begin to look."""
        self._looking = asyncio.create_task(self._look())

    def on_message(self, message: str | bytes) -> None:
        """Which network to follow, and from where on."""
        try:
            said = json.loads(message) if len(message) <= _MESSAGE_MAX else None
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self.close(1003, "not a message of rios")
            return
        if self._following is not None:
            self._following.cancel()
            self._following = None
        network_id, last = said.get("follow"), said.get("last")
        if isinstance(network_id, str):
            self._following = asyncio.create_task(self._follow(network_id, last if isinstance(last, str) else None))

    def on_close(self) -> None:
        """Look no more."""
        for task in (self._looking, self._following):
            if task is not None:
                task.cancel()

    async def _say(self, **said: Any) -> None:
        await self.write_message(json.dumps(said))

    async def _signed_in(self) -> bool:
        nobody: Any = _Nobody()
        request = HTTPServerRequest("GET", self.request.uri, headers=self.request.headers, connection=nobody)
        asked = JupyterHandler(self.application, request)  # what is known of this one stays as it was
        try:
            return await ensure_async(self.identity_provider.get_user(asked)) is not None
        except HTTPError:  # whoever would know does not answer
            return True

    async def _look(self) -> None:
        before: list[dict[str, Any]] | None = None
        ask_at = time.monotonic() + _ASK_S
        try:
            while True:
                if time.monotonic() > ask_at:
                    if not await self._signed_in():
                        self.close(SIGNED_OUT, "signed out")
                        return
                    ask_at = time.monotonic() + _ASK_S
                manager: Any = self.session_manager
                found = await self.networks.shown(manager)
                if found != before:
                    before = found
                    await self._say(networks=found)
                await asyncio.sleep(_LOOK_S)
        except WebSocketClosedError:
            return

    async def _follow(self, network_id: str, last: str | None) -> None:
        try:
            found = self.networks.get(network_id)
            headers = {KEY_HEADER: found.key, **({} if last is None else {"Last-Event-ID": last})}
            async with (
                client_of(found, _SILENT_S) as client,
                client.stream("GET", "/events", headers=headers) as answer,
            ):
                if not answer.is_success:
                    raise InvalidRequest(f"the panel answers {answer.status_code} instead of its events")
                await self._say(following=network_id)
                async for event in _events(answer):
                    await self._say(network=network_id, event=event)
            await self._say(lost={"type": "NetworkClosed", "detail": "this network was closed"}, network=network_id)
        except WebSocketClosedError:
            return
        except httpx2.ReadTimeout:
            why = f"this network has said nothing for {_SILENT_S:g} s: its process is stopped, or busy"
            await self._say(lost={**lost(DeadlineExceeded(why)), "silent_s": _SILENT_S}, network=network_id)
        except (RiosError, httpx2.TransportError) as error:
            await self._say(lost=lost(error), network=network_id)


class _Nobody:
    """The connection of a request that nobody sent."""

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """It never closes."""


async def _events(answer: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        else:
            if "data" in fields:
                yield {"id": fields["id"], "name": fields["event"], "data": json.loads(fields["data"])}
            fields = {}
