"""What follows for one replica or deployment from its specification, or from what its host says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rios.deploy.deciding import SECOND, Wanted
from rios.deploy.lifecycle import State
from rios.deploy.scheduling import Amounts, Need
from rios.services.deployments.engine import ENGINE
from rios.services.deployments.values import App, Replica, Step

if TYPE_CHECKING:
    from rios.deploy.runtimes.protocol import Status


@dataclass(frozen=True, slots=True)
class Specified:
    """A revision, and what is asked of it in each pass."""

    values: dict[str, Any]
    amounts: Amounts
    probes: Mapping[str, Any] | None
    is_model: bool

    @classmethod
    def of(cls, specification: dict[str, Any]) -> Specified:
        """A specification, read once."""
        is_model = specification["model"] is not None
        return cls(specification, amounts_of(specification), probes_of(specification), is_model)


def probes_of(specification: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The probes of a specification; the port alone where it has a port and says nothing; None without both."""
    if specification["health"] is not None:
        found: Mapping[str, Any] = specification["health"]
        return found
    if specification["port"] is None:
        return None
    return {
        "http": None, "tcp": specification["port"], "command": None, "interval": 5.0, "timeout": 2.0, "failures": 3,
        "successes": 1, "start": None, "live": None, "deadline": 60.0,
    }  # fmt: skip


def failed(one: Replica, cause: str) -> Step:
    """A replica has failed, and is to be ended."""
    return Step(one, State.STOPPING, cause, changes={"outcome": str(State.FAILED)})


def ended(one: Replica) -> Step:
    """A model has ended, or could not be started, as its engine wrote."""
    cause = f"it could not be started: {one.said}" if one.error else one.said
    return Step(one, State.STOPPING, cause, changes={"outcome": one.outcome})


def exited(one: Replica, status: Status) -> Step:
    """A replica's process has ended: what that says."""
    code = status.exit_code
    if status.out_of_memory:
        cause = "it was killed for want of memory: raise resources.memory"
    elif code is None:
        cause = "it ended, and nobody saw how"
    elif code > 128:
        cause = f"it was killed by signal {code - 128}"
    else:
        cause = f"it ended with exit code {code}"
    good = code == 0 and not status.out_of_memory
    return Step(one, State.STOPPING, cause, changes={"outcome": str(State.STOPPED if good else State.FAILED)})


def wanted_of(app: App, specification: Mapping[str, Any], *, led_at: int) -> Wanted:
    """What decides about a deployment. led_at: since when somebody does: before, nothing of it could become ready."""
    change = specification["update"]
    strategy = change["strategy"]
    if specification["model"] is not None and change["surge"]:
        strategy = "blue-green"  # each engine serves those who ask it, so on each the new one begins beside the old one
    return Wanted(
        wish=app.wish, state=app.state, paid=app.paid, revision=app.revision, round=app.round, replicas=app.replicas,
        settled_revision=app.settled_revision, good_revision=app.good_revision, reached=app.reached,
        failures=app.failures, retry_at=app.retry_at, since=max(app.since, led_at), surge=change["surge"],
        unavailable=change["unavailable"], strategy=strategy, deadline_us=int(change["deadline"] * SECOND),
        restarts=specification["restart"],
    )  # fmt: skip


def amounts_of(specification: Mapping[str, Any]) -> Amounts:
    """What one replica takes of its host."""
    if specification["model"] is not None:
        return Amounts(replicas=1)
    resources = specification["resources"]
    return Amounts(
        cpu_milli=int(resources["cpu"] * 1000),
        memory_bytes=resources["memory"],
        gpus=resources["gpu"],
        disk_bytes=sum(volume["size"] for volume in specification["volumes"].values()),
        replicas=1,
    )


def asks_gateway(specification: Mapping[str, Any]) -> bool:
    """Whether it asks the models of its own network."""
    from rios.deploy.spec import GATEWAY  # as below

    return any(rule["host"] == GATEWAY for rule in specification["egress"])


def need_of(specification: Mapping[str, Any]) -> Need:
    """What one replica asks of a host."""
    if specification["model"] is not None:
        return Need(amounts=amounts_of(specification), runtime=ENGINE)
    from rios.deploy.runtimes.protocol import Isolation  # which costs who serves models alone

    schedule = specification["schedule"]
    return Need(
        amounts=amounts_of(specification),
        isolation=int(Isolation.named(schedule["isolation"])),
        runtime=specification["runtime"],
        region=schedule["region"],
        objective=schedule["objective"],
        gateway=asks_gateway(specification),
    )
