"""What replicas of one host stand on: prepared once, and held while one starts, so that nobody takes it away then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rios.services.deployments.bases import source_of, view_of
from rios.services.deployments.host_archives import HostArchives
from rios.words.errors import InvalidRequest, SandboxFailed

if TYPE_CHECKING:
    from rios.deploy.runtimes.protocol import Base, ImageBase, Runtime
    from rios.deploy.spec import App
    from rios.services.deployments.room import Room

_TRIES = 3


class HostBases:
    """Those of one host."""

    def __init__(self, name: str, archives: HostArchives, room: Room) -> None:
        """name: the host's."""
        self._name, self._archives, self._room = name, archives, room
        self._known: dict[tuple[str, str], tuple[Base, bool]] = {}
        """By runtime and source; and whether it had a mark, with which it goes."""

    def __repr__(self) -> str:
        return f"<HostBases {self._name}: {len(self._known)}>"

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None) -> bool:
        """Whether an image or archive is not prepared yet, or an image's name not resolved."""
        if specification["image"] is not None and image is None:
            return True
        source, wanted = source_of(image, specification["rootfs"]), specification["runtime"]
        return source is not None and not any(
            self._there((runtime, known)) is not None
            for runtime, known in list(self._known)  # others add to them meanwhile
            if known == source and wanted in (None, runtime)
        )

    def base(self, app: App, runtime: Runtime, image: ImageBase | None, *, here: bool = False) -> Base:
        """What a replica is to stand on, prepared where it is not."""
        if app.image is not None and image is None:
            # A name, which may lead elsewhere by now: nothing is kept for it.
            return self._image(runtime, app.image, here=here)
        source = source_of(image, app.rootfs)
        if source is None:
            return view_of(app)
        if (found := self._there((runtime.name, source))) is not None:
            return found
        base = runtime.prepared_archive(source) if app.image is None else self._image(runtime, app.image, pinned=image)
        if base is None:
            raise SandboxFailed(f"the archive {app.rootfs} is not on {self._name}: it is to be unpacked first")
        self._know((runtime.name, source), base)
        return base

    def _image(self, runtime: Runtime, name: str, **how: Any) -> ImageBase:
        try:
            return runtime.prepare_image(name, no_room=self._room.making(), **how)
        except SandboxFailed:
            self._room.sweep()  # parts of it may have come before there was no room
            raise

    def unpack(self, app: App, runtime: Runtime, digest: str) -> list[str]:
        """Unpack the archive that an application stands on, or say what is missing for that."""
        source = source_of(None, app.rootfs) or ""
        if self._there((runtime.name, source)) is not None:
            return []
        for _ in range(_TRIES):
            found = self._archives.unpack(runtime, source, digest)
            if isinstance(found, list):
                return found
            if self._know((runtime.name, source), found):
                return []
        raise self._taken(app)

    @contextlib.contextmanager
    def standing(self, app: App, runtime: Runtime, image: ImageBase | None) -> Iterator[Base]:
        """What a replica stands on, while it is started: prepared anew where it was taken away meanwhile."""
        source = source_of(image, app.rootfs)
        key = (runtime.name, source or "")
        for _ in range(_TRIES):
            base = self.base(app, runtime, image)
            with self._room.fetched.using(base) as marked:
                known = self._known.get(key)
                if source is not None and not marked and (known is None or known[1]):
                    continue
                try:
                    yield base
                except (InvalidRequest, SandboxFailed):
                    # It may have been taken away here by hand: the next start has it prepared anew.
                    self._known.pop(key, None)
                    raise
                return
        raise self._taken(app)

    def _taken(self, app: App) -> SandboxFailed:
        return SandboxFailed(f"what {app.name} stands on is taken away on {self._name} as soon as it is prepared")

    def _know(self, key: tuple[str, str], base: Base) -> bool:
        """False where it was just being taken away, which is waited for: nothing is known of it then."""
        had = self._room.fetched.has(base)
        with self._room.fetched.using(base) as marked:
            if had and not marked:
                return False
            self._known[key] = (base, marked)
            return True

    def _there(self, key: tuple[str, str]) -> Base | None:
        """What is known to be here, unless it was taken away by whoever tidies up."""
        base, marked = self._known.get(key, (None, False))
        if base is None or (marked and not self._room.fetched.has(base)):
            self._known.pop(key, None)
            return None
        return base
