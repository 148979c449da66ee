"""What may be asked of a panel, by name: the one table behind JupyterLab's server half, widgets and the dashboard."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from rios.services.feed import Feed
from rios.services.panel import Panel, everything, problem
from rios.services.plans import Plans
from rios.services.reports import served
from rios.services.rows import Allowed
from rios.words import errors
from rios.words.errors import RiosError

MONEY = ("wallet", "spend", "earnings")
# The first class that fits holds; 503 is for what may be over in a while.
STATUSES: tuple[tuple[type[RiosError], int], ...] = (
    (errors.NotSignedIn, 401),
    (errors.NotAllowed, 403),
    (errors.NotFound, 404),
    (errors.TooManyRequests, 429),
    (errors.InsufficientBalance, 402),
    (errors.BudgetExceeded, 402),
    (errors.InvalidAmount, 400),
    (errors.InvalidRequest, 400),
    (errors.NotProvable, 409),
    (errors.TransactionFailed, 409),
)


def status_of(error: RiosError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 503)


class Desk:
    """A panel with its plans and its feed. Safe for threads; close it."""

    def __init__(self, lookup: Callable[[], Any], *, kind: str, allowed: Allowed = everything) -> None:
        """lookup: the network, or None once it has gone. kind: local or remote. allowed: as `Panel`."""
        self.panel = panel = Panel(lookup, kind=kind, allowed=allowed)
        self.plans = plans = Plans(panel)
        self.feed = Feed(panel)
        self._reads: dict[str, Callable[[Mapping[str, str]], Any]] = {
            "state": lambda _: {"last": self.feed.last, **panel.state()},
            "chain": lambda _: panel.chain(),
            "usage": lambda given: panel.usage(**_only(given, "since", "until", "request_id", "model", "job")),
            "earned": lambda _: panel.earned(),
            "proof": lambda given: panel.proof(_text(given, "usage_id")),
            "placement": lambda given: panel.placement(_text(given, "model")),
            "job": lambda given: panel.job(_text(given, "id")),
            "log": lambda given: panel.log(_text(given, "id"), _moment(given, "since")),
        }
        self._deeds: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "plan": lambda given: plans.plan(_text(given, "action"), {k: v for k, v in given.items() if k != "action"}),
            "act": lambda given: self._act(_text(given, "plan")),
            "jobs/cancel": lambda given: panel.cancel(_text(given, "id")),
            "jobs/retry": lambda given: panel.retry(_text(given, "id")),
            "jobs/scale": lambda given: panel.scale(_text(given, "id"), given.get("replicas")),
            "jobs/duplicate": lambda given: panel.duplicate(_text(given, "id")),
            "jobs/pause": lambda given: panel.rest(_text(given, "id"), paused=True),
            "jobs/resume": lambda given: panel.rest(_text(given, "id"), paused=False),
        }

    def ask(self, method: str, what: str, given: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and JSON of one request: a "GET" of what can be read, with texts, or a "POST" of a deed."""
        known = self._reads if method == "GET" else self._deeds
        try:
            if what not in known:
                raise errors.NotFound(f"a panel has no {what!r}; there are {', '.join(known)}")
            found = known[what](given)
            if what.startswith("jobs/"):
                self.feed.look_at_rows()
            return 200, found
        except RiosError as error:
            return status_of(error), problem(error)

    def file(self, given: Mapping[str, str]) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, bytes and headers of a report's file, by its `id` and `kind`."""
        try:
            kind = given.get("kind", "html")
            return 200, self.panel.file(_text(given, "id"), kind), served.headers(kind)
        except RiosError as error:
            said = json.dumps(problem(error)).encode()
            return status_of(error), said, {"Content-Type": "application/json", "Cache-Control": "no-store"}

    def close(self) -> None:
        """Tell nobody any more."""
        self.feed.close()

    def _act(self, plan: str) -> Any:
        try:
            return self.plans.act(plan)
        finally:
            self.feed.look(*MONEY)


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise errors.InvalidRequest(f"{name} must be a text that is not empty")
    return value


def _moment(given: Mapping[str, str], name: str) -> float:
    try:
        found = float(given.get(name, "0"))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise errors.InvalidRequest(f"{name} must be a number of seconds since 1970")
    return found


def _only(given: Mapping[str, str], *names: str) -> dict[str, str]:
    unknown = set(given) - set(names)
    if unknown:
        raise errors.InvalidRequest(f"{', '.join(sorted(unknown))} cannot be filtered by; there are {', '.join(names)}")
    return dict(given)
