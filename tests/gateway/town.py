"""Two gateways of one network, with all that they depend on as real processes of a test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rios.billing.ledger.ledger import Ledger
from rios.dmoe.template import Running
from rios.services.deployments.secrets import KEY_FILE, KEY_VARIABLE
from rios.services.network_keys import NetworkKeys
from tests.billing.chain.anvil import Anvil
from tests.gateway.hooks import Told, told
from tests.gateway.pairs import joined
from tests.gateway.servers import Door, deploy, serves
from tests.gateway.services import postgres_server, rabbitmq_server, redis_server, running
from tests.waiting import until

COINS_WEI = 10**24


class Part(Protocol):
    """What can be stopped and started again."""

    def stop(self) -> None:
        """From now on it does not answer."""

    def start(self) -> None:
        """It is as it was."""


@dataclass(frozen=True)
class Frozen:
    """A process that takes connections and answers nothing while it is stopped."""

    process: Running

    def stop(self) -> None:
        """Freeze it."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def start(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class Town:
    """The gateways, a webhook, and the parts by the names that /ready has for them."""

    first: Door
    second: Door
    hook: Told
    parts: dict[str, Part]
    database: str


@contextmanager
def town(folder: Path, network: Any) -> Iterator[Town]:
    """Two gateways that serve the demo model on the workers of `network`, with books and a home of their own."""
    with ExitStack() as stack:
        broker = stack.enter_context(running(rabbitmq_server(folder / "rabbit"), wait=False))  # it takes longest
        redis = stack.enter_context(running(redis_server(folder / "redis")))
        database = stack.enter_context(postgres_server())
        chain = Anvil(folder / "anvil.json")
        stack.callback(chain.kill)
        home, other = folder / "home", folder / "other"
        with Ledger.open(database.url) as ledger:
            for role in ("operator", "wallet"):
                chain.ask("anvil_setBalance", NetworkKeys(ledger, home).signer(role).address, hex(COINS_WEI))
        hook = stack.enter_context(told())
        variables = {
            "RIOS_GATEWAY_WEBHOOK_NETWORKS": "127.0.0.0/8",
            "RIOS_CHAIN": chain.url,
            "RIOS_CHAIN_CONFIRMATIONS": "0",
            "RIOS_CONNECT_TIMEOUT_S": "2",
        }
        urls = ("--database", database.url, "--redis", redis.url, "--broker", broker.url)
        one = stack.enter_context(joined(home, network.address, *urls, log=folder / "first.log", **variables))
        # The other one is brought the one key that is not in the database, and has nothing else of the first's home.
        variables[KEY_VARIABLE] = (home / KEY_FILE).read_text()
        two = stack.enter_context(joined(other, network.address, *urls, log=folder / "second.log", **variables))
        broker.start()
        first = one()
        second = replace(two(), token=first.token)
        deploy(first)
        with second.client() as http:
            until(lambda: http.get("/v1/deployments/demo").status_code == 200, "the other sees it", deadline_s=10)
            serves(http, "demo")
        with first.client() as http:
            assert http.post("/v1/webhooks", json={"url": hook.url, "events": ["user."]}).status_code == 201
        parts: dict[str, Part] = {"redis": redis, "broker": broker, "database": database, "chain": chain}
        parts["scheduler"] = Frozen(network.cluster.processes["scheduler"])
        yield Town(first, second, hook, parts, database.url)
        for door in (first, second):  # both end at the same time
            door.process.send_signal(signal.SIGTERM)
