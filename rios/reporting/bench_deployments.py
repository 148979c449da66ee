"""What deciding for many deployments costs: one choice among hosts, and one full pass of the reconciler; and what a
start takes longer as a deployment than by bubblewrap alone.

The tables, the ledger's database and the reconciler are the real ones; of the many, the hosts are simulated, for they
would be a thousand machines: each says at once what it has and what runs there.
"""

from __future__ import annotations

import itertools
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert

from rios.deploy.lifecycle import State, Wish
from rios.deploy.runtimes.protocol import Executed, ImageBase, LogLine, Metrics, Status
from rios.deploy.scheduling import Amounts, HostOffer, Need, choose
from rios.deploy.spec import App as Specification
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.acting import Acting
from rios.services.deployments.health import Prober
from rios.services.deployments.hosts import APP, Ended, Host, Order
from rios.services.deployments.local_hosts import local_hosts
from rios.services.deployments.metering import Metering
from rios.services.deployments.platform import Platform
from rios.services.deployments.reconciler import Reconciler
from rios.services.deployments.scaling import Scalers
from rios.services.deployments.secrets import SecretStore, open_secrets_key
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import AppStore
from rios.services.lazy import Lazy
from rios.services.purse import Purse
from rios.storage.deployment_models import AppEventRow, AppReplicaRow, AppRevisionRow, AppRow, AppSpendRow
from rios.words.config import Settings
from rios.words.errors import HostLost, NotFound, UnsupportedRuntime

if TYPE_CHECKING:
    from rios.billing.ledger.batch import Batch

_SEED = 5
_START_S = 120.0
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of repetitions."""

    seconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The 95th percentile."""
        return sorted(self.seconds)[int(0.95 * (len(self.seconds) - 1))]


def decisions(*, hosts: int = 1_000, count: int = 500) -> Took:
    """How long it takes to choose the host of one more replica, with the reason, among hosts half taken."""
    chance = random.Random(_SEED)  # noqa: S311  simulated loads
    offers = [
        HostOffer(
            name=f"host-{number:04}",
            total=Amounts(cpu_milli=64_000, memory_bytes=256 * _GIB, disk_bytes=1 << 40, replicas=500),
            used=Amounts(cpu_milli=chance.randrange(64_000), memory_bytes=chance.randrange(256) * _GIB),
            isolation=chance.choice((1, 2, 3)),
            region=chance.choice(("eu", "us")),
            ask_bp=chance.randrange(8_000, 12_000),
            reliability=chance.uniform(0.5, 1.0),
            latency_ms=chance.uniform(0, 100),
        )
        for number in range(hosts)
    ]
    took = []
    for number in range(count):
        need = Need(
            amounts=Amounts(cpu_milli=2_000, memory_bytes=4 * _GIB, replicas=1), isolation=1 + number % 3,
            region=None if number % 2 else "eu", objective=("cost", "latency", "both")[number % 3],
        )  # fmt: skip
        begun = time.perf_counter()
        choice = choose(need, offers, siblings={"host-0001": 1})
        took.append(time.perf_counter() - begun)
        assert choice.host is not None, choice.reason
    return Took(tuple(took))


def passes(*, hosts: int = 1_000, deployments: int = 10_000, count: int = 5) -> Took:
    """How long a full pass over deployments takes that are all ready, one replica each, on SQLite."""
    with tempfile.TemporaryDirectory(prefix="rios-bench-") as directory:
        home = Path(directory)
        with Purse(Settings(home=home), background=False) as purse:
            store = AppStore(purse.books.ledger)
            quiet = [_Quiet(f"host-{number:04}") for number in range(hosts)]
            _fill(store, quiet, deployments, purse.charging.user)
            owner = purse.books.address
            metering = Metering(store, purse.charging, lambda name: (_ for _ in ()).throw(NotFound(f"{name} {owner}")))
            sealed = SecretStore(store, open_secrets_key(home))
            acting = Acting(store, lambda: metering, lambda: sealed, None)
            prober = Lazy(Prober)
            scalers = Lazy(lambda: Scalers(store))
            reconciler = Reconciler(store, Lazy(lambda: _QuietHosts(quiet)), acting, prober, scalers)
            took = []
            try:
                assert reconciler.look(), "the hosts are made in the first pass"
                for _ in range(count):
                    begun = time.perf_counter()
                    changed = reconciler.look()
                    took.append(time.perf_counter() - begun)
                    assert not changed, "all is as it should be"
            finally:
                reconciler.close()
                prober.close()
                scalers.close()
    return Took(tuple(took))


@contextmanager
def starts() -> Iterator[tuple[Callable[[], float], Callable[[], float]]]:
    """Two ways to start the same program, each called for the seconds of one start: as a deployment on this machine, by
    bubblewrap, from `create` until `wait` says that it is ready; and by `bwrap` alone, until its first line is there.

    A deployment without port and probe is ready when its process has started. Raises UnsupportedRuntime without
    bubblewrap.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UnsupportedRuntime("there is no bwrap on this machine, so no start of it is measured")
    command = ("sh", "-c", "echo there; exec sleep 600")
    system = [word for place in ("/usr", "/bin", "/lib", "/lib64") for word in ("--ro-bind-try", place, place)]
    alone = (bwrap, "--unshare-all", "--die-with-parent", *system, "--proc", "/proc", "--dev", "/dev", *command)

    def bare() -> float:
        begun = time.perf_counter()
        with subprocess.Popen(alone, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            took = time.perf_counter() - begun
            process.kill()
        assert said == b"there\n", said
        return took

    with tempfile.TemporaryDirectory(prefix="rios-bench-") as directory:
        place = Path(directory)
        place.chmod(0o711)  # sandboxes have a user of their own
        with Purse(Settings(home=place / "home"), background=False) as purse:
            platform = Platform(
                purse.charging,
                lambda store: local_hosts(store.network_id(), place / "apps"),
                lambda _name: purse.books.address,
                home=place / "home",
            )
            deploy = Deployments(Lazy(lambda: platform), user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)
            numbers = itertools.count()

            def deployed() -> float:
                begun = time.perf_counter()
                app = deploy.create(
                    name=f"start-{next(numbers)}", command=command, runtime="bubblewrap", grace=1,
                    resources={"cpu": 0.5, "memory": "64MiB"},
                )  # fmt: skip
                app.wait(timeout=_START_S)
                took = time.perf_counter() - begun
                app.delete(timeout=_START_S)
                return took

            try:
                yield deployed, bare
            finally:
                platform.close()


class _Quiet:
    """A host on which nothing changes."""

    snapshots = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.running: list[Status] = []
        total = Amounts(cpu_milli=64_000, memory_bytes=256 * _GIB, disk_bytes=1 << 40, replicas=500)
        self._offer = HostOffer(name=name, total=total, isolation=3, runtimes=frozenset({"bubblewrap"}))

    def offer(self) -> HostOffer:
        return self._offer

    def instances(self) -> list[Status]:
        return self.running

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> bool:
        return False

    def prepare(self, specification: Mapping[str, Any], image: ImageBase | None = None, *, here: bool = True) -> None:
        raise self._acted()

    def unpack(self, specification: Mapping[str, Any], digest: str) -> list[str]:
        raise self._acted()

    def start(self, order: Order) -> Status:
        raise self._acted()

    def give_up(self, replica_id: str) -> None:
        pass

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        raise self._acted()

    def clear(self, replica_id: str) -> None:
        raise self._acted()

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        raise self._acted()

    def move_volume(self, organisation_id: str, app_id: str, path: str, *, to_app: str, to_path: str) -> None:
        raise self._acted()

    def remove_volume(self, organisation_id: str, app_id: str, path: str) -> None:
        raise self._acted()

    def metrics(self, replica_id: str) -> Metrics:
        raise self._acted()

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        raise self._acted()

    def exec(self, replica_id: str, command: Sequence[str], *, timeout_s: float) -> Executed:
        raise self._acted()

    def put_secrets(self, replica_id: str, secrets: Mapping[str, Any]) -> None:
        raise self._acted()

    def leave(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _acted(self) -> HostLost:
        return HostLost(f"{self.name} is simulated: nothing was to be done there")


class _QuietHosts:
    def __init__(self, hosts: Sequence[_Quiet]) -> None:
        self._hosts: dict[str, Host] = {host.name: host for host in hosts}

    def now(self) -> Mapping[str, Host]:
        return self._hosts

    def way(self, host: str, replica_id: str, address: str) -> str:
        return address

    def leave(self) -> None:
        pass

    def close(self) -> None:
        pass


def _fill(store: AppStore, hosts: Sequence[_Quiet], count: int, user: str) -> None:
    """Deployments that have been ready for a while, one replica each, spread over the hosts."""
    now = store.ledger.now()
    wanted = Specification(name="app", command=("serve",))
    # As `json.dumps(stored())` of the service; each deployment has its own.
    tables: dict[Any, list[dict[str, Any]]] = {AppRow: [], AppRevisionRow: [], AppSpendRow: [], AppReplicaRow: []}
    tables[AppEventRow] = []
    for number in range(count):
        app_id, name, host = f"app-{number}", f"a{number}", hosts[number % len(hosts)]
        one = wanted.model_copy(update={"name": name})
        tables[AppRow].append(
            {
                "id": app_id, "organisation_id": "org", "user_id": user, "name": name, "state": str(State.READY),
                "wish": str(Wish.RUN), "reason": "", "revision": 1, "settled_revision": 1, "good_revision": 1,
                "round": 0, "replicas": 1, "replicas_min": 1, "replicas_max": 1, "reached": 1, "failures": 0,
                "retry_at": 0, "since": now, "asked_at": now, "paid": True, "created_at": now, "ended_at": 0,
            }
        )  # fmt: skip
        tables[AppRevisionRow].append(
            {
                "app_id": app_id, "number": 1, "specification": one.model_dump_json(), "digest": "", "created_by": user,
                "created_at": now,
            }
        )  # fmt: skip
        tables[AppSpendRow].append({"app_id": app_id, "amount_wei": 0, "day": 0, "day_wei": 0})
        replica_id = f"{name}-r"
        tables[AppReplicaRow].append(
            {
                "id": replica_id, "app_id": app_id, "revision": 1, "round": 0, "host": host.name,
                "state": str(State.READY), "outcome": "", "address": "", "created_at": now, "started_at": now,
                "ready_at": now, "ended_at": 0, "period": 1, "period_at": now + 10**12, "metered": "",
            }
        )  # fmt: skip
        tables[AppEventRow].append(
            {
                "seq": number + 1, "app_id": app_id, "replica_id": replica_id, "at": now, "kind": "state",
                "state": str(State.READY), "cause": "bench",
            }
        )  # fmt: skip
        host.running.append(
            Status(instance=replica_id, state="running", labels={APP: app_id}, started_at=now / 1e6)
        )  # fmt: skip

    def run(batch: Batch) -> None:
        for table, rows in tables.items():
            batch.connection.execute(insert(table), rows)

    store.transact(run)
