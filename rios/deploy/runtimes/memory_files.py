"""Secrets and other small files of instances, in memory alone: never on a disk, in an environment or in a log.

Each instance has two directories in a tmpfs of the host, which its sandbox sees read-only: `secrets` at /run/secrets
and `files` at /run/rios. Replacing a secret there replaces it in the running sandbox.
"""

from __future__ import annotations

import os
import re
import secrets as random
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from rios.deploy.runtimes import kernel
from rios.deploy.runtimes.records import check_id
from rios.words.errors import InvalidRequest, SandboxFailed

MEMORY = Path("/dev/shm")  # noqa: S108 -- checked to be memory, and every directory in it is our own
BYTES_MAX = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class MemoryFiles:
    """The two directories of one instance."""

    def __init__(self, instance: str, *, at: Path = MEMORY) -> None:
        if not kernel.in_memory(str(at)):
            raise SandboxFailed(
                f"{at} is no file system in memory (tmpfs), and secrets go nowhere else: mount one there"
            )
        self._parent = at / f"rios-{os.getuid()}"
        self._parent.mkdir(mode=0o711, exist_ok=True)
        status = self._parent.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise SandboxFailed(f"{self._parent} belongs to somebody else; remove it")
        self.directory = self._parent / check_id(instance)
        self.secrets = self.directory / "secrets"
        self.files = self.directory / "files"

    def make(self, secrets: Mapping[str, bytes], files: Mapping[str, bytes], *, owner: int) -> None:
        """owner: user id, on the host, that may read them."""
        self.directory.mkdir(mode=0o711, exist_ok=True)
        for directory, contents in ((self.secrets, secrets), (self.files, files)):
            directory.mkdir(mode=0o700, exist_ok=True)
            self._chown(directory, owner)
            self._put(directory, contents, owner)

    def replace(self, secrets: Mapping[str, bytes], *, owner: int) -> None:
        """These are the secrets from now on. Each file is the old or the new one at any moment; those not named go."""
        self._put(self.secrets, secrets, owner)
        for path in self.secrets.iterdir():
            if path.name not in secrets:
                path.unlink()

    def _put(self, directory: Path, contents: Mapping[str, bytes], owner: int) -> None:
        if (size := sum(map(len, contents.values()))) > BYTES_MAX:
            raise InvalidRequest(f"{size} bytes of secrets or files for {self.directory.name}: at most {BYTES_MAX}")
        for name, content in contents.items():
            if not _NAME.fullmatch(name):
                raise InvalidRequest(f"{name!r} is no name of a file in {directory.name}: letters, digits, and _ . -")
            new = directory / f".{random.token_hex(8)}"
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400), "wb") as file:
                file.write(content)
            self._chown(new, owner)
            new.replace(directory / name)

    @staticmethod
    def _chown(path: Path, owner: int) -> None:
        if os.getuid() == 0:
            os.chown(path, owner, owner)

    def remove(self) -> None:
        if self.directory.exists():
            shutil.rmtree(self.directory)
