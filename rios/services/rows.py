"""A panel's rows of deployments and reports, beside those of generations: what they are, their lines, what is done.

A row has the fields of `JobView.to_dict`, and more: `phase` is the state in the words of its kind; `parts` of
`parts_max` is how far it has come (replicas that are ready); `deeds` are the buttons that make sense now.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rios.services.reports.served import TYPES
from rios.words.errors import InvalidRequest, NotAllowed, NotFound, RiosError

if TYPE_CHECKING:
    from rios.services.deployments.views import AppView
    from rios.services.reports.values import Line, Made

log = logging.getLogger(__name__)

Allowed = Callable[[str], None]
"""Raises NotAllowed for a scope that whoever looks does not have."""

DEPLOYMENT, REPORT = "deployment", "report"
_PREFIXES = {"app-": DEPLOYMENT, "report-": REPORT}
_SCOPES = {DEPLOYMENT: ("models:read", "deployments:write"), REPORT: ("usage:read", "reports:write")}
REPORTS_MAX = 100
LINES_MAX = 1000
REPLICAS_MAX = 1000
NAME_MAX = 50
"""Of a name of which there is a second one: a name has 63 characters at most."""
# What filters and colours go by: the six states of generations.
_STATES = {
    "requested": "queued", "scheduled": "queued", "pulling": "queued", "starting": "queued", "ready": "running",
    "degraded": "running", "updating": "running", "stopping": "running", "paused": "paused", "stopped": "done",
    "failed": "failed", "queued": "queued", "running": "running", "ok": "done", "partial": "failed",
}  # fmt: skip


def kind_of(row_id: str) -> str:
    """deployment or report; "" for the id of a generation."""
    return next((kind for prefix, kind in _PREFIXES.items() if row_id.startswith(prefix)), "")


def of_app(view: AppView) -> dict[str, Any]:
    """The row of a deployment."""
    going = "resume" if view.status == "paused" else "pause"
    gone = view.status in ("stopping", "stopped")
    return _row(
        view.id, DEPLOYMENT, view.name, view.owner, view.owner_login, view.status, view.cost_wei,
        model="", hosts=view.hosts, error=view.reason, started_us=view.created_at, ended_us=view.ended_at,
        parts=view.ready, parts_max=view.replicas, requests=view.requests, revision=view.revision,
        deeds=[] if gone else ["scale", going, "retry", "duplicate", "cancel"], files=[],
    )  # fmt: skip


def of_report(made: Made) -> dict[str, Any]:
    """The row of a report."""
    ended = made.state in ("ok", "partial", "failed")
    about = f"{made.name} {made.label}" + (f" of {made.subject_login}" if made.subject else "")
    return _row(
        made.id, REPORT, about, made.owner, made.owner_login, str(made.state), made.cost_wei,
        model=made.name, hosts=(made.runtime,) if made.runtime else (), error=made.error,
        started_us=made.created_at, ended_us=made.ended_at if ended else 0, parts=int(made.state == "ok"), parts_max=1,
        requests=0, revision=made.version or 0, deeds=["retry"] if ended else [],
        files=[kind for kind in TYPES if any(one.endswith(f".{kind}") for one in made.files)],
    )  # fmt: skip


def ended(row: dict[str, Any], *, at: float) -> dict[str, Any]:
    """The row of a deployment that is not there any more."""
    return {**row, "state": "done", "phase": "stopped", "ended_at": at, "parts": 0, "hosts": [], "deeds": []}


def rows_of(net: Any, allowed: Allowed) -> tuple[list[dict[str, Any]], bool]:
    """All rows, and whether those of each kind could be had; one kind that whoever looks may not see has none."""
    found: list[dict[str, Any]] = []
    whole = True
    for kind, read in ((DEPLOYMENT, _apps), (REPORT, _reports)):
        try:
            allowed(_SCOPES[kind][0])
            found += read(net)
        except NotAllowed:
            continue
        except RiosError as error:
            log.info("a panel has not all rows", extra={"kind": kind, "reason": str(error)})
            whole = False
    return found, whole


def row_of(net: Any, row_id: str, allowed: Allowed) -> dict[str, Any]:
    """One of them. Raises NotFound."""
    kind = kind_of(row_id)
    allowed(_SCOPES[kind][0])
    return of_report(net.reports.get(row_id)) if kind == REPORT else of_app(_app(net, row_id).view())


def lines_of(net: Any, row_id: str, since: float, allowed: Allowed) -> dict[str, Any]:
    """Lines after the moment `since` (seconds since 1970), the last thousand; `next` is the `since` of what follows."""
    kind = kind_of(row_id)
    allowed(_SCOPES[kind][0])
    lines = report_lines(net.reports, row_id) if kind == REPORT else _written(net, row_id, since)
    lines = [one for one in lines if one["at"] > since][-LINES_MAX:]
    return {"lines": lines, "next": max((one["at"] for one in lines), default=since)}


def file_of(net: Any, row_id: str, kind: str, allowed: Allowed) -> bytes:
    """A file of a report. Raises NotFound, InvalidRequest for a kind that there is none of."""
    if kind_of(row_id) != REPORT:
        raise NotFound(f"{row_id!r} has no files; a report has")
    allowed(_SCOPES[REPORT][0])
    content: bytes = net.reports.file(row_id, kind)
    return content


def cancel(net: Any, row_id: str, allowed: Allowed) -> None:
    """Take a deployment down. Raises InvalidRequest for a report: it is also others' who asked for the same."""
    if kind_of(row_id) == REPORT:
        raise InvalidRequest("a report is not cancelled: others may wait for it too; it ends by itself")
    _changed(net, row_id, allowed).delete(wait=False)


def retry(net: Any, row_id: str, allowed: Allowed) -> None:
    """Replace a deployment's replicas by new ones; make a report again."""
    if kind_of(row_id) == REPORT:
        allowed(_SCOPES[REPORT][1])
        net.reports.again(row_id)
    else:
        _changed(net, row_id, allowed).restart()


def duplicate(net: Any, row_id: str, allowed: Allowed) -> str:
    """Want a deployment once more, as it was specified, under another name; the id of the new one.

    Raises InvalidRequest for one with secrets: whoever made it knows them, and rios gives them to nobody.
    """
    app = _changed(net, row_id, allowed)
    wanted = app.specification
    if wanted.get("secrets"):
        raise InvalidRequest(f"{app.name} has secrets, which a duplicate would lack; deploy it again, with them")
    taken = {view.name for view in net.deploy.views()}
    names = (f"{app.name[:NAME_MAX]}-{number}" for number in itertools.count(2))
    name = next(one for one in names if one not in taken)
    return str(net.deploy.create(**{**wanted, "name": name}).id)


def scale(net: Any, row_id: str, replicas: object, allowed: Allowed) -> None:
    """Want so many replicas."""
    if isinstance(replicas, bool) or not isinstance(replicas, int) or not 0 <= replicas <= REPLICAS_MAX:
        raise InvalidRequest(f"replicas is {replicas!r}; it must be a whole number from 0 to {REPLICAS_MAX}")
    _changed(net, row_id, allowed).scale(replicas)


def rest(net: Any, row_id: str, allowed: Allowed, *, paused: bool) -> None:
    """Pause a deployment, or let it go on."""
    app = _changed(net, row_id, allowed)
    if paused:
        app.pause()
    else:
        app.resume()


def _changed(net: Any, row_id: str, allowed: Allowed) -> Any:
    if kind_of(row_id) != DEPLOYMENT:
        raise NotFound(f"there is no deployment {row_id!r}; net.deploy.list() shows those that there are")
    allowed(_SCOPES[DEPLOYMENT][1])
    return _app(net, row_id)


def _apps(net: Any) -> list[dict[str, Any]]:
    return [of_app(view) for view in net.deploy.views()]


def _reports(net: Any) -> list[dict[str, Any]]:
    return [of_report(made) for made in net.reports.list(limit=REPORTS_MAX)]


def _app(net: Any, app_id: str) -> Any:
    view = next((one for one in net.deploy.views() if one.id == app_id), None)
    if view is None:
        raise NotFound(f"there is no deployment {app_id!r} any more; net.deploy.list() shows those that there are")
    return net.deploy.get(view.name)


def _written(net: Any, row_id: str, since: float) -> list[dict[str, Any]]:
    found = _app(net, row_id).lines(since=since)
    return [{"at": line.at, "who": who, "text": line.text} for who, line in found]


def report_lines(reports: Any, run_id: str) -> list[dict[str, Any]]:
    """What is known of a report, as lines: of each attempt its beginning and end, and what the last one wrote."""
    made = reports.get(run_id)
    written = reports.lines(run_id)
    lines = [_said(made.created_at, "", "asked for")]
    for one in reversed(reports.history(run_id=run_id)):
        who = f"attempt {one.attempt}"
        if one.attempt in {line.attempt for line in written}:
            lines += _written_of(written)
            written = ()
        else:
            lines.append(_said(one.started_at, who, "began"))
            if one.height is not None:
                lines.append(_said(one.started_at + 1, who, f"counts the ledger up to entry {one.height}"))
        ended = ": ".join(filter(None, (str(one.state), one.error)))
        where = ", ".join(filter(None, (one.runtime, f"{one.cpu_ns / 1e9:.1f} s of processor time", one.folder)))
        lines.append(_said(one.ended_at, who, f"{ended} ({where})"))
    return lines + _written_of(written)


def _written_of(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [_said(line.at, f"attempt {line.attempt}", line.text) for line in lines]


def _said(at_us: int, who: str, text: str) -> dict[str, Any]:
    return {"at": at_us / 1e6, "who": who, "text": text}


def _row(
    row_id: str,
    kind: str,
    name: str,
    owner: str,
    owner_login: str,
    phase: str,
    cost_wei: int,
    *,
    hosts: tuple[str, ...],
    started_us: int,
    ended_us: int,
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": row_id, "kind": kind, "name": name, "owner": owner, "owner_login": owner_login,
        "state": _STATES[phase], "phase": phase, "tokens": 0, "tokens_max": 0, "prompt_tokens": 0,
        "tokens_per_second": None, "started_at": started_us / 1e6,
        "ended_at": ended_us / 1e6 if ended_us else None, "cost_wei": str(cost_wei), "posted": True,
        "hosts": list(hosts), **more,
    }  # fmt: skip
