"""A client's connection to one trunk: requests out, tokens in, silence noticed."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from rios.dmoe.control import error_of
from rios.dmoe.greeting import connect
from rios.dmoe.job import Job
from rios.dmoe.metering import RECORD, SHARE
from rios.dmoe.peer import Peer
from rios.dmoe.trust import trust_of
from rios.dmoe.wire import Frame, Kind, dump
from rios.words.config import Settings
from rios.words.errors import HostLost, ProtocolError, RiosError

log = logging.getLogger(__name__)


class TrunkSession:
    """One connection to one trunk. `lost` is called once, in the reading thread, when it ends by itself."""

    def __init__(
        self,
        peer: Peer,
        deployment: str,
        settings: Settings,
        *,
        jobs: Mapping[int, Job],
        lost: Callable[[TrunkSession, str], None],
        finished: Callable[[Job], None],
    ) -> None:
        self.peer = peer
        self.alive = True
        self.steps = 0
        self._settings = settings
        self._jobs = jobs
        self._lost = lost
        self._finished = finished
        # Most frames name the hosts and nothing else, and the same as the frame before: those are read once.
        self._named: tuple[bytes, dict[str, Any]] = (b"", {})
        self._connection, self.welcome = connect(
            peer.address,
            {"role": "client", "key": peer.key, "deployment": deployment},
            timeout_s=min(settings.connect_timeout_s, settings.trunk_silence_s),
            max_bytes=settings.max_frame_bytes,
            trust=trust_of(settings),
        )
        self._thread = threading.Thread(target=self._read, name=f"rios-tokens-{peer.name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job], eos: list[int]) -> None:
        """Send requests that begin together, with what the trunk before had generated of them; that one is not heard
        any more.

        Raises `HostLost`.
        """
        begun = [(job, said) for job in jobs if (said := job.begin(self)) is not None]
        for place, (job, said) in enumerate(begun):
            self._send(job, said, eos, more=place + 1 < len(begun))
        # What happened meanwhile, when this trunk did not know of it yet.
        for job, (_, _, allowed) in begun:
            if job.ended:
                with contextlib.suppress(HostLost):  # a trunk that has gone has forgotten it, and the answer is there
                    self.cancel(job)
            elif job.allowed != allowed:
                self.allow(job)

    def _send(self, job: Job, said: tuple[list[int], int, int], eos: list[int], *, more: bool) -> None:
        tokens, metered_from, allowed = said
        meta = dump(
            {
                "handle": job.handle,
                "request_id": job.request_id,
                "prompt_tokens": len(job.prompt),
                "params": asdict(job.params),
                "seed": job.seed,
                "eos": eos,
                "metered_from": metered_from,
                "allowed": allowed,
                "more": more,
            }
        )
        body = np.array(tokens, dtype="<i4").tobytes()
        self._connection.send(Kind.SUBMIT, job.handle, meta, [body], timeout_s=self._settings.connect_timeout_s)

    def allow(self, job: Job) -> None:
        """Tell the trunk how many tokens a request may have by now. Raises `HostLost`."""
        meta = dump({"allowed": job.allowed})
        self._connection.send(Kind.ALLOW, job.handle, meta, timeout_s=self._settings.connect_timeout_s)

    def cancel(self, job: Job) -> None:
        """Tell the trunk to forget a request. Raises `HostLost`."""
        self._connection.send(Kind.CANCEL, job.handle, timeout_s=self._settings.connect_timeout_s)

    def close(self) -> None:
        """Hang up; `lost` is not called."""
        self.alive = False
        self._connection.close()

    def _read(self) -> None:
        reason = "closed"
        try:
            while self.alive:
                if not self._connection.readable(self._settings.trunk_silence_s):
                    reason = f"silent for {self._settings.trunk_silence_s:g} s (RIOS_TRUNK_SILENCE_S)"
                    break
                self._take(self._connection.receive(self._settings.trunk_silence_s))
        except RiosError as error:
            reason = str(error)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"a frame that cannot be read: {error!r}"
        if self.alive:
            self.alive = False
            self._connection.close()
            log.warning("trunk lost", extra={"trunk": self.peer.name, "reason": reason})
            self._lost(self, reason)

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.ALIVE:
            self.steps = frame.seq
            return
        if frame.kind is not Kind.TOKENS:
            raise ProtocolError(f"a trunk sends TOKENS and ALIVE, not {frame.kind.name}")
        said = self._said(frame)
        count = 8 * frame.seq
        if len(frame.body) < count or (len(frame.body) - count) % SHARE.itemsize:
            raise ProtocolError(f"TOKENS of {len(frame.body)} bytes for {frame.seq} tokens")
        news: dict[int, dict[str, Any]] = {}
        for handle, token in np.frombuffer(frame.body[:count], dtype="<u4").reshape(-1, 2).tolist():
            news.setdefault(handle, {}).setdefault("tokens", []).append(token)
        for handle, logprobs in said.get("logprobs", {}).items():
            news.setdefault(int(handle), {})["logprobs"] = logprobs
        for handle, shares in _shares(said.get("hosts", []), frame.body[count:]):
            news.setdefault(handle, {}).update(hosts=said["hosts"], shares=shares)
        for handle, reason in said.get("finished", {}).items():
            news.setdefault(int(handle), {})["finish"] = str(reason)
        for handle, faults in said.get("faults", {}).items():
            news.setdefault(int(handle), {})["faults"] = faults
        for handle, failure in said.get("failed", {}).items():
            news.setdefault(int(handle), {})["error"] = error_of(failure)
        for handle, of_job in news.items():
            job = self._jobs.get(handle)
            if job is not None and job.take(self, **of_job):
                self._finished(job)

    def _said(self, frame: Frame) -> dict[str, Any]:
        """What a frame says besides numbers. Raises ProtocolError."""
        meta = bytes(frame.meta)
        if meta != self._named[0]:
            said = frame.json()
            if said.keys() != {"hosts"}:
                return said
            self._named = (meta, said)
        return self._named[1]


def _shares(hosts: Any, body: memoryview) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
    """What the accepted replies measured, by request."""
    if not len(body):
        return
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise ProtocolError("TOKENS with shares of hosts that are no list of names")
    # Looked at as plain numbers: of a dozen records, in half of the time that numpy takes for it.
    handles, _, _, places, *_ = zip(*RECORD.iter_unpack(body), strict=True)
    if max(places) >= len(hosts):
        raise ProtocolError(f"TOKENS with a share of host {max(places)}, {len(hosts)} are named")
    counts, shares, start = Counter(handles), np.frombuffer(body, dtype=SHARE), 0
    if len(counts) == 1:
        yield handles[0], shares
    elif tuple(counts.elements()) != handles:
        for handle in counts:
            yield handle, shares[shares["handle"] == handle]
    else:  # as a trunk sends them, those of a request are together
        for handle, count in counts.items():
            # A copy: a view keeps the whole frame, with those of the others.
            yield handle, shares[start : start + count].copy()
            start += count
