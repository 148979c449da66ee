"""Processes that reconcile the deployments of a home until they are killed, which campaigns do at any moment.

`python -m tests.deployments.reconciling HOME APPS` forks one for each line that it reads and writes its number: a fork
begins at once, for it has imported all that it needs. Agents of further hosts are announced by HOME/agents.json.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import rios.services.accounts
import rios.services.deployments.health
import rios.services.deployments.images
import rios.services.deployments.local_host
import rios.services.deployments.metering
import rios.services.deployments.platform
import rios.services.deployments.rent
import rios.services.deployments.routing
import rios.services.deployments.secrets
import rios.services.keys
from rios.billing.ledger.ledger import Ledger
from tests.deployments.stage import Stage

LEASE_S = 0.5
HERE = "here"
"""The region of this machine; agents have others."""
AGENTS = "agents.json"


def reconcile(home: Path, apps: Path) -> None:
    """Until somebody kills this process."""
    known = home / AGENTS

    def agents() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
        return found

    stage = Stage(home=home, apps=apps, lease_s=LEASE_S, agents=agents, region=HERE)
    stage.platform  # noqa: B018  it begins
    threading.Event().wait()


def main(home: Path, apps: Path) -> None:
    """Fork whoever is asked for."""
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            os.setsid()
            reconcile(home, apps)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    assert Ledger
    assert rios.services
    main(Path(sys.argv[1]), Path(sys.argv[2]))
