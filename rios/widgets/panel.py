"""The panel of a network in a notebook: the views of JupyterLab's sidebar, told over the kernel's own channel."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import traitlets

from rios.services.desk import Desk
from rios.services.feed import Event
from rios.services.panel import problem
from rios.widgets.base import ALIVE_S, Widget
from rios.words.display import Unknown, answer, html_table, text_table
from rios.words.errors import NetworkClosed, RiosError
from rios.words.money import format_ros

VIEWS = ("all", "wallet", "jobs", "hosts")
# A deed may wait for the chain; reading goes on meanwhile.
_THREADS = 4
# Ten updates a second are all that a person sees: events that come faster wait for the next.
_LEAST_S = 0.1


class PanelWidget(Widget):
    """Live while its kernel lives; its views say so when they are not told anything any more. Close it.

    It asks the network for nothing while none of its views is there.
    """

    view = traitlets.Unicode("all").tag(sync=True)

    def __init__(self, network: Any, view: str = "all") -> None:
        """view: one of VIEWS."""
        kind = "remote" if str(network.address).startswith("http") else "local"
        self._desk = Desk(weakref.ref(network), kind=kind)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="rios-widget")
        self._follower = ThreadPoolExecutor(1, thread_name_prefix="rios-widget")
        """One thread: what views want is done in its order."""
        self._waiting: list[Event] = []
        self._lock = threading.Condition()
        self._unfollow: Callable[[], None] | None = None
        self._teller: threading.Thread | None = None
        self._ended = False
        super().__init__(view=view)
        self.on_msg(self._heard)

    def plain(self) -> str:
        """The figures as text."""
        return text_table(("rios", ""), self._rows())

    def static(self) -> str:
        """The figures as a table."""
        return html_table(("rios", ""), self._rows())

    def close(self) -> None:
        """Tell the front end nothing any more."""
        with self._lock:
            self._ended = True
        self._rest()
        self._desk.close()
        for pool in (self._pool, self._follower):
            pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _rows(self) -> list[tuple[str, str]]:
        def known() -> tuple[Any, Any, Any]:
            net = self._desk.panel.net
            return net.wallet.address, net.wallet.balance, net.jobs.all()

        found = answer(known)
        if isinstance(found, Unknown):
            return [("state", found)]
        address, balance, jobs = found
        rows = [
            ("address", str(address)),
            ("available", format_ros(balance.available_wei)),
            ("held", format_ros(balance.held_wei)),
            ("jobs", f"{sum(job.live for job in jobs)} going on, {len(jobs)} in all"),
        ]
        return rows if self.view != "wallet" else rows[:3]

    def _heard(self, _: object, said: Any, __: object) -> None:
        """A view asks, follows, or follows no more. Answered in other threads: a cell may be running in this one."""
        if not isinstance(said, dict) or self._ended:
            return
        if "ask" in said:
            self._pool.submit(self._answer, said)
        elif "follow" in said:
            self._follower.submit(self._do, said["follow"])

    def _answer(self, said: dict[str, Any]) -> None:
        asked = said["ask"] if isinstance(said["ask"], dict) else {}
        given = asked.get("given")
        status, body = self._desk.ask(
            str(asked.get("method")), str(asked.get("what")), given if isinstance(given, dict) else {}
        )
        self.send({"answer": said.get("id"), "status": status, "body": body})

    def _do(self, last: object) -> None:
        """Follow after the event `last`, or with False no more."""
        if last is False:
            self._rest()
            self.send({"ended": True})  # a view that is still there follows again
            return
        self._stop_following()
        try:
            unfollow = self._desk.feed.follow(self._take, last if isinstance(last, str) else None)
        except RiosError as error:
            self.send({"lost": problem(error)})
            return
        with self._lock:
            self._unfollow = unfollow
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell, name="rios-widget", daemon=True)
                self._teller.start()
            ended = self._ended
        if ended:
            self._rest()

    def _stop_following(self) -> None:
        with self._lock:
            unfollow, self._unfollow = self._unfollow, None
        if unfollow is not None:  # not with the lock held: the feed calls `_take` with its own
            unfollow()

    def _rest(self) -> None:
        """Be told nothing, and tell nothing."""
        self._stop_following()
        with self._lock:
            self._waiting = []
            self._lock.notify_all()

    def _take(self, event: Event) -> None:
        with self._lock:
            self._waiting.append(event)
            self._lock.notify_all()

    def _tell(self) -> None:
        """Send what waits, ten times a second at most, and a sign of life where nothing does; until nobody follows."""
        pause = threading.Event()
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._unfollow is None, ALIVE_S)
                if self._unfollow is None:
                    self._teller = None
                    return
                found, self._waiting = self._waiting, []
            if not found and not self._desk.feed.followed:
                self._stop_following()
                self.send({"lost": problem(NetworkClosed("this network was closed; make another one"))})
                continue
            events = [{"id": one.id, "name": one.name, "data": json.loads(one.data)} for one in found]
            self.send({"events": events})
            pause.wait(_LEAST_S)
