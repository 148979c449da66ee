"""What a gateway is called: by the commands of its own machine, and by whoever opens it in a browser."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rios.gateway.certs import Certificates
    from rios.gateway.settings import GatewaySettings

_BEHIND = ("localhost", "localhost.localdomain", "")
# No packet is sent there: the system says from which of its addresses one would be (RFC 5737, RFC 3849).
_FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def is_everywhere(host: str) -> bool:
    """Whether `host` stands for all addresses of a machine, and so is none that could be opened."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def own_names(host: str) -> tuple[str, ...]:
    """What others may call a gateway that listens at `host`: that itself, or this machine's name and address."""
    if not is_everywhere(host):
        return (host,)
    name = socket.gethostname()
    found = [] if name.lower() in _BEHIND else [name]
    for family, far in _FAR:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asked:
                asked.connect((far, 9))
                found.append(asked.getsockname()[0])
        except OSError:  # this machine has no way out of that kind
            continue
        break
    return tuple(dict.fromkeys(found)) or ("127.0.0.1",)


def url_of(host: str, port: int, settings: GatewaySettings, certificates: Certificates | None) -> str:
    """Where the commands of this machine find a gateway, by a name that its certificate is for."""
    if is_everywhere(host):
        host = "::1" if ":" in host else "127.0.0.1"
    if certificates is not None:
        certified = certificates.host(host)
        if certified != host and settings.url:
            return settings.url
        host = certified
    return _url(host, port, certificates)


def shown_url(host: str, port: int, settings: GatewaySettings, certificates: Certificates | None) -> str:
    """Where a browser finds a gateway, on another machine too if it listens for those: what people are told.

    Of a gateway that listens at all addresses: `RIOS_GATEWAY_URL`, else a name of this machine that the certificate is
    for, else another name of the certificate.
    """
    if not is_everywhere(host):
        return url_of(host, port, settings, certificates)
    if settings.url:
        return settings.url.rstrip("/")
    names = own_names(host)
    if certificates is not None:
        certified = certificates.certified()  # those of every machine are last
        names = (
            *(name for name in names if name in certified),
            *(name for name in certified if "*" not in name),
            *names,
        )
    return _url(names[0], port, certificates)


def _url(host: str, port: int, certificates: Certificates | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{'http' if certificates is None else 'https'}://{name}:{port}"
