"""Deployments in a cluster: the tests' API server, which checks what it is told and runs it on a node of its own."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import rios
from rios.deploy.runtimes.kubernetes import KubernetesRuntime
from rios.deploy.runtimes.kubernetes_objects import Cluster
from rios.services.deployments import local_hosts
from rios.services.deployments.reaper import end_reaper
from rios.words.config import settings
from rios.words.errors import DeploymentFailed
from tests.deploy.images import PYTHON, make_rootfs
from tests.deploy.kubernetes_server import IMAGE, NAMESPACE, KubernetesServer, cluster_of
from tests.deployments.stage import Stage, get
from tests.deployments.test_in_runtimes import SERVER
from tests.waiting import until

WAIT_S = 120.0
pytestmark = [pytest.mark.needs(what) for what in ("bwrap", "root", "busybox")]
RESOURCES = {"cpu": 1, "memory": "128MiB"}


@pytest.fixture(scope="module")
def server() -> Iterator[KubernetesServer]:
    with tempfile.TemporaryDirectory(prefix="rios-cluster-") as directory:
        place = Path(directory)
        place.chmod(0o711)
        with cluster_of(place / "cluster", make_rootfs(place / "rootfs.tar")) as found:
            yield found


@pytest.fixture(scope="module")
def stage(server: KubernetesServer) -> Iterator[Stage]:
    with Stage(cluster=Cluster(kubeconfig=str(server.kubeconfig), namespace=NAMESPACE)) as found:
        yield found
    assert not server.left(), "what was deleted has left something"
    assert not server.refused


def test_it_is_served_metered_and_ended(stage: Stage, server: KubernetesServer) -> None:
    begun = time.time()
    app = stage.deploy.create(
        name="in-kubernetes", image=IMAGE, command=[PYTHON, "-c", SERVER], port=8000, runtime="kubernetes",
        resources=RESOURCES, grace=1, secrets={"TOKEN": "a-very-secret-value"},
        volumes={"/data": {"size": "1MiB", "keep": False}},
    )  # fmt: skip
    app.wait(timeout=WAIT_S)
    states = [event.state for event in app.events if event.replica and event.kind == "state"]
    assert states == ["scheduled", "pulling", "starting", "ready"]
    (one,) = app.replicas
    assert one.host == "kubernetes"
    assert get(f"{app.url}/x") == (200, "hello /x")
    until(lambda: "serves" in app.logs(), "its line", deadline_s=WAIT_S)
    kept = app.exec(["sh", "-c", "cat /run/secrets/TOKEN > /data/kept; cat /data/kept"])
    assert kept.stdout == b"a-very-secret-value"
    (pod,) = server.of("pods", one.id)
    assert pod["metadata"]["labels"]["rios.app"] == app.id
    time.sleep(2.0)  # what a node measures has a second to it
    until(lambda: app.metrics()[0]["cpu_seconds"] > 0, "a measurement", deadline_s=WAIT_S, pause_s=0.2)
    app.delete(timeout=WAIT_S)
    usage = {record.resource: record.quantity for record in stage.ledger.usage(request_id=one.id)}
    assert set(usage) == {"cpu", "memory"}
    assert [record.resource for record in stage.ledger.usage(request_id=app.id)] == ["storage"], "of its volume, once"
    billed_s = usage["memory"] / (128 << 20)
    # A cluster says in whole seconds when it ended.
    assert 1.0 < billed_s <= time.time() - begun, "from when it was held for to when it ended"
    assert int(app.cost) > 0


def test_a_cluster_runs_what_names_it_alone(stage: Stage) -> None:
    """It has no pause, and takes neither archives nor this host's programs: so nothing comes there by chance."""
    app = stage.web("here")
    app.wait(timeout=WAIT_S)
    assert [one.host for one in app.replicas] == ["localhost"]
    app.delete(timeout=WAIT_S)


def test_what_the_cluster_cannot_run_says_why(stage: Stage) -> None:
    for fields, why in (
        ({"image": "registry.example.org/nothing"}, "is not to be had by the cluster"),
        ({}, "needs an image or a root file system"),
    ):
        app = stage.deploy.create(
            name="cannot", command=["sleep", "60"], runtime="kubernetes", restart="never", resources=RESOURCES, **fields
        )  # fmt: skip
        with pytest.raises(DeploymentFailed, match=why):
            app.wait(timeout=WAIT_S)
        app.delete(timeout=WAIT_S)


def test_what_cannot_start_yet_is_deleted_all_the_same(
    stage: Stage, server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node waits for a volume, as for one that a storage class does not give; a start has ten minutes."""
    monkeypatch.setattr(server.node, "has", lambda secret, claim: claim is None)
    app = stage.deploy.create(
        name="waits", image=IMAGE, command=["sleep", "60"], runtime="kubernetes", resources=RESOURCES, grace=1,
        volumes={"/data": {"size": "1MiB", "keep": False}},
    )  # fmt: skip
    (pod,) = until(lambda: _waiting(server), "a Pod that waits", deadline_s=WAIT_S)
    app.delete(timeout=WAIT_S)
    assert pod["metadata"]["name"] not in server.objects["pods"]


def _waiting(server: KubernetesServer) -> list[dict[str, Any]]:
    return [one for one in list(server.objects["pods"].values()) if "persistentVolumeClaim" in str(one["spec"])]


def _away(place: Path) -> Cluster:
    """A cluster where nobody listens."""
    server = {"name": "away", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "away", "context": {"cluster": "away", "user": "nobody"}}
    said = {
        "apiVersion": "v1", "kind": "Config", "current-context": "away",
        "clusters": [server], "contexts": [context], "users": [{"name": "nobody", "user": {}}],
    }  # fmt: skip
    (place / "away").write_text(yaml.safe_dump(said))
    return Cluster(kubeconfig=str(place / "away"), namespace=NAMESPACE)


def test_what_never_ran_in_a_cluster_ends_without_it(server: KubernetesServer, tmp_path: Path) -> None:
    with Stage(apps=server.directory / "alone", cluster=_away(tmp_path)) as one:
        app = one.web("elsewhere")
        app.wait(timeout=WAIT_S)
        app.delete(timeout=WAIT_S)


def test_a_cluster_that_is_away_keeps_nothing_here(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network without a home ends what it ran on this machine; what it ran in the cluster can be ended later."""
    place = server.directory / "temporary"
    place.mkdir(mode=0o711)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    reapers: list[subprocess.Popen[bytes]] = []

    def end(one: subprocess.Popen[bytes]) -> None:
        end_reaper(one)
        reapers.append(one)

    monkeypatch.setattr(local_hosts, "end_reaper", end)
    away = _away(tmp_path)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(server.kubeconfig.read_text())
    with Stage(cluster=Cluster(kubeconfig=str(kubeconfig), namespace=NAMESPACE)) as stage:
        stage.web("left").wait(timeout=WAIT_S)
        until(lambda: list(place.glob("*/*/cluster.json")), "a look at the cluster", deadline_s=20)
        kubeconfig.write_text(Path(away.kubeconfig).read_text())
    assert [path.name for path in place.glob("rios-apps-*/**/*") if path.is_file()] == ["cluster.json"]
    assert [one.poll() is not None for one in reapers] == [True]


def test_it_goes_on_when_its_gateway_is_another(server: KubernetesServer, tmp_path: Path) -> None:
    """What is known of its replicas is in the cluster and in the ledger: the other has no file of the first."""
    cluster = Cluster(kubeconfig=str(server.kubeconfig), namespace=NAMESPACE)
    with Stage(home=tmp_path / "home", apps=server.directory / "one", cluster=cluster) as first:
        app = first.deploy.create(
            name="stays", image=IMAGE, command=[PYTHON, "-c", SERVER], port=8000, runtime="kubernetes",
            resources=RESOURCES, grace=1,
        )  # fmt: skip
        app.wait(timeout=WAIT_S)
        replica = app.replicas[0].id
    with Stage(home=tmp_path / "home", apps=server.directory / "two", cluster=cluster) as second:
        app = second.deploy.get("stays")
        app.wait(timeout=WAIT_S)
        until(lambda: get(f"{app.url}/again") == (200, "hello /again"), "its answer", deadline_s=WAIT_S, pause_s=0.2)
        assert [one.id for one in app.replicas] == [replica]
        app.delete(timeout=WAIT_S)


def test_what_a_database_keeps_goes_on_in_its_cluster(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook on a network's database has no home: at its end it leaves what gateways go on with."""
    monkeypatch.setenv("RIOS_KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("RIOS_DATABASE", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    monkeypatch.setenv("RIOS_WALLET_ADDRESS", "0x" + "a1" * 20)  # the gateways have its key
    settings.cache_clear()
    try:
        with rios.local(workers=1, threads=1) as net:
            app = net.deploy.create(
                name="kept", image=IMAGE, command=["sleep", "600"], runtime="kubernetes", resources=RESOURCES, grace=1
            )  # fmt: skip
            app.wait(timeout=WAIT_S)
            (one,) = app.replicas
        (pod,) = server.of("pods", one.id)
        assert pod["status"]["phase"] == "Running"
        assert "deletionTimestamp" not in pod["metadata"]
        cluster = Cluster(kubeconfig=str(server.kubeconfig), namespace=NAMESPACE)
        left = KubernetesRuntime(cluster, pod["metadata"]["labels"]["rios.owner"])
        left.clear()
        left.close()
        assert not server.of("pods", one.id)
    finally:
        settings.cache_clear()


def test_a_network_finds_its_cluster_by_its_settings(server: KubernetesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in docs/sandboxes.md: a kubeconfig, and a deployment that names the runtime."""
    monkeypatch.setenv("RIOS_KUBECONFIG", str(server.kubeconfig))
    settings.cache_clear()
    try:
        with rios.local(workers=1, threads=1) as net:
            app = net.deploy.create(
                name="shop", image=f"{IMAGE}:1", command=[PYTHON, "-c", SERVER], port=8000, runtime="kubernetes",
                resources=RESOURCES, grace=1,
            )  # fmt: skip
            app.wait(timeout=WAIT_S)
            assert get(f"{app.url}/hi") == (200, "hello /hi")
            until(lambda: app.logs() == ["serves"], "its line", deadline_s=WAIT_S)
            (one,) = app.replicas
            (pod,) = server.of("pods", one.id)
            assert pod["metadata"]["labels"]["rios.owner"] == pod["metadata"]["labels"]["rios.network"]
        assert not server.of("pods", one.id), "a network without a home ends what it ran"
    finally:
        settings.cache_clear()
