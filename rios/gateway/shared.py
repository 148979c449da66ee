"""What a gateway has in common with the others of its network, from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from rios.gateway.settings import GatewaySettings
from rios.services.gate import Gate
from rios.storage.redis import Forgetting


@contextmanager
def shared_parts(app: FastAPI) -> Iterator[None]:
    """Hear what other gateways revoke, and tell them, by the Redis of the settings."""
    gate: Gate = app.state.gate
    settings: GatewaySettings = app.state.settings
    if not settings.redis:
        yield
        return
    tokens = gate.accounts.tokens
    forgetting = Forgetting(settings.redis, tokens.heard)
    tokens.told = forgetting.tell
    try:
        yield
    finally:
        tokens.told = None
        forgetting.close()
