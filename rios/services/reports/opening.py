"""Reports over the ledger of a purse, with the mail and the webhooks that its gateway has: the same variables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from rios.accounts.store import AccountStore
from rios.reporting.templates import Templates
from rios.services.mail import sender_of
from rios.services.outbound import networks
from rios.services.reports.reports import Reports
from rios.services.reports.rights import rights_of
from rios.services.webhooks import Webhooks

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.reporting.runner import Execute
    from rios.services.network_chain import NetworkChain
    from rios.services.purse import Purse
    from rios.services.reports.keeping import KeptBy
    from rios.words.config import Settings


class DeliverySettings(BaseSettings):
    """How reports reach others: what a gateway is told by `RIOS_GATEWAY_...`, so that both say the same."""

    model_config = SettingsConfigDict(env_prefix="RIOS_GATEWAY_", frozen=True)

    mail: SecretStr = Field(default=SecretStr(""), description="As the gateway's.")
    mail_from: str = Field(default="rios@localhost", description="As the gateway's.")
    webhook_networks: str = Field(default="", description="As the gateway's.")


def open_reports(
    purse: Purse,
    options: Settings,
    *,
    out: Path | None = None,
    execute: Execute | None = None,
    hosts: KeptBy | None = None,
) -> Reports:
    """The reports over the ledger of `purse`. hosts: those of its network, where there is one at hand.

    out: without it that of the settings, else reports/out of the checkout that is the working directory, else `reports`
    in the home.
    """
    home, ledger = options.home, purse.books.ledger
    said, store = DeliverySettings(), _store(ledger)
    url = said.mail.get_secret_value() or ("" if home is None else (home / "mail").absolute().as_uri())
    beside = Path.cwd() / "reports"
    checkout = (beside / "cost.ipynb").is_file()
    place = out or options.reports or (beside / "out" if checkout or home is None else home / "reports")
    more = {} if execute is None else {"execute": execute}
    return Reports(
        ledger,
        place.absolute(),
        Templates.of(home, beside=beside if checkout else None),
        webhooks=Webhooks(store, ledger, home=home, allowed=networks(said.webhook_networks)),
        payee=lambda: purse.books.address,
        chain=lambda: _chain(purse),
        may=rights_of(store),
        send=sender_of(url) if url else None,
        sender=said.mail_from,
        lease_s=options.report_lease_s,
        hosts=hosts,
        **more,
    )


def _chain(purse: Purse) -> NetworkChain | None:
    """The chain where it runs or has something to say: a network that never settled has none."""
    books = purse.books
    return books.chain if books.started_chain is not None or books.ledger.epochs() else None


def _store(ledger: Ledger) -> AccountStore:
    return AccountStore(ledger.database, lambda run: ledger.transact(lambda batch: run(batch.connection), alone=True))
