"""What a gateway's answers about money stand for, as the values of a local network."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from rios.words.ids import Address, UsageId
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from rios.billing.estimate import Estimate
    from rios.billing.ledger.values import Balance, Budget, CreditNote, Grant, Invoice
    from rios.billing.parameters import Setting
    from rios.services.accounting import Reconciliation
    from rios.services.alerts import Alert
    from rios.services.payouts import PaidOut
    from rios.services.settlement import Settled

Moment = str | date | datetime | None
Said = Mapping[str, Any]


def text_of(moment: Moment) -> str | None:
    """A moment as a gateway takes it."""
    return None if moment is None else moment if isinstance(moment, str) else moment.isoformat()


def balance_of(said: Said) -> Balance:
    """What a user has."""
    from rios.billing.ledger.values import Balance

    names = ("deposited_wei", "trial_wei", "held_wei", "withdrawing_wei", "overdrawn_wei")
    return Balance(user_id=said["user"], **{name: Wei(int(said[name])) for name in names})


def budget_of(said: Said) -> Budget:
    """A budget."""
    from rios.billing.budgets import Period
    from rios.billing.ledger.values import Budget

    return Budget(
        user_id=said["user"],
        period=Period(said["period"]),
        limit_wei=Wei(int(said["limit_wei"])),
        alerts_bp=tuple(said["alerts_bp"]),
        hard=said["hard"],
        spent_wei=Wei(int(said["spent_wei"])),
        held_wei=Wei(int(said["held_wei"])),
    )


def usage_row(said: Said) -> tuple[Any, ...]:
    """A usage record, by `USAGE_COLUMNS`."""
    from rios.services.moments import moment_of

    amount = int(said["amount_wei"])
    return (
        said["usage_id"], moment_of(said["at"]), said["user"], said["model"], said["worker"], said["resource"],
        int(said["quantity"]), said["unit"], said["price"], amount, format_ros(amount), said["epoch"],
        said["discount"], int(said["discount_wei"]),
    )  # fmt: skip


def estimate_of(said: Said) -> Estimate:
    """A price before the work."""
    from rios.billing.estimate import Estimate, EstimateLine

    lines: list[dict[str, Any]] = [
        {name: value if name in ("line", "unit") else Wei(int(value)) for name, value in line.items()}
        for line in said["lines"]
    ]
    return Estimate(tuple(EstimateLine(**line) for line in lines), said["discount"], Wei(int(said["discount_wei"])))


def grant_of(said: Said) -> Grant:
    """A discount that was given."""
    from rios.billing.ledger.values import Grant

    return Grant(**said)


def setting_of(said: Said) -> Setting:
    """A parameter of the network."""
    from rios.billing.parameters import Setting

    text = said["value"]
    value = None if text is None else int(text) if text.isdecimal() else float(text)
    return Setting(said["name"], value, said["by"])


def settled_of(said: Said) -> Settled | None:
    """A closed epoch."""
    from rios.services.settlement import Settled

    if said["epoch"] is None:
        return None
    at = datetime.fromisoformat(said["closed_at"])
    return Settled(said["epoch"], said["root"], Wei(int(said["total_wei"])), said["tx"], at, said["final"])


def paid_out_of(said: Said) -> PaidOut:
    """What owners were paid."""
    from rios.services.payouts import PaidOut

    paid = {Address(owner): Wei(int(wei)) for owner, wei in said["paid"].items()}
    return PaidOut(said["epoch"], paid, tuple(said["txs"]))


def reconciliation_of(said: Said) -> Reconciliation:
    """Books compared."""
    from rios.services.accounting import Check, Reconciliation

    checks = [Check(one["what"], int(one["here_wei"]), int(one["there_wei"])) for one in said["checks"]]
    return Reconciliation(tuple(checks), tuple(said["broken"]))


def note_of(said: Said) -> CreditNote:
    """A credit note."""
    from rios.billing.ledger.values import CreditNote

    found: dict[str, Any] = {name: Wei(int(value)) if name.endswith("_wei") else value for name, value in said.items()}
    return CreditNote(**found | {"usage_id": UsageId(said["usage_id"])})


def invoice_of(said: Said) -> Invoice:
    """An invoice."""
    from rios.billing.ledger.values import Invoice

    names = ("number", "period", "document", "digest", "created_at")
    return Invoice(user_id=said["user"], **{name: said[name] for name in names})


def alert_of(said: Said) -> Alert:
    """An alert."""
    from rios.services.alerts import Alert

    found: dict[str, Any] = {name: said[name] for name in ("key", "about", "user", "share_bp", "period")}
    found |= {name: Wei(int(said[name])) for name in ("amount_wei", "whole_wei")}
    return Alert(**found, at=datetime.fromisoformat(said["at"]))
