"""A cluster as a host: what it offers, what is known of it at once, who ends what ran there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from rios.deploy.runtimes.kubernetes import KubernetesRuntime
from rios.deploy.runtimes.kubernetes_objects import Cluster, image_pod
from rios.deploy.runtimes.protocol import ImageBase, Isolation, Launch, Status
from rios.deploy.scheduling import Amounts, Need, choose
from rios.deploy.spec import App
from rios.services.deployments.hosts import Host, Order
from rios.services.deployments.kubernetes_host import KubernetesHost, clear_cluster
from rios.words.errors import HostLost
from tests.deploy.kubernetes_server import IMAGE, NAMESPACE, KubernetesServer
from tests.waiting import until

pytestmark = [pytest.mark.needs(what) for what in ("bwrap", "root", "busybox")]


def test_what_a_killed_notebook_ran_is_taken_away(cluster: KubernetesServer, tmp_path: Path) -> None:
    """Who clears up after it is another process, and has the directory alone."""
    own = Cluster(kubeconfig=str(cluster.kubeconfig), namespace=NAMESPACE)
    volume = {"/data": {"size": "1MiB", "keep": True}}
    host = KubernetesHost(tmp_path, own, network_id="n", lasts=False)
    app = App(name="left", volumes=volume, image=IMAGE, command=("sleep", "60"), runtime="kubernetes").stored()
    order = Order(replica_id="left-1", app_id="a", organisation_id="o", revision=1, specification=app)
    until(lambda: _answers(host), "its first look", deadline_s=20)
    assert host.instances() == []
    host.start(order)
    assert [one.instance for one in host.instances()] == ["left-1"], "what it did itself it knows at once"
    host.close()
    for owner in ("n", "another"):
        cluster.create("pods", image_pod(IMAGE, 10001, own, owner, deadline_s=60))
    clear_cluster(tmp_path / "elsewhere")
    assert cluster.of("pods", "left-1")
    assert _owned(cluster, "n").keys() == {"pods", "secrets", "networkpolicies", "persistentvolumeclaims"}
    clear_cluster(tmp_path)
    until(lambda: not _owned(cluster, "n"), "the end of all of it", deadline_s=20)
    (fetches,) = _owned(cluster, "another")["pods"]
    cluster.delete("pods", fetches, 0)


def _owned(cluster: KubernetesServer, owner: str) -> dict[str, list[str]]:
    """The names of what is an owner's, by kind."""
    found = {
        kind: [name for name, one in list(of.items()) if one["metadata"].get("labels", {}).get("rios.owner") == owner]
        for kind, of in cluster.objects.items()
    }
    return {kind: names for kind, names in found.items() if names}


def test_what_others_serve_is_not_ended_with_a_notebook(cluster: KubernetesServer, tmp_path: Path) -> None:
    own = Cluster(kubeconfig=str(cluster.kubeconfig), namespace=NAMESPACE)
    runtime = KubernetesRuntime(own, "served")
    runtime.start(Launch(instance="served-1", base=ImageBase(IMAGE), command=("sleep", "60")))
    host = KubernetesHost(tmp_path, own, network_id="served")
    until(lambda: _answers(host), "its first look", deadline_s=20)
    host.close()
    clear_cluster(tmp_path)
    assert runtime.status("served-1").state == "running"
    runtime.remove("served-1")
    runtime.close()


def _answers(host: Host) -> bool:
    """Whether it has looked."""
    try:
        host.instances()
    except HostLost:
        return False
    return True


def test_a_host_where_much_is_done_is_not_lost(
    cluster: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes longer than the time between two acts: what this process did meanwhile it knows itself."""
    for name, seconds in (("_LOOK_S", 0.05), ("_FRESH_S", 60.0)):
        monkeypatch.setattr(f"rios.services.deployments.kubernetes_host.{name}", seconds)
    listed, begun, go_on = KubernetesRuntime.instances, threading.Event(), threading.Event()

    def slowly(runtime: KubernetesRuntime, labels: Mapping[str, str] | None = None) -> list[Status]:
        found = listed(runtime, labels)
        begun.set()
        assert go_on.wait(30)
        return found

    host = KubernetesHost(tmp_path, Cluster(kubeconfig=str(cluster.kubeconfig), namespace=NAMESPACE), network_id="n")
    until(lambda: _answers(host), "its first look", deadline_s=20)
    app = App(name="busy", image=IMAGE, command=("sleep", "60"), runtime="kubernetes").stored()

    def names() -> list[str]:
        return [one.instance for one in host.instances()]

    try:
        for number in range(3):
            monkeypatch.setattr(KubernetesRuntime, "instances", slowly)
            begun.clear()
            go_on.clear()
            assert begun.wait(30)
            name = f"busy-{number}"  # begun and ended within one look
            host.start(Order(replica_id=name, app_id="a", organisation_id="o", revision=1, specification=app))
            assert names() == [name]
            monkeypatch.setattr(KubernetesRuntime, "instances", listed)
            seen = host._looked_at
            go_on.set()
            until(lambda seen=seen: host._looked_at > seen, "the end of that look", deadline_s=20)  # type: ignore[misc]
            assert names() == [name], "the look had not seen it"
            assert host.end(name, grace_s=0).status is not None
            assert [one.state for one in host.instances()] == ["exited"]
            host.clear(name)
            assert names() == []
    finally:
        go_on.set()
        host.close()


def test_a_cluster_that_does_not_answer_holds_nobody_up(
    cluster: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server behind a wire that swallows all: whoever reconciles hears at once that it is not there."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "silent").write_text(yaml.safe_dump(config))
        monkeypatch.setattr("rios.services.deployments.kubernetes_host._ANSWER_S", 0.5)
        host = KubernetesHost(tmp_path, Cluster(kubeconfig=str(tmp_path / "silent"), namespace="x"), network_id="n")
        with pytest.raises(HostLost, match="does not answer"):
            host.offer()
        waits: list[float] = []
        monkeypatch.setattr(host._looks, "wait_for", lambda _, *, timeout: waits.append(timeout))
        for ask in (host.offer, host.instances):
            with pytest.raises(HostLost, match="does not answer"):
                ask()
        assert waits == [0.0, 0.0], "at once"
        host.close()


def test_the_quota_of_the_namespace_is_what_a_host_offers(cluster: KubernetesServer, tmp_path: Path) -> None:
    own = Cluster(kubeconfig=str(cluster.kubeconfig), namespace=NAMESPACE)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": NAMESPACE}}
    hard = {"limits.cpu": "1500m", "limits.memory": "2Gi", "requests.storage": "1Pi", "example.org/chips": "2E3",
            "requests.nvidia.com/gpu": "3"}  # fmt: skip
    cluster.create("resourcequotas", {**quota, "spec": {"hard": hard}})
    host = KubernetesHost(tmp_path, own, network_id="n")
    until(lambda: _answers(host), "its first look", deadline_s=20)
    offer = host.offer()
    assert (offer.total.cpu_milli, offer.total.memory_bytes, offer.total.gpus) == (1500, 2 << 30, 3)
    assert offer.by_name
    assert offer.runtimes == {"kubernetes"}
    own_need = Need(amounts=Amounts(cpu_milli=1500), runtime="kubernetes")
    assert choose(own_need, [offer]).host == "kubernetes"
    assert choose(Need(amounts=Amounts()), [offer]).misses == {
        "kubernetes": ("takes only what names its runtime kubernetes",)
    }
    host.close()
    cluster.delete("resourcequotas", "q", None)
    host = KubernetesHost(tmp_path, own, network_id="n", isolation=Isolation.KERNEL)
    until(lambda: _answers(host), "its first look", deadline_s=20)
    assert host.offer().cordoned, "it isolates less than is asked for here"
    assert host.offer().total.gpus == 0, "a cluster whose quota says nothing of them may have none"
    host.close()
