"""What a snapshot consists of, from the hosts that have it to one that is to have it, by way of the process that leads.

Hosts do not know each other's keys, and need not trust each other, for what a snapshot consists of is known by its
SHA-256. A chunk comes from whichever host has it, and goes to nobody who asks for what is no part of the snapshot. A
host that did not give one is asked last for the others, whatever it said.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rios.services.deployments.contents import READ_MAX, Content
from rios.services.deployments.store import AppStore, Lease, NotLeader, NotYet, require_leader
from rios.words.errors import HostLost, InvalidRequest, NotFound, RiosError, SandboxFailed

if TYPE_CHECKING:
    from rios.services.deployments.host_snapshots import Snapshots
    from rios.services.deployments.hosts import Host
    from rios.services.deployments.snapshots import Known

log = logging.getLogger(__name__)

_ROUNDS_MAX = 2000
_TURN_S = 0.2


class Relaying:
    """The relays of one reconciler."""

    def __init__(self, store: AppStore, closing: threading.Event) -> None:
        """closing: set when this process ends: what is under way is broken off then."""
        self._store, self._closing = store, closing
        self.hosts: Mapping[str, Host] = {}
        """Those that answer."""
        self._turns: dict[str, threading.Lock] = {}
        """By host: whose turn it is to have a volume read or made there."""

    def __repr__(self) -> str:
        return f"<Relaying between {len(self.hosts)} hosts>"

    def require(self, lease: Lease) -> None:
        """Raise NotLeader where this process ends, or another one leads: before a host is told to do something."""
        if self._closing.is_set():
            raise NotLeader("this process ends: another one goes on")
        with self._store.ledger.database.reading() as connection:
            require_leader(connection, *lease)

    @contextlib.contextmanager
    def turn(self, host: str) -> Iterator[None]:
        """While one volume is read or made on a host, which does no two at a time: each may take half an hour.

        Raises NotYet where it is another's turn for longer than a moment: who waited there would hold a thread.
        """
        turn = self._turns.setdefault(host, threading.Lock())
        if not turn.acquire(timeout=_TURN_S):
            raise NotYet(f"host {host} reads or makes another volume")
        try:
            yield
        finally:
            turn.release()

    def complete(self, one: Known, name: str, lease: Lease) -> None:
        """Have a host that is to keep a snapshot keep all of it.

        Raises HostLost where it does not answer, and what `bring` raises.
        """
        snapshots = self._at(name)
        self.bring(one, lambda: snapshots.keep(one.app_id, one.id, one.digest), snapshots.put, lease)

    def verify(self, one: Known, name: str, lease: Lease) -> None:
        """Have a host read its copy of a snapshot, some chunks at a time, complete it, and show part of it.

        Raises what `complete` and `shown` raise.
        """
        snapshots, parts = self._at(name), [one.digest, *sorted(self._parts(one, set()))]
        for start in range(0, len(parts), READ_MAX):
            self.require(lease)
            snapshots.damaged(parts[start : start + READ_MAX])  # which are missing from then on
        self.complete(one, name, lease)
        self.shown(one, name)

    def shown(self, one: Known, name: str) -> None:
        """Have a host show what a snapshot consists of, and any one chunk of it.

        Raises HostLost where it does not answer, and SandboxFailed, InvalidRequest where it has not what it says.
        """
        content, _ = self._content(one, name)
        said = [(one.id, one.size_bytes, content.size_bytes)]
        if content.chunks:
            digest, size = secrets.choice(content.chunks)
            said.append((f"{digest}, of {one.id},", size, len(self._object(one, name, digest))))
        for what, size, found in said:
            if size != found:
                raise SandboxFailed(f"{name} says of {what} that it has {size} bytes, not {found}")

    def room_bytes(self, kept: Iterable[Known], name: str, most_bytes: Mapping[str, int]) -> int:
        """What snapshots take of a host, each chunk once: by what they consist of, whatever the host says.

        What it does not show takes nothing. most_bytes: as much may each one of a volume take, by where that is
        mounted. Raises HostLost where it does not answer.
        """
        taken, seen = 0, set[str]()
        for one in kept:
            try:
                content, own = self._content(one, name)
            except (InvalidRequest, SandboxFailed) as error:
                log.warning("a copy is not paid for", extra={"host": name, "snapshot": one.id, "reason": str(error)})
                continue
            parts = {**dict(content.chunks), one.digest: own}
            fresh = sum(size for digest, size in parts.items() if digest not in seen)
            taken += min(fresh, most_bytes.get(one.path, fresh))
            seen.update(parts)
        return taken

    def mend(self, kept: Sequence[Known], name: str, lease: Lease) -> Iterator[Known]:
        """Have a host read of its snapshots what they consist of, and complete those of which it cannot; then those
        of which no host can any more.

        Without that a host removes no chunk at all: it may be of such a snapshot. Raises HostLost, SandboxFailed where
        it cannot be read just now, and NotLeader.
        """
        for start in range(0, len(kept), READ_MAX):
            self.require(lease)
            some = kept[start : start + READ_MAX]
            damaged = self._at(name).damaged([one.digest for one in some])
            for one in some:
                if one.digest not in damaged:
                    continue
                try:
                    self.complete(one, name, lease)
                except (InvalidRequest, NotYet, SandboxFailed) as error:
                    log.warning("a snapshot is damaged", extra={"host": name, "snapshot": one.id, "reason": str(error)})
                    if all(keeper in self.hosts and self._at(keeper).damaged([one.digest]) for keeper in one.hosts):
                        yield one

    def bring(
        self,
        one: Known,
        ask: Callable[[], list[str]],
        put: Callable[[str, bytes], None],
        lease: Lease,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Give a host what it says that it is missing, until nothing is. check: raises where that is not wanted now.

        It ends before the next chunk where this process does, or leads no more. Raises NotLeader then, NotYet where no
        host has a chunk, SandboxFailed where what is asked for is no part of the snapshot or is asked for for ever, and
        what `ask` and `put` raise.
        """
        parts: frozenset[str] | None = None
        failed = set[str]()
        for _ in range(_ROUNDS_MAX):
            missing = ask()
            if not missing:
                return
            for digest in missing:
                self.require(lease)
                check()
                if digest != one.digest:
                    parts = self._parts(one, failed) if parts is None else parts
                    if digest not in parts:
                        raise SandboxFailed(f"it asks for {digest}, which is no part of {one.id}, and is given nothing")
                put(digest, self._from(one, digest, failed))
        raise SandboxFailed(f"{one.id} is not complete after {_ROUNDS_MAX} rounds: its host loses what it is given")

    def read(self, one: Known, failed: set[str], *, check: Callable[[], None]) -> bytes:
        """All that was given to hosts as a snapshot, each chunk from whichever has it.

        check: called before each, and raises where nobody wants to know any more. failed: hosts that are asked last;
        those are added that had not what they keep. Raises NotYet where no host has a chunk.
        """
        content, parts = Content.of(self._from(one, one.digest, failed)), list[bytes]()
        for digest, _ in content.chunks:
            check()
            parts.append(self._from(one, digest, failed))
        return b"".join(parts)

    def _at(self, name: str) -> Snapshots:
        if name not in self.hosts:
            raise HostLost(f"host {name} does not answer")
        return snapshots_of(self.hosts[name])

    def _content(self, one: Known, name: str) -> tuple[Content, int]:
        """What a snapshot consists of, as a host shows it, and how many bytes that is itself."""
        data = self._object(one, name, one.digest)
        return Content.of(data), len(data)

    def _object(self, one: Known, name: str, digest: str) -> bytes:
        """An object of a snapshot from a host that says that it has it, verified."""
        try:
            data = self._at(name).get(digest)
        except NotFound as error:
            raise SandboxFailed(f"{name} does not show {digest}, of {one.id}: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise SandboxFailed(f"{name} gives something else for {digest}, of {one.id}")
        return data

    def _parts(self, one: Known, failed: set[str]) -> frozenset[str]:
        """The SHA-256 of each of its chunks."""
        return frozenset(chunk for chunk, _ in Content.of(self._from(one, one.digest, failed)).chunks)

    def _from(self, one: Known, digest: str, failed: set[str]) -> bytes:
        """An object of a snapshot from whichever host has it, verified. failed: hosts to be asked last; added to."""
        why = []
        for name in sorted(one.hosts, key=lambda name: (name in failed, name)):
            if name not in self.hosts:
                why.append(f"{name} does not answer")
                continue
            try:
                return self._object(one, name, digest)
            except RiosError as error:  # of that host alone, which may say anything
                why.append(f"{name}: {error}")
                failed.add(name)
        raise NotYet(f"{one.id} cannot be read: {'; '.join(why) or 'no host keeps it'}")


def snapshots_of(host: Host) -> Snapshots:
    """What a host does with snapshots. Raises InvalidRequest where it makes none."""
    if host.snapshots is None:
        raise InvalidRequest(f"host {host.name} makes no snapshots: what it runs has its volumes elsewhere")
    return host.snapshots
