"""Keeps a secured network's certificates good and its hosts told of who is revoked.

Whoever has the authority renews what ends soon, here and on hosts, and brings hosts the list of revoked certificates
within a second or two. Whoever has it not takes the list from hosts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509

from rios.dmoe.authority import Authority, ends_soon, member_files
from rios.dmoe.certified import OwnCertificate
from rios.dmoe.control import HostControl
from rios.dmoe.peer import Peer
from rios.dmoe.trust import Trust, check_list, trust_of
from rios.words.config import Settings
from rios.words.errors import RiosError

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_RENEW_LOOK_S = 60.0

Hosts = Callable[[], Mapping[str, tuple[Peer, Any]]]


def certifier_of(hosts: Hosts, settings: Settings) -> Certifier | None:
    """What keeps a network's certificates; None without TLS."""
    trust = trust_of(settings)
    if trust is None:
        return None
    folder = settings.tls_authority or (None if settings.home is None else Path(settings.home) / "certs")
    authority = Authority(folder) if folder is not None and Authority.exists(folder) else None
    if authority is not None and authority.ca_file.read_bytes() != trust.files.ca.read_bytes():
        log.info("the authority here is not the network's", extra={"authority": str(folder)})
        authority = None
    return Certifier(hosts, settings, trust, authority)


class Certifier:
    """Asks and tells at intervals, in a thread of its own, until `close`."""

    def __init__(self, hosts: Hosts, settings: Settings, trust: Trust, authority: Authority | None) -> None:
        self._hosts = hosts
        self._settings = settings
        self._authority = authority
        self._own = OwnCertificate(trust)
        self._told: dict[Peer, int] = {}
        self._looked: dict[Peer, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rios-certifier", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(2 * self._settings.connect_timeout_s)

    def _run(self) -> None:
        while True:
            try:
                number = self._here()
                for name, (peer, _) in list(self._hosts().items()):
                    if not self._stop.is_set():
                        self._visit(name, peer, number)
            except Exception:
                # Whatever it is, the next look may be better, and without this thread nothing is renewed any more.
                log.exception("looking after certificates failed; trying again")
            if self._stop.wait(_LOOK_S):
                return

    def _here(self) -> int:
        """Renew what lies beside the authority; returns the number of its list, 0 without an authority."""
        if self._authority is None:
            return 0
        for folder in (self._authority.folder / "hosts").glob("*"):
            files = member_files(folder)
            if files.certificate.exists() and ends_soon(files.certificate) and not self._is_revoked(folder.name):
                self._authority.host(folder.name)
                log.info("certificate renewed", extra={"member": folder.name})
        listed = self._authority.revocations()
        self._own.take_list(listed)
        return check_list(x509.load_pem_x509_crl(listed), x509.load_pem_x509_certificate(self._ca_bytes()))

    def _ca_bytes(self) -> bytes:
        assert self._authority is not None
        return self._authority.ca_file.read_bytes()

    def _is_revoked(self, name: str) -> bool:
        """Whether the last certificate of a name is: it gets no other one by itself."""
        assert self._authority is not None
        return next((one.revoked for one in self._authority.issued() if one.name == name), False)

    def _visit(self, name: str, peer: Peer, number: int) -> None:
        """Tell a host who is revoked, and look whether its certificate ends soon."""
        now = time.monotonic()
        due = now - self._looked.get(peer, -_RENEW_LOOK_S) >= _RENEW_LOOK_S
        if not due and self._told.get(peer, 0) >= number:
            return
        try:
            with HostControl(peer, self._settings, session="certificates") as control:
                said = control.call("certificate", timeout_s=self._settings.connect_timeout_s)
                if self._authority is None:
                    self._learn(control, int(said["revocations"]))
                else:
                    self._tell(control, said, self._authority)
            self._told[peer], self._looked[peer] = max(number, int(said["revocations"])), now
        except RiosError as error:
            log.info("certificates of a host not looked after", extra={"host": name, "reason": str(error)})

    def _tell(self, control: HostControl, said: dict[str, Any], authority: Authority) -> None:
        patience_s = self._settings.connect_timeout_s
        control.call("revoked", body=authority.revocations(), timeout_s=patience_s)
        whom = control.certified_name
        if said["request"] is not None and whom is not None and not self._is_revoked(whom):
            made = authority.renewed(str(said["request"]).encode(), name=whom)
            control.call("certified", body=made, timeout_s=patience_s)
            log.info("certificate renewed", extra={"member": whom})

    def _learn(self, control: HostControl, number: int) -> None:
        """Take the list that a host has, where it is newer."""
        if number > int(self._own.said()["revocations"]):
            found = control.call("revocations", timeout_s=self._settings.connect_timeout_s)["list"]
            self._own.take_list(str(found).encode())
