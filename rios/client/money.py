"""`net.wallet` and `net.billing` of a network behind a gateway: the same numbers, exact to the wei."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from rios.client.http import Http
from rios.words.ids import Address
from rios.words.money import Wei, format_ros, parse_ros

if TYPE_CHECKING:
    import pandas as pd

    from rios.billing.ledger.values import Balance, Budget
    from rios.services.billing import Costs

Moment = str | date | datetime | None
_PAGE = 1000


class RemoteWallet:
    """What the user has."""

    def __init__(self, http: Http) -> None:
        self._http = http

    @property
    def address(self) -> Address | None:
        """The address on the chain whose deposits are the user's, or None."""
        found = self._http.get("/v1/wallet")["address"]
        return None if found is None else Address(found)

    @property
    def balance(self) -> Balance:
        """What is deposited, given as trial credit, and held."""
        from rios.billing.ledger.values import Balance

        found = self._http.get("/v1/wallet")
        names = ("deposited_wei", "trial_wei", "held_wei", "withdrawing_wei", "overdrawn_wei")
        return Balance(user_id=found["user"], **{name: Wei(int(found[name])) for name in names})

    @property
    def deposited(self) -> Wei:
        """Wei in the escrow that can be spent."""
        return self.balance.deposited_wei

    @property
    def available(self) -> Wei:
        """Wei that a new request may hold, trial credit included."""
        return self.balance.available

    @property
    def held(self) -> Wei:
        """Wei that running requests have set aside."""
        return self.balance.held

    def __repr__(self) -> str:
        return f"<RemoteWallet at {self._http.url}: {self.balance}>"


class RemoteBilling:
    """What the user spent and may spend."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<RemoteBilling at {self._http.url}: {self.balance}>"

    @property
    def balance(self) -> Balance:
        """.wei = .available + .held, ints of wei."""
        return RemoteWallet(self._http).balance

    def usage(self, *, since: Moment = None, until: Moment = None, **filters: Any) -> pd.DataFrame:
        """Usage records, as `net.billing.usage` of a local network has them. filters: model, worker, resource,
        request_id."""
        from rios.services.billing import usage_frame

        rows: list[tuple[Any, ...]] = []
        after: str | None = None
        while True:
            page = self._http.get(
                "/v1/usage", since=_text(since), until=_text(until), after=after, limit=_PAGE, **filters
            )
            rows += [_row(one) for one in page["data"]]
            after = page["next"]
            if after is None:
                break
        return usage_frame(rows)

    def costs(self, by: str = "worker", *, since: Moment = None, until: Moment = None, **filters: Any) -> Costs:
        """What was spent less refunds, by worker, model, day, resource or line."""
        from rios.services.billing import Costs

        found = self._http.get("/v1/costs", by=by, since=_text(since), until=_text(until), **filters)
        return Costs(by, {key: int(amount) for key, amount in found["data"].items()})

    @property
    def budgets(self) -> list[Budget]:
        """The budgets of the user, with what is spent and held in their periods."""
        from rios.billing.budgets import Period
        from rios.billing.ledger.values import Budget

        return [
            Budget(
                user_id=one["user"],
                period=Period(one["period"]),
                limit_wei=Wei(int(one["limit_wei"])),
                alerts_bp=tuple(one["alerts_bp"]),
                hard=one["hard"],
                spent_wei=Wei(int(one["spent_wei"])),
                held_wei=Wei(int(one["held_wei"])),
            )
            for one in self._http.get("/v1/budgets")["data"]
        ]

    def budget(self, limit: str | int | None, *, period: str = "month", hard: bool = True) -> Budget | None:
        """Set what may be spent in each day, week, month or in total; None takes the budget away."""
        text = None if limit is None else f"{parse_ros(limit, name='the budget')} wei"
        self._http.ask("PUT", f"/v1/budgets/{period}", json={"limit": text, "hard": hard})
        return next((one for one in self.budgets if str(one.period) == period), None)


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    from rios.services.moments import moment_of

    amount = int(one["amount_wei"])
    return (
        one["usage_id"], moment_of(one["at"]), one["user"], one["model"], one["worker"], one["resource"],
        int(one["quantity"]), one["unit"], one["price"], amount, format_ros(amount), one["epoch"],
    )  # fmt: skip


def _text(moment: Moment) -> str | None:
    return None if moment is None else moment if isinstance(moment, str) else moment.isoformat()
