"""Published reports are kept by hosts of the network, too, and read from there where the folder has not got them.

A report is made and told of without them: its files are given to hosts afterwards, in a thread, and whatever is lacking
then (no host was there, or one was lost) is made up for later by any process that makes reports and has the file, or
reaches a host that does. Hosts keep a file sealed under a key of its own that the ledger's database has, for their
owners are not those whose costs it tells; what they give is opened by that key and has the SHA-256 of the history.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rios.deploy.chunking import chunks
from rios.reporting.shelf import Shelf
from rios.services.deployments.contents import Content
from rios.services.deployments.giving import damaged_of, give
from rios.services.deployments.relaying import Relaying, snapshots_of
from rios.services.deployments.store import AppStore, NotYet
from rios.services.reports import files
from rios.services.reports.files import COPIES, REPORTS, File
from rios.words.errors import DeadlineExceeded, Elsewhere, HostLost, LedgerUnavailable, NetworkClosed, RiosError

if TYPE_CHECKING:
    from rios.billing.ledger.ledger import Ledger
    from rios.services.deployments.hosts import Host

log = logging.getLogger(__name__)

T = TypeVar("T")
KeptBy = Callable[[], Mapping[str, "Host"]]
LOOK_S, _SOON_S, _SOON_FOR_S = 60.0, 1.0, 30.0
"""How often is looked for what is lacking; and soon after something was published, while hosts have not answered."""
LOST_S = 600.0
"""A host that is not there for so long keeps nothing any more: another one gets a copy."""
READ_S, _HEARD_S = 30.0, 5.0
"""A file is read for so long; so long does a process wait that has heard of no host that keeps it."""
_GIVEN_S = 120.0
_BATCH, _LOOK_FOR_S = 100, 10.0
_NOWHERE_S = 600.0
"""What is neither in the folder nor on a host is looked for again after so long: it was removed, most often."""
_END_S = 5.0
_NONCE = bytes(12)
"""One for all: no key seals a second file (NIST SP 800-38D, 8.2.1)."""


class Keeping:
    """The part of one process. Close it."""

    def __init__(self, ledger: Ledger, shelf: Shelf, hosts: KeptBy | None = None) -> None:
        """hosts: those of the network, that keep reports; without it, what this process publishes is given later."""
        self._ledger, self._shelf, self._hosts = ledger, shelf, hosts
        self._closing, self._woken = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._seen: dict[str, float] = {}
        """When hosts that are to keep something answered last; those that have not, when they were first missed."""
        self._lost, self._refused = set[str](), set[str]()
        """Hosts that were away for long, and those that did not take what they were given in this look."""
        self._nowhere: dict[str, tuple[float, tuple[tuple[str, str], ...]]] = {}
        """Files that were neither here nor on a host, as long as those are the same: when, and of which places."""
        self._then = frozenset[str]()
        """Hosts that answered in the last look."""
        self._after, self._soon_until, self._heard = "", 0.0, False

    def __repr__(self) -> str:
        return f"<Keeping of {self._shelf.out}>"

    # --- reading ---------------------------------------------------------------------------------------------

    def read(self, folder: str, name: str, sha256: str) -> bytes:
        """A file of a report, by what the history says of it: out of the folder, else from a host that keeps it.

        Raises Elsewhere, which says what is missing and what to do.
        """
        try:
            return self._shelf.read(folder, name, sha256)
        except Elsewhere as error:
            one = files.file_of(self._ledger.database, sha256)
            if one is not None and (found := self._here(one)) is not None:
                return found
            if one is None or not one.hosts:
                raise Elsewhere(f"{error}; no host of the network keeps it") from error
            where = " and ".join(sorted(one.hosts))
            if self._hosts is None:
                raise Elsewhere(f"{error}; it is kept by {where}: ask a gateway of the network for it") from error
            try:
                return self._unsealed(one, self._from_hosts(one, self._awaited(one)))
            except LedgerUnavailable:
                raise
            except RiosError as said:
                raise Elsewhere(
                    f"{error}; it is kept by {where}, and not to be had: {said}; ask again when they answer"
                ) from said

    def _awaited(self, one: File) -> Mapping[str, Host]:
        """Hosts that answer, among them one that is to keep a file, where that is so soon."""
        deadline = time.monotonic() + _HEARD_S
        while not (found := self._answering()).keys() & one.hosts.keys():
            if time.monotonic() > deadline or self._closing.wait(_SOON_S / 10):
                break
        return found

    def _from_hosts(self, one: File, hosts: Mapping[str, Host]) -> bytes:
        """What hosts have of a file, as they have it. Raises NotYet, DeadlineExceeded, NetworkClosed."""
        deadline = time.monotonic() + READ_S

        def check() -> None:
            self._require_open()
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"it is not read after {READ_S:g} s")

        before = {name for name, whole in one.hosts.items() if not whole}
        failed = set(before)
        try:
            return self._relaying(hosts).read(one.known(), failed, check=check)
        finally:
            if not_whole := sorted(failed - before):
                log.warning("hosts have not what they keep", extra={"hosts": not_whole, "sha256": one.sha256})
                self._doubt(not_whole, one.sha256)

    def _doubt(self, hosts: list[str], sha256: str) -> None:
        try:
            self._write(files.doubt, hosts, sha256)
        except LedgerUnavailable as error:  # whoever reads it next finds the same
            log.warning("it is not noted which hosts lack a file", extra={"reason": str(error)})
        self.nudge()

    # --- giving ----------------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """Something was published, or is lacking: look after it now, in a thread."""
        if self._hosts is None:
            return
        with self._lock:
            if self._closing.is_set():
                return
            self._soon_until = time.monotonic() + _SOON_FOR_S
            self._woken.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="rios-reports-keeping", daemon=True)
                self._thread.start()

    @property
    def is_closing(self) -> bool:
        """Whether it ends: what cannot be read now may be read by another process."""
        return self._closing.is_set()

    def leave(self) -> None:
        """As `close`, without waiting: who reads or gives is told to break off."""
        with self._lock:
            self._closing.set()
        self._woken.set()

    def close(self) -> None:
        """End. What is under way is broken off, and made up for by whoever looks next."""
        self.leave()
        if self._thread is not None:
            self._thread.join(_END_S)

    def tend(self) -> bool:
        """Have each published file kept by as many hosts as are to, as far as that can be now; whether one more is.

        It costs two questions to the database where nothing is lacking, or no host is there that could have it. Where
        much is, the rest is looked at next time.
        Raises LedgerUnavailable, NetworkClosed.
        """
        hosts, gave, deadline = dict(self._answering()), False, time.monotonic() + _LOOK_FOR_S
        self._heard, self._refused = bool(hosts), set()
        self._note_lost(hosts)
        if (names := frozenset(hosts)) != self._then:
            self._then = names
            self._nowhere.clear()
        while hosts:
            found = files.uneven(self._ledger.database, hosts, self._lost, after=self._after, limit=_BATCH)
            for one in found:
                if self._closing.is_set() or time.monotonic() > deadline:
                    return gave
                self._after = one.sha256  # also of one of which it fails each time: others have their turn
                try:
                    gave = self._evened(one, hosts) or gave
                except (LedgerUnavailable, NetworkClosed):
                    raise
                except Exception:  # of this one alone, whatever it is
                    log.exception("a report is not given to hosts now", extra={"file": one.name})
            if len(found) < _BATCH:
                self._after = ""
                break
        return gave

    def _loop(self) -> None:
        while True:
            self._woken.clear()
            if self._closing.is_set():  # asked after that: who ends sets it before this is woken
                return
            try:
                again = self.tend()
            except (LedgerUnavailable, NetworkClosed) as error:
                log.info("reports are not given to hosts now", extra={"reason": str(error)})
                again = False
            except Exception:
                # Whatever it is, the next look may go better, and nobody would start this thread again.
                log.exception("reports are not given to hosts now")
                again = False
            if not again:
                soon = not self._heard and time.monotonic() < self._soon_until
                self._woken.wait(_SOON_S if soon else LOOK_S)

    def _answering(self) -> Mapping[str, Host]:
        """Hosts that answer and keep what they are given."""
        found: dict[str, Host] = {}
        for name, host in self._hosts().items() if self._hosts is not None else ():
            try:
                host.offer()
            except HostLost:
                continue
            if host.snapshots is not None:
                found[name] = host
        return found

    def _note_lost(self, hosts: Mapping[str, Host]) -> None:
        """Have others found for what hosts keep that were away for long, and what they kept read when they are back."""
        now = time.monotonic()
        for name in files.keepers(self._ledger.database):
            if name in hosts:
                self._seen[name] = now
                if name in self._lost:
                    self._write(files.doubt, [name])
                    self._lost.discard(name)
            elif now - self._seen.setdefault(name, now) > LOST_S and name not in self._lost:
                log.warning("a host is lost that kept reports", extra={"host": name})
                self._write(files.miss, name)
                self._lost.add(name)

    def _evened(self, one: File, hosts: dict[str, Host]) -> bool:
        """Have as many hosts keep a file as are to; whether one more does. Who fails is taken out of `hosts`."""
        if self._was_nowhere(one, hosts):
            return False
        gave, sealed = False, None
        whole = {name for name, is_whole in one.hosts.items() if is_whole and name not in self._lost}
        to_mend = [name for name, is_whole in one.hosts.items() if not is_whole and name in hosts]
        further = sorted(hosts.keys() - one.hosts.keys(), key=partial(_order, one.sha256))
        for name in (*to_mend, *further):
            if len(whole) >= COPIES or self._closing.is_set():
                break
            sealed = sealed or self._sealed(one, hosts)
            if sealed is None:
                return gave
            content, others = _content_of(sealed), self._lost | self._refused
            known = one.ids.get(name) or self._write(files.place, one, name, content.digest, others)
            if not known:
                break  # another process is about to
            if self._given(one, name, known, hosts, sealed, content):
                whole.add(name)
                gave = True
        if len(whole) >= COPIES:
            self._write(files.even, one.sha256, self._lost)
        return gave

    def _given(self, one: File, name: str, known: str, hosts: dict[str, Host], sealed: bytes, content: Content) -> bool:
        """Give a host a file, that is to keep it from now on, by that id; where it does not, another one is to.

        One that was to keep it before still is until enough others do: what it has may be all there is of it.
        """
        snapshots = snapshots_of(hosts[name])
        lacks = damaged_of(content, snapshots.damaged)

        def ask() -> list[str]:
            self._require_open()
            return list(lacks()) or snapshots.keep(REPORTS, known, content.digest)

        def part(_digest: str, offset: int, size: int) -> bytes:
            self._require_open()
            return sealed[offset : offset + size]

        try:
            give(f"{one.folder}/{one.name}", content, part, ask, snapshots.put, within_s=_GIVEN_S)
            self._relaying(hosts).shown(replace(one.known(), digest=content.digest), name)
        except (LedgerUnavailable, NetworkClosed):
            raise
        except (RiosError, KeyError, TypeError, ValueError) as error:  # of that host alone, which may say anything
            log.warning("a host does not keep a report", extra={"host": name, "file": one.name, "reason": str(error)})
            del hosts[name]
            self._refused.add(name)
            if name not in one.hosts:
                self._write(files.drop, one.sha256, name, known)
            return False
        return self._write(files.is_whole, one.sha256, name, known)

    def _sealed(self, one: File, hosts: Mapping[str, Host]) -> bytes | None:
        """A file as hosts have it: out of the folder, else from one that keeps it; None where neither has it now."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        data = self._here(one)
        if data is None:
            if not one.hosts.keys() & hosts.keys():
                self._nowhere[one.sha256] = (time.monotonic(), one.places)
                return None
            try:
                return self._from_hosts(one, hosts)
            except (NotYet, DeadlineExceeded) as error:
                log.info("a report is kept by too few hosts", extra={"file": one.name, "reason": str(error)})
                return None
        return AESGCM(bytes.fromhex(one.seal_key)).encrypt(_NONCE, data, one.sha256.encode())

    def _here(self, one: File) -> bytes | None:
        """A file out of the folder, from wherever there it was published."""
        for folder, name in one.places:
            with contextlib.suppress(Elsewhere):
                return self._shelf.read(folder, name, one.sha256)
        return None

    def _was_nowhere(self, one: File, hosts: Mapping[str, Host]) -> bool:
        """Whether a file was neither here nor on a host a short while ago, and nothing has changed since."""
        at, places = self._nowhere.get(one.sha256, (-math.inf, ()))
        if one.hosts.keys() & hosts.keys() or places != one.places:
            return False
        return time.monotonic() - at < _NOWHERE_S

    def _unsealed(self, one: File, sealed: bytes) -> bytes:
        """A file out of what a host had of it. Raises Elsewhere where it is another one."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            data = AESGCM(bytes.fromhex(one.seal_key)).decrypt(_NONCE, sealed, one.sha256.encode())
        except InvalidTag:
            data = b""
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise Elsewhere(f"what they keep is not {one.name}, whose SHA-256 is {one.sha256}")
        return data

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise NetworkClosed("this process ends")

    def _relaying(self, hosts: Mapping[str, Host]) -> Relaying:
        found = Relaying(AppStore(self._ledger), self._closing)
        found.hosts = hosts
        return found

    def _write(self, run: Callable[..., T], *what: Any) -> T:
        """Of the functions of `files` that write."""
        return self._ledger.transact(lambda batch: run(batch.connection, *what), alone=True)


def _content_of(data: bytes) -> Content:
    parts = [(hashlib.sha256(chunk).hexdigest(), len(chunk)) for chunk in chunks(io.BytesIO(data))]
    return Content(len(data), tuple(parts))


def _order(sha256: str, host: str) -> bytes:
    """In which order hosts are to keep a file: another one for each, so that none keeps all."""
    return hashlib.sha256(f"{sha256} {host}".encode()).digest()
