"""Asking the panel of a network, by its Unix socket."""

from __future__ import annotations

import httpx2

from rios.lab.networks import Found
from rios.words.errors import NetworkClosed, RiosError

_CONNECT_S = 5.0


def client_of(found: Found, seconds: float | None) -> httpx2.AsyncClient:
    """A client of one network's panel; `seconds` bounds the wait for an answer."""
    return httpx2.AsyncClient(
        base_url="http://panel",
        transport=httpx2.AsyncHTTPTransport(uds=found.socket),
        timeout=httpx2.Timeout(seconds, connect=_CONNECT_S),
        trust_env=False,
    )


def lost(error: RiosError | httpx2.TransportError) -> dict[str, str]:
    """What kept a panel from answering, as it travels."""
    if isinstance(error, RiosError):
        return {"type": type(error).__name__, "detail": str(error)}
    why = str(error) or type(error).__name__
    return {"type": NetworkClosed.__name__, "detail": f"this network does not answer now: {why}"}
