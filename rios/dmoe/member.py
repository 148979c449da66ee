"""One host of a deployment, kept as the plan wants it by a thread of its own.

lost -> connected -> loading -> serving -> lost ...: whenever the host is (again) reachable it is told the deployment,
given its shards and, where it should run one, its trunk. The thread asks for a sign of life in between. What does not
fit is a wish refused, not a host lost; what is no longer wanted goes once somebody else has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rios.dmoe.control import HostControl
from rios.dmoe.peer import Peer
from rios.words.config import Settings
from rios.words.errors import (
    CheckpointCorrupt,
    InsufficientMemory,
    RiosError,
    ShardMismatch,
    UnsupportedCheckpoint,
)

log = logging.getLogger(__name__)

Shard = dict[int, frozenset[int]]
_PING_S = 0.5
_PING_TIMEOUT_S = 2.0  # a host that computes answers in between; one that is stopped does not
_MISMATCH_S = 30.0


class Member:
    """One host's part in one deployment."""

    def __init__(
        self,
        peer: Peer,
        settings: Settings,
        *,
        deployment: str,
        session: str,
        opening: Mapping[str, Any],
        files: Mapping[str, int],
        sources: Callable[[Member, str], list[Peer]],
        manifest_json: bytes,
        pinned: dict[tuple[int, int], str],
        trunk_pinned: dict[str, str],
        options: Mapping[str, Any],
        changed: Callable[[Member], None],
        spare: Callable[[Member], tuple[Shard, bool]],
        progress: Callable[[int], None],
    ) -> None:
        self.peer = peer
        self.sees_files = True  # the checkpoint's files, in a directory of its own
        self.state = "connecting"
        self.held: Shard = {}
        self.trunk_ready = False
        self.error: RiosError | None = None
        self.info: dict[str, Any] = {}
        self.lost_at: float | None = time.monotonic()
        self.refused_at: float | None = None
        self._moved_at: float | None = None
        self._settings = settings
        self._deployment = deployment
        self._session = session
        self._opening = opening
        self._files = files
        self._sources = sources
        self._manifest_json = manifest_json
        self._pinned = pinned
        self._trunk_pinned = trunk_pinned
        self._options = options
        self._changed = changed
        self._spare = spare
        self._progress = progress
        self._wanted: Shard = {}
        self._wants_trunk = False
        self._lock = threading.Lock()  # for the two wishes together
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"rios-member-{peer.name}", daemon=True)

    def __repr__(self) -> str:
        return f"<Member {self.peer.name} {self.state}>"

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def want(self, shard: Shard, *, trunk: bool) -> None:
        """What this host should hold from now on."""
        with self._lock:
            self._wanted, self._wants_trunk = shard, trunk
        self._wake.set()

    @property
    def wanted(self) -> Shard:
        """What this host should hold."""
        return self._wanted

    @property
    def wants_trunk(self) -> bool:
        """Whether this host should run a trunk."""
        return self._wants_trunk

    @property
    def settled(self) -> bool:
        """Whether it holds what it should; it may hold more for a while."""
        return (
            self.state == "serving"
            and self.trunk_ready >= self._wants_trunk
            and all(experts <= self.held.get(layer, frozenset()) for layer, experts in self._wanted.items())
        )

    def away_for(self, seconds: float) -> bool:
        """Whether it has been out of reach for longer than that."""
        return self.lost_at is not None and time.monotonic() - self.lost_at > seconds

    def has_moved(self, peer: Peer | None) -> bool:
        """Whether the host is to be met at `peer` from now on, which its worker announces; None: by nobody there is.

        Where it is out of reach, that is at once. A serving process whose worker has gone serves on while it is used:
        whoever uses it lets it go after `orphan_s`.
        """
        if peer == self.peer:
            self._moved_at = None
            return False
        if self._moved_at is None:
            self._moved_at = time.monotonic()
        if self.state in ("lost", "connecting"):
            return peer is not None
        return time.monotonic() - self._moved_at > self._settings.orphan_s

    def refused_within(self, seconds: float) -> bool:
        """Whether it had no room for something within that."""
        return self.refused_at is not None and time.monotonic() - self.refused_at < seconds

    @property
    def surplus(self) -> Shard:
        """Experts that it holds and should not."""
        more = {layer: held - self._wanted.get(layer, frozenset()) for layer, held in self.held.items()}
        return {layer: experts for layer, experts in more.items() if experts}

    def close(self) -> None:
        """Free the deployment on the host and end the thread."""
        self._stop.set()
        self._wake.set()
        if self.state == "loading":
            self._interrupt()
        self._thread.join(timeout=self._settings.connect_timeout_s + _PING_TIMEOUT_S)

    def _interrupt(self) -> None:
        """Loading over a network may take long: free the deployment by a second connection meanwhile."""
        try:
            with HostControl(self.peer, self._settings, session=self._session) as control:
                control.call("close", deployment=self._deployment, timeout_s=self._settings.connect_timeout_s)
        except RiosError as error:
            log.info("loading not interrupted", extra={"host": self.peer.name, "reason": str(error)})

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with HostControl(self.peer, self._settings, session=self._session) as control:
                    self._serve(control)
            except RiosError as error:
                if isinstance(error, CheckpointCorrupt | UnsupportedCheckpoint):
                    self.error = error
                self._pause(error)
            except Exception as error:
                log.exception("keeping a host failed; connecting again", extra={"host": self.peer.name})
                self._pause(RiosError(f"host {self.peer.name}: {error!r}"))

    def _pause(self, error: RiosError) -> None:
        """Before the next attempt to connect; a new wish cuts it short."""
        self._lose(error)
        # To read wrong bytes again and again would keep a host busy until somebody puts the right ones there.
        self._wake.wait(_MISMATCH_S if isinstance(error, ShardMismatch) else self._settings.reconnect_s)
        self._wake.clear()

    def _serve(self, control: HostControl) -> None:
        self.info = control.welcome
        opening = dict(self._opening)
        self.sees_files = bool(control.call("look", path=opening["path"], files=dict(self._files))["sees"])
        if not self.sees_files:
            opening["sources"] = [peer.to_dict() for peer in self._sources(self, control.local_address)]
        answer = control.call("open", deployment=self._deployment, body=self._manifest_json, **opening)
        self.held = {int(layer): frozenset(experts) for layer, experts in answer["held"].items()}
        self.trunk_ready = False
        if answer["trunk"]:  # it may have been built without a word to this process
            self._start_trunk(control)
        while not self._stop.is_set():
            self._wake.clear()
            self._follow(control)
            if self._wake.wait(_PING_S):
                continue
            self.info = control.call("info", timeout_s=_PING_TIMEOUT_S)
        self.state = "closed"
        control.call("close", deployment=self._deployment, timeout_s=self._settings.connect_timeout_s)

    def _follow(self, control: HostControl) -> None:
        """Make of the host what it should be, as far as it has room."""
        with self._lock:
            wanted, wants_trunk = self._wanted, self._wants_trunk
        if not self.settled:
            try:
                self._adapt(control, wanted, wants_trunk=wants_trunk)
            except InsufficientMemory as error:
                log.warning("host has no room", extra={"host": self.peer.name, "reason": str(error)})
                self.info = control.call("info", timeout_s=_PING_TIMEOUT_S)
                self.error, self.refused_at = error, time.monotonic()
                with self._lock:
                    if self._wanted is wanted:
                        self._wanted = {
                            layer: experts & self.held.get(layer, frozenset()) for layer, experts in wanted.items()
                        }
                        self._wants_trunk = wants_trunk and self.trunk_ready
            else:
                self.error = None
            self.state, self.lost_at = "serving", None
            self._changed(self)
        if self.surplus or self.trunk_ready > self._wants_trunk:
            self._give_back(control)

    def _adapt(self, control: HostControl, wanted: Shard, *, wants_trunk: bool) -> None:
        """Load what is missing. Raises `InsufficientMemory`, and whatever ends the connection."""
        self.state = "loading"
        for layer, experts in wanted.items():
            missing = sorted(experts - self.held.get(layer, frozenset()))
            # Over the network one by one: each has the deadline of a call for itself.
            step = len(missing) if self.sees_files else 1
            for first in range(0, len(missing), max(1, step)):
                if not self._stop.is_set():
                    self._load(control, layer, missing[first : first + step])
        if wants_trunk and not self.trunk_ready:
            self._start_trunk(control)

    def _give_back(self, control: HostControl) -> None:
        """Drop what is no longer wanted and can be spared. Trunks are told before, so that they stop asking for it."""
        surplus, trunk = self._spare(self)
        if not surplus and not trunk:
            return
        self.held = {layer: held - surplus.get(layer, frozenset()) for layer, held in self.held.items()}
        self.trunk_ready = self.trunk_ready and not trunk
        self._changed(self)
        for layer, experts in surplus.items():
            control.call("drop", deployment=self._deployment, layer=layer, experts=sorted(experts))
        if trunk:
            control.call("untrunk", deployment=self._deployment)

    def _load(self, control: HostControl, layer: int, experts: list[int]) -> None:
        """Load experts of one layer. What was read first anywhere is what they are from then on, everywhere."""
        pinned = {expert: self._pinned[layer, expert] for expert in experts if (layer, expert) in self._pinned}
        answer = control.call("load", deployment=self._deployment, layer=layer, experts=experts, pinned=pinned)
        for expert, digest in answer["sha256"].items():
            # Two hosts that read an expert at the same time both knew of no hash.
            first = self._pinned.setdefault((layer, int(expert)), str(digest))
            if digest != first:
                control.call("drop", deployment=self._deployment, layer=layer, experts=experts)
                raise ShardMismatch(
                    f"layer {layer}: expert {expert} has SHA-256 {digest} on {self.peer.name}, its first read had "
                    f"{first}: the hosts see different files"
                )
        self.held = {**self.held, layer: self.held.get(layer, frozenset()) | frozenset(experts)}
        self._progress(len(experts))

    def _start_trunk(self, control: HostControl) -> None:
        """Build the trunk there, of the bytes that the first one was built of."""
        pinned = dict(self._trunk_pinned)
        answer = control.call("trunk", deployment=self._deployment, options=self._options, pinned=pinned)
        for tensor, digest in answer["sha256"].items():
            # Two hosts that built theirs at the same time both knew of no hash, and who had one built it unasked.
            first = self._trunk_pinned.setdefault(str(tensor), str(digest))
            if digest != first:
                control.call("untrunk", deployment=self._deployment)
                raise ShardMismatch(
                    f"{tensor} has SHA-256 {digest} in the trunk of {self.peer.name}, in the first one it had {first}: "
                    "the hosts see different files"
                )
        self.trunk_ready = True

    def _lose(self, error: RiosError) -> None:
        if self.state not in ("lost", "closed"):
            log.warning("host out of reach", extra={"host": self.peer.name, "reason": str(error)})
            self.state = "lost"
            self.held = {}
            self.trunk_ready = False
            self.lost_at = time.monotonic()
            self._changed(self)


def givers_of(member: Member, members: Sequence[Member]) -> list[Member]:
    """Who of a deployment's `members` may give shards to one of them, best first."""
    others = [m for m in members if m is not member and m.state in ("loading", "serving")]

    def order(other: Member) -> tuple[bool, int]:
        shared = sum(len(other.held.get(layer, frozenset()) & wanted) for layer, wanted in member.wanted.items())
        return not other.sees_files, -shared

    return sorted(others, key=order)


def spare_of(member: Member, members: Sequence[Member], active: str | None) -> tuple[Shard, bool]:
    """What a host may drop: experts and a trunk that are no longer wanted there, and that others have by now.

    members: all of the deployment. active: the host whose trunk serves.
    """
    others = [m for m in members if m is not member and m.state in ("serving", "loading")]
    spare: Shard = {}
    for layer, experts in member.surplus.items():
        kept = [m.held.get(layer, frozenset()) & m.wanted.get(layer, frozenset()) for m in others]
        if found := experts & frozenset().union(*kept):
            spare[layer] = found
    trunk = (
        member.trunk_ready
        and not member.wants_trunk
        and active not in (None, member.peer.name)
        and any(m.trunk_ready and m.wants_trunk for m in others)
    )
    return spare, trunk
