"""Snapshots on another machine: its agent is asked, and asked again where an answer was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rios.services.deployments.contents import MISSING_MAX
from rios.services.deployments.host_snapshots import Taken
from rios.words.canonical import is_sha256
from rios.words.errors import SandboxFailed

Ask = Callable[[str, bytes, float, Mapping[str, Any]], tuple[dict[str, Any], memoryview]]
"""An operation, the bytes beside it, how long to wait for the answer, its arguments."""
_CALL_S = 60.0
_VOLUME_S = 1900.0
"""A volume is read three times at most, or written once, each within ten minutes, and others before it."""


class RemoteSnapshots:
    """Those of one host. It meets `Snapshots`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def take(self, organisation_id: str, app_id: str, path: str, snapshot_id: str) -> Taken:
        """As the protocol says."""
        names = {"organisation": organisation_id, "app": app_id, "path": path, "snapshot": snapshot_id}
        return Taken(**self._ask("snapshot take", b"", _VOLUME_S, names)[0])

    def get(self, digest: str) -> bytes:
        """As the protocol says; whoever takes it verifies it."""
        return bytes(self._ask("snapshot get", b"", _CALL_S, {"digest": digest})[1])

    def put(self, digest: str, data: bytes) -> None:
        """As the protocol says."""
        self._ask("snapshot put", data, _CALL_S, {"digest": digest})

    def damaged(self, digests: Sequence[str]) -> list[str]:
        """As the protocol says."""
        return missing_of(self._ask("snapshot damaged", b"", _CALL_S, {"digests": list(digests)})[0])

    def keep(self, app_id: str, snapshot_id: str, digest: str) -> list[str]:
        """As the protocol says."""
        asked = {"app": app_id, "snapshot": snapshot_id, "digest": digest}
        return missing_of(self._ask("snapshot keep", b"", _VOLUME_S, asked)[0])

    def is_made(self, organisation_id: str, app_id: str, path: str) -> bool:
        """As the protocol says."""
        names = {"organisation": organisation_id, "app": app_id, "path": path}
        return bool(self._ask("snapshot is_made", b"", _CALL_S, names)[0]["made"])

    def restore(self, organisation_id: str, app_id: str, path: str, *, size_bytes: int, digest: str) -> list[str]:
        """As the protocol says."""
        names = {"organisation": organisation_id, "app": app_id, "path": path}
        asked = {**names, "size_bytes": size_bytes, "digest": digest}
        return missing_of(self._ask("snapshot restore", b"", _VOLUME_S, asked)[0])

    def unmake(self, organisation_id: str, app_id: str, path: str) -> None:
        """As the protocol says."""
        self._ask("snapshot unmake", b"", _VOLUME_S, {"organisation": organisation_id, "app": app_id, "path": path})

    def kept(self) -> list[tuple[str, str]]:
        """As the protocol says."""
        return [(str(app), str(name)) for app, name in self._ask("snapshot kept", b"", _CALL_S, {})[0]["kept"]]

    def drop(self, app_id: str, snapshot_id: str) -> None:
        """As the protocol says."""
        self._ask("snapshot drop", b"", _CALL_S, {"app": app_id, "snapshot": snapshot_id})


def missing_of(said: Mapping[str, Any]) -> list[str]:
    """What an agent asks for. Raises SandboxFailed where that is more than it may be at once, or no SHA-256."""
    asked = said["missing"]
    if not isinstance(asked, list) or len(asked) > MISSING_MAX:
        raise SandboxFailed(f"its agent asks for more objects of a snapshot at once than {MISSING_MAX}")
    for digest in asked:
        if not isinstance(digest, str) or not is_sha256(digest):
            raise SandboxFailed(f"its agent asks for {str(digest)[:80]!r} of a snapshot: that is no SHA-256")
    return asked
