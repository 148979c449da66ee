"""What users of a gateway may deploy: nothing that reads files, variables or checkpoints of the gateway's machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rios.deploy.spec import App, SecretRef
from rios.services.deployments.service import Deployments
from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.accounts.values import Principal
    from rios.services.deployments.platform import Platform


def deployments_of(platform: Callable[[], Platform], who: Principal) -> Deployments:
    """`net.deploy` of a user of a gateway."""
    return Deployments(platform, user_id=who.user_id, organisation_id=who.organisation_id, checked=check)


def check(wanted: App) -> None:
    """Raise InvalidRequest for what would read something of the gateway's machine."""
    if wanted.rootfs is not None:
        raise InvalidRequest("rootfs is a file of the machine that deploys, and a gateway reads none: use an image")
    if wanted.model is not None:
        raise InvalidRequest("models are deployed by POST /v1/deployments, or net.dmoe.deploy")
    for name, value in wanted.secrets.items():
        if isinstance(value, SecretRef) and value.env is not None:
            raise InvalidRequest(f"secrets.{name} names a variable of this machine; send its value, or a kept secret")
