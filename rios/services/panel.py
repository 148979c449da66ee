"""What a panel shows of a network, as plain JSON: wallet, spend, earnings, workers, models and jobs.

One panel for all networks: made here or behind a gateway, shown in JupyterLab, in a widget or in a browser. Amounts
travel as text of whole wei, for a browser's numbers end at 2^53. A section that cannot be had says why, and the others
are there all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rios.billing.budgets import span
from rios.services import behind, rows
from rios.words.errors import NetworkClosed, NotAllowed, NotFound, RiosError

if TYPE_CHECKING:
    from rios.billing.ledger.values import Balance, Budget
    from rios.services.views import Placement, WorkerInfo

SPEND_DAYS = 30
_WHY_MAX = 200


def everything(_: str) -> None:
    """Whoever has the process may do all in it; a gateway asks for itself."""


Lookup = Callable[[], Any]
"""The network, or None once it has gone."""


class Panel:
    """The figures of one network for one account. Safe for threads; it keeps nothing alive."""

    def __init__(self, lookup: Lookup, *, kind: str, allowed: rows.Allowed = everything) -> None:
        """kind: local, or remote for a network behind a gateway. allowed: raises for a scope that is not had."""
        self._allowed = allowed
        self._lookup = lookup
        self.kind = kind
        self._sections: dict[str, Callable[[], dict[str, Any]]] = {
            "network": self._network,
            "wallet": self._wallet,
            "spend": self._spend,
            "earnings": self._earnings,
            "workers": self._workers,
            "models": self._models,
        }

    @property
    def net(self) -> Any:
        """The network. Raises NetworkClosed once it has gone."""
        found = self._lookup()
        if found is None:
            raise NetworkClosed("this network was closed; make another one")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The sections there are."""
        return tuple(self._sections)

    def section(self, name: str) -> dict[str, Any]:
        """One section now: `at` in seconds since 1970, and its `data`, or the `error` that it has instead."""
        if name not in self._sections:
            raise NotFound(f"there is no section {name!r}; there are {', '.join(self._sections)}")
        try:
            return {"at": time.time(), "data": self._sections[name](), "error": None}
        except RiosError as error:
            return {"at": time.time(), "data": None, "error": problem(error)}

    def state(self) -> dict[str, Any]:
        """All sections, and all jobs that are remembered; `jobs_problem` is why generations are not among them."""
        sections = {name: self.section(name) for name in self._sections}
        generations, refused = self._generations()
        return {"sections": sections, "jobs": generations + self.others()[0], "jobs_problem": refused}

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs: generations, oldest first, then deployments and reports."""
        return self._generations()[0] + self.others()[0]

    def _generations(self) -> tuple[list[dict[str, Any]], dict[str, str] | None]:
        """Those there are, or why whoever looks may not see them."""
        try:
            return [view.to_dict() for view in self.net.jobs.all()], None
        except NotAllowed as error:
            return [], problem(error)

    def others(self) -> tuple[list[dict[str, Any]], bool]:
        """Deployments and reports as rows, and whether all could be had."""
        return rows.rows_of(self.net, self._allowed)

    def mark(self) -> int | None:
        """A number that grows with each posting, where the ledger is here: what was read at the same one is fresh."""
        return None if self.kind == "remote" else self.net.billing.mark()

    # --- sections --------------------------------------------------------------------------------------------

    def _network(self) -> dict[str, Any]:
        net = self.net
        return {"address": net.address, "kind": self.kind, "account": net.account}

    def _wallet(self) -> dict[str, Any]:
        wallet = self.net.wallet
        return {"address": wallet.address, **balance_of(wallet.balance)}

    def _spend(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        today = now.date().isoformat()
        since = (now - timedelta(days=SPEND_DAYS - 1)).date()
        month = now.date().replace(day=1)
        billing = self.net.billing
        days = {str(day): int(wei) for day, wei in billing.costs(by="day", since=min(since, month)).wei.items()}
        shown = [(since + timedelta(days=count)).isoformat() for count in range(SPEND_DAYS)]
        return {
            "today_wei": str(days.get(today, 0)),
            "month_wei": str(sum(wei for day, wei in days.items() if day >= month.isoformat())),
            "days": [{"day": day, "wei": str(days.get(day, 0))} for day in shown],
            "budgets": [budget_of(one) for one in billing.budgets],
        }

    def _earnings(self) -> dict[str, Any]:
        now = self.net.earnings.now
        return {
            "owner": now.owner,
            "earned_wei": str(now.earned_wei),
            "pending_wei": str(now.pending_wei),
            "claimable_wei": str(now.claimable_wei),
            "claimed_wei": str(now.claimed_wei),
        }

    def _workers(self) -> dict[str, Any]:
        return {"workers": [worker_of(one) for one in self.net.workers]}

    def _models(self) -> dict[str, Any]:
        return {"models": [{"name": one.name} for one in self.net.models]}

    # --- asked for by name -----------------------------------------------------------------------------------

    def chain(self) -> dict[str, Any]:
        """What the address has outside the escrow. Starts the chain where that was not needed before."""
        return {"at": time.time(), "on_chain_wei": str(self.net.wallet.on_chain)}

    def usage(self, **filters: str | None) -> dict[str, Any]:
        """As `behind.usage`."""
        return behind.usage(self.net, **filters)

    def earned(self) -> dict[str, Any]:
        """As `behind.earned`."""
        return behind.earned(self.net)

    def proof(self, usage_id: str) -> dict[str, Any]:
        """The links from a usage record to its payout. Raises NotProvable."""
        found = self.net.billing.prove(usage_id)
        links = [{"name": one.name, "state": str(one.state), "reason": one.reason} for one in found.links]
        return {"usage_id": usage_id, "verified": found.verified, "links": links}

    def placement(self, name: str) -> dict[str, Any]:
        """Who holds what of a model, and which share of its rows each host's experts had. Raises NotFound."""
        model = next((one for one in self.net.models if one.name == name), None)
        if model is None:
            raise NotFound(f"there is no model {name!r} now; it may have been closed")
        return placement_of(model.placement)

    def job(self, job_id: str) -> dict[str, Any]:
        """One job, with its prompt and its answer so far where it is a generation. Raises NotFound."""
        if rows.kind_of(job_id):
            row = rows.row_of(self.net, job_id, self._allowed)
            return {"job": row, "prompt": "", "answer": "", "params": {}}
        jobs = self.net.jobs
        view, (prompt, answer) = jobs[job_id], jobs.text(job_id)
        return {"job": view.to_dict(), "prompt": prompt, "answer": answer, "params": jobs.params(job_id)}

    def log(self, job_id: str, since: float) -> dict[str, Any]:
        """What a deployment or a report has written after the moment `since`. Raises NotFound."""
        if not rows.kind_of(job_id):
            raise NotFound(f"{job_id!r} has no log; a generation has its prompt and its answer")
        return rows.lines_of(self.net, job_id, since, self._allowed)

    def file(self, job_id: str, kind: str) -> bytes:
        """A file of a report: its page, PDF, figures or notebook. Raises NotFound, InvalidRequest, Elsewhere."""
        return rows.file_of(self.net, job_id, kind, self._allowed)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job; what was received so far is paid. Take a deployment down. Raises NotFound."""
        if rows.kind_of(job_id):
            rows.cancel(self.net, job_id, self._allowed)
        else:
            self.net.jobs.cancel(job_id)
        return {"id": job_id}

    def retry(self, job_id: str) -> dict[str, Any]:
        """Send a job again: the id of the new one. Restart a deployment, make a report anew: these keep their ids.

        Raises NotFound, and as `submit`.
        """
        if rows.kind_of(job_id):
            rows.retry(self.net, job_id, self._allowed)
            return {"id": job_id}
        return {"id": self.net.jobs.retry(job_id)}

    def duplicate(self, job_id: str) -> dict[str, Any]:
        """Want a deployment once more, under another name: the id of the new one. Raises NotFound, InvalidRequest."""
        return {"id": rows.duplicate(self.net, job_id, self._allowed)}

    def scale(self, job_id: str, replicas: object) -> dict[str, Any]:
        """Want so many replicas of a deployment. Raises NotFound, InvalidRequest."""
        rows.scale(self.net, job_id, replicas, self._allowed)
        return {"id": job_id}

    def rest(self, job_id: str, *, paused: bool) -> dict[str, Any]:
        """Pause a deployment, or let it go on. Raises NotFound, InvalidRequest."""
        rows.rest(self.net, job_id, self._allowed, paused=paused)
        return {"id": job_id}


def problem(error: RiosError) -> dict[str, str]:
    """An error as it travels."""
    return {"type": type(error).__name__, "detail": str(error)}


def balance_of(balance: Balance) -> dict[str, Any]:
    """What an account has."""
    names = ("deposited_wei", "trial_wei", "held_wei", "withdrawing_wei", "overdrawn_wei", "available_wei")
    return {name: str(getattr(balance, name)) for name in names}


def budget_of(budget: Budget) -> dict[str, Any]:
    """A budget with what its period has spent, and the day on which that began; "" for one that never began."""
    start = span(budget.period, datetime.now(UTC)).start
    return {
        "since": "" if start is None else start.date().isoformat(),
        "period": str(budget.period),
        "limit_wei": str(budget.limit_wei),
        "spent_wei": str(budget.spent_wei),
        "held_wei": str(budget.held_wei),
        "hard": budget.hard,
    }


def worker_of(worker: WorkerInfo) -> dict[str, Any]:
    """A worker: bytes as numbers, a GPU's load in percent, or the `error` that it has instead of figures."""
    return {
        "name": worker.name,
        "state": worker.state,
        "device": worker.device,
        "experts": worker.experts,
        "memory_bytes": worker.memory_bytes,
        "reserved_bytes": worker.reserved_bytes,
        "gpu": _gpu_of(worker.gpu),
    }


def _gpu_of(said: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a host says of its GPU, in a form that holds whatever it says: hosts are their owners' machines."""
    if not said:
        return None
    figures = {name: said.get(name) for name in ("percent", "used_bytes", "total_bytes")}
    if all(type(value) in (int, float) for value in figures.values()):
        return figures
    return {"error": str(said.get("error") or "the host gives no figures of it")[:_WHY_MAX]}


def placement_of(placement: Placement) -> dict[str, Any]:
    """Hosts of a model: experts they hold, bytes, role, and rows that their experts had, copies counted in shares."""
    rows = dict.fromkeys(placement.states, 0.0)
    held = dict.fromkeys(placement.states, 0)
    for layer, counts in zip(placement.holders, placement.load, strict=True):
        for hosts, count in zip(layer, counts, strict=True):
            for host in hosts:
                rows[host] = rows.get(host, 0.0) + count / len(hosts)
                held[host] = held.get(host, 0) + 1
    total = sum(rows.values())
    return {
        "model": placement.model,
        "explain": placement.explain(),
        "hosts": [
            {
                "name": host,
                "state": placement.states.get(host, "lost"),
                "role": "trunk" if host == placement.trunk else "stand-by" if host in placement.standby else "",
                "experts": held[host],
                "bytes": placement.bytes_by_host.get(host, 0),
                "load": rows[host] / total if total else 0.0,
            }
            for host in sorted(held)
        ],
    }
