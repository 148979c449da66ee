"""A TLS 1.3 connection that one thread reads while others write, which Python's own sockets do not offer.

OpenSSL must not be called by two threads for the same connection, and its socket reads and writes inside such a call.
Here it sees memory alone: a lock is held while bytes are encrypted or decrypted, never while the network is waited for.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

from cryptography import x509

from rios.dmoe.trust import name_of
from rios.words.errors import DeadlineExceeded, HostLost, Unauthorized

if TYPE_CHECKING:
    from rios.dmoe.trust import Identity, Trust

_RECORD_BYTES = 1 << 14  # of plaintext, at most (RFC 8446, 5.1)
_READ_BYTES = 1 << 18
_LINGER_S = 1.0  # a refused peer has so long to read why


class TlsSocket:
    """What `wire.Connection` needs of a socket, encrypted. Made by `wrap`."""

    def __init__(self, sock: socket.socket, *, trust: Trust, server: bool) -> None:
        self.family = sock.family
        self.serial: int | None = None
        self.peer_name = ""
        self.peer_certificate = b""
        self.binding = b""
        self._sock = sock
        self._server = server
        self._identity: Identity = trust.now()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = self._identity.server if server else self._identity.client
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._lock = threading.Lock()

    def handshake(self, timeout_s: float) -> None:
        """Agree on keys and check each other's certificates.

        Raises Unauthorized where either side refuses the other's, HostLost or DeadlineExceeded.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._wait(deadline)
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    self._flush()  # tells the peer why
                self._linger()
                raise Unauthorized(refusal(error)) from error
        self.peer_certificate = self._tls.getpeercert(binary_form=True) or b""
        certificate = x509.load_der_x509_certificate(self.peer_certificate)
        self.serial, self.peer_name = certificate.serial_number, name_of(certificate)
        ends = (self._identity.certificate, self.peer_certificate)
        self.binding = b"".join(hashlib.sha256(end).digest() for end in (ends if self._server else ends[::-1]))

    def _wait(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("no TLS handshake before the deadline")
        self._sock.settimeout(left_s)
        try:
            data = self._sock.recv(_READ_BYTES)
        except TimeoutError as error:
            raise DeadlineExceeded("no TLS handshake before the deadline") from error
        if not data:
            raise HostLost("the peer closed the connection in the TLS handshake")
        self._incoming.write(data)

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._sock.sendall(data)

    def _linger(self) -> None:
        """Let a refused peer read why: closing with its bytes unread would take the reason back."""
        deadline = time.monotonic() + _LINGER_S
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while (left_s := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left_s)
                if not self._sock.recv(_READ_BYTES):
                    return

    # --- what a socket does ----------------------------------------------------------------------------------

    def pending(self) -> bool:
        """Whether there is something to read that has left the network already."""
        return bool(self._incoming.pending or self._tls.pending())

    def recv_into(self, view: memoryview) -> int:
        """As a socket's. Raises SSLWantReadError when what came makes no whole record yet."""
        tried = self._incoming.pending
        if (count := self._take(view)) >= 0:
            return count
        if tried:  # the start of a record: whoever waits has a deadline to look at
            raise ssl.SSLWantReadError
        data = self._sock.recv(_READ_BYTES)
        if not data:
            return 0
        with self._lock:
            self._incoming.write(data)
        if (count := self._take(view)) < 0:
            raise ssl.SSLWantReadError
        return count

    def _take(self, view: memoryview) -> int:
        """As much of `view` as the records fill that are there; -1 for none, 0 at the end."""
        filled = 0
        with self._lock:
            while filled < len(view):
                try:
                    count = self._tls.read(len(view) - filled, view[filled:])
                except ssl.SSLWantReadError:
                    return filled or -1
                except ssl.SSLZeroReturnError:
                    return filled
                if not count:
                    return filled
                filled += int(count)
        return filled

    def sendall(self, data: bytes) -> None:
        """Encrypt and send. Whoever calls makes sure that it is alone."""
        view = memoryview(data)
        with self._lock:
            for start in range(0, len(view), _RECORD_BYTES):
                self._tls.write(view[start : start + _RECORD_BYTES])
            encrypted = self._outgoing.read()
        self._sock.sendall(encrypted)

    def settimeout(self, timeout_s: float | None) -> None:
        """As a socket's."""
        self._sock.settimeout(timeout_s)

    def gettimeout(self) -> float | None:
        """As a socket's."""
        return self._sock.gettimeout()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """As a socket's."""
        self._sock.setsockopt(level, option, value)

    def getsockname(self) -> tuple[str, int]:
        """As a socket's."""
        name = self._sock.getsockname()
        return str(name[0]), int(name[1])

    def fileno(self) -> int:
        """As a socket's."""
        return self._sock.fileno()

    def shutdown(self, how: int) -> None:
        """As a socket's."""
        self._sock.shutdown(how)

    def abort(self) -> None:
        """End the connection from another thread; whoever reads or writes finds it gone."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """As a socket's. Each frame says how long it is, so nothing is told to the peer beforehand."""
        self._sock.close()


def wrap(sock: socket.socket, trust: Trust, *, server: bool, timeout_s: float) -> TlsSocket:
    """A socket on which both ends have proved that they are members. Raises as `TlsSocket.handshake`."""
    try:
        found = TlsSocket(sock, trust=trust, server=server)
        found.handshake(timeout_s)
    except OSError as error:
        sock.close()
        if isinstance(error, DeadlineExceeded):
            raise
        raise HostLost(f"the TLS handshake failed: {error}") from error
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    trust.keep_watch(found)
    return found


def refusal(error: ssl.SSLError) -> str:
    """What is wrong with a certificate, and whose, in words that say what to do."""
    said = str(error)
    whose = "this member's" if "ALERT" in said else "its"  # an alert is what the other side says
    for part, reason in _REFUSALS:
        if part in said.lower():
            return reason.format(whose=whose)
    return f"no TLS 1.3 between members: {error.reason or error}"


_REFUSALS = (
    ("certificate revoked", "{whose} certificate was revoked: get another one by `rios certs worker`"),
    ("certificate expired", "{whose} certificate has ended: get another one by `rios certs worker`"),
    ("certificate has expired", "{whose} certificate has ended: get another one by `rios certs worker`"),
    ("alert certificate required", "the network is secured: set RIOS_TLS to what `rios certs worker` made"),
    ("did not return a certificate", "it showed no certificate"),
    ("unknown ca", "{whose} certificate is of another authority"),
    ("self-signed certificate", "{whose} certificate is of another authority"),
    ("self signed certificate", "{whose} certificate is of another authority"),
    ("unable to get local issuer", "{whose} certificate is of another authority"),
    ("signature failure", "{whose} certificate is of another authority"),
    ("unsupported certificate purpose", "{whose} certificate is not one of a member"),
    ("wrong version number", "it does not speak TLS: set RIOS_TLS there as well"),
    ("record layer failure", "it does not speak TLS: set RIOS_TLS there as well"),
    ("http request", "it does not speak TLS: set RIOS_TLS there as well"),
    ("unsupported protocol", "it does not speak TLS 1.3"),
)
