"""What a reconciler and the agent of a host say to each other, as JSON values. Secrets are base64, and in no `repr`."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import SecretBytes

from rios.deploy.runtimes.protocol import Executed, ImageBase, LogLine, Metrics, Status
from rios.deploy.scheduling import Amounts, HostOffer
from rios.services.deployments.hosts import Ended, Order

CALLS, WAY = "apps", "way"
"""Roles of a connection: calls and their answers; the bytes of one connection to a replica."""
BODY = "body"
"""Under this name a verb finds the bytes that came beside its JSON values, and gives those that go with its answer."""
SNAPSHOTS = "snapshot "
"""Verbs that begin so are about snapshots of volumes."""
GIVE_UP = f"{SNAPSHOTS}give_up"
"""Nobody waits any more for what is read or made for them."""


def plain(value: Status | Metrics | HostOffer | LogLine | ImageBase) -> dict[str, Any]:
    """A value without secrets."""
    found = dataclasses.asdict(value)
    return {key: sorted(one) if isinstance(one, frozenset) else one for key, one in found.items()}


def offer_of(data: Mapping[str, Any]) -> HostOffer:
    """The offer that `plain` wrote."""
    total, used = Amounts(**data["total"]), Amounts(**data["used"])
    return HostOffer(**{**data, "total": total, "used": used, "runtimes": frozenset(data["runtimes"])})


def status_of(data: Mapping[str, Any]) -> Status:
    """The status that `plain` wrote."""
    endpoint = data["endpoint"]
    return Status(**{**data, "endpoint": None if endpoint is None else (str(endpoint[0]), int(endpoint[1]))})


def ended(value: Ended) -> dict[str, Any]:
    """How a replica ended."""
    return {
        "status": None if value.status is None else plain(value.status),
        "metrics": None if value.metrics is None else plain(value.metrics),
    }


def ended_of(data: Mapping[str, Any]) -> Ended:
    """What `ended` wrote."""
    status, metrics = data["status"], data["metrics"]
    return Ended(
        status=None if status is None else status_of(status), metrics=None if metrics is None else Metrics(**metrics)
    )


def executed(value: Executed) -> dict[str, Any]:
    """How a command inside a replica ended."""
    return {"exit_code": value.exit_code, "stdout": _text(value.stdout), "stderr": _text(value.stderr)}


def executed_of(data: Mapping[str, Any]) -> Executed:
    """What `executed` wrote."""
    return Executed(int(data["exit_code"]), base64.b64decode(data["stdout"]), base64.b64decode(data["stderr"]))


def secrets(values: Mapping[str, SecretBytes]) -> dict[str, str]:
    """Secrets by their names, as base64."""
    return {name: _text(value.get_secret_value()) for name, value in values.items()}


def secrets_of(data: Mapping[str, str]) -> dict[str, SecretBytes]:
    """What `secrets` wrote."""
    return {str(name): SecretBytes(base64.b64decode(value)) for name, value in data.items()}


def order(value: Order) -> dict[str, Any]:
    """What a host is to start, its secrets with it."""
    return {
        "replica_id": value.replica_id,
        "app_id": value.app_id,
        "organisation_id": value.organisation_id,
        "revision": value.revision,
        "specification": dict(value.specification),
        "secrets": secrets(value.secrets),
        "image": image(value.image),
    }


def order_of(data: Mapping[str, Any]) -> Order:
    """What `order` wrote."""
    return Order(**{**data, "secrets": secrets_of(data["secrets"]), "image": image_of(data["image"])})


def image(value: ImageBase | None) -> dict[str, Any] | None:
    """An image by its digest; None for none."""
    return None if value is None else plain(value)


def image_of(data: Mapping[str, str] | None) -> ImageBase | None:
    """What `image` wrote."""
    return None if data is None else ImageBase(str(data["digest"]), str(data["source"]))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
