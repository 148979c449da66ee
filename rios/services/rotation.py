"""New signing keys on time: a thread of each gateway looks whether its key has signed for long enough."""

from __future__ import annotations

import logging

from rios.accounts.signing import Signer
from rios.services.looking import Looker
from rios.words.errors import RiosError

log = logging.getLogger(__name__)

LOOK_S = 60.0
_END_S = 10.0


class Rotation(Looker):
    """Gives a signer its new keys from `start` to `close`."""

    def __init__(self, signer: Signer, *, look_s: float = LOOK_S) -> None:
        super().__init__(self._renew, name="rios-rotation", look_s=look_s, end_s=_END_S)
        self._signer = signer

    def _renew(self) -> None:
        before = self._signer.kid
        try:
            self._signer.rotate_if_due()
        except RiosError as error:  # the old key is good for a day more
            log.warning("the key of access tokens is not renewed", extra={"reason": str(error)})
            return
        if self._signer.kid != before:
            log.info("access tokens are signed with a new key", extra={"kid": self._signer.kid})
