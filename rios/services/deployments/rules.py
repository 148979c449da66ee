"""What holds for the deployments of one user, and what is written down beside each change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from rios.deploy.spec import App as Specification
    from rios.services.deployments.values import App


CREATED, DELETED = "deployment.create", "deployment.delete"


class Rules:
    """Whoever has the process may have all that it may, and sees all of it."""

    def checked(self, wanted: Specification) -> Specification:
        """A specification as it is kept. Raises InvalidRequest for one that this user may not have."""
        if wanted.model in (None, "demo"):
            return wanted
        # A checkpoint is found from everywhere.
        return wanted.model_copy(update={"model": str(Path(str(wanted.model)).expanduser().resolve())})

    def allow(self, app: App) -> None:
        """Raise NotAllowed where this user may not change a deployment."""

    def shown(self, specification: Mapping[str, Any]) -> dict[str, Any]:
        """A specification as this user sees it."""
        return dict(specification)

    def record(
        self, connection: Connection, app: App, specification: Mapping[str, Any], *, action: str, at: int
    ) -> None:
        """Write down that a deployment was created or deleted, in the transaction that does it."""
