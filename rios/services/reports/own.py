"""`net.reports`: the reports of one user, made now and on a schedule. Another's are not there."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rios.services.reports.values import ENDED, Line, Made, Past, RunState, Schedule, Wish
from rios.words.display import Shown, Unknown, answer, html_line, html_table, text_table
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotFound, QueueFull
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from rios.services.reports.reports import Reports

FORMATS = ("html", "pdf", "json", "ipynb")
RUN_S = 900.0
_LOOK_S = 0.1
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Shown):
    """A report that can be made."""

    name: str
    summary: str
    parameters: tuple[str, ...]
    """What its notebook lets one choose."""


def _anybody(_: Wish) -> None:
    """Whoever has the ledger's file tells whom it likes."""


def until_ended(get: Callable[[str], Made], run_id: str, timeout: float, *, look_s: float) -> Made:
    """What `get` says of a report once it has been made, or has failed. Raises DeadlineExceeded after `timeout` s."""
    deadline = time.monotonic() + timeout
    while (found := get(run_id)).state not in ENDED:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"report {run_id} is {found.state} after {timeout:g} s; it goes on: wait() again")
        time.sleep(look_s)
    return found


class Listed(ABC):
    """What shows its newest reports, wherever it asks for them."""

    @abstractmethod
    def list(self, limit: int = 100) -> tuple[Made, ...]:
        """What was asked for, the last first."""

    def __repr__(self) -> str:
        found = answer(lambda: self.list(limit=_SHOWN))
        return f"<Reports: {found}>" if isinstance(found, Unknown) else text_table(*table(found))

    def _repr_html_(self) -> str:
        found = answer(lambda: self.list(limit=_SHOWN))
        return html_line(found, title="Reports") if isinstance(found, Unknown) else html_table(*table(found))


class UserReports(Listed):
    """Reports of one user over the ledger of a network."""

    def __init__(
        self,
        reports: Callable[[], Reports],
        *,
        user: str,
        everybodys: bool,
        checked: Callable[[Wish], None] = _anybody,
    ) -> None:
        """everybodys: whether the user sees and makes reports about everybody. checked: raises NotAllowed for a
        schedule that would tell whom this user may not tell."""
        self._reports = reports
        self._user = user
        self._everybodys = everybodys
        self._checked = checked

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The reports that can be made."""
        return tuple(
            Kind(name=one.name, summary=one.summary, parameters=tuple(p for p in one.parameters if p != "data"))
            for one in self._reports().templates.all()
        )

    # --- runs ------------------------------------------------------------------------------------------------

    def run(
        self,
        name: str,
        period: str = "yesterday",
        *,
        parameters: Mapping[str, Any] | None = None,
        subject: str | None = None,
        force: bool = False,
        timeout: float = RUN_S,
    ) -> Made:
        """Make a report, or find the one that was made, and wait for it.

        period: yesterday, last-week, last-month, a day, a month, or DAY/DAY. subject: whose costs it is about: an id
        of a user, or "" for everybody. force: again from the same entries of the ledger: the same bytes.

        Raises InvalidRequest, NotAllowed, DeadlineExceeded.
        """
        run_id, wanted = self._wanted(name, period, parameters, subject, force=force)
        return self._made(run_id, timeout) if wanted else self.wait(run_id, timeout=timeout)

    def want(
        self,
        name: str,
        period: str = "yesterday",
        *,
        parameters: Mapping[str, Any] | None = None,
        subject: str | None = None,
        force: bool = False,
    ) -> Made:
        """As `run`, without waiting."""
        run_id, wanted = self._wanted(name, period, parameters, subject, force=force)
        if wanted:
            self._reports().begin(run_id)
        return self.get(run_id)

    def wait(self, run_id: str, *, timeout: float = RUN_S) -> Made:
        """Until it has been made, or has failed. Raises DeadlineExceeded, NotFound.

        Where no process looks for what is due, it is made here once nobody makes it any more.
        """

        def look(_: str) -> Made:
            found = self.get(run_id)
            if found.state not in ENDED:
                self._reports().go_on(run_id)
            return found

        return until_ended(look, run_id, timeout, look_s=_LOOK_S)

    def again(self, run_id: str) -> Made:
        """Have a report made again, at the ledger height of the first time, without waiting. Raises NotFound.

        Whoever asked for it first pays for it again, and so nobody else may.
        """
        self._reports().begin(self._own(run_id))
        return self.get(run_id)

    def rerun(self, run_id: str, *, timeout: float = RUN_S) -> Made:
        """As `again`, and wait for it."""
        return self._made(self._own(run_id), timeout)

    def get(self, run_id: str) -> Made:
        """A report that was asked for. Raises NotFound, for another's as for one that never was."""
        found = self._reports().store.made(user=self._seen, run_id=run_id, limit=1)
        if not found:
            raise self._missing(run_id)
        return found[0]

    def list(self, limit: int = 100, *, after: tuple[int, str] | None = None) -> tuple[Made, ...]:
        """What was asked for, the last first. after: moment and id of the last one before these."""
        return tuple(self._reports().store.made(user=self._seen, limit=limit, after=after))

    def history(
        self, name: str | None = None, *, run_id: str | None = None, limit: int = 100, after: int = 0
    ) -> tuple[Past, ...]:
        """Each attempt, the last first. after: the number of the last one before these."""
        found = self._reports().store.history(name=name, run_id=run_id, user=self._seen, limit=limit, after=after)
        return tuple(found)

    def lines(self, run_id: str) -> tuple[Line, ...]:
        """What the last attempt has written, also while it is made. Raises NotFound."""
        return tuple(line for _, line in self.numbered_lines(run_id))

    def numbered_lines(self, run_id: str, *, after: int = -1, limit: int | None = None) -> Sequence[tuple[int, Line]]:
        """The same, each with its number; those after a number."""
        return self._reports().store.lines(self.get(run_id).id, after=after, limit=limit)

    def file(self, run_id: str, kind: str = "html") -> bytes:
        """A report's page, or its PDF, JSON or executed notebook; out of the folder, or from a host that keeps it.

        Raises NotFound where there is none, and Elsewhere where another gateway published it in a folder of its own and
        no host that keeps it answers.
        """
        if kind not in FORMATS:
            raise InvalidRequest(f"there is no {kind!r} of a report; there are {', '.join(FORMATS)}")
        found, reports = self.get(run_id), self._reports()
        for past in reports.store.history(run_id=run_id, limit=1):
            for name, said in past.files.items():
                if name.endswith(f".{kind}"):
                    return reports.keeping.read(past.folder, name, said["sha256"])
        raise NotFound(f"report {run_id} has no {kind}; it is {found.state}")

    # --- schedules -------------------------------------------------------------------------------------------

    def schedule(self, name: str, cron: str, **wish: Any) -> tuple[Schedule, str]:
        """Have a report made again and again; the secret that signs what webhooks are told.

        cron: minute, hour, day, month and weekday. More, as of `rios.services.reports.values.Wish`: period, zone,
        parameters, emails, webhooks, catch_up, subject. Raises InvalidRequest, NotAllowed, QueueFull.
        """
        about = wish.pop("subject", None)
        try:
            wanted = Wish(name=name, cron=cron, **wish)
        except TypeError as error:
            raise InvalidRequest(f"a schedule has no such field: {error}") from error
        return self.schedule_wish(wanted, subject=about)

    def schedule_wish(self, wish: Wish, *, subject: str | None = None) -> tuple[Schedule, str]:
        """As `schedule`, of a wish."""
        from dataclasses import replace

        about = ("" if self._everybodys else self._user) if subject is None else subject
        self._checked(wish)
        return self._reports().schedule(replace(wish, subject=about), owner=self._user)

    def schedules(self, *, after: tuple[int, str] = (-1, ""), limit: int | None = None) -> tuple[Schedule, ...]:
        """Those that were not deleted, oldest first; those after a moment and id."""
        return tuple(self._reports().store.schedules(self._seen, after=after, limit=limit))

    def get_schedule(self, schedule_id: str) -> Schedule:
        """One of them. Raises NotFound."""
        found = self._reports().store.schedule(schedule_id)
        if found.owner != self._user and not self._everybodys:
            raise NotFound(f"there is no schedule {schedule_id!r}; `rios report list` shows all")
        return found

    def pause(self, schedule_id: str) -> Schedule:
        """Let a schedule rest. What it misses is not made up for."""
        return self._reports().pause(self.get_schedule(schedule_id).id)

    def resume(self, schedule_id: str) -> Schedule:
        """Let a paused schedule go on, from now."""
        return self._reports().resume(self.get_schedule(schedule_id).id)

    def delete(self, schedule_id: str) -> None:
        """End a schedule. What it made stays."""
        self._reports().delete(self.get_schedule(schedule_id).id)

    def _wanted(
        self, name: str, period: str, parameters: Mapping[str, Any] | None, subject: str | None, *, force: bool
    ) -> tuple[str, bool]:
        """The id of a run, and whether it is to be made now."""
        about = ("" if self._everybodys else self._user) if subject is None else subject
        run = self._reports().want(name, period, owner=self._user, parameters=parameters, subject=about)
        mine = run.owner == self._user or self._everybodys
        again = mine and run.state in ENDED and (force or run.state != RunState.OK)
        return run.id, run.state == RunState.QUEUED or again

    def _made(self, run_id: str, timeout: float) -> Made:
        """Made by who looks for what is due, else here."""
        reports = self._reports()
        if reports.looks:
            reports.begin(run_id)
        else:
            try:
                reports.rerun(run_id)
            except QueueFull:  # another process makes it now
                return self.wait(run_id, timeout=timeout)
            return self.get(run_id)
        return self.wait(run_id, timeout=timeout)

    def _own(self, run_id: str) -> str:
        """The id of a report that the user pays for. Raises NotFound."""
        if self.get(run_id).owner != self._user and not self._everybodys:
            raise self._missing(run_id)
        return run_id

    @property
    def _seen(self) -> str | None:
        return None if self._everybodys else self._user

    @staticmethod
    def _missing(run_id: str) -> NotFound:
        return NotFound(f"there is no report {run_id!r}; `rios report history` shows all")


def table(found: Sequence[Made]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows for people."""
    rows: list[list[object]] = [
        [one.id, one.name, one.label, one.state, one.version or "", format_ros(Wei(one.cost_wei)), one.folder]
        for one in found
    ]
    return ["run", "report", "period", "state", "version", "cost", "folder"], rows
