"""`model.widget()`: a prompt, its answer as it comes, its speed, what it costs, and who computes it."""

from __future__ import annotations

import html
import threading
import time
from typing import Any

import traitlets

from rios.services.jobs import JobView
from rios.services.panel import placement_of
from rios.services.panel import problem as problem_of
from rios.widgets.base import ALIVE_S, Widget
from rios.words.display import html_table, text_table
from rios.words.errors import NetworkClosed, NotAllowed, NotFound, NotSignedIn, RiosError
from rios.words.money import format_ros

# Who reads follows four updates a second; each takes the kernel a millisecond, half of it for its message.
_LEAST_S = 0.25
_HOSTS_S = 1.0
# A gateway that is away is asked again so often, and no longer than this.
_AGAIN_S, _AWAY_S = 1.0, 600.0
# Another gateway than the one that runs it is told of a job within two seconds; later it has been forgotten.
_UNTOLD_S = 10.0
# A gateway that died before it said what a job cost says it no more.
_UNPRICED_S = 60.0
_FINAL = (NetworkClosed, NotAllowed, NotSignedIn)
_PARAMS = ("max_new_tokens", "temperature", "seed", "top_k", "top_p")


class GenerationWidget(Widget):
    """Generates where its button is pressed, and shows it; `prompt` and `answer` are its texts. Close it."""

    model_name = traitlets.Unicode("").tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    answer = traitlets.Unicode("").tag(sync=True)
    params = traitlets.Dict({"max_new_tokens": 64, "temperature": 0.0}).tag(sync=True)
    job = traitlets.Dict({}).tag(sync=True)
    hosts: Any = traitlets.List([]).tag(sync=True)
    problem = traitlets.Dict({}).tag(sync=True)

    def __init__(self, model: Any) -> None:
        self._model = model
        self._running: Any = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._hosts_at = 0.0
        super().__init__(model_name=model.name)
        self.on_msg(self._heard)

    def plain(self) -> str:
        """Prompt, answer and figures as text."""
        return "\n".join(filter(None, (self.prompt + self.answer, text_table((self.model_name, ""), self._rows()))))

    def static(self) -> str:
        """The same as HTML."""
        text = f"<b>{html.escape(self.prompt)}</b>{html.escape(self.answer)}"
        return f'<pre style="white-space:pre-wrap">{text}</pre>{html_table((self.model_name, ""), self._rows())}'

    def start(self) -> None:
        """Generate what `prompt` and `params` say. Raises as `model.submit`."""
        given = {name: value for name, value in self.params.items() if name in _PARAMS and value is not None}
        with self._lock:
            if self._running is not None and self._running.status in ("queued", "running", "paused"):
                return
            self.problem, self.answer, self.job = {}, "", {}
            self._running = job = self._model.submit(self.prompt, **given)
        threading.Thread(target=self._follow, args=(job,), name="rios-widget", daemon=True).start()

    def stop(self) -> None:
        """End it; what was received so far is paid."""
        job = self._running
        if job is not None:
            job.cancel()

    def close(self) -> None:
        """Stop, and tell the front end nothing any more."""
        self._ended.set()
        self.stop()
        super().close()

    def _rows(self) -> list[tuple[str, str]]:
        if not self.job:
            return [("state", "not started")]
        speed = self.job["tokens_per_second"]
        return [
            ("state", str(self.job["state"])),
            ("tokens", f"{self.job['tokens']} of {self.job['tokens_max']}"),
            ("tokens a second", "" if speed is None else f"{speed:.1f}"),
            ("cost", format_ros(int(self.job["cost_wei"]))),
            ("hosts", ", ".join(host["name"] for host in self.hosts)),
        ]

    def _heard(self, _: object, said: Any, __: object) -> None:
        if not isinstance(said, dict):
            return
        if said.get("do") == "stop":
            self.stop()
        elif said.get("do") == "start":
            try:
                self.start()
            except RiosError as error:
                self.problem = problem_of(error)

    def _follow(self, job: Any) -> None:
        """Show how it goes on, until it has ended and its price is known, and why where that cannot be had."""
        try:
            self._watch(job)
        finally:
            if not self._ended.is_set():
                self.keep()

    def _watch(self, job: Any) -> None:
        beat_at, heard_at, live_at, seen, away, over = 0.0, time.monotonic(), time.monotonic(), None, False, False
        while not (over or self._ended.is_set()):
            now = time.monotonic()
            if now - beat_at > ALIVE_S:
                beat_at = now
                self.beat()
            try:
                view: JobView = self._model.jobs[job.request_id]
            except RiosError as error:
                untold = isinstance(error, NotFound)
                over = isinstance(error, _FINAL) or now - heard_at > (_UNTOLD_S if untold else _AWAY_S)
                if over or not untold:
                    self.problem, away = problem_of(error), True
                self._ended.wait(_AGAIN_S)
                continue
            if away:
                self.problem, away = {}, False
            heard_at = now
            if view.live:
                live_at = now
            if view != seen:
                self._take(view)
                seen = view
            over = not view.live and (view.posted or view.state != "done" or now - live_at > _UNPRICED_S)
            if not over:
                self._ended.wait(max(0.0, _LEAST_S - (time.monotonic() - now)))

    def _take(self, view: JobView) -> None:
        """One moment of it: what cannot be had of it stays as it was."""
        now = time.monotonic()
        hosts, answer, problem = self.hosts, self.answer, self.problem
        try:
            answer = self._model.jobs.text(view.id)[1]
            if now - self._hosts_at > _HOSTS_S or not view.live:
                self._hosts_at = now
                hosts = placement_of(self._model.placement)["hosts"]
        except RiosError as error:
            problem = problem_of(error)
        with self.hold_sync():  # the job last: who waits for a moment of it finds the rest of that moment
            self.answer, self.hosts, self.problem, self.job = answer, hosts, problem, view.to_dict()
