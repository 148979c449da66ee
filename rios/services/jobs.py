"""`net.jobs`: the generations of a network, those that run and those that ended, and what changed since one looked."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from rios.words.display import Shown, html_table, text_table
from rios.words.errors import Elsewhere, NotFound, RiosError
from rios.words.money import format_ros

if TYPE_CHECKING:
    from rios.dmoe.job import Job
    from rios.dmoe.params import SamplingParams

KEPT = 10_000
"""So many jobs are remembered; the oldest that ended are forgotten first."""
LIVE = ("queued", "running", "paused")
# How often who waits for changes looks at jobs that run: people read no faster, and a look at one job costs 5 us.
_LOOK_S = 0.25
# The price of a job that runs is looked up no more often than this: an estimate takes a millisecond.
_PRICE_S = 2.0
_TEXT_MAX = 20_000
_SHOWN_ROWS = 20
# A network counts its changes from a random multiple of this: what JavaScript counts exactly ends at 2^53.
_ROOM, _PLACES = 2**33, 2**20


Logins = Callable[[Collection[str]], Mapping[str, str]]
"""What these users sign in as, as far as anybody does. May raise RiosError where that cannot be had now."""


@dataclass(frozen=True, slots=True)
class JobView(Shown):
    """One generation at one moment. Moments are seconds of UTC since 1970."""

    id: str
    kind: str
    """generation."""
    name: str
    model: str
    owner: str
    state: str
    """queued, running, paused (it waits for money), done, failed, cancelled, or lost with the gateway that ran it."""
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
    owner_login: str = ""
    """What the owner signs in as now, "closed:ID" of a closed account; as `owner` where that is not known."""

    def __post_init__(self) -> None:
        if not self.owner_login:
            object.__setattr__(self, "owner_login", self.owner)

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


@dataclass(slots=True, kw_only=True)
class Theirs:
    """What another gateway says of a job that it runs, or ran."""

    view: JobView
    touched: int
    place: str
    """The gateway, as people are told."""
    cancel: Callable[[], None]
    job: None = None


class Jobs(Sequence[JobView]):
    """The jobs of a network, oldest first: those of this process, and those that `put` brought. Safe for threads.

    Each counts its changes from a place of its own: whoever brings a version that another one gave, such as that of
    another gateway, or of this one before it was started anew, is told everything.
    """

    def __init__(self, *, kept: int = KEPT, logins: Logins = lambda _: {}) -> None:
        """logins: asked whenever the jobs of all accounts are looked at, and not kept: who closes one is forgotten."""
        self._kept = kept
        self._logins = logins
        self._entries: OrderedDict[str, Entry | Theirs] = OrderedDict()
        self._first = self._version = _ROOM * (1 + secrets.randbelow(_PLACES - 1))
        self._looked: dict[str | None, float] = {}
        """When the jobs of an account were looked at last; None for those of all."""
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: Any) -> Any:
        return self._one(key, None) if isinstance(key, str) else self.all()[key]

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
            self._looked[owner] = time.monotonic()
            found = [one for one in self._since(since) if owner in (None, one.view.owner)]
            version = self._version
            if limit is not None and len(found) > limit:
                found = sorted(found, key=lambda entry: entry.touched)[:limit]
                version, views = found[-1].touched, [entry.view for entry in found]
            else:  # what others told came in any order
                views = sorted((entry.view for entry in found), key=lambda view: view.started_at)
        return version, self._called(views) if owner is None else views

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
                    busy = any(entry.job is not None or entry.view.live for entry in self._entries.values())
                    self._changed.wait(min(left_s, _LOOK_S) if busy else left_s)

    def cancel(self, job_id: str) -> None:
        """End one; what was received so far is paid. No error where it has ended.

        Another gateway's ends within a second or two. Raises NotFound, and LedgerUnavailable where that one cannot be
        told.
        """
        entry = self._entry(job_id)
        if isinstance(entry, Theirs):
            entry.cancel()
        elif entry.job is not None:
            entry.job.cancel()

    def retry(self, job_id: str) -> str:
        """Send the same prompt and parameters again, as a new job; its id. Raises as `text`, and as `submit`."""
        return self._own(job_id).again().request_id

    def text(self, job_id: str) -> tuple[str, str]:
        """Prompt and answer so far, each up to 20,000 characters. Raises NotFound, Elsewhere."""
        entry = self._own(job_id)
        ids = entry.token_ids if entry.job is None else entry.job.token_ids
        return entry.decode(entry.prompt)[:_TEXT_MAX], entry.decode(ids)[-_TEXT_MAX:]

    def params(self, job_id: str) -> dict[str, Any]:
        """What it was asked for with. Raises NotFound, Elsewhere."""
        return asdict(self._own(job_id).params)

    def prompt(self, job_id: str) -> list[int]:
        """The token ids of its prompt. Raises NotFound, Elsewhere."""
        return list(self._own(job_id).prompt)

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
        return self._one(job_id, owner)

    # --- by a gateway, for the others of its network ---------------------------------------------------------

    def unpriced(self) -> list[str]:
        """The jobs of this process that are accounted for, and whose price is not known yet."""
        with self._changed:
            return [name for name, entry in self._entries.items() if entry.job is not None and entry.job.accounted]

    def own(
        self, since: int, *, followed: Collection[str] = (), prices: Mapping[str, int] | None = None
    ) -> tuple[int, list[JobView]]:
        """As `peek`, of the jobs that run or ran here; of those that go on, only `followed` ones are looked at anew.

        prices: in wei, of those that were `unpriced`. Whoever asks so looks for no account, and asks no ledger: to find
        out what each running job costs by now would take a tenth of a gateway's time.
        """
        prices = prices or {}
        with self._changed:
            for name, entry in self._entries.items():
                if entry.job is None:
                    continue
                if name in prices:
                    self._look(entry, price_wei=prices[name])
                elif name in followed or not (entry.job.status in LIVE or entry.job.accounted):
                    self._look(entry)
            found = [one.view for one in self._after(since) if isinstance(one, Entry)]
            return self._version, found

    def put(self, found: Sequence[tuple[JobView, str]], cancel: Callable[[str], None]) -> None:
        """Take what other gateways say of their jobs: how each is, and the gateway.

        cancel: has the gateway of a job end it.
        """
        with self._changed:
            for view, place in found:
                known = self._entries.get(view.id)
                if isinstance(known, Entry) or (known is not None and (known.view, known.place) == (view, place)):
                    continue
                self._version += 1
                self._entries[view.id] = Theirs(
                    view=view, touched=self._version, place=place, cancel=partial(cancel, view.id)
                )
            self._forget()
            self._changed.notify_all()

    def watched(self, seconds: float) -> list[str]:
        """The jobs that go on at other gateways, and that somebody has looked at here within so many seconds."""
        with self._changed:
            since = time.monotonic() - seconds
            self._looked = {owner: at for owner, at in self._looked.items() if at > since}
            if not self._looked:
                return []
            return [
                entry.view.id
                for entry in self._entries.values()
                if isinstance(entry, Theirs)
                and entry.view.live
                and (None in self._looked or entry.view.owner in self._looked)
            ]

    # --- inside ----------------------------------------------------------------------------------------------

    def _since(self, since: int) -> list[Entry | Theirs]:
        """What changed after version `since`; all of it where that is none of this one's. Called with the lock held."""
        for entry in self._entries.values():
            if entry.job is not None:
                self._look(entry)
        return self._after(since)

    def _after(self, since: int) -> list[Entry | Theirs]:
        if not self._first <= since <= self._version:
            since = 0
        return [entry for entry in self._entries.values() if entry.touched > since]

    def _one(self, job_id: str, owner: str | None) -> JobView:
        with self._changed:
            self._looked[owner] = time.monotonic()
            entry = self._entries.get(job_id)
            if entry is None or owner not in (None, entry.view.owner):
                self._missing(job_id)
            if entry.job is not None:
                self._look(entry)
            view = entry.view
        return self._called([view])[0] if owner is None else view

    def _called(self, views: list[JobView]) -> list[JobView]:
        """With the logins of their owners. Who looks at the jobs of one account knows whose it is, and is not told."""
        try:
            logins = self._logins({view.owner for view in views}) if views else {}
        except RiosError:
            logins = {}  # the ids do until they can be had
        return [replace(view, owner_login=logins[view.owner]) if view.owner in logins else view for view in views]

    def _entry(self, job_id: str) -> Entry | Theirs:
        with self._changed:
            found = self._entries.get(job_id)
        return found or self._missing(job_id)

    def _own(self, job_id: str) -> Entry:
        """One of this process. Raises NotFound, Elsewhere."""
        entry = self._entry(job_id)
        if isinstance(entry, Entry):
            return entry
        if entry.view.state == "lost":
            raise Elsewhere(
                f"job {job_id} was one of {entry.place}, which has ended, and what it was asked went with it; send it "
                "again"
            )
        raise Elsewhere(
            f"job {job_id} is one of {entry.place}: what it was asked and what it answered is in the memory of that "
            "gateway alone, for as long as that runs; ask there"
        )

    @staticmethod
    def _missing(job_id: str) -> NoReturn:
        raise NotFound(f"there is no job {job_id!r} in this network, or it ended long ago; list(net.jobs) has the rest")

    def _look(self, entry: Entry, *, price_wei: int | None = None) -> None:
        """Bring the view of a job up to date. Called with the lock held. price_wei: where it is known already."""
        job, view = entry.job, entry.view
        assert job is not None
        # In this order: a job that is accounted for has ended, and is looked at for the last time.
        posted, now, state = job.accounted, time.time(), job.status
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
            wei, posted = entry.cost(replace(new, posted=posted)) if price_wei is None else (price_wei, True)
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
            if entry.job is None and not entry.view.live:
                del self._entries[job_id]


def table(views: Sequence[JobView]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows for people."""
    rows: list[list[object]] = []
    for view in views:
        speed = "" if view.tokens_per_second is None else f"{view.tokens_per_second:.1f}"
        tokens = f"{view.tokens} of {view.tokens_max}"
        rows.append([view.id[:8], view.model, view.owner_login, view.state, tokens, speed, format_ros(view.cost_wei)])
    return ["job", "model", "owner", "state", "tokens", "per second", "cost"], rows
