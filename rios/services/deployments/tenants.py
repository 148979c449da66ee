"""What users of a gateway may deploy: nothing that reads files, variables or checkpoints of the gateway's machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.accounts.store import record
from rios.deploy.spec import App as Specification
from rios.deploy.spec import SecretRef
from rios.services.deployments.rules import Rules
from rios.services.deployments.served import served_name
from rios.words.errors import InvalidRequest, NotAllowed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.accounts.values import Principal
    from rios.services.deployments.values import App

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class TenantRules(Rules):
    """Those of a user of a gateway."""

    def __init__(self, who: Principal, checkpoint: Callable[[str], object]) -> None:
        """checkpoint: raises InvalidRequest for one that users may not deploy."""
        self._who = who
        self._checkpoint = checkpoint
        # Whoever runs the network sees where its processes' checkpoints lie, and may end what is bound to those.
        self._runs_it = who.operator and "settlement:write" in who.scopes

    def checked(self, wanted: Specification) -> Specification:
        """As it is. Raises InvalidRequest, NotAllowed."""
        check(wanted)
        if wanted.asks_gateway:
            self._who.require("generate")  # nobody's application may what its user may not
        if wanted.model is not None:
            if Path(wanted.model).is_absolute():
                raise InvalidRequest(
                    f"there is no checkpoint {Path(wanted.model).name!r}: name 'demo' or a folder of the gateway's "
                    "directory of models, and no place of a machine"
                )
            self._checkpoint(wanted.model)
            check_name(wanted.served_name or wanted.name)
        return wanted

    def allow(self, app: App) -> None:
        """Raise NotAllowed for what is bound to somebody else's process."""
        if app.bound and not self._runs_it and app.user_id != self._who.user_id:
            raise NotAllowed(f"{app.name} is bound to a process of {app.user_id}, who alone may change or delete it")

    def shown(self, specification: Mapping[str, Any]) -> dict[str, Any]:
        """Where a checkpoint lies on a machine is shown to those alone who run the network."""
        return dict(specification) if self._runs_it else without_place(specification)

    def record(
        self, connection: Connection, app: App, specification: Mapping[str, Any], *, action: str, at: int
    ) -> None:
        """Models are in the audit log, by the names that requests call; webhooks are told of what is there."""
        if specification["model"] is not None:
            record(
                connection, at=at, organisation_id=app.organisation_id, actor=self._who.user_id, action=action,
                object=app.id, detail={"name": served_name(specification)},
            )  # fmt: skip


def without_place(specification: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with the name of its checkpoint alone, where that is a place of a machine."""
    model = specification["model"]
    if model is None or not Path(model).is_absolute():
        return dict(specification)
    return {**specification, "model": Path(model).name}


def check_name(name: str) -> None:
    """Raise InvalidRequest for what requests cannot call a model."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name of a model: 1 to 96 letters, digits and . _ -")


def check(wanted: Specification) -> None:
    """Raise InvalidRequest for what would read something of the gateway's machine; checkpoints are not looked at."""
    if wanted.rootfs is not None:
        raise InvalidRequest("rootfs is a file of the machine that deploys, and a gateway reads none: use an image")
    for name, value in wanted.secrets.items():
        if isinstance(value, SecretRef) and value.env is not None:
            raise InvalidRequest(f"secrets.{name} names a variable of this machine; send its value, or a kept secret")
