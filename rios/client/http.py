"""Requests to a gateway: errors are those of rios, and what is safe to repeat is repeated after a lost connection."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from rios.words import errors
from rios.words.display import patience_s
from rios.words.errors import GatewayLost, NetworkClosed, RiosError, TooManyRequests

_CONNECT_S, _ANSWER_S = 10.0, 75.0
MONEY_S = 300.0
"""What waits for the chain may take longer."""
# A gateway that is started again, or another one behind the same address, is there within this.
RETRY_S = 15.0
_PAUSE_S, _PAUSE_MAX_S = 0.1, 2.0
_PAGE = 500
_URN = "urn:rios:error:"
_AWAY = (502, 503, 504)

# For plain HTTP: to read the authorities that this machine trusts takes 50 ms.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Http:
    """One gateway and one token. Safe for threads."""

    def __init__(self, url: str, token: str, *, ca: str | None = None) -> None:
        """ca: file with the certificate of who certified the gateway; those that this machine trusts without."""
        self.url = url.rstrip("/")
        self._closed = False
        try:
            self._client = httpx2.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {token}", "User-Agent": "rios"},
                timeout=httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S),
                limits=httpx2.Limits(max_connections=512, max_keepalive_connections=32),
                verify=trusting(ca) if ca is not None else self.url.startswith("https:") or _NO_TLS,
            )
        except (httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise errors.InvalidRequest(f"{url!r} is no address of a gateway, or its token is none: {error}") from error

    def get(self, path: str, **params: Any) -> Any:
        """What a path answers; repeated after a lost connection."""
        return self.ask("GET", path, params={name: value for name, value in params.items() if value is not None})

    def pages(self, path: str, *, most: int | None = None, **params: Any) -> list[Any]:
        """All rows of a list, page by page; the first `most` of them."""
        found: list[Any] = []
        after: str | int | None = None
        while True:
            limit = _PAGE if most is None else min(_PAGE, most - len(found))
            page = self.get(path, after=after, limit=limit, **params)
            found += page["data"]
            after = page["next"]
            if after is None or len(found) == most:
                return found

    def post(self, path: str, body: Any, *, key: str | None = None, timeout: float = _ANSWER_S) -> Any:
        """What a path answers to `body`. key: an idempotency key, with which it may be repeated."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.ask("POST", path, json=body, headers=headers, timeout=timeout)

    def read(self, path: str, body: Any) -> Any:
        """What a path answers to a question that is a body and changes nothing; repeated after a lost connection."""
        return self.ask("POST", path, safe=True, json=body)

    def ask(self, method: str, path: str, *, safe: bool = False, **more: Any) -> Any:
        """One request, and its JSON; once, and not for long, where it is only to be shown. Raises errors of rios.

        safe: it may be repeated, whatever its method.
        """
        safe = safe or method in ("GET", "DELETE", "PUT") or "Idempotency-Key" in more.get("headers", {})
        if (patience := patience_s()) is not None:
            safe, more = False, {**more, "timeout": patience}
        deadline, pause_s = time.monotonic() + (RETRY_S if safe else 0), _PAUSE_S
        while True:
            try:
                with self._translated():
                    response = self._client.request(method, path, **more)
                return _json(response)
            except (_Away, TooManyRequests) as error:
                wait_s = max(pause_s, getattr(error, "retry_after_s", 0.0))
                if time.monotonic() + wait_s > deadline:
                    raise
                time.sleep(wait_s)
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    def fetch(self, path: str, **params: Any) -> bytes:
        """The bytes that a path answers with. Raises errors of rios."""
        with self._translated():
            response = self._client.get(path, params={name: one for name, one in params.items() if one is not None})
        if not response.is_success:
            _json(response)
        return response.content

    def room(self) -> dict[str, str]:
        """The limit of requests of this token: limit, remaining, and seconds until all of it is there again."""
        with self._translated():
            response = self._client.get("/v1/users/me")
        _json(response)
        names = ("limit", "remaining", "reset")
        return {name: response.headers.get(f"x-ratelimit-{name}", "") for name in names}

    @contextmanager
    def events(
        self, path: str, *, last: int, silent_s: float = _ANSWER_S
    ) -> Iterator[Iterator[tuple[str, str, Any] | None]]:
        """Server-sent events after the one of id `last`: name, id, data; None for a sign of life between them.

        The iterator raises GatewayLost where the connection breaks, and where nothing comes for `silent_s`.
        """
        headers = {"Last-Event-ID": str(last), "Accept": "text/event-stream"}
        timeout = httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S, read=silent_s)
        with self._translated(), self._client.stream("GET", path, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                _json(response)
            yield self._read(response)

    def _read(self, response: httpx2.Response) -> Iterator[tuple[str, str, Any] | None]:
        fields: dict[str, str] = {}
        with self._translated():
            for line in response.iter_lines():
                if line.startswith(":"):
                    yield None
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    yield fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"])
                    fields = {}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed:
            raise NetworkClosed("this network was closed; connect again")
        try:
            yield
        except (httpx2.TransportError, httpx2.StreamError) as error:
            why = str(error) or type(error).__name__
            if "CERTIFICATE" in why:
                raise GatewayLost(
                    f"the certificate of {self.url} is not trusted: {why}; name its authority: ca=... or RIOS_CA"
                ) from error
            raise _Away(
                f"the gateway at {self.url} does not answer: {why}; is it up, and the address right?"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._client.close()


def trusting(ca: str) -> ssl.SSLContext:
    """TLS 1.3 with whom the authority in the file `ca` certified. Raises InvalidRequest."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise errors.InvalidRequest(f"{ca} is no certificate of an authority: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class _Away(GatewayLost):
    """The gateway was not reached, or not a gateway of rios answered for it: the same may be asked again."""


def _json(response: httpx2.Response) -> Any:
    """The body of an answer; raises the error that it is."""
    if response.status_code == 204:
        return None
    try:
        found = response.json()
    except ValueError:
        found = None
    if response.is_success and found is not None:
        return found
    said = found if isinstance(found, dict) else {}
    if str(said.get("type", "")).startswith(_URN):
        raise error_of(said, retry_after=response.headers.get("retry-after"))
    kind = _Away if response.status_code in _AWAY else GatewayLost
    raise kind(
        f"{response.url} answers {response.status_code}, and not as a gateway of rios does; is that its address?"
    )


def error_of(said: dict[str, Any], *, retry_after: str | None = None) -> RiosError:
    """The error that a problem of the gateway stands for: of the same class as it was there."""
    kind = getattr(errors, str(said.get("type", "")).removeprefix(_URN), RiosError)
    message = str(said.get("detail", ""))
    if kind is TooManyRequests:
        return TooManyRequests(message, retry_after_s=float(retry_after or 1))
    if not (isinstance(kind, type) and issubclass(kind, RiosError)):
        kind = RiosError
    return kind(message)
