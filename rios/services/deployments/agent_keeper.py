"""Beside a Dask worker: keeps the agent of its machine running, and says where it is.

A worker offers its machine for applications where `RIOS_HOST_APPS` says so; others offer experts alone.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from rios.services.keeping import Keeper
from rios.words.config import Settings

METRIC = "rios_apps"
"""Under this name the announcement travels with the worker's heartbeats."""


class AgentKeeper:
    """One agent at all times, whatever ends it. Close it."""

    def __init__(self, settings: Settings, directory: Path, *, name: str, address: str, owner: str | None) -> None:
        """directory: where sandboxes lie. address: where others of the network reach this machine."""
        from rios.services.deployments.machine import policy_of  # every worker imports this module, and few offer

        self._name, self._address, self._owner = name, address, owner
        self._key = secrets.token_hex(16)
        orders = {
            "name": name,
            "key": self._key,
            "bind": address,
            "port": 0,
            "directory": str(directory),
            "region": settings.region,
            "ask_bp": settings.ask_bp,
            "isolation": settings.apps_isolation,
            "private": policy_of(settings.apps_networks).private,
        }
        self._keeper = Keeper("the agent", _started, orders)

    def __repr__(self) -> str:
        return f"<AgentKeeper {self._name}>"

    def announcement(self) -> dict[str, Any]:
        """What others need to reach the agent; empty until it serves."""
        said = self._keeper.said
        if not said:
            return {}
        return {
            "name": self._name,
            "address": self._address,
            "port": said["port"],
            "pid": said["pid"],
            "key": self._key,
            "owner": self._owner,
        }

    def close(self) -> None:
        """The worker ends: the agent stays while it has replicas, and leaves to the next."""
        self._keeper.close()


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rios.services.deployments.agent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A group of its own: a signal to the worker's group must not end it.
        start_new_session=True,
    )
