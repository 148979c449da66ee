"""Volumes of a cluster: claims that outlive the Pods that use them."""

from __future__ import annotations

from pathlib import Path

from rios.deploy.runtimes.kubernetes_api import Api
from rios.deploy.runtimes.kubernetes_objects import Cluster, claim_name, volume_claim
from rios.deploy.runtimes.kubernetes_states import quantity

_KIND = "persistentvolumeclaims"


def ensure_claim(api: Api, source: Path, size_bytes: int, cluster: Cluster, owner: str) -> None:
    """The claim of the volume `source`, made where there is none, grown to a larger size.

    A size below what it has stays what it is. Raises SandboxFailed where the cluster refuses: some storage cannot grow.
    """
    name = claim_name(source)
    known = api.read(_KIND, name)
    if known is None:
        api.create(_KIND, volume_claim(source, size_bytes, cluster, owner))
        return
    if quantity(known["spec"]["resources"]["requests"]["storage"]) < size_bytes:
        api.merge(_KIND, name, {"spec": {"resources": {"requests": {"storage": str(size_bytes)}}}})


def remove_claim(api: Api, source: Path) -> None:
    """Take a claim away, and with it what it holds, as its storage class says."""
    api.delete(_KIND, claim_name(source))
