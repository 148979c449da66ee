"""Archives on a host: put together of chunks in its store, and unpacked by whichever runtime is to run them."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rios.deploy.runtimes.rootfs import BYTES_MAX
from rios.services.deployments.contents import Content, Contents
from rios.words.errors import InvalidRequest, SandboxFailed

if TYPE_CHECKING:
    from rios.deploy.runtimes.protocol import Base, Runtime
    from rios.services.deployments.room import Room

_TURN_S = 600.0


class HostArchives:
    """Those of one host. One is unpacked at a time: who comes second finds it there."""

    def __init__(self, name: str, directory: Path, contents: Contents, room: Room) -> None:
        """name: the host's. directory: where its sandboxes lie, in which an archive is whole for a moment."""
        self._name, self._directory, self._contents, self._room = name, directory, contents, room
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<HostArchives {self._name}>"

    def unpack(self, runtime: Runtime, source: str, digest: str) -> Base | list[str]:
        """What a runtime makes of an archive; or some of the objects that are missing for that.

        source: "sha256:..." of the archive's bytes. digest: the SHA-256 of what it consists of. Raises InvalidRequest
        where these do not agree, or it has no place on a host; UnsupportedRuntime; SandboxFailed.
        """
        if not self._turn.acquire(timeout=_TURN_S):
            raise SandboxFailed(f"host {self._name} unpacks other archives for {_TURN_S:g} s")
        try:
            if (base := runtime.prepared_archive(source)) is not None:
                return base
            if missing := self._contents.missing(digest):
                return missing
            self._require_room(Content.of(self._contents.get(digest)).size_bytes)
            base = self._unpacked(runtime, source, digest)
        except OSError as error:
            raise SandboxFailed(f"host {self._name} cannot unpack an archive: {error}") from error
        finally:
            self._turn.release()
        self._contents.sweep()  # what came for this alone
        return base

    def _unpacked(self, runtime: Runtime, source: str, digest: str) -> Base:
        with tempfile.TemporaryFile(dir=self._directory) as file:  # without a name: it is gone with this process
            whole = hashlib.sha256()
            for chunk in self._contents.read(digest):
                whole.update(chunk)
                file.write(chunk)
            file.flush()
            if f"sha256:{whole.hexdigest()}" != source:
                raise InvalidRequest(f"what {digest} consists of is not the archive {source}: deploy it again")
            return runtime.prepare_archive(Path(f"/proc/self/fd/{file.fileno()}"))

    def _require_room(self, size_bytes: int) -> None:
        """As it is, and unpacked. What is stored of it may be far less, for what is alike is there once."""
        if size_bytes > BYTES_MAX:
            raise InvalidRequest(f"an archive of {size_bytes} bytes is too large for a host: {BYTES_MAX} are the most")
        if why := self._room.make(2 * size_bytes):
            raise SandboxFailed(f"an archive of {size_bytes} bytes takes twice that: {why}")
