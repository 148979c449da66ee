"""One request at a gateway as its caller holds it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from rios.client.http import RETRY_S, Http, error_of
from rios.dmoe.completion import Completion, HostUsage, Logprob, Piece, Timing, Usage
from rios.dmoe.params import check_timeout
from rios.words.display import Shown
from rios.words.errors import DeadlineExceeded, GatewayLost, RiosError

_WAIT_S = 30.0
_PAUSE_S = 0.1
SILENT_S = 60.0
"""A gateway that says nothing for so long is lost: every quarter of that it gives a sign of life."""
_LEAST_S = 0.001


class RemoteJob(Shown):
    """A submitted request. It goes on when the connection is lost, and is taken up again where it was left."""

    def __init__(self, http: Http, request_id: str) -> None:
        self._http = http
        self.request_id = request_id
        self._completion: Completion | None = None

    @classmethod
    def start(cls, http: Http, body: dict[str, Any]) -> RemoteJob:
        """Submit a request. Its key makes it safe to send again: it starts once."""
        found = http.post("/v1/jobs", body, key=secrets.token_hex(16))
        return cls(http, found["id"])

    def __repr__(self) -> str:
        return f"<RemoteJob {self.request_id[:8]} at {self._http.url}>"

    @property
    def status(self) -> str:
        """queued, running, paused, done, failed, cancelled, or lost with its gateway."""
        if self._completion is not None:
            return "done"
        return str(self._http.get(f"/v1/jobs/{self.request_id}/status")["status"])

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the whole answer. Raises what went wrong, or `DeadlineExceeded` after `timeout` seconds."""
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._completion is None:
            left_s = _WAIT_S if deadline is None else min(_WAIT_S, deadline - time.monotonic())
            found = self._http.get(f"/v1/jobs/{self.request_id}", wait_s=max(0.0, left_s))
            if found["result"] is not None:
                self._completion = _completion(found)
            elif left_s <= 0:
                raise DeadlineExceeded(
                    f"request {self.request_id} has {found['tokens']} tokens after {timeout:g} s; it goes on: wait "
                    "again or cancel it"
                )
        return self._completion

    def stream(self, timeout: float | None = None) -> Iterator[Piece]:
        """Pieces as they come; leaving the loop early cancels. `timeout` bounds the wait for each piece."""
        timeout = check_timeout(timeout)
        path = f"/v1/jobs/{self.request_id}/events"
        last, lost_at = 0, None
        done = False
        deadline = _deadline(timeout)
        try:
            while not done:
                silent_s = SILENT_S if deadline is None else min(SILENT_S, max(_LEAST_S, deadline - time.monotonic()))
                try:
                    with self._http.events(path, last=last, silent_s=silent_s) as events:
                        for found in events:
                            lost_at = None
                            if found is None:
                                if deadline is None:
                                    continue
                                self._check(deadline, timeout)
                                break  # asked again, so as to wait for what is left of the time and no longer
                            name, number, data = found
                            if name == "error":
                                done = True
                                raise error_of(data)
                            if name == "done":
                                self._completion = _completion(data)
                                done = True
                                break
                            last = int(number)
                            yield _piece(data)
                            deadline = _deadline(timeout)
                        else:
                            raise GatewayLost(f"the stream of request {self.request_id} broke off")
                except GatewayLost:
                    if done:  # that is what became of the job
                        raise
                    self._check(deadline, timeout)
                    lost_at = lost_at or time.monotonic()
                    if time.monotonic() - lost_at > RETRY_S:
                        raise
                    time.sleep(_PAUSE_S)
        finally:
            if not done:
                self.cancel()

    def _check(self, deadline: float | None, timeout: float | None) -> None:
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded(f"request {self.request_id}: no token for {timeout:g} s")

    def cancel(self) -> None:
        """End it; what was received so far is paid. No error if it has ended already, or the gateway has gone."""
        try:
            self._http.ask("DELETE", f"/v1/jobs/{self.request_id}")
        except RiosError:
            return


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _piece(data: dict[str, Any]) -> Piece:
    return Piece(data["text"], tuple(data["token_ids"]), tuple(_logprob(one) for one in data["logprobs"]))


def _logprob(data: dict[str, Any]) -> Logprob:
    return Logprob(data["token_id"], data["logprob"], tuple((int(token), value) for token, value in data["top"]))


def _completion(said: dict[str, Any]) -> Completion:
    found = said["result"]
    usage = dict(found["usage"])
    by_host = {name: HostUsage(**host) for name, host in usage.pop("by_host").items()}
    logprobs = found["logprobs"]
    return Completion(
        text=found["text"],
        token_ids=tuple(found["token_ids"]),
        finish_reason=found["finish_reason"],
        usage=Usage(**usage, by_host=by_host),
        timing=Timing(**found["timing"]),
        logprobs=None if logprobs is None else tuple(_logprob(one) for one in logprobs),
        request_id=said["id"],
    )
