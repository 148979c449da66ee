"""`app.widget()`: a deployment's state, replicas, requests, cost, hosts and last lines, and what to do with it."""

from __future__ import annotations

import html
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import traitlets

from rios.services import rows
from rios.services.panel import problem as problem_of
from rios.widgets.base import ALIVE_S, Widget
from rios.words.display import html_table, text_table
from rios.words.errors import InvalidRequest, NotFound, RiosError
from rios.words.money import format_ros

LINES_KEPT = 200
_LOOK_S = 1.0
_PHASES_ENDED = ("stopped", "failed")


class DeploymentWidget(Widget):
    """Looks at its deployment once a second until that has ended, its last view is gone, or it is closed."""

    app = traitlets.Dict({}).tag(sync=True)
    lines: Any = traitlets.List([]).tag(sync=True)
    problem = traitlets.Dict({}).tag(sync=True)

    def __init__(self, app: Any) -> None:
        self._app = app
        self._tail: deque[dict[str, Any]] = deque(maxlen=LINES_KEPT)
        self._since = 0.0
        self._woken, self._ended = threading.Event(), threading.Event()
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._wanted = True
        """Whether somebody looks, as far as is known: whoever has no front end never says so."""
        self._follower: threading.Thread | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rios-widget")
        super().__init__()
        self._look()
        self.on_msg(self._heard)
        self._go_on()

    def plain(self) -> str:
        """Figures and the last lines as text."""
        said = [f"{one['who']} {one['text']}" for one in self.lines[-10:]]
        return "\n".join([text_table((self._app.name, ""), self._rows()), *said])

    def static(self) -> str:
        """The same as HTML."""
        said = "\n".join(f"{one['who']} {one['text']}" for one in self.lines)
        return f'{html_table((self._app.name, ""), self._rows())}<pre style="max-height:20em">{html.escape(said)}</pre>'

    def close(self) -> None:
        """Look no more. The deployment goes on."""
        self._ended.set()
        self._woken.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _rows(self) -> list[tuple[str, str]]:
        found = self.app
        if not found:
            return [("state", str(self.problem.get("detail", "not known yet")))]
        return [
            ("state", ": ".join(filter(None, (found["phase"], found["error"])))),
            ("replicas", f"{found['parts']} of {found['parts_max']} ready"),
            ("requests", str(found["requests"])),
            ("cost", format_ros(int(found["cost_wei"]))),
            ("hosts", ", ".join(found["hosts"])),
        ]

    def _heard(self, _: object, said: Any, __: object) -> None:
        """A button: done in another thread, for a cell may be running in this one. Or a view that comes or goes."""
        if not isinstance(said, dict) or self._ended.is_set():
            return
        if "follow" not in said:
            self._pool.submit(self._do, said)
        elif said["follow"] is not False:
            self._go_on()
        else:
            with self._turn:
                self._wanted = False
            self._woken.set()
            self.send({"ended": True})  # a view that is still there says so

    def _go_on(self) -> None:
        with self._turn:
            self._wanted = True
            if self._follower is None:
                self._follower = threading.Thread(target=self._follow, name="rios-widget", daemon=True)
                self._follower.start()

    def _do(self, said: dict[str, Any]) -> None:
        app, deed = self._app, said.get("do")
        try:
            if deed == "scale":
                replicas = said.get("replicas")
                if isinstance(replicas, bool) or not isinstance(replicas, int):
                    raise InvalidRequest(f"replicas is {replicas!r}; it must be a whole number")
                app.scale(replicas)
            elif deed == "cancel":
                app.delete(wait=False)
            else:
                {"pause": app.pause, "resume": app.resume, "retry": app.restart}[str(deed)]()
            self.problem = {}
        except KeyError:
            self.problem = {"type": "InvalidRequest", "detail": f"nothing is called {deed!r}"}
        except RiosError as error:
            self.problem = problem_of(error)
        self._look()
        self._go_on()  # one that had failed may start again

    def _follow(self) -> None:
        beat_at = 0.0
        while True:
            with self._turn:
                over = self.app.get("phase") in _PHASES_ENDED
                if over or not self._wanted or self._ended.is_set():
                    self._follower = None
                    break
            if time.monotonic() - beat_at > ALIVE_S:
                beat_at = time.monotonic()
                self.beat()
            self._woken.wait(_LOOK_S)
            self._woken.clear()
            if not self._ended.is_set():
                self._look()
        if over and not self._ended.is_set():
            self.keep()

    def _look(self) -> None:
        """Show how it is now; where that cannot be had, why, beside what was known."""
        with self._lock:
            try:
                row = rows.of_app(self._app.view())
                for who, line in self._app.lines(since=self._since):
                    self._tail.append({"at": line.at, "who": who, "text": line.text})
                    self._since = max(self._since, line.at)
            except NotFound:
                row = rows.ended(self.app, at=time.time()) if self.app else {}
            except RiosError as error:
                self.problem = problem_of(error)
                return
            with self.hold_sync():
                self.app, self.lines = row, list(self._tail)
