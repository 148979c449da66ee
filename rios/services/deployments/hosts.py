"""Hosts that run replicas, behind one protocol: what each has, what runs there, and the verbs of one replica.

Every verb may be repeated: a reconciler that was cut off does it again, or another one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import SecretBytes

if TYPE_CHECKING:
    from rios.deploy.runtimes.protocol import Executed, ImageBase, LogLine, Metrics, Status
    from rios.deploy.scheduling import HostOffer
    from rios.services.deployments.host_snapshots import Snapshots

NETWORK, APP, REVISION = "rios.network", "rios.app", "rios.revision"
"""Labels of instances: a host may serve several networks, and clears away what is of its own alone."""
ASKS = "rios.asks"
"""The label of those that ask the network's gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A replica that a host is to run."""

    replica_id: str
    app_id: str
    organisation_id: str
    revision: int
    specification: Mapping[str, Any]
    """As `App.stored` gives it."""
    secrets: Mapping[str, SecretBytes] = field(default_factory=dict, repr=False)
    image: ImageBase | None = None
    """What the specification's image is in this revision, where it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A replica that does not run any more."""

    status: Status | None
    """None where there was nothing of it."""
    metrics: Metrics | None


class Host(Protocol):
    """A machine that runs replicas."""

    name: str

    @property
    def snapshots(self) -> Snapshots | None:
        """What it does with snapshots of volumes; None where it makes none."""

    def offer(self) -> HostOffer:
        """What it has, without what is used. Quick: asked in every pass."""

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> bool:
        """Whether something has to be fetched, or a name resolved, before it can start. image: as in an order."""

    def prepare(
        self, specification: Mapping[str, Any], image: ImageBase | None = None, *, here: bool = True
    ) -> ImageBase | None:
        """Fetch what a replica stands on; the image that it is, where the specification has one.

        image: as in an order; the name is resolved anew without. here: whether it may be one that lies on this host
        and that no registry gives. Raises NotFound, InvalidRequest, UnsupportedRuntime.
        """

    def unpack(self, specification: Mapping[str, Any], digest: str) -> list[str]:
        """Have the archive that a specification stands on unpacked; or some of the objects that are missing for that.

        digest: the SHA-256 of what the archive consists of, in the host's store (`host_snapshots`), to which missing
        ones are put. Raises InvalidRequest for what has no place on a host, UnsupportedRuntime, SandboxFailed.
        """

    def instances(self) -> list[Status]:
        """All there is of this network's replicas: running, ended and half-made ones."""

    def start(self, order: Order) -> Status:
        """Start a replica, or find it running. Raises SandboxFailed and what `prepare` raises."""

    def give_up(self, replica_id: str) -> None:
        """It is to be ended: a start of it that still waits for something need not go on. Quick, and only a hint."""

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        """End a replica; what it used up to its last instruction stays there until `clear`."""

    def clear(self, replica_id: str) -> None:
        """Take away all there is of a replica, but not its volumes."""

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        """A deployment was deleted: take its logs and snapshots away, and the volumes that are not to be kept."""

    def move_volume(self, organisation_id: str, app_id: str, path: str, *, to_app: str, to_path: str) -> None:
        """A volume that a deleted deployment left is from now on the one that another mounts at `to_path`.

        Raises NotFound where there is neither, SandboxFailed, and InvalidRequest while a replica of the first runs, or
        where the host cannot rename volumes.
        """

    def remove_volume(self, organisation_id: str, app_id: str, path: str) -> None:
        """Take a volume away that a deleted deployment left. Raises InvalidRequest while a replica of it runs."""

    def metrics(self, replica_id: str) -> Metrics:
        """What it used so far. Raises NotFound."""

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        """Its lines."""

    def exec(self, replica_id: str, command: Sequence[str], *, timeout_s: float) -> Executed:
        """Run a command inside."""

    def put_secrets(self, replica_id: str, secrets: Mapping[str, SecretBytes]) -> None:
        """Replace its secrets while it runs."""

    def leave(self) -> None:
        """This process ends: what it asked for is broken off within a few seconds, and raises NetworkClosed. Quick.

        What a host says of itself is said until `close`.
        """

    def close(self) -> None:
        """Let go of connections; replicas go on."""


class Hosts(Protocol):
    """The hosts of a network, as they come and go."""

    def now(self) -> Mapping[str, Host]:
        """Those that are there, by name."""

    def way(self, host: str, replica_id: str, address: str) -> str:
        """How this process reaches a replica, as host:port; empty where it cannot. address: as its host said."""

    def leave(self) -> None:
        """As `Host.leave`, for all of them."""

    def close(self) -> None:
        """Let go of all of them."""
