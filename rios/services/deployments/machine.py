"""The runtimes of this machine, and the end of all that they ran for one directory."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

from rios.deploy.runtimes import cgroup
from rios.deploy.runtimes.gpus import Gpus
from rios.deploy.runtimes.protocol import Isolation, Runtime
from rios.deploy.runtimes.watching import Policy
from rios.deploy.spec import RuntimeName
from rios.deploy.volumes import Volumes
from rios.services.outbound import networks
from rios.words.errors import InvalidRequest, RiosError

log = logging.getLogger(__name__)

HOST_BASED: RuntimeName = "bubblewrap"
"""The runtime that needs no image: its base is a view of the host."""


def promised_here() -> dict[RuntimeName, Isolation]:
    """The runtimes whose programs this machine has."""
    from rios.deploy.runtimes.engine_service import KINDS

    engines = {kind.name: kind.isolation for kind in KINDS.values() if not kind.why_not()}
    return {HOST_BASED: Isolation.PROCESS, **engines}


def policy_of(text: str) -> Policy:
    """What RIOS_APPS_NETWORKS allows: networks by commas. Raises InvalidRequest."""
    try:
        return Policy(private=tuple(str(network) for network in networks(text)))
    except InvalidRequest as error:
        raise InvalidRequest(f"RIOS_APPS_NETWORKS: {error}") from error


def runtimes_of(directory: Path, *, policy: Policy | None = None) -> dict[Runtime, Isolation]:
    """These runtimes, on a directory. policy: of egress, beyond public addresses."""
    from rios.deploy.runtimes.bubblewrap import BubblewrapRuntime
    from rios.deploy.runtimes.engine import EngineRuntime
    from rios.deploy.runtimes.engine_service import KINDS

    promised = promised_here()
    found: dict[Runtime, Isolation] = {BubblewrapRuntime(directory, policy=policy): Isolation.PROCESS}
    engines = [kind for name, kind in KINDS.items() if name in promised]
    found |= {EngineRuntime(kind, directory, policy=policy): kind.isolation for kind in engines}
    return found


def gpus_to_offer(gpus: Gpus) -> int:
    """How many of this machine's GPUs replicas can be given. What each runtime can is found out when one starts."""
    found = len(gpus.found())
    why = gpus.why_not() if cgroup.version() else "gets no GPU without control groups"
    if found and why:
        log.warning("GPUs are not offered", extra={"gpus": found, "reason": f"a sandbox {why}"})
    return 0 if why else found


def clear_up(directory: Path) -> None:
    """Take a directory away, with all that runs there, the storage of its engines, and what it says runs in a cluster.

    Where the cluster does not let it, what is said of that stays: by it the same call does the rest another time.
    """
    from rios.services.deployments.kubernetes_host import NAME, clear_cluster

    try:
        _clear_machine(directory)
        for path in directory.iterdir() if directory.exists() else ():
            if path.name != NAME:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    finally:
        try:
            clear_cluster(directory)
        except Exception as error:
            # Whatever it is, it is told and not raised: the rest of this process's end is to come.
            trace = None if isinstance(error, RiosError) else error
            why = {"place": str(directory / NAME), "reason": str(error)}
            log.error("what ran in a cluster is not cleared away", extra=why, exc_info=trace)
        else:
            shutil.rmtree(directory / NAME, ignore_errors=True)
    with contextlib.suppress(OSError):  # where anything stays
        directory.rmdir()


def _clear_machine(directory: Path) -> None:
    from rios.deploy.runtimes.engine_service import take_storage_away

    for runtime in runtimes_of(directory):
        for status in runtime.instances():
            runtime.remove(status.instance)
        runtime.close()
    for volume in [path for path in directory.glob("volumes/*/*/*") if path.is_dir()]:
        Volumes().remove(volume)
    take_storage_away(directory / "engine")
