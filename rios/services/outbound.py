"""Requests to URLs that users name: never to this machine, its networks or a cloud's metadata, unless told to.

The address that was checked is the address that is connected to: a name that resolves to another one a moment later
gains nothing. Redirects are not followed. Nothing of an answer is kept but its status.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

from rios.words.addresses import Address, is_public
from rios.words.errors import InvalidRequest, RiosError

TIMEOUT_S = 5.0
"""Of a connection and of each read; the whole takes no longer than twice this."""
URL_MAX = 2000
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotDelivered(RiosError):
    """What was to be told was not taken."""


def networks(text: str) -> Networks:
    """Networks by commas, such as "10.1.0.0/16, fd00::/8". Raises InvalidRequest."""
    try:
        return [ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip()]
    except ValueError as error:
        raise InvalidRequest(f"{text!r} are no networks: {error}; write such as 10.1.0.0/16, by commas") from error


def check_url(url: str, *, allowed: Networks) -> SplitResult:
    """The parts of a URL that may be asked for, as far as it says so itself. Raises InvalidRequest."""
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError as error:
        raise InvalidRequest(f"the URL is none: {error}") from error
    good = url.isascii() and url.isprintable() and " " not in url and len(url) <= URL_MAX
    if not good or not found.hostname or port == 0 or found.username is not None or found.password is not None:
        raise InvalidRequest(f"a URL has a host, at most {URL_MAX} ASCII characters, and neither blanks nor a password")
    if found.scheme != "https" and not (found.scheme == "http" and allowed):
        raise InvalidRequest("a URL begins with https://")
    literal = _literal(found.hostname)
    if literal is not None:
        check_address(literal, allowed=allowed)
    return found


def check_address(address: Address, *, allowed: Networks) -> None:
    """Raise InvalidRequest for an address that is not public, whatever it is wrapped into."""
    if any(address in network for network in allowed):
        return
    inner = _inner(address)
    if inner is not None:
        check_address(inner, allowed=allowed)
    if not is_public(address):
        raise InvalidRequest("the URL leads to an address that is not public")


def resolve(host: str, port: int, *, allowed: Networks) -> str:
    """The address of a name, of which all are public. Raises InvalidRequest, NotDelivered for an unknown name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotDelivered(f"the name {host!r} is not known: {error}") from error
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        check_address(ipaddress.ip_address(address.partition("%")[0]), allowed=allowed)
    return addresses[0]


def post(url: str, body: bytes, headers: Mapping[str, str], *, allowed: Networks) -> int:
    """Send `body`; the status of the answer. Raises InvalidRequest, NotDelivered."""
    parts = check_url(url, allowed=allowed)
    host = parts.hostname or ""
    secured = parts.scheme == "https"
    port = parts.port or (443 if secured else 80)
    address = resolve(host, port, allowed=allowed)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    opened: list[socket.socket] = []
    late = threading.Event()
    # A reader that sends a byte now and then must not hold us for ever.
    watch = threading.Timer(2 * TIMEOUT_S, _cut, [opened, late])
    watch.daemon = True
    watch.start()
    try:
        connection.sock = found = socket.create_connection((address, port), timeout=TIMEOUT_S)
        if secured:
            context = ssl.create_default_context()
            connection.sock = found = context.wrap_socket(found, server_hostname=host, do_handshake_on_connect=False)
        opened.append(found)
        if isinstance(found, ssl.SSLSocket):
            found.do_handshake()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {**headers, "Connection": "close"})
        status = connection.getresponse().status
        if late.is_set():  # headers that end where they were cut are taken for whole
            raise NotDelivered(f"{host} did not take it within {2 * TIMEOUT_S:g} s")
        return status
    except (OSError, http.client.HTTPException) as error:
        raise NotDelivered(f"{host} did not take it: {type(error).__name__}: {error}") from error
    finally:
        watch.cancel()
        connection.close()


def _cut(opened: list[socket.socket], late: threading.Event) -> None:
    late.set()
    for one in opened:
        # Closed it would stay open: what reads the answer holds it, too. By its base class, as that of TLS is read by
        # another thread, which has to find an end and not a socket without TLS.
        with contextlib.suppress(OSError):  # it has ended by itself
            socket.socket.shutdown(one, socket.SHUT_RDWR)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _inner(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (None if teredo is None else teredo[1])
