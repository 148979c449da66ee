"""What a gateway has in common with the others of its network, from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastapi import FastAPI

from rios.gateway.settings import GatewaySettings
from rios.services.events import Events
from rios.services.gate import Gate
from rios.services.outbound import networks
from rios.services.rotation import Rotation
from rios.services.watch import Watch
from rios.services.webhooks import Webhooks


def share(app: FastAPI) -> None:
    """Make what sends events on. Raises InvalidRequest for settings that are none."""
    gate: Gate = app.state.gate
    settings: GatewaySettings = app.state.settings
    store, ledger = gate.accounts.store, gate.tenancy.ledger
    webhooks = Webhooks(store, ledger, home=gate.network._settings.home, allowed=networks(settings.webhook_networks))
    app.state.webhooks = webhooks
    app.state.events = Events(store, ledger, webhooks, broker=settings.broker_url())
    app.state.parts += app.state.events.parts()


@contextmanager
def shared_parts(app: FastAPI) -> Iterator[None]:
    """Send events on; hear what other gateways revoke, and tell them, by the Redis of the settings; renew keys."""
    gate: Gate = app.state.gate
    settings: GatewaySettings = app.state.settings
    events: Events = app.state.events
    with ExitStack() as ends:
        if settings.redis:
            from rios.storage.redis import Forgetting

            tokens = gate.accounts.tokens
            forgetting = Forgetting(settings.redis, tokens.heard)
            ends.callback(forgetting.close)
            tokens.told = forgetting.tell
        ends.callback(events.close)
        events.start()
        rotation = Rotation(gate.accounts.signer)
        ends.callback(rotation.close)
        rotation.start()
        watch = Watch(gate.network._purse.books)
        ends.callback(watch.close)
        watch.start()
        gate.network._purse.alerts.on_alert(events.alert)
        yield
