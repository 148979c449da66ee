"""Addresses that are not public, by a list of our own: what Python's knows changes with its patch version."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_METADATA = ("168.63.129.16/32",)
"""Of clouds, at addresses that look public: Azure's agent. The others' lie in networks that are private anyway."""
_SPECIAL = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
    "::/128", "::1/128", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23",
    "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)  # fmt: skip
"""What IANA's registries of special-purpose addresses do not call globally reachable, multicast, and what they did away
with (192.88.99.0/24, fec0::/10). A few addresses within 192.0.0.0/24 and 2001::/23 are reachable: of protocols, and of
no host that somebody would name. Addresses that stand for others (2002::/16, 64:ff9b::/96) are the caller's to judge.
"""
_NOT_PUBLIC = tuple(ipaddress.ip_network(text) for text in (*_METADATA, *_SPECIAL))


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet: global, unicast, and no cloud's own."""
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
