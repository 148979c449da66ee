"""New signing keys on time: a thread of each gateway looks whether its key has signed for long enough."""

from __future__ import annotations

import logging
import threading

from rios.accounts.signing import Signer
from rios.words.errors import RiosError

log = logging.getLogger(__name__)

LOOK_S = 60.0
_END_S = 10.0


class Rotation:
    """Gives a signer its new keys from `start` to `close`."""

    def __init__(self, signer: Signer, *, look_s: float = LOOK_S) -> None:
        self._signer = signer
        self._look_s = look_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rios-rotation", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._stop.wait(self._look_s):
            before = self._signer.kid
            try:
                self._signer.rotate_if_due()
            except RiosError as error:  # the old key is good for a day more
                log.warning("the key of access tokens is not renewed", extra={"reason": str(error)})
                continue
            if self._signer.kid != before:
                log.info("access tokens are signed with a new key", extra={"kid": self._signer.kid})
