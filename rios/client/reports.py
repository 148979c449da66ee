"""`net.reports` behind a gateway, as a network in this process gives it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from rios.client.http import Http
from rios.services.reports.own import FORMATS, RUN_S, Kind, Listed, until_ended
from rios.services.reports.values import Line, Made, Past, Schedule, Wish
from rios.words.errors import InvalidRequest

_LOOK_S = 0.5


class RemoteReports(Listed):
    """Reports of the user over the ledger of the network."""

    def __init__(self, http: Http) -> None:
        self._http = http

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The reports that can be made."""
        rows = self._http.get("/v1/reports")["data"]
        return tuple(Kind(**{**row, "parameters": tuple(row["parameters"])}) for row in rows)

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
        """Have a report made, or find the one that was made, and wait for it: as of a local network."""
        found = self.want(name, period, parameters=parameters, subject=subject, force=force)
        return self.wait(found.id, timeout=timeout)

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
        body = {"name": name, "period": period, "parameters": dict(parameters or {}), "subject": subject}
        return self._made(self._post("/v1/reports/runs", {**body, "force": force}))

    def wait(self, run_id: str, *, timeout: float = RUN_S) -> Made:
        """Until it has been made, or has failed. Raises DeadlineExceeded, NotFound."""
        return until_ended(self.get, run_id, timeout, look_s=_LOOK_S)

    def again(self, run_id: str) -> Made:
        """Have a report made again, at the ledger height of the first time, without waiting. Raises NotFound."""
        return self._made(self._post(f"{_run(run_id)}/rerun", None))

    def rerun(self, run_id: str, *, timeout: float = RUN_S) -> Made:
        """As `again`, and wait for it."""
        return self.wait(self.again(run_id).id, timeout=timeout)

    def get(self, run_id: str) -> Made:
        """A report that was asked for. Raises NotFound."""
        return self._made(self._http.get(_run(run_id)))

    def list(self, limit: int = 100) -> tuple[Made, ...]:
        """What was asked for, the last first."""
        return tuple(self._made(one) for one in self._http.pages("/v1/reports/runs", most=limit))

    def history(self, name: str | None = None, *, run_id: str | None = None, limit: int = 100) -> tuple[Past, ...]:
        """Each attempt, the last first."""
        rows = self._http.pages("/v1/reports/history", most=limit, name=name, run_id=run_id)
        return tuple(Past.from_dict(one) for one in rows)

    def lines(self, run_id: str) -> tuple[Line, ...]:
        """What the last attempt has written, also while it is made. Raises NotFound."""
        return tuple(Line(**one) for one in self._http.pages(f"{_run(run_id)}/lines"))

    def file(self, run_id: str, kind: str = "html") -> bytes:
        """A report's page, or its PDF, JSON or executed notebook. Raises NotFound where there is none."""
        if kind not in FORMATS:
            raise InvalidRequest(f"there is no {kind!r} of a report; there are {', '.join(FORMATS)}")
        return self._http.fetch(f"{_run(run_id)}/file", kind=kind)

    # --- schedules -------------------------------------------------------------------------------------------

    def schedule(self, name: str, cron: str, **wish: Any) -> tuple[Schedule, str]:
        """Have a report made again and again; the secret that signs what webhooks are told, where there are any."""
        about = wish.pop("subject", None)
        try:
            wanted = Wish(name=name, cron=cron, **wish)
        except TypeError as error:
            raise InvalidRequest(f"a schedule has no such field: {error}") from error
        return self.schedule_wish(wanted, subject=about)

    def schedule_wish(self, wish: Wish, *, subject: str | None = None) -> tuple[Schedule, str]:
        """As `schedule`, of a wish."""
        body = {**asdict(wish), "emails": list(wish.emails), "webhooks": list(wish.webhooks), "subject": subject}
        found = self._post("/v1/reports/schedules", {**body, "parameters": dict(wish.parameters)})
        return self._schedule(found), str(found.get("webhook_secret", ""))

    def schedules(self) -> tuple[Schedule, ...]:
        """Those that were not deleted, oldest first."""
        return tuple(self._schedule(one) for one in self._http.pages("/v1/reports/schedules"))

    def get_schedule(self, schedule_id: str) -> Schedule:
        """One of them. Raises NotFound."""
        return self._schedule(self._http.get(_schedule(schedule_id)))

    def pause(self, schedule_id: str) -> Schedule:
        """Let a schedule rest. What it misses is not made up for."""
        return self._schedule(self._http.ask("POST", f"{_schedule(schedule_id)}/pause"))

    def resume(self, schedule_id: str) -> Schedule:
        """Let a paused schedule go on, from now."""
        return self._schedule(self._http.ask("POST", f"{_schedule(schedule_id)}/resume"))

    def delete(self, schedule_id: str) -> None:
        """End a schedule. What it made stays."""
        self._http.ask("DELETE", _schedule(schedule_id))

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._http.post(path, body, key=secrets.token_hex(16))
        return found

    @staticmethod
    def _made(said: dict[str, Any]) -> Made:
        return Made.from_dict(said)

    @staticmethod
    def _schedule(said: dict[str, Any]) -> Schedule:
        known = {name: said[name] for name in Schedule.__slots__}
        return Schedule.from_dict({**known, "parameters": json.dumps(said["parameters"], sort_keys=True)})


def _run(run_id: str) -> str:
    return f"/v1/reports/runs/{quote(run_id, safe='')}"


def _schedule(schedule_id: str) -> str:
    return f"/v1/reports/schedules/{quote(schedule_id, safe='')}"
