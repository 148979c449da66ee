"""Files on a host's disk that only who has the key can read or change unnoticed: AES-256-GCM.

    magic 8 bytes | salt 32 bytes | frame, frame, ...        frame: nonce 12 bytes | ciphertext | tag 16 bytes

A frame holds 64 KiB, the last one what is left. Each file has a key of its own, derived from the host's by HKDF-SHA256
(RFC 5869) with a new salt, so that the random nonces of one key stay few (NIST SP 800-38D, 8.3). The range's SHA-256
and the frame's place are authenticated with it: frames cannot be moved, within a file or between files.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import stat
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rios.words.config import Settings
from rios.words.errors import InvalidRequest

log = logging.getLogger(__name__)

FRAME_BYTES = 1 << 16
_MAGIC = b"RIOSEAL1"
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_START = len(_MAGIC) + _SALT_BYTES
_STEP = _NONCE_BYTES + FRAME_BYTES + _TAG_BYTES
_KEY = re.compile(r"[0-9a-fA-F]{64}")


class Tampered(ValueError):
    """A sealed file is not as it was written."""


def seal_of(settings: Settings) -> Seal | None:
    """By the key that the settings give; None without one. Raises InvalidRequest for what is no key."""
    file = settings.shard_key_file
    if settings.shard_key is not None:
        text, where = settings.shard_key.get_secret_value(), "RIOS_SHARD_KEY"
    elif file is not None:
        where = f"RIOS_SHARD_KEY_FILE {file}"
        try:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise InvalidRequest(f"{where} can be read by others: chmod 600 it")
            text = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{where} cannot be read: {error}") from error
    else:
        return None
    if not _KEY.fullmatch(text):
        raise InvalidRequest(f"{where} must hold 64 hexadecimal digits; `openssl rand -hex 32` makes some")
    return Seal(bytes.fromhex(text))


class Seal:
    """What names and opens the sealed files of a host. `repr` hides the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "<Seal>"

    def name(self, digest: str) -> str:
        """Of the file that holds the range with this SHA-256: it does not tell which range that is."""
        return hmac.digest(self._key, b"rios shard name " + digest.encode(), "sha256").hex()

    def cipher(self, salt: bytes) -> AESGCM:
        """That of one file."""
        return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"rios shard").derive(self._key))

    def open(self, sealed: bytes, digest: str) -> bytearray:
        """All that a file holds. Raises Tampered."""
        reader = _Reader(self, sealed[:_START], digest)
        data = bytearray()
        for index, start in enumerate(range(_START, len(sealed), _STEP)):
            data += reader.frame(index, sealed[start : start + _STEP])
        return data

    def piece(self, file: BinaryIO, digest: str, start: int, stop: int) -> bytearray:
        """Bytes `start` to `stop` of what a file holds, fewer at its end. Raises Tampered."""
        reader = _Reader(self, file.read(_START), digest)
        first = start // FRAME_BYTES
        file.seek(_START + first * _STEP)
        data = bytearray()
        for index in range(first, -(-stop // FRAME_BYTES)):
            frame = file.read(_STEP)
            if not frame:
                break
            data += reader.frame(index, frame)
        return data[start - first * FRAME_BYTES :][: stop - start]


class _Reader:
    def __init__(self, seal: Seal, head: bytes, digest: str) -> None:
        if len(head) != _START or not head.startswith(_MAGIC):
            raise Tampered("not a sealed file")
        self._cipher = seal.cipher(head[len(_MAGIC) :])
        self._digest = digest

    def frame(self, index: int, frame: bytes) -> bytes:
        try:
            return self._cipher.decrypt(frame[:_NONCE_BYTES], frame[_NONCE_BYTES:], _place(self._digest, index))
        except (InvalidTag, ValueError) as error:
            raise Tampered(f"frame {index} is not as it was written") from error


class SealedWriter:
    """A sealed file while it is written, at its end; an interrupted one is taken up again at its last whole frame."""

    def __init__(self, file: BinaryIO, seal: Seal, digest: str) -> None:
        self._file = file
        self._seal = seal
        self._digest = digest
        self._cipher: AESGCM | None = None
        self._frames = 0
        self._rest = bytearray()

    def found(self, limit: int) -> bytearray:
        """What whole frames of an earlier writer hold, `limit` bytes at most; what follows them is cut off."""
        self._file.seek(0)
        sealed = self._file.read(_START + _STEP * (limit // FRAME_BYTES))
        data = bytearray()
        self._cipher, self._frames = None, 0
        self._rest.clear()
        try:
            if not sealed:
                return data
            reader = _Reader(self._seal, sealed[:_START], self._digest)
            self._cipher = reader._cipher
            for start in range(_START, len(sealed) - _STEP + 1, _STEP):
                data += reader.frame(self._frames, sealed[start : start + _STEP])
                self._frames += 1
        except Tampered as error:
            log.warning("sealed file cut off; what is missing is fetched again", extra={"reason": str(error)})
        self._file.truncate(0 if self._cipher is None else _START + self._frames * _STEP)
        return data

    def write(self, chunk: bytes | memoryview) -> None:
        """The next bytes."""
        self._rest += chunk
        while len(self._rest) >= FRAME_BYTES:
            self._put(bytes(self._rest[:FRAME_BYTES]))
            del self._rest[:FRAME_BYTES]

    def finish(self) -> None:
        """There is no more."""
        if self._rest:
            self._put(bytes(self._rest))
            self._rest.clear()

    def clear(self) -> None:
        """Begin again."""
        self._file.truncate(0)
        self._cipher, self._frames = None, 0
        self._rest.clear()

    def _put(self, data: bytes) -> None:
        if self._cipher is None:
            salt = secrets.token_bytes(_SALT_BYTES)
            self._file.write(_MAGIC + salt)
            self._cipher = self._seal.cipher(salt)
        nonce = os.urandom(_NONCE_BYTES)
        self._file.write(nonce + self._cipher.encrypt(nonce, data, _place(self._digest, self._frames)))
        self._frames += 1


def _place(digest: str, index: int) -> bytes:
    return f"{digest} {index}".encode()
