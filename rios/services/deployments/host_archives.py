"""Archives on a host: put together of chunks in its store, and unpacked by whichever runtime is to run them."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rios.deploy.runtimes.rootfs import digest_of
from rios.services.deployments.contents import Contents
from rios.words.errors import InvalidRequest, SandboxFailed

if TYPE_CHECKING:
    from rios.deploy.runtimes.protocol import Base, Runtime

_TURN_S = 600.0


class HostArchives:
    """Those of one host. One is unpacked at a time: who comes second finds it there."""

    def __init__(self, name: str, directory: Path, contents: Contents) -> None:
        """name: the host's. directory: where its sandboxes lie, in which an archive is whole for a moment."""
        self._name, self._directory, self._contents = name, directory, contents
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
            base = self._unpacked(runtime, source, digest)
        finally:
            self._turn.release()
        self._contents.sweep()  # what came for this alone
        return base

    def _unpacked(self, runtime: Runtime, source: str, digest: str) -> Base:
        with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".archive-") as file:
            try:
                for chunk in self._contents.read(digest):
                    file.write(chunk)
                file.flush()
            except OSError as error:
                raise SandboxFailed(f"host {self._name} has no room for an archive: {error}") from error
            if digest_of(Path(file.name)) != source:
                raise InvalidRequest(f"what {digest} consists of is not the archive {source}: deploy it again")
            return runtime.prepare_archive(Path(file.name))
