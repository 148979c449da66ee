"""What deployments use over a long time: a month of the ledger's clock, and ten minutes of the kernel's."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rios.billing.ledger.batch import Batch
from rios.billing.ledger.ledger import Ledger
from rios.billing.pricing import Host
from rios.deploy.lifecycle import State
from rios.deploy.runtimes.protocol import Metrics
from rios.services.accounting import reconcile
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.charging import Charging
from rios.services.deployments.leader import Leadership
from rios.services.deployments.metering import Metering
from rios.services.deployments.places import settle
from rios.services.deployments.secrets import SecretStore, open_secrets_key
from rios.services.deployments.service import Deployments
from rios.services.deployments.store import AppStore
from rios.services.deployments.values import NewReplica, Replica, Step
from rios.words.errors import BudgetExceeded
from rios.words.ids import Address
from rios.words.keccak import keccak256
from tests.campaigns import Campaign
from tests.deploy.conftest import runtime_parameters
from tests.deploy.images import PYTHON, make_rootfs
from tests.deployments.stage import Stage
from tests.waiting import until

SECOND, HOUR = 10**6, 3600 * 10**6
HOURS, EVERY_H = 30 * 24, 12
GIB = 1 << 30
OWNERS = {f"host-{n}": Address(f"0x{n + 1:040x}") for n in range(3)}
PLATFORM = Address(f"0x{99:040x}")


class Month:
    """Deployments of a ledger whose clock is set by hand; what runs is told by what the kernel would have counted."""

    def __init__(self, home: Path, url: str = "") -> None:
        """url: of its database; a file in `home` without."""
        self.random = random.Random(3)
        self.at = 1_790_000_000 * SECOND
        self.ledger = Ledger.open(url or f"sqlite:///{home / 'ledger.sqlite'}", clock=lambda: self.at)
        self.charging = Charging(lambda: self.ledger, user=LOCAL_USER)
        self.store = AppStore(self.ledger)
        self.secrets = SecretStore(self.store, open_secrets_key(home))
        self.deploy = Deployments(lambda: self, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION)  # type: ignore[arg-type,return-value]
        self.metering = Metering(
            self.store, self.charging, lambda name: Host(name, OWNERS[name], "cpu", 10_000 + 100 * int(name[-1])),
            period_s=EVERY_H * 3600,
        )  # fmt: skip
        leader = Leadership(self.store)
        assert leader.look()
        self.lease = leader.lease
        self.cpu_ns: Counter[str] = Counter()
        self.made = 0
        self.homes: dict[str, str] = {}

    def changed(self) -> None:
        """Nobody acts but the test."""

    def begin(self, app: Any) -> str:
        self.made += 1
        name, host = f"r{self.made}", f"host-{self.random.randrange(3)}"
        if app.specification["volumes"]:
            host = self.homes.setdefault(app.id, host)
        self.store.write(new=[NewReplica(app._app(), name, host, "chosen")], at=self.at, lease=self.lease)
        self.metering.begin(app._app(), self.replica(app, name), app.specification, self.lease)
        if app.specification["volumes"]:
            one, takes = self.replica(app, name), self.metering.rent.taking(app._app(), host, app.specification)

            def run(batch: Batch) -> None:
                settle(batch.connection, one)
                takes(batch)

            self.store.transact(run)
        for state in (State.STARTING, State.READY):
            changes = {"started_at": self.at}
            self.store.write(
                [Step(self.replica(app, name), state, "it runs", changes=changes)], at=self.at, lease=self.lease
            )
        return name

    def turn(self, app: Any, name: str) -> None:
        self.metering.turn(app._app(), self.replica(app, name), app.specification, self.metrics(app, name), self.lease)

    def turn_volumes(self) -> None:
        for app_id, host in self.metering.rent.due():
            self.metering.rent.turn(self.store.app(app_id), host, self.lease)

    def delete(self, app: Any) -> None:
        """What is done last of all for a deployment whose replicas have ended."""
        self.metering.rent.end(app._app(), lambda _: None, lease=self.lease)

    def end(self, app: Any, name: str) -> None:
        step = Step(self.replica(app, name), State.STOPPING, "fewer are wanted", changes={})
        self.store.write([step], at=self.at, lease=self.lease)
        one = self.replica(app, name)
        self.metering.finish(
            app._app(), one, app.specification, self.metrics(app, name), Step(one, State.STOPPED, "gone", changes={}),
            until=self.at, lease=self.lease,
        )  # fmt: skip

    def metrics(self, app: Any, name: str) -> Metrics:
        cores = app.specification["resources"]["cpu"]
        since = (self.at - self.replica(app, name).period_at) / SECOND
        self.cpu_ns[name] += round(self.random.uniform(0, cores) * since * 10**9)
        return Metrics(
            at=self.at / SECOND, cpu_seconds=self.cpu_ns[name] / 10**9, memory_bytes=1, memory_peak_bytes=1, pids=1,
            egress_bytes=self.random.randrange(10**9), ingress_bytes=0,
        )  # fmt: skip

    def replica(self, app: Any, name: str) -> Replica:
        return next(one for one in self.store.replicas(app.id, ended=True) if one.id == name)


@pytest.fixture
def month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Month]:
    monkeypatch.setattr("rios.services.deployments.rent._PERIODS", 1)
    found = Month(tmp_path)
    yield found
    found.ledger.close()


def test_a_month_of_use_agrees_to_the_wei(month: Month) -> None:
    ledger, deposited = month.ledger, 10**24
    ledger.deposit("first", LOCAL_USER, deposited)
    apps = [
        month.deploy.create(name="small", command=["x"], resources={"cpu": 0.3, "memory": "77MiB"}),
        month.deploy.create(name="large", command=["x"], resources={"cpu": 7, "memory": "3GiB", "gpu": 1}),
        month.deploy.create(name="disk", command=["x"], volumes={"/data": "13GiB"}, egress=["api.example.org:443"]),
    ]
    begun = month.at
    running: dict[str, tuple[Any, int]] = {month.begin(app): (app, month.at) for app in apps}
    lived_us: Counter[str] = Counter()

    def end(name: str) -> None:
        app, since = running.pop(name)
        lived_us[app.name] += month.at - since
        month.end(app, name)

    for hour in range(EVERY_H, HOURS + 1, EVERY_H):
        # Not all at the same moment, nor after whole seconds.
        month.at += EVERY_H * HOUR + month.random.randrange(-SECOND, SECOND)
        for name, (app, _) in list(running.items()):
            if month.random.random() < 0.1:
                end(name)
                running[month.begin(app)] = (app, month.at)
            else:
                month.turn(app, name)
        month.turn_volumes()
        if hour % 24 == 0:
            ledger.close_epoch(PLATFORM)
    for name in list(running):
        end(name)
    month.delete(apps[2])
    ledger.close_epoch(PLATFORM)
    found = reconcile(ledger, None, keccak=keccak256)
    assert found.sound
    assert found.difference_wei == 0
    usage = list(ledger.usage())
    total = sum(one.amount_wei for one in usage)
    balance = ledger.balance(LOCAL_USER)
    assert (balance.held_wei, balance.available_wei) == (0, deposited - total)
    assert sum(one.worker_wei + one.platform_wei for one in usage) == total
    for app in apps:
        mine = [one for one in usage if one.deployment == app.id]
        assert sum(one.amount_wei for one in mine) == int(app.cost) > 0
        wanted = Fraction(app.specification["resources"]["memory"] * lived_us[app.name], SECOND)
        memory = [one.quantity for one in mine if one.resource == "memory"]
        assert 0 <= wanted - sum(memory) < len(memory), "of each period less than a byte-second is rounded away"
    room = [one for one in usage if one.resource == "storage"]
    assert {one.request_id for one in room} == {apps[2].id}
    assert 0 <= Fraction(13 * GIB * (month.at - begun), SECOND) - sum(one.quantity for one in room) < len(room)
    cpu = sum(one.quantity for one in usage if one.resource == "cpu")
    assert abs(cpu - sum(month.cpu_ns.values())) <= len(usage), "all that the kernel counted, to the nanosecond"
    assert {one.resource for one in usage} == {"cpu", "memory", "gpu", "storage", "bytes"}
    assert len(ledger.epochs()) >= 30


def test_a_period_that_the_budget_has_no_room_for_costs_nothing(month: Month) -> None:
    month.ledger.deposit("first", LOCAL_USER, 10**24)
    app = month.deploy.create(name="poor", command=["x"], budget="100 ROS")
    name = month.begin(app)
    little = {**app.specification, "budget": month.ledger.balance(LOCAL_USER).held_wei}
    for _ in range(3):
        month.at += HOUR
        one, used = month.replica(app, name), month.metrics(app, name)
        with pytest.raises(BudgetExceeded, match="the budget of poor"):
            month.metering.turn(app._app(), one, little, used, month.lease)
        assert int(app.cost) == 0 == sum(one.amount_wei for one in month.ledger.usage())
        assert month.replica(app, name).period == 1


MIXED = """
import os, time
turn = 0
while True:
    turn = (turn * 1103515245 + 12345) % 2**31
    part, until = turn / 2**31, time.time() + 0.05 + 0.5 * turn / 2**31
    while time.time() < until: sum(range(1000))
    kept = [bytes(int(part * (1 << 20))) for _ in range(8)]
    with open("/tmp/file", "wb") as file: file.write(os.urandom(1 << 18))
    time.sleep(0.6 - 0.5 * part)
"""
"""Modules that an image of few files has."""
MINUTES = 10


@pytest.mark.long
def test_ten_minutes_are_posted_as_the_kernel_counted_them(tmp_path: Path, campaign_record: Campaign) -> None:
    names = [parameter.values[0] for parameter in runtime_parameters()]
    found = campaign_record.once("all runtimes", lambda: _ten_minutes(names, tmp_path))
    for name, (counted_s, posted_s) in found.items():
        assert counted_s > 30, f"{name} did nothing"
        assert abs(posted_s - counted_s) <= 0.01 * counted_s, name
    campaign_record.conclude(
        minutes=MINUTES, **{name: f"counted {one[0]:.2f} s, posted {one[1]:.2f} s" for name, one in found.items()}
    )


def _ten_minutes(names: list[str], directory: Path) -> dict[str, tuple[float, float]]:
    """By runtime: seconds of cores that its control group showed last, and seconds that were posted."""
    rootfs = make_rootfs(directory / "rootfs.tar")
    with Stage() as stage:
        apps = {
            name: stage.deploy.create(
                name=f"mixed-{name}", rootfs=str(rootfs), command=[PYTHON, "-c", MIXED], runtime=name, grace=1,
                resources={"cpu": 0.25, "memory": "128MiB"},
            )
            for name in names
        }  # fmt: skip
        for app in apps.values():
            app.wait(timeout=300)
        replicas = {name: app.replicas[0].id for name, app in apps.items()}
        counted: dict[str, float] = {}
        stop = threading.Event()

        def read() -> None:
            while not stop.wait(0.01):
                for name, replica in replicas.items():
                    for place in (f"cpuacct/rios/{replica}/cpuacct.usage", f"rios/{replica}/cpu.stat"):
                        path = Path("/sys/fs/cgroup") / place
                        try:
                            text = path.read_text().split()
                        except OSError:
                            continue  # of the other layout, or ended
                        counted[name] = int(text[0]) / 1e9 if len(text) == 1 else int(text[1]) / 1e6

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(60 * MINUTES)
        assert replicas == {name: app.replicas[0].id for name, app in apps.items()}, "each went on all the time"
        for app in apps.values():
            app.pause()
        for app in apps.values():
            until(lambda app=app: not app.replicas, deadline_s=120)
        stop.set()
        thread.join()
        posted = {
            name: sum(one.quantity for one in stage.ledger.usage(request_id=replica) if one.resource == "cpu") / 1e9
            for name, replica in replicas.items()
        }
        for app in apps.values():
            app.delete(timeout=120)
    return {name: (counted[name], posted[name]) for name in names}
