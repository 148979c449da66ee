"""The commands `rios report ...`: over the ledger of RIOS_HOME without workers, or by the gateway of RIOS_URL."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.client.reports import RemoteReports
    from rios.services.reports.own import UserReports
    from rios.services.reports.reports import Reports
    from rios.services.reports.values import Past, Schedule

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Parameter = Annotated[
    list[str] | None, typer.Option("-p", help="A parameter of the notebook, such as -p rows_shown=10.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Where reports are published; without: RIOS_REPORTS, reports/out of a checkout, or RIOS_HOME/reports."
    ),
]
Subject = Annotated[str, typer.Option("--user", help="Only what this user spent; everybody's without.")]
_LOOK_S = 0.5
report = typer.Typer(help="Make reports, now and on a schedule.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add all of them to the command line."""
    app.add_typer(report, name="report")


@contextmanager
def _here(out: Path | None) -> Iterator[Reports]:
    """Over the ledger of the home."""
    from rios.services.purse import Purse
    from rios.services.reports.opening import open_reports
    from rios.words.config import settings

    options = settings()
    if options.home is None:
        raise InvalidRequest("reports are about the ledger of a home: set RIOS_HOME to the directory of the network's")
    with Purse(options, background=False) as purse, open_reports(purse, options, out=out) as found:
        yield found


@contextmanager
def _reports(out: Path | None = None) -> Iterator[tuple[UserReports | RemoteReports, Path | None]]:
    """The reports, and where they are published; None where a gateway has them.

    RIOS_URL names a gateway; else those of RIOS_HOME, and without that, of the gateway that was signed in to.
    """
    from rios.client.where import URL_VARIABLE, find
    from rios.services.books import LOCAL_USER
    from rios.services.reports.own import UserReports
    from rios.words.config import settings

    place = find() if os.environ.get(URL_VARIABLE) or settings().home is None else None
    if place is not None:
        with place.connect() as network:
            yield network.reports, None
        return
    with _here(out) as found:
        yield UserReports(lambda: found, user=LOCAL_USER, everybodys=True), found.shelf.out


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
    with _reports(out) as (reports, shelf):
        found = reports.run(name, period, parameters=_parameters(parameter), subject=user or None, force=force)
        _say_past(reports, found.id, shelf, out, as_json)


@report.command()
def rerun(
    run_id: Annotated[str, typer.Argument(help="As `rios report history` shows it.")],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Make a report again, from the same entries of the ledger: the same bytes."""
    with _reports(out) as (reports, shelf):
        _say_past(reports, reports.rerun(run_id).id, shelf, out, as_json)


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
    from rios.services.reports.values import Wish

    wish = Wish(
        name=name, cron=cron, zone=zone, period=period, parameters=_parameters(parameter), emails=tuple(email or ()),
        webhooks=tuple(webhook or ()), catch_up=not last_only,
    )  # fmt: skip
    with _reports() as (reports, _):
        found, secret = reports.schedule_wish(wish, subject=user or None)
    value = {**_schedule(found), **({"webhook_secret": secret} if webhook else {})}
    said = f"{found.id}: {found.name} of {found.period}, next at {value['next']}"
    _say(value, as_json, said + (f"\nwebhooks are signed by {secret}" if webhook else ""))


@report.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Show the reports that there are, and their schedules."""
    from rios.words.display import text_table

    with _reports() as (reports, _):
        kinds = reports.kinds
        schedules = [_schedule(one) for one in reports.schedules()]
    value = {"reports": [{"name": one.name, "summary": one.summary} for one in kinds], "schedules": schedules}
    shown = text_table(("report", "about"), [(one.name, one.summary) for one in kinds])
    columns = ("id", "name", "cron", "zone", "period", "next", "state")
    rows = [[one[column] for column in columns] for one in schedules]
    _say(value, as_json, shown + "\n\n" + (text_table(columns, rows) if rows else "no schedules"))


@report.command()
def history(
    name: Annotated[str | None, typer.Argument(help="Of this report alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what was made, the last first."""
    from rios.words.display import text_table
    from rios.words.money import format_ros

    with _reports() as (reports, _):
        found = reports.history(name, limit=limit)
    columns = ("run", "report", "period", "state", "version", "ended", "took", "cost", "folder")
    rows = [
        (
            one.run_id, one.name, one.label, one.state, one.version or "", _when(one.ended_at),
            f"{(one.ended_at - one.started_at) / 1e6:.1f} s", format_ros(one.cost_wei), one.folder or one.error[:60],
        )
        for one in found
    ]  # fmt: skip
    _say([one.to_dict() for one in found], as_json, text_table(columns, rows))


@report.command()
def log(
    run_id: Annotated[str, typer.Argument(help="As `rios report history` shows it.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the report has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a report has written: its attempts, and the cells that the last one came to, as it comes to them."""
    from rios.services.reports.values import ENDED
    from rios.services.rows import report_lines

    since = 0.0
    with _reports() as (reports, _):
        while True:
            ended = reports.get(run_id).state in ENDED  # asked first: what is read then is all of it
            for line in report_lines(reports, run_id):
                if line["at"] > since:
                    since = line["at"]
                    _say(line, as_json, f"{_when(int(since * 10**6))} {line['who']} {line['text']}")
            if ended or not follow:
                return
            sys.stdout.flush()
            time.sleep(_LOOK_S)


@report.command()
def pause(schedule_id: str, as_json: AsJson = False) -> None:
    """Let a schedule rest; what it misses is not made up for."""
    with _reports() as (reports, _):
        found = reports.pause(schedule_id)
    _say(_schedule(found), as_json, f"{found.id} rests")


@report.command()
def resume(schedule_id: str, as_json: AsJson = False) -> None:
    """Let a schedule that rests go on, from now."""
    with _reports() as (reports, _):
        found = reports.resume(schedule_id)
    _say(_schedule(found), as_json, f"{found.id} goes on, next at {_when(found.next_at)}")


@report.command()
def delete(schedule_id: str, as_json: AsJson = False) -> None:
    """End a schedule; what it made stays."""
    with _reports() as (reports, _):
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
    with _here(out) as reports:
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


def _say_past(
    reports: UserReports | RemoteReports, run_id: str, shelf: Path | None, out: Path | None, as_json: bool
) -> None:
    found = reports.history(run_id=run_id, limit=1)[0]
    files = (
        _fetched(reports, found, out or Path("reports") / "out")
        if shelf is None
        else [shelf / found.folder / name for name in found.files]
    )
    said = f"{found.name} {found.label} is {found.state}" + (f": {found.error}" if found.error else "")
    _say(found.to_dict(), as_json, "\n".join([said, *map(str, files)]))
    raise typer.Exit(0 if found.state == "ok" else 1)


def _fetched(reports: UserReports | RemoteReports, found: Past, out: Path) -> list[Path]:
    """The files of a report that a gateway has, brought here: the folder is as it is there."""
    from rios.reporting.shelf import plain

    version = "partial" if found.version is None else f"v{found.version}"
    folder = out / plain(found.name) / plain(found.label) / version
    files = []
    for name in found.files:
        kind = name.rpartition(".")[2]
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"{plain(found.name)}-{plain(found.label)}.{plain(kind)}")
        files[-1].write_bytes(reports.file(found.run_id, kind))
    return files


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
