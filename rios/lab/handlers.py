"""The routes of the server half: under Jupyter's own authentication, XSRF check and authorizer.

The browser has Jupyter's cookie and nothing of rios: keys of panels and tokens of gateways stay on this side.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import httpx2
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web

from rios.lab.networks import Networks
from rios.lab.proxy import client_of, lost
from rios.lab.service import KEY_HEADER
from rios.lab.stream import Stream
from rios.services.desk import status_of
from rios.words.errors import InvalidRequest, RiosError

RESOURCE = "rios"
_READ_S, _DEED_S = 60.0, 600.0
_WITH_FILES = ("Content-Security-Policy", "Content-Disposition", "Cache-Control")
_GET = r"(?P<what>state|chain|usage|earned|proof|placement|job|log)"
_POST = r"(?P<what>plan|act|jobs/(?:cancel|retry|duplicate|scale|pause|resume))"
_ID = r"(?P<network_id>[0-9a-f]{16})"


class _Handler(APIHandler):
    auth_resource: ClassVar[str] = RESOURCE

    @property
    def networks(self) -> Networks:
        """The networks of this server."""
        found: Networks = self.settings["rios_networks"]
        return found

    def problem(self, error: RiosError) -> None:
        """Answer with an error of rios."""
        self.say({"type": type(error).__name__, "detail": str(error)}, status_of(error))

    def say(self, said: Any, status: int = 200) -> None:
        """Answer with JSON that no cache keeps."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(said))

    def given(self) -> dict[str, Any]:
        """The body. Raises InvalidRequest."""
        try:
            found = json.loads(self.request.body or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InvalidRequest("the body must be a JSON object")
        return found

    async def ask(self, network_id: str, method: str, what: str, **more: Any) -> None:
        """Answer what a panel answers."""
        if (answer := await self.asked(network_id, method, what, **more)) is not None:
            self.set_status(answer.status_code)
            self.set_header("Cache-Control", "no-store")
            self.finish(answer.content)

    async def asked(self, network_id: str, method: str, what: str, **more: Any) -> httpx2.Response | None:
        """What a panel answers; None where it does not, and that was said."""
        try:
            found = self.networks.get(network_id)
            seconds = _READ_S if method == "GET" else _DEED_S
            async with client_of(found, seconds) as client:
                return await client.request(method, f"/{what}", headers={KEY_HEADER: found.key}, **more)
        except httpx2.TransportError as error:
            self.say(lost(error), 503)
        except RiosError as error:
            self.problem(error)
        return None

    def query(self) -> dict[str, str]:
        """What the address says."""
        # JupyterLab adds the time to an address, as a name without a value, so that no cache answers.
        return {
            name: values[-1].decode("utf-8", "replace")
            for name, values in self.request.query_arguments.items()
            if not name.isdecimal()
        }


class All(_Handler):
    """The networks."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Those of this server's kernels, and those that it started."""
        manager: Any = self.session_manager
        self.say({"networks": await self.networks.shown(manager)})

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start one. A token is taken, and never given back."""
        try:
            found = await self.networks.start(self.given())
        except RiosError as error:
            self.problem(error)
        else:
            self.say(found.to_dict(), 201)


class One(_Handler):
    """A network."""

    @web.authenticated
    @authorized
    async def delete(self, network_id: str) -> None:
        """End one that was started here."""
        try:
            await self.networks.stop(network_id)
        except RiosError as error:
            self.problem(error)
        else:
            self.set_status(204)
            self.finish()


class Read(_Handler):
    """What a panel shows."""

    @web.authenticated
    @authorized
    async def get(self, network_id: str, what: str) -> None:
        """As the panel answers."""
        await self.ask(network_id, "GET", what, params=self.query())


class File(_Handler):
    """Files of reports."""

    @web.authenticated
    @authorized
    async def get(self, network_id: str) -> None:
        """One of them, under the rules that the panel gives a browser with it."""
        answer = await self.asked(network_id, "GET", "file", params=self.query())
        if answer is not None:
            self.set_status(answer.status_code)
            for name in _WITH_FILES:
                if name in answer.headers:
                    self.set_header(name, answer.headers[name])
            self.finish(answer.content, set_content_type=answer.headers["Content-Type"])


class Act(_Handler):
    """What a panel does."""

    @web.authenticated
    @authorized
    async def post(self, network_id: str, what: str) -> None:
        """As the panel answers."""
        try:
            given = self.given()
        except RiosError as error:
            self.problem(error)
        else:
            await self.ask(network_id, "POST", what, json=given)


def routes(base: str) -> list[tuple[str, type[JupyterHandler]]]:
    """All routes under the server's base URL, which ends without a slash."""
    root = f"{base}/rios/networks"
    return [
        (root, All),
        (f"{base}/rios/stream", Stream),
        (f"{root}/{_ID}", One),
        (f"{root}/{_ID}/file", File),
        (f"{root}/{_ID}/{_GET}", Read),
        (f"{root}/{_ID}/{_POST}", Act),
    ]
