"""`net.billing` of a network behind a gateway: the same numbers as of a local one, exact to the wei."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rios.client import reading
from rios.client.http import MONEY_S, Http
from rios.client.listening import Listener
from rios.client.reading import Moment, text_of
from rios.words.display import Shown, answer, text_table
from rios.words.errors import InvalidRequest, NotAllowed, NotProvable
from rios.words.money import parse_ros

if TYPE_CHECKING:
    import pandas as pd

    from rios.billing.books import PriceBook
    from rios.billing.estimate import Estimate
    from rios.billing.ledger.values import Balance, Budget, CreditNote, Grant, Invoice
    from rios.billing.parameters import Setting
    from rios.billing.verify import Export, Link
    from rios.client.remote import RemoteModel
    from rios.services.accounting import Reconciliation
    from rios.services.alerts import Alert
    from rios.services.billing import Costs
    from rios.services.payouts import PaidOut
    from rios.services.settlement import Settled


class RemoteProof(Shown):
    """From one usage record to its payout, link by link, as the gateway checked it."""

    def __init__(self, said: dict[str, Any]) -> None:
        from rios.billing.verify import Export, Link

        self.usage: dict[str, Any] = said["usage"]
        self.links: tuple[Link, ...] = tuple(Link(**one) for one in said["links"])
        self.export: Export | None = None if said["export"] is None else Export.from_dict(said["export"])
        """What a stranger needs to check it again; None until its epoch is closed, and for all but admins of the
        network."""

    @property
    def verified(self) -> bool:
        """Whether every link that exists holds; a payout may still be pending."""
        from rios.billing.verify import verified

        return verified(self.links)

    def __repr__(self) -> str:
        states = ", ".join(f"{link.name} {link.state}" for link in self.links)
        return f"<RemoteProof of {self.usage['usage_id']}: {states}>"

    def __str__(self) -> str:
        return text_table(*self._table())

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, str, str]]]:
        from rios.services.accounting import links_table

        return links_table(self.links)


class RemoteBilling(Shown):
    """What the user spent and may spend, and for admins of the network what all did."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._listener = Listener(lambda: self.alerts)

    def __repr__(self) -> str:
        return f"<RemoteBilling at {self._http.url}: {answer(lambda: self.balance)}>"

    @property
    def balance(self) -> Balance:
        """.wei = .available + .held, ints of wei."""
        return reading.balance_of(self._http.get("/v1/wallet"))

    @property
    def price_book(self) -> PriceBook:
        """The price book in force now."""
        from rios.billing.books import PriceBook

        return PriceBook.from_dict(self._http.get("/v1/prices")["book"])

    @property
    def parameters(self) -> list[Setting]:
        """The network's own parameters: as a vote has set each, else as the gateway is set."""
        return [reading.setting_of(one) for one in self._http.get("/v1/prices")["parameters"]]

    @property
    def discounts(self) -> list[Grant]:
        """The discounts that were given to users and organisations. For admins of the network."""
        return [reading.grant_of(one) for one in self._http.pages("/v1/discounts")]

    def grant_discount(
        self,
        discount: str,
        *,
        user: str | None = None,
        organisation: str | None = None,
        since: Moment = None,
        until: Moment = None,
    ) -> Grant:
        """As `net.billing.grant_discount` of a local network, to whom is named. For admins of the network."""
        body = {"user": user, "organisation": organisation, "since": text_of(since), "until": text_of(until)}
        return reading.grant_of(self._http.ask("PUT", f"/v1/discounts/{quote(discount, safe='')}", json=body))

    def estimate(self, model: RemoteModel, *, prompt_tokens: int, max_new_tokens: int = 64) -> Estimate:
        """The lowest, expected and highest price of a request, with its price lines. The highest is what is held."""
        for name, value in (("prompt_tokens", prompt_tokens), ("max_new_tokens", max_new_tokens)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidRequest(f"{name} is {value!r}; it is a whole number")
        path = f"/v1/deployments/{quote(model.name, safe='')}/estimate"
        return reading.estimate_of(self._http.get(path, prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens))

    def usage(self, *, since: Moment = None, until: Moment = None, **filters: Any) -> pd.DataFrame:
        """Usage records, as `net.billing.usage` of a local network has them. filters: model, worker, resource,
        request_id."""
        from rios.services.billing import usage_frame

        rows = self._http.pages("/v1/usage", since=text_of(since), until=text_of(until), **filters)
        return usage_frame([reading.usage_row(one) for one in rows])

    def costs(self, by: str = "worker", *, since: Moment = None, until: Moment = None, **filters: Any) -> Costs:
        """What was spent less refunds, by worker, model, deployment, day, resource or line."""
        from rios.services.billing import Costs

        found = self._http.get("/v1/costs", by=by, since=text_of(since), until=text_of(until), **filters)
        return Costs(by, {key: int(amount) for key, amount in found["data"].items()})

    @property
    def budgets(self) -> list[Budget]:
        """The budgets of the user, with what is spent and held in their periods."""
        return [reading.budget_of(one) for one in self._http.get("/v1/budgets")["data"]]

    def budget(
        self,
        limit: str | int | None,
        *,
        period: str = "month",
        alerts: Sequence[float | str] = (0.5, 0.75, 0.9),
        hard: bool = True,
    ) -> Budget | None:
        """Set what may be spent in each day, week, month or in total; None takes the budget away."""
        from rios.billing.budgets import asked_for

        limit_wei, shares = asked_for(limit, alerts)
        body = {"limit": None if limit_wei is None else f"{limit_wei} wei", "hard": hard, "alerts_bp": list(shares)}
        self._http.ask("PUT", f"/v1/budgets/{quote(period, safe='')}", json=body)
        return next((one for one in self.budgets if str(one.period) == period), None)

    @property
    def alerts(self) -> list[Alert]:
        """Every alert so far, oldest first: 50, 75 and 90 % of a budget spent, the balance below 20, 10 and 5 %."""
        return [reading.alert_of(one) for one in self._http.pages("/v1/alerts")]

    def on_alert(self, callback: Callable[[Alert], None]) -> None:
        """Have `callback` called with each alert to come, within seconds, in another thread, until the network is
        closed. One that raises is called again."""
        self._listener.add(callback)

    def close(self) -> None:
        """Tell no more alerts."""
        self._listener.close()

    def invoice(self, period: str) -> Invoice:
        """As `net.billing.invoice` of a local network: a draft while the month is not over."""
        from rios.services.moments import month

        month(period)
        return reading.invoice_of(self._http.ask("PUT", f"/v1/invoices/{quote(period, safe='')}"))

    def refund(
        self, usage_id: str, reason: str, *, amount: str | int | None = None, key: str | None = None
    ) -> CreditNote:
        """As `net.billing.refund` of a local network. For admins of the network."""
        if not reason.strip():
            raise InvalidRequest("a refund needs a reason: it stands on the credit note")
        text = None if amount is None else f"{parse_ros(amount, name='the refund')} wei"
        path = f"/v1/usage/{quote(usage_id, safe='')}/refund"
        return reading.note_of(self._http.ask("PUT", path, json={"reason": reason, "amount": text, "key": key}))

    def settle(self) -> Settled | None:
        """Close an epoch over all that was used and post its root: .epoch .root .total .tx. For admins of the network.

        Again where nothing was used meanwhile: the same, and nothing happens twice.
        """
        return reading.settled_of(self._http.post("/v1/settlement", None, key=secrets.token_hex(16), timeout=MONEY_S))

    def pay_out(self, minimum: str | int | None = None) -> PaidOut:
        """Pay all owners to whom at least `minimum` is due: .paid .total_wei .txs. For admins of the network."""
        text = None if minimum is None else f"{parse_ros(minimum, name='the least payout')} wei"
        key = secrets.token_hex(16)
        return reading.paid_out_of(self._http.post("/v1/payouts", {"minimum": text}, key=key, timeout=MONEY_S))

    def reconcile(self) -> Reconciliation:
        """Compare the ledger, its rebuilt root, the contracts and their tokens. For admins of the network."""
        return reading.reconciliation_of(self._http.ask("GET", "/v1/reconciliation", timeout=MONEY_S))

    def prove(self, usage_id: str) -> RemoteProof:
        """From a usage record to price, postings, leaf, root, contract and payout. Raises NotProvable."""
        path = f"/v1/usage/{quote(usage_id, safe='')}/proof"
        return RemoteProof(self._http.ask("GET", path, timeout=MONEY_S))

    def export(self, usage_id: str, path: str | Path) -> Path:
        """Write what a stranger needs to verify the payout of a usage record: `rios verify FILE`.

        Raises NotProvable while its epoch is not closed, NotAllowed to all but admins of the network.
        """
        proof = self.prove(usage_id)
        if proof.usage["epoch"] is None:
            raise NotProvable(f"usage {usage_id} is of no closed epoch yet: net.billing.settle() closes it")
        if proof.export is None:
            raise NotAllowed("an export shows other users' requests of the same workers: ask an admin of the network")
        target = Path(path)
        target.write_text(proof.export.to_json())
        return target
