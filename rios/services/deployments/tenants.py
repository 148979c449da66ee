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


def deployments_of(
    platform: Callable[[], Platform], who: Principal, *, checkpoint: Callable[[str], object]
) -> Deployments:
    """`net.deploy` of a user of a gateway. checkpoint: raises InvalidRequest for one that users may not deploy."""

    def checked(wanted: App) -> App:
        check(wanted)
        if wanted.model is not None:
            checkpoint(wanted.model)
        return wanted

    return Deployments(platform, user_id=who.user_id, organisation_id=who.organisation_id, checked=checked)


def check(wanted: App) -> None:
    """Raise InvalidRequest for what would read something of the gateway's machine; checkpoints are not looked at."""
    if wanted.rootfs is not None:
        raise InvalidRequest("rootfs is a file of the machine that deploys, and a gateway reads none: use an image")
    for name, value in wanted.secrets.items():
        if isinstance(value, SecretRef) and value.env is not None:
            raise InvalidRequest(f"secrets.{name} names a variable of this machine; send its value, or a kept secret")
