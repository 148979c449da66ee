"""`net.jobs` of a network behind a gateway: the generations of the user, as its gateways remember them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from rios.client.http import Http
from rios.services.jobs import JobView
from rios.services.views import html_table, text_table

_PAGE = 1000
# A gateway answers at once when something changes; until then it may take this long, and the connection is kept.
_WAIT_MAX_S = 20.0


class RemoteJobs(Sequence[JobView]):
    """The jobs of the user, oldest first."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __len__(self) -> int:
        return len(self.all())

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return JobView.from_dict(self._http.get(f"/v1/jobs/{quote(key, safe='')}/view"))
        return self.all()[key]

    def __iter__(self) -> Iterator[JobView]:
        return iter(self.all())

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def all(self) -> list[JobView]:
        """All that the gateways remember, as they are now."""
        return self.changed(0, 0.0)[1]

    def changed(self, since: int, timeout: float) -> tuple[int, list[JobView]]:
        """What changed after version `since`, waiting up to `timeout` seconds, and the version that this makes."""
        deadline = time.monotonic() + timeout
        found: dict[str, JobView] = {}
        while True:
            wait_s = 0.0 if found else min(_WAIT_MAX_S, max(0.0, deadline - time.monotonic()))
            page = self._http.get("/v1/jobs", since=since, wait_s=wait_s, limit=_PAGE)
            found.update({one["id"]: JobView.from_dict(one) for one in page["data"]})
            since = page["version"]
            if not page["more"] and (found or time.monotonic() >= deadline):
                return since, sorted(found.values(), key=lambda view: view.started_at)

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
