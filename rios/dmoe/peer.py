"""Where a host is, and how to be let in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a host is and how to be let in. `repr` hides the key."""

    name: str
    address: tuple[str, int]
    key: str
    machine: str

    def __repr__(self) -> str:
        return f"<Peer {self.name} {self.address[0]}:{self.address[1]}>"

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the key: for authorised connections only."""
        return {"name": self.name, "address": list(self.address), "key": self.key, "machine": self.machine}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Peer:
        """The inverse of `to_dict`."""
        host, port = value["address"]
        return cls(str(value["name"]), (str(host), int(port)), str(value["key"]), str(value["machine"]))
