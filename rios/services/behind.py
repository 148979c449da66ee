"""What a panel's amounts consist of, as plain JSON: usage records less what was given back, and what workers earned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rios.services import rows

_ROWS_MAX = 500
_TRIES = 3


def usage(
    net: Any, *, since: str | None = None, until: str | None = None, job: str | None = None, **filters: str | None
) -> dict[str, Any]:
    """Usage records behind an amount, newest first: at most 500; `total_wei` is of all, less `refunded_wei`.

    job: of this generation, deployment or report. filters: as of `net.billing.usage`.
    """
    given = {name: value for name, value in filters.items() if value}
    asked = [{**given, **one} for one in _of_job(net, job)]
    span = {"since": since or None, "until": until or None}
    mark = getattr(net.billing, "mark", lambda: 0)
    before, tries = None, _TRIES
    found: list[dict[str, Any]] = []
    left_wei = 0
    while tries and before != mark():  # two questions, which are of one moment where nothing was posted meanwhile
        before, tries = mark(), tries - 1
        frames = [net.billing.usage(**span, **one) for one in asked]
        found = sorted((_row(row) for frame in frames for row in frame.itertuples()), key=lambda row: row["at"])
        left_wei = sum(net.billing.costs(by="resource", **span, **one).total_wei for one in asked)
    refunded_wei = max(sum(int(row["amount_wei"]) for row in found) - left_wei, 0)
    total_wei = sum(int(row["amount_wei"]) for row in found) - refunded_wei
    return {
        "rows": found[::-1][:_ROWS_MAX], "count": len(found), "total_wei": str(total_wei),
        "refunded_wei": str(refunded_wei),
    }  # fmt: skip


def earned(net: Any) -> dict[str, Any]:
    """What own workers have earned, by worker, model and resource; refunds are taken off in the sums of the wallet."""
    lines = [
        {"worker": row.worker, "model": row.model, "resource": row.resource, "wei": str(row.wei)}
        for row in net.earnings.to_frame().itertuples()
    ]
    return {"lines": lines}


def _of_job(net: Any, job: str | None) -> Iterator[dict[str, str]]:
    """The filters that have the usage of a job together; each attempt at a report is a request of its own."""
    kind = rows.kind_of(job or "")
    if not job:
        yield {}
    elif kind == rows.REPORT:
        yield from ({"request_id": f"{job}:{past.attempt}"} for past in net.reports.history(run_id=job))
    else:
        yield {"deployment" if kind == rows.DEPLOYMENT else "request_id": job}


def _row(row: Any) -> dict[str, Any]:
    return {
        "usage_id": row.usage_id, "at": row.time.timestamp(), "model": row.model, "worker": row.worker,
        "resource": row.resource, "quantity": str(row.quantity), "unit": row.unit, "price": str(row.price),
        "amount_wei": str(row.amount_wei), "epoch": None if row.epoch is None else int(row.epoch),
    }  # fmt: skip
