"""The commands `rios report ...`: reports over the ledger of RIOS_HOME, by hand and on a schedule, without workers."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.services.reports.reports import Reports
    from rios.services.reports.values import Past, Schedule

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Parameter = Annotated[
    list[str] | None, typer.Option("-p", help="A parameter of the notebook, such as -p rows_shown=10.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Where reports are published; reports/out of a checkout, else RIOS_HOME/reports, without."),
]
Subject = Annotated[str, typer.Option("--user", help="Only what this user spent; everybody's without.")]
report = typer.Typer(help="Make reports, now and on a schedule.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add all of them to the command line."""
    app.add_typer(report, name="report")


@contextmanager
def _reports(out: Path | None = None) -> Iterator[Reports]:
    from rios.services.purse import Purse
    from rios.services.reports.opening import open_reports
    from rios.words.config import settings

    options = settings()
    if options.home is None:
        raise InvalidRequest("reports are about the ledger of a home: set RIOS_HOME to the directory of the network's")
    with Purse(options, background=False) as purse, open_reports(purse, options, out=out) as found:
        yield found


@report.command()
def run(
    name: Annotated[str, typer.Argument(help="Such as cost; `rios report list` shows all.")],
    period: Annotated[str, typer.Option(help="yesterday, last-week, last-month, a day, a month, or DAY/DAY.")] = (
        "yesterday"
    ),
    parameter: Parameter = None,
    user: Subject = "",
    force: Annotated[bool, typer.Option("--force", help="Again, from the same entries of the ledger.")] = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Make a report; where it was made already, say where it is. Exit code 1 where it is not good."""
    from rios.services.books import LOCAL_USER

    with _reports(out) as reports:
        found = reports.run(
            name, period, owner=LOCAL_USER, parameters=_parameters(parameter), subject=user, force=force
        )
        _say_past(reports, found, as_json)


@report.command()
def rerun(
    run_id: Annotated[str, typer.Argument(help="As `rios report history` shows it.")],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Make a report again, from the same entries of the ledger: the same bytes."""
    with _reports(out) as reports:
        _say_past(reports, reports.rerun(run_id), as_json)


@report.command()
def schedule(
    name: Annotated[str, typer.Argument(help="Such as cost.")],
    cron: Annotated[str, typer.Option(help="Minute, hour, day, month and weekday, such as '0 6 * * *'.")],
    zone: Annotated[str, typer.Option(help="The time zone of --cron, such as Europe/Berlin.")] = "UTC",
    period: Annotated[str, typer.Option(help="yesterday, today, last-week, last-month or this-month.")] = "yesterday",
    email: Annotated[list[str] | None, typer.Option(help="Send it there; more than once for more.")] = None,
    webhook: Annotated[list[str] | None, typer.Option(help="Tell this URL; more than once for more.")] = None,
    parameter: Parameter = None,
    user: Subject = "",
    last_only: Annotated[
        bool, typer.Option("--last-only", help="After a sleep make the last that was missed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Have a report made again and again by `rios report serve` or a gateway; print the secret of its webhooks."""
    from rios.services.books import LOCAL_USER
    from rios.services.reports.values import Wish

    wish = Wish(
        name=name, cron=cron, zone=zone, period=period, parameters=_parameters(parameter), emails=tuple(email or ()),
        webhooks=tuple(webhook or ()), catch_up=not last_only, subject=user,
    )  # fmt: skip
    with _reports() as reports:
        found, secret = reports.schedule(wish, owner=LOCAL_USER)
    value = {**_schedule(found), **({"webhook_secret": secret} if webhook else {})}
    said = f"{found.id}: {found.name} of {found.period}, next at {value['next']}"
    _say(value, as_json, said + (f"\nwebhooks are signed by {secret}" if webhook else ""))


@report.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Show the reports that there are, and their schedules."""
    from rios.services.views import text_table

    with _reports() as reports:
        templates = [reports.templates.get(name) for name in reports.templates.names()]
        schedules = [_schedule(one) for one in reports.store.schedules()]
    value = {"reports": [{"name": t.name, "summary": t.summary} for t in templates], "schedules": schedules}
    shown = text_table(("report", "about"), [(t.name, t.summary) for t in templates])
    columns = ("id", "name", "cron", "zone", "period", "next", "state")
    rows = [[one[column] for column in columns] for one in schedules]
    _say(value, as_json, shown + "\n\n" + (text_table(columns, rows) if rows else "no schedules"))


@report.command()
def history(
    name: Annotated[str | None, typer.Argument(help="Of this report alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what was made, the last first."""
    from rios.services.views import text_table
    from rios.words.money import format_ros

    with _reports() as reports:
        found = reports.store.history(name=name, limit=limit)
    columns = ("run", "report", "period", "state", "version", "ended", "took", "cost", "folder")
    rows = [
        (
            one.run_id, one.name, one.label, one.state, one.version or "", _when(one.ended_at),
            f"{(one.ended_at - one.started_at) / 1e6:.1f} s", format_ros(one.cost_wei), one.folder or one.error[:60],
        )
        for one in found
    ]  # fmt: skip
    _say([_past(one) for one in found], as_json, text_table(columns, rows))


@report.command()
def pause(schedule_id: str, as_json: AsJson = False) -> None:
    """Let a schedule rest; what it misses is not made up for."""
    with _reports() as reports:
        found = reports.pause(schedule_id)
    _say(_schedule(found), as_json, f"{found.id} rests")


@report.command()
def resume(schedule_id: str, as_json: AsJson = False) -> None:
    """Let a schedule that rests go on, from now."""
    with _reports() as reports:
        found = reports.resume(schedule_id)
    _say(_schedule(found), as_json, f"{found.id} goes on, next at {_when(found.next_at)}")


@report.command()
def delete(schedule_id: str, as_json: AsJson = False) -> None:
    """End a schedule; what it made stays."""
    with _reports() as reports:
        reports.delete(schedule_id)
    _say({"deleted": schedule_id}, as_json, f"{schedule_id} is ended")


@report.command()
def schema(name: Annotated[str, typer.Argument(help="Such as cost.")]) -> None:
    """Print the JSON Schema of a report's JSON."""
    from rios.services.reports.kinds import kind_of

    sys.stdout.write(json.dumps(kind_of(name).schema(), indent=1) + "\n")


@report.command()
def serve(out: Out = None) -> None:
    """Make and deliver what is due, until SIGINT or SIGTERM. Several of these make each report once."""
    ended = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: ended.set())
    with _reports(out) as reports:
        reports.start()
        sys.stdout.write(f"reports are published in {reports.shelf.out}\n")
        sys.stdout.flush()
        ended.wait()


def _parameters(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in given or ():
        key, equals, text = one.partition("=")
        if not equals:
            raise InvalidRequest(f"{one!r} is no parameter; write its name, an equals sign and its value")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def _say_past(reports: Reports, found: Past, as_json: bool) -> None:
    lines = [f"{found.name} {found.label} is {found.state}" + (f": {found.error}" if found.error else "")]
    lines += [str(reports.shelf.out / found.folder / name) for name in found.files]
    _say(_past(found), as_json, "\n".join(lines))
    raise typer.Exit(0 if found.state == "ok" else 1)


def _past(found: Past) -> dict[str, Any]:
    return {**asdict(found), "cost_wei": str(found.cost_wei), "cpu_ns": str(found.cpu_ns)}


def _schedule(found: Schedule) -> dict[str, Any]:
    said = {name: getattr(found, name) for name in ("id", "owner", "subject", "name", "cron", "zone", "period")}
    state = "resting" if found.paused_at is not None else "on"
    return {
        **said, "parameters": json.loads(found.parameters), "emails": found.emails, "webhooks": found.webhooks,
        "catch_up": found.catch_up, "next": _when(found.next_at), "state": state,
    }  # fmt: skip


def _when(at_us: int) -> str:
    from rios.services.moments import moment_of

    return f"{moment_of(at_us):%Y-%m-%d %H:%M:%S} UTC"


def _say(value: object, as_json: bool, shown: object) -> None:
    text = json.dumps(value, default=str) if as_json else str(shown)
    sys.stdout.write(f"{text}\n")
