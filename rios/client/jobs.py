"""`net.jobs` of a network behind a gateway: the generations of the user, as its gateways remember them."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from rios.client.http import Http
from rios.services.jobs import JobView
from rios.words.display import Unknown, answer, html_line, html_table, text_table

_PAGE = 1000
# A gateway answers at once when something changes; until then it may take this long, and the connection is kept.
_WAIT_MAX_S = 20.0
# Gateways remember 10,000 jobs each. Behind one address two may answer in turn, and each begins anew.
_PAGES_MAX = 24
_TURN_S = 0.5
_KNOWN = 4


class RemoteJobs(Sequence[JobView]):
    """The jobs of the user, oldest first."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._known: OrderedDict[int, dict[str, JobView]] = OrderedDict()
        """By version: what was told up to it."""

    def __len__(self) -> int:
        return len(self.all())

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return JobView.from_dict(self._http.get(f"/v1/jobs/{quote(key, safe='')}/view"))
        return self.all()[key]

    def __iter__(self) -> Iterator[JobView]:
        return iter(self.all())

    def __repr__(self) -> str:
        found = answer(self._table)
        return f"<RemoteJobs at {self._http.url}: {found}>" if isinstance(found, Unknown) else text_table(*found)

    def _repr_html_(self) -> str:
        found = answer(self._table)
        return html_line(found, title="Jobs") if isinstance(found, Unknown) else html_table(*found)

    def all(self) -> list[JobView]:
        """All that the gateways remember, as they are now."""
        return self.changed(0, 0.0)[1]

    def changed(self, since: int, timeout: float) -> tuple[int, list[JobView]]:
        """What changed after version `since`, waiting up to `timeout` seconds, and the version that this makes."""
        deadline = time.monotonic() + timeout
        known = self._known.get(since, {})
        while True:
            since, told = self._round(since, min(_WAIT_MAX_S, max(0.0, deadline - time.monotonic())))
            # Another gateway than the last begins anew, and tells what is known already.
            found = [view for view in told.values() if known.get(view.id) != view]
            if found or time.monotonic() >= deadline:
                self._known[since] = known | told
                while len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
                return since, sorted(found, key=lambda view: view.started_at)
            if told:
                time.sleep(min(_TURN_S, max(0.0, deadline - time.monotonic())))

    def _round(self, since: int, wait_s: float) -> tuple[int, dict[str, JobView]]:
        """All pages of what changed after `since`, and the version that they make."""
        found: dict[str, JobView] = {}
        for _ in range(_PAGES_MAX):
            page = self._http.get("/v1/jobs", since=since, wait_s=0.0 if found else wait_s, limit=_PAGE)
            found.update({one["id"]: JobView.from_dict(one) for one in page["data"]})
            since = page["version"]
            if not page["more"]:
                break
        return since, found

    def cancel(self, job_id: str) -> None:
        """End one; what was received so far is paid. Raises NotFound."""
        self._http.ask("DELETE", f"/v1/jobs/{quote(job_id, safe='')}")

    def retry(self, job_id: str) -> str:
        """Send the same prompt and parameters again, as a new job; its id. Raises as `text`, and as `submit`."""
        said = self._http.get(f"/v1/jobs/{quote(job_id, safe='')}/request")
        body = {"model": said["job"]["model"], "prompt": said["prompt_ids"], **said["params"]}
        return str(self._http.post("/v1/jobs", body, key=secrets.token_hex(16))["id"])

    def text(self, job_id: str) -> tuple[str, str]:
        """Prompt and answer so far. Raises NotFound, and Elsewhere where another gateway ran it."""
        said = self._http.get(f"/v1/jobs/{quote(job_id, safe='')}/request")
        return said["prompt"], said["answer"]

    def params(self, job_id: str) -> dict[str, Any]:
        """What it was asked for with. Raises as `text`."""
        found: dict[str, Any] = self._http.get(f"/v1/jobs/{quote(job_id, safe='')}/request")["params"]
        return found

    def _table(self) -> tuple[list[str], list[list[object]]]:
        from rios.services.jobs import table

        return table(self.all())
