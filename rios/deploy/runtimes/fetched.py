"""What rios itself brought to a host for instances to stand on: images that it pulled or loaded, roots it unpacked.

Each has a mark on the disk, which outlives whoever made it. By it a host knows what it may take away again, and when
that was last used, which is the time of the file. What has no mark was brought by somebody else, and stays. Whoever
starts an instance holds the mark of what it stands on; who takes that away has it alone, across processes.

What is fetched by a name is written down before, with what is there by then: so parts of it that came are known also
where who fetched it was killed, or gave up. Whether it came whole then is not asked: somebody may have loaded it since.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

from rios.deploy.runtimes.durable import read_json, write_json
from rios.deploy.runtimes.protocol import Base, HostBase, ImageBase, RootfsBase
from rios.deploy.runtimes.records import Records, is_still, try_lock
from rios.deploy.spec import RuntimeName
from rios.words.canonical import is_sha256
from rios.words.errors import DeadlineExceeded, RiosError

log = logging.getLogger(__name__)

_WAIT_S, _LOOK_S = 120.0, 0.02
"""Taking one away is a call of an engine, or of rm."""
_RESUMED_S = 3600.0
"""Parts of an image that did not come are kept for so long: who tries again goes on from them."""
_FETCHES, _WRITING = "fetching-", "writing"
Before = dict[str, Any]
"""What an engine has before something is fetched: `names` of images, by their digests; the `foreign` ones of these,
which somebody else brought; its `layers`."""
_OF: Mapping[str, Callable[[str], ImageBase | RootfsBase]] = {"image": ImageBase, "rootfs": RootfsBase}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Of one image or root."""

    base: ImageBase | RootfsBase
    used_at: float
    """Seconds since 1970."""
    names: frozenset[str] = frozenset()
    """Those that an image got as it was fetched. One that has others has been named by somebody else."""
    arrival: str = ""
    """Tells whether what is here is still what was fetched, or somebody else has brought the same since. Of whoever
    fetches; empty where that is not told."""


@runtime_checkable
class Fetches(Protocol):
    """A runtime that brings what instances stand on to this host. A cluster's nodes do, and tidy up, by themselves."""

    def drop(self, mark: Mark) -> bool:
        """Take away what was fetched; what is not there is gone already. False where another runtime has to.

        Raises SandboxFailed where it is used.
        """

    def sweep(self, *, at_once: bool) -> None:
        """Take away what is left of fetches that were cut off. at_once: also what the next try would go on from."""


class Fetched:
    """All that has a mark on one host. Any number of these may be open, in any processes."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        """directory: of the host's runtimes; nothing is made in it before something is fetched."""
        self._host, self._directory = directory, directory / "fetched"
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Fetched {self._directory}>"

    def _path(self, base: Base) -> Path | None:
        """Where its mark lies; None for what no host fetches."""
        if isinstance(base, HostBase):
            return None
        kind, _, digest = base.digest.partition(":")
        if kind != "sha256" or not is_sha256(digest):
            return None
        return self._directory / f"{'image' if isinstance(base, ImageBase) else 'rootfs'}-{digest}"

    # --- marks -----------------------------------------------------------------------------------------------

    def mark(self, base: ImageBase | RootfsBase, names: frozenset[str] = frozenset(), arrival: str = "") -> None:
        """It was fetched by rios, with these names besides those it had; it is used now."""
        path = self._path(base)
        assert path is not None, f"{base} has no digest"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + _WAIT_S
        while True:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            with self._locked(path, fcntl.LOCK_SH) as there:
                if there:  # and not just taken away
                    write_json(_told_at(path), {"names": sorted(_marked(path, base).names | names), "arrival": arrival})
                    self._use(path)
                    return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{base.digest} is being taken away for {_WAIT_S:g} s")

    def has(self, base: Base) -> bool:
        """Whether it has a mark."""
        path = self._path(base)
        return path is not None and path.exists()

    def of(self, base: Base) -> Mark | None:
        """Its mark."""
        path = self._path(base)
        if path is None or isinstance(base, HostBase):
            return None
        with contextlib.suppress(FileNotFoundError):
            return _marked(path, base)
        return None

    @contextlib.contextmanager
    def using(self, base: Base) -> Iterator[bool]:
        """While an instance is started on it, nobody takes it away. Whether it has a mark, by which somebody would."""
        path = self._path(base)
        if path is None:
            yield False
            return
        with self._locked(path, fcntl.LOCK_SH) as there:
            if there:
                self._use(path)
            yield there

    def unused(self) -> list[Mark]:
        """What no instance of this host stands on, what was used longest ago first. What one stands on is used now."""
        stood_on, found = self._stood_on(), []
        for path in self._directory.iterdir() if self._directory.exists() else ():
            kind, _, digest = path.name.partition("-")
            if kind not in _OF or not is_sha256(digest):
                continue
            with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                if path.name in stood_on:
                    self._use(path)
                else:
                    found.append(_marked(path, _OF[kind](f"sha256:{digest}")))
        return sorted(found, key=lambda mark: mark.used_at)

    @contextlib.contextmanager
    def taking(self, mark: Mark) -> Iterator[bool]:
        """While it is taken away, nobody starts on it; then its mark goes. False where it is used by now, and stays."""
        path = self._path(mark.base)
        assert path is not None, f"{mark} has no digest"
        with self._locked(path, fcntl.LOCK_EX, wait_s=0.0) as mine:
            if not mine or path.stat().st_mtime > mark.used_at or path.name in self._stood_on():
                yield False
                return
            yield True
            _told_at(path).unlink(missing_ok=True)
            path.unlink()

    def use(self, mark: Mark) -> None:
        """It is used, by whom rios does not know."""
        if (path := self._path(mark.base)) is not None:
            with contextlib.suppress(FileNotFoundError):
                self._use(path)

    def _use(self, path: Path) -> None:
        now = self._clock()
        os.utime(path, (now, now))

    def _stood_on(self) -> set[str]:
        """The marks' names of all that an instance stands on, of whichever network and runtime, until it is removed."""
        places = [place for name in get_args(RuntimeName) if (place := self._host / name).is_dir()]
        said = [known["asked"]["base"] for place in places for one in Records(place).all() if (known := one.read())]
        return {f"{one['kind']}-{one['of'].removeprefix('sha256:')}" for one in said if one["kind"] in _OF}

    @contextlib.contextmanager
    def _locked(self, path: Path, how: int, *, wait_s: float = _WAIT_S) -> Iterator[bool]:
        """False where there is no such file (any more), or another has it and this is not to wait. DeadlineExceeded."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                yield False
                return
            try:
                if try_lock(fd, how):
                    if is_still(fd, path):
                        yield True
                        return
                    continue
            finally:
                os.close(fd)
            if not wait_s:
                yield False
                return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{path.name} is being used or taken away for {wait_s:g} s")
            time.sleep(_LOOK_S)

    # --- what is fetched by a name -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def fetching(self, name: str, before: Callable[[], Before]) -> Iterator[Before]:
        """While something is fetched by a name. before: says what is there; what does not come is for `resolve`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._turn(fcntl.LOCK_SH):
            there = before()
            path = self._directory / f"{_FETCHES}{hashlib.sha256(name.encode()).hexdigest()}.json"
            with self._turn(fcntl.LOCK_EX, _WRITING):
                if (earlier := read_json(path)) is not None:  # what that left is left still
                    there = {**there, "layers": earlier["before"]["layers"]}
                mine = {"name": name, "before": there, "at": self._clock(), "by": os.urandom(8).hex()}
                write_json(path, mine)
            yield there
            with self._turn(fcntl.LOCK_EX, _WRITING):
                if read_json(path) != mine:  # another fetches it as well, and may give up
                    return
                if earlier is None:
                    path.unlink()
                else:  # the name may lead elsewhere by now: what came of the other image goes in its time
                    write_json(path, earlier)

    def resolve(self, take_away: Callable[[Before], None], *, at_once: bool) -> None:
        """Have parts taken away of what did not come, by what was there before it; none while one is fetched.

        That is once nobody seems to try again, or at_once. More may turn up then: an engine ends after who asked it.
        What cannot be taken away is tried again after the same time.
        """
        paths = list(self._directory.glob(f"{_FETCHES}*.json"))
        if not paths:
            return
        with self._turn(fcntl.LOCK_EX, wait_s=0.0) as mine:
            for path in paths if mine else ():
                known = read_json(path)
                if known is None:  # it has come, or the machine stopped as this was written
                    path.unlink(missing_ok=True)
                    continue
                late = known["at"] + _RESUMED_S < self._clock()
                if not (late or at_once):
                    continue
                try:
                    take_away(known["before"])
                except (OSError, RiosError) as error:
                    log.info("what is left of a fetch stays", extra={"what": known["name"], "reason": str(error)})
                    if late:
                        write_json(path, {**known, "at": self._clock()})
                    continue
                if late:
                    path.unlink()

    @contextlib.contextmanager
    def _turn(self, how: int, of: str = "turn", *, wait_s: float = _WAIT_S) -> Iterator[bool]:
        path = self._directory / of
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with self._locked(path, how, wait_s=wait_s) as mine:
            yield mine


def _told_at(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _marked(path: Path, base: ImageBase | RootfsBase) -> Mark:
    """The mark that lies there. Raises FileNotFoundError."""
    told, used_at = read_json(_told_at(path)) or {}, path.stat().st_mtime
    names, arrival = frozenset(told.get("names", ())), str(told.get("arrival", ""))
    return Mark(base=base, used_at=used_at, names=names, arrival=arrival)
