"""`net.jobs`: the generations of a network, those that run and those that ended, and what changed since one looked."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rios.services.views import html_table, text_table
from rios.words.errors import NotFound
from rios.words.money import format_ros

if TYPE_CHECKING:
    from rios.dmoe.job import Job
    from rios.dmoe.params import SamplingParams

KEPT = 10_000
"""So many jobs are remembered; the oldest that ended are forgotten first."""
LIVE = ("queued", "running", "paused")
# How often who waits for changes looks at jobs that run: people read no faster, and a look at one job costs 5 us.
_LOOK_S = 0.25
# The price of a job that runs is looked up no more often than this.
_PRICE_S = 1.0
_TEXT_MAX = 20_000
_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True)
class JobView:
    """One generation at one moment. Moments are seconds of UTC since 1970."""

    id: str
    kind: str
    """generation."""
    name: str
    model: str
    owner: str
    state: str
    """queued, running, paused (it waits for money), done, failed or cancelled."""
    tokens: int
    tokens_max: int
    prompt_tokens: int
    tokens_per_second: float | None
    """Of the answer so far, from its first token on."""
    started_at: float
    ended_at: float | None
    cost_wei: int
    """What was posted; while it runs, and until `posted`, about what it has cost so far."""
    posted: bool
    hosts: tuple[str, ...]
    error: str
    """Why it failed; empty else."""

    @property
    def live(self) -> bool:
        """Whether it goes on."""
        return self.state in LIVE

    def to_dict(self) -> dict[str, Any]:
        """As it travels: the amount as text."""
        return {**asdict(self), "cost_wei": str(self.cost_wei), "hosts": list(self.hosts)}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> JobView:
        """What `to_dict` wrote, also after it was JSON."""
        return cls(**{**said, "cost_wei": int(said["cost_wei"]), "hosts": tuple(said["hosts"])})


@dataclass(slots=True, kw_only=True)
class Entry:
    """What is remembered of a job."""

    view: JobView
    touched: int
    prompt: tuple[int, ...]
    params: SamplingParams
    decode: Callable[[Sequence[int]], str]
    again: Callable[[], Job]
    cost: Callable[[JobView], tuple[int, bool]]
    """Wei, and whether that is what was posted."""
    hosts: Callable[[], tuple[str, ...]]
    job: Job | None
    """None once it has ended and its price is known."""
    token_ids: tuple[int, ...] = ()
    priced_at: float = 0.0


class Jobs(Sequence[JobView]):
    """The jobs of a network, oldest first. Safe for threads."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._kept = kept
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._version = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: Any) -> Any:
        found = self.all()
        if isinstance(key, str):
            return next((view for view in found if view.id == key), None) or self._missing(key)
        return found[key]

    def __iter__(self) -> Iterator[JobView]:
        return iter(self.all())

    def __repr__(self) -> str:
        views = self.all()
        shown = text_table(*table(views[-_SHOWN_ROWS:]))
        more = len(views) - _SHOWN_ROWS
        return f"{shown}\nand {more} before" if more > 0 else shown

    def _repr_html_(self) -> str:
        return html_table(*table(self.all()[-_SHOWN_ROWS:]))

    def all(self, owner: str | None = None) -> list[JobView]:
        """All that are remembered, as they are now; of one account, where `owner` is named."""
        return self.peek(0, owner)[1]

    def peek(self, since: int, owner: str | None = None, *, limit: int | None = None) -> tuple[int, list[JobView]]:
        """What changed after version `since`, and the version that this makes.

        limit: so many at most, those first that changed first; the version then is that of the last of them.
        """
        with self._changed:
            for entry in self._entries.values():
                if entry.job is not None:
                    self._look(entry)
            found = [
                entry for entry in self._entries.values() if entry.touched > since and owner in (None, entry.view.owner)
            ]
            if limit is None or len(found) <= limit:
                return self._version, [entry.view for entry in found]
            found = sorted(found, key=lambda entry: entry.touched)[:limit]
            return found[-1].touched, [entry.view for entry in found]

    def changed(self, since: int, timeout: float, owner: str | None = None) -> tuple[int, list[JobView]]:
        """As `peek`, waiting up to `timeout` seconds for something to have changed."""
        deadline = time.monotonic() + timeout
        while True:
            version, found = self.peek(since, owner)
            left_s = deadline - time.monotonic()
            if found or left_s <= 0:
                return version, found
            with self._changed:
                if self._version == version:
                    busy = any(entry.job is not None for entry in self._entries.values())
                    self._changed.wait(min(left_s, _LOOK_S) if busy else left_s)

    def cancel(self, job_id: str) -> None:
        """End one; what was received so far is paid. No error where it has ended. Raises NotFound."""
        job = self._entry(job_id).job
        if job is not None:
            job.cancel()

    def retry(self, job_id: str) -> str:
        """Send the same prompt and parameters again, as a new job; its id. Raises NotFound, and as `submit`."""
        return self._entry(job_id).again().request_id

    def text(self, job_id: str) -> tuple[str, str]:
        """Prompt and answer so far, each up to 20,000 characters. Raises NotFound."""
        entry = self._entry(job_id)
        ids = entry.token_ids if entry.job is None else entry.job.token_ids
        return entry.decode(entry.prompt)[:_TEXT_MAX], entry.decode(ids)[-_TEXT_MAX:]

    def params(self, job_id: str) -> dict[str, Any]:
        """What it was asked for with. Raises NotFound."""
        return asdict(self._entry(job_id).params)

    def prompt(self, job_id: str) -> list[int]:
        """The token ids of its prompt. Raises NotFound."""
        return list(self._entry(job_id).prompt)

    def add(
        self,
        job: Job,
        *,
        owner: str,
        model: str,
        decode: Callable[[Sequence[int]], str],
        again: Callable[[], Job],
        cost: Callable[[JobView], tuple[int, bool]],
        hosts: Callable[[], tuple[str, ...]],
    ) -> None:
        """Remember a job that was sent."""
        view = JobView(
            id=job.request_id, kind="generation", name=f"{model} {job.request_id[:8]}", model=model, owner=owner,
            state=job.status, tokens=0, tokens_max=job.params.max_new_tokens, prompt_tokens=len(job.prompt),
            tokens_per_second=None, started_at=time.time(), ended_at=None, cost_wei=0, posted=False, hosts=(), error="",
        )  # fmt: skip
        with self._changed:
            self._version += 1
            self._entries[view.id] = Entry(
                view=view, touched=self._version, prompt=job.prompt, params=job.params, decode=decode, again=again,
                cost=cost, hosts=hosts, job=job,
            )  # fmt: skip
            self._forget()
            self._changed.notify_all()

    def view(self, job_id: str, owner: str) -> JobView:
        """A job of one account. Raises NotFound, for another's as for one that never was."""
        found: JobView = self[job_id]
        return found if found.owner == owner else self._missing(job_id)

    def _entry(self, job_id: str) -> Entry:
        with self._changed:
            found = self._entries.get(job_id)
        return found or self._missing(job_id)

    @staticmethod
    def _missing(job_id: str) -> Any:
        raise NotFound(f"there is no job {job_id!r} in this network, or it ended long ago; list(net.jobs) has the rest")

    def _look(self, entry: Entry) -> None:
        """Bring the view of a job up to date. Called with the lock held."""
        job, view = entry.job, entry.view
        assert job is not None
        now, state, posted = time.time(), job.status, job.accounted
        speed = job.tokens_per_s
        new = replace(
            view,
            state=state,
            tokens=len(job.token_ids),
            tokens_per_second=None if speed is None else round(speed, 2),
            hosts=view.hosts or entry.hosts(),
        )
        if posted or (state in LIVE and new.tokens and now - entry.priced_at > _PRICE_S):
            entry.priced_at = now
            wei, posted = entry.cost(replace(new, posted=posted))
            new = replace(new, cost_wei=wei, posted=posted)
        if state not in LIVE:
            error = "" if job.error is None or state == "cancelled" else str(job.error)
            new = replace(new, error=error, ended_at=view.ended_at or now)
        if posted:
            entry.token_ids, entry.job = job.token_ids, None
        if new != view:
            self._version += 1
            entry.view, entry.touched = new, self._version

    def _forget(self) -> None:
        """Drop the oldest that ended. Called with the lock held."""
        for job_id in list(self._entries):
            if len(self._entries) <= self._kept:
                return
            entry = self._entries[job_id]
            if entry.job is not None:
                self._look(entry)
            if entry.job is None:
                del self._entries[job_id]


def table(views: Sequence[JobView]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows for people."""
    rows: list[list[object]] = []
    for view in views:
        speed = "" if view.tokens_per_second is None else f"{view.tokens_per_second:.1f}"
        tokens = f"{view.tokens} of {view.tokens_max}"
        rows.append([view.id[:8], view.model, view.owner, view.state, tokens, speed, format_ros(view.cost_wei)])
    return ["job", "model", "owner", "state", "tokens", "per second", "cost"], rows
