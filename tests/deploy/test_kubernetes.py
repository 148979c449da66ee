"""What Pods alone have to do: objects of a cluster, ended ones kept, what a cluster lacks and cannot."""

from __future__ import annotations

import dataclasses
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import SecretBytes

from rios.deploy.runtimes.kubernetes import KubernetesRuntime
from rios.deploy.runtimes.kubernetes_api import Api
from rios.deploy.runtimes.kubernetes_exec import run_inside
from rios.deploy.runtimes.kubernetes_objects import Cluster, claim_name
from rios.deploy.runtimes.protocol import Allowed, HostBase, ImageBase, Isolation, Launch, Mount
from rios.words.config import Settings
from rios.words.errors import DeadlineExceeded, InvalidRequest, NotFound, SandboxFailed, UnsupportedRuntime
from tests.deploy.conftest import ELSEWHERE, HIDDEN, OUTSIDE, POLICY, Bench
from tests.deploy.kubernetes_credentials import config_of
from tests.deploy.kubernetes_node import NO_DIGEST
from tests.deploy.kubernetes_server import IMAGE, NAMESPACE, KubernetesServer
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.needs(what) for what in ("bwrap", "root", "busybox")]


@pytest.fixture
def bench(benches: Callable[[str], Bench]) -> Iterator[Bench]:
    """The contract's own, of Pods alone."""
    one = benches(ELSEWHERE)
    one.started.clear()
    yield one
    for instance in one.started:
        one.runtime.remove(instance)
    assert one.cluster is not None
    assert not one.cluster.refused


def _runtime(server: KubernetesServer, owner: str = "tests", **more: object) -> KubernetesRuntime:
    found = Cluster(kubeconfig=str(server.kubeconfig), namespace=NAMESPACE, **more)  # type: ignore[arg-type]
    return KubernetesRuntime(found, owner, policy=POLICY)


# --- what it can do -------------------------------------------------------------------------------------------


def test_it_says_what_it_can_do_and_what_not(bench: Bench, cluster: KubernetesServer, rootfs: Path) -> None:
    able = bench.runtime.capabilities()
    assert able.usable
    assert able.isolation is Isolation.CONTAINER
    assert (able.images, able.port, able.egress, able.seccomp) == (True, True, True, True)
    assert (able.cpu, able.memory, able.pids) == ("cgroup", "cgroup", "none")
    assert (able.archives, able.host_base, able.pause, able.metered) == (False, False, False, False)
    status = bench.start("sleep", "60")
    for refused in (bench.runtime.pause, bench.runtime.resume):
        with pytest.raises(UnsupportedRuntime, match="kubernetes cannot pause"):
            refused(status.instance)
    with pytest.raises(UnsupportedRuntime, match="push it to one"):
        bench.runtime.prepare_archive(rootfs)
    with pytest.raises(UnsupportedRuntime, match="give an image"):
        bench.runtime.start(Launch(instance="x", base=HostBase(), command=("true",)))


def test_settings_name_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    from rios.services.deployments.kubernetes_host import cluster_of

    assert cluster_of(Settings()) is None
    for name, value in (
        ("KUBECONFIG", "in-cluster"),
        ("KUBE_RUNTIME_CLASS", "gvisor"),
        ("KUBE_ISOLATION", "kernel"),
        ("KUBE_REACHED_FROM", '["10.1.2.0/24"]'),
    ):
        monkeypatch.setenv(f"RIOS_{name}", value)
    assert cluster_of(Settings()) == Cluster(
        kubeconfig="in-cluster", namespace="rios-apps", runtime_class="gvisor", isolation=Isolation.KERNEL,
        reached_from=("10.1.2.0/24",),
    )  # fmt: skip


def test_a_runtime_class_is_asked_for_by_its_name(cluster: KubernetesServer) -> None:
    for kind, isolation, why in (
        ("gvisor", Isolation.KERNEL, ""),
        ("kata", Isolation.MACHINE, "no RuntimeClass kata"),
        (None, Isolation.KERNEL, "RIOS_KUBE_RUNTIME_CLASS"),
    ):
        runtime = _runtime(cluster, runtime_class=kind, isolation=isolation)
        assert why in (told := runtime.capabilities().why_not)
        assert bool(told) == bool(why)
        runtime.close()


def test_what_is_missing_is_said(cluster: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = yaml.safe_load(cluster.kubeconfig.read_text())
    nobody["users"][0]["user"]["token"] = "wrong"
    away = yaml.safe_load(cluster.kubeconfig.read_text())
    away["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    stranger = yaml.safe_load(cluster.kubeconfig.read_text())
    del stranger["clusters"][0]["cluster"]["certificate-authority-data"]
    files = {"nobody": nobody, "away": away, "stranger": stranger, "nothing": {}}
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    for kubeconfig, why in (
        (str(tmp_path / "nobody"), "(401)"),
        (str(tmp_path / "away"), "does not answer"),
        (str(tmp_path / "stranger"), "does not answer"),
        (str(tmp_path / "nothing"), "leads to no cluster"),
        (str(tmp_path / "absent"), "leads to no cluster"),
        ("in-cluster", "leads to no cluster"),
    ):
        runtime = KubernetesRuntime(Cluster(kubeconfig=kubeconfig, namespace=NAMESPACE), "tests")
        assert why in runtime.capabilities().why_not
        with pytest.raises((SandboxFailed, UnsupportedRuntime)):
            runtime.start(Launch(instance="x", base=ImageBase(IMAGE), command=("true",)))
        runtime.close()
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    runtime = _runtime(cluster)
    assert "pip install 'rios[kubernetes]'" in runtime.capabilities().why_not


def test_who_lists_often_does_not_wait_often(tmp_path: Path, cluster: KubernetesServer) -> None:
    """A reconciler asks four times a second, and has other hosts to look after."""
    away = yaml.safe_load(cluster.kubeconfig.read_text())
    away["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "away").write_text(yaml.safe_dump(away))
    runtime = KubernetesRuntime(Cluster(kubeconfig=str(tmp_path / "away"), namespace=NAMESPACE), "tests")
    with pytest.raises(SandboxFailed, match="does not answer"):
        runtime.instances()
    with pytest.raises(SandboxFailed, match="has not answered"):
        runtime.instances()
    runtime.close()


def test_a_server_that_says_nothing_holds_nothing_for_ever(
    tmp_path: Path, cluster: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither requests nor the WebSockets of commands; and one request of many says nothing of the others."""
    monkeypatch.setattr("rios.deploy.runtimes.kubernetes_sockets.CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "silent").write_text(yaml.safe_dump(config))
        api = Api(Cluster(kubeconfig=str(tmp_path / "silent"), namespace=NAMESPACE))
        with pytest.raises(SandboxFailed, match="timed out"):
            run_inside(api, "a-pod", ("true",), env={}, timeout_s=30)
        with pytest.raises(DeadlineExceeded, match=r"no answer came within 0\.2 s"):
            api.call("GET", api.path("pods"), timeout_s=0.2)
        assert api._silent_until == 0.0
        api.close()


def test_credentials_that_do_not_come_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig names a program that is to give them, and which hangs."""
    monkeypatch.setattr("rios.deploy.runtimes.kubernetes_api.CALL_S", 3.0)
    hangs = config_of(tmp_path / "hangs", "sleep", "120")
    runtime = KubernetesRuntime(Cluster(kubeconfig=hangs, namespace=NAMESPACE), "tests")
    assert "gave no credentials within 3 s" in runtime.capabilities().why_not
    runtime.close()


# --- images ---------------------------------------------------------------------------------------------------


def test_an_image_is_pinned_by_the_digest_that_a_node_has(bench: Bench, cluster: KubernetesServer) -> None:
    assert bench.runtime.prepare_image(f"{IMAGE}:1") == ImageBase(f"{IMAGE}@sha256:{'0' * 64}")
    with pytest.raises(NotFound, match="not to be had by the cluster"):
        bench.runtime.prepare_image("registry.example.org/nothing")
    until(lambda: not cluster.objects["pods"], "the end of what fetched them", deadline_s=20)


def test_a_name_that_leads_elsewhere_is_resolved_anew(bench: Bench, cluster: KubernetesServer) -> None:
    """Also where the node has what it led to before; what is pinned is not asked for again."""
    moves = f"{IMAGE}:moves"
    before = bench.runtime.prepare_image(moves)
    until(lambda: not cluster.objects["pods"], "the end of what fetched it", deadline_s=20)
    cluster.node.digests[moves] = f"sha256:{'1' * 64}"
    after = bench.runtime.prepare_image(moves)
    assert (before, after) == (ImageBase(f"{IMAGE}@{NO_DIGEST}"), ImageBase(f"{IMAGE}@sha256:{'1' * 64}"))
    status = bench.runtime.start(dataclasses.replace(bench.launch("sleep", "60"), base=after))
    (pod,) = cluster.of("pods", status.instance)
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"


def test_what_fetched_an_image_for_a_process_that_died_is_ended(bench: Bench, cluster: KubernetesServer) -> None:
    from rios.deploy.runtimes.kubernetes_objects import image_pod

    own = Cluster(kubeconfig="x", namespace=NAMESPACE)
    for owner in ("tests", "others"):
        cluster.create("pods", image_pod(IMAGE, 10001, own, owner, deadline_s=60))
    until(lambda: len(_ended(cluster)) == 2, "two Pods that have fetched", deadline_s=20)
    assert not bench.runtime.adopt()
    assert [pod["metadata"]["labels"]["rios.owner"] for pod in _ended(cluster)] == ["others"]
    for name in list(cluster.objects["pods"]):
        cluster.delete("pods", name, 0)


def _ended(cluster: KubernetesServer) -> list[dict[str, dict[str, dict[str, str]]]]:
    return [one for one in list(cluster.objects["pods"].values()) if one["status"].get("phase") == "Failed"]


# --- what is in the cluster -----------------------------------------------------------------------------------


def test_nothing_is_left_of_what_could_not_be_started(bench: Bench, cluster: KubernetesServer) -> None:
    launch = Launch(instance="nowhere", base=ImageBase("registry.example.org/nothing"), command=("true",))
    with pytest.raises(SandboxFailed, match="could not be started: Back-off pulling"):
        bench.runtime.start(launch)
    volumeless = bench.launch("true", mounts=(Mount(source=Path("/no/such"), path="/data"),))
    begun, within_s = time.monotonic(), 1.0 * PATIENCE
    with pytest.raises(SandboxFailed, match=f"was not started within {within_s:g} s: ContainerCreating"):
        bench.runtime.start(volumeless, timeout_s=within_s)
    assert time.monotonic() - begun < 20 * PATIENCE
    assert not [name for name in cluster.left() if not name.startswith("rios-volume-")]


def test_a_start_that_is_given_up_ends(bench: Bench, cluster: KubernetesServer) -> None:
    """A Pod that finds no node, or whose claim is not there, may wait for minutes."""
    assert isinstance(bench.runtime, KubernetesRuntime)
    waits = bench.launch("true", mounts=(Mount(source=Path("/no/such"), path="/data"),))
    give_up = bench.runtime.give_up

    def give_up_what_waits() -> None:
        until(lambda: "ContainerCreating" in str(cluster.of("pods", waits.instance)), "it waits", deadline_s=30)
        give_up(waits.instance)

    giving_up = threading.Thread(target=give_up_what_waits)
    giving_up.start()
    begun = time.monotonic()
    with pytest.raises(SandboxFailed, match="given up before it had started: "):
        bench.runtime.start(waits, timeout_s=300.0)
    assert time.monotonic() - begun < 40 * PATIENCE
    assert not cluster.of("pods", waits.instance)
    giving_up.join(10)


def test_a_half_made_one_is_found_and_removed(bench: Bench, cluster: KubernetesServer) -> None:
    from rios.deploy.runtimes.kubernetes_objects import network_policy

    launch = bench.launch("sh", "-c", "echo whole; sleep 60", labels={"owner": "lab"})
    own = Cluster(kubeconfig="x", namespace=NAMESPACE)
    cluster.create("networkpolicies", network_policy(launch, own, "tests"))
    (found,) = bench.runtime.instances({"owner": "lab"})
    assert (found.instance, found.state) == (launch.instance, "created")
    assert bench.runtime.status(launch.instance) == found
    assert bench.runtime.stop(launch.instance).state == "created"
    assert bench.runtime.start(launch).state == "running", "what was begun is ended"
    bench.runtime.remove(launch.instance)
    cluster.create("networkpolicies", network_policy(launch, own, "tests"))
    bench.runtime.remove(launch.instance)
    with pytest.raises(NotFound):
        bench.runtime.status(launch.instance)


def test_owners_do_not_see_each_other(bench: Bench, cluster: KubernetesServer) -> None:
    status = bench.start("sleep", "60")
    other = _runtime(cluster, owner="another-network")
    assert not other.instances()
    assert not other.adopt()
    assert status.instance in {one.instance for one in bench.runtime.instances()}
    other.close()


def test_how_it_ended_is_kept_whoever_ended_it(bench: Bench, cluster: KubernetesServer) -> None:
    """A node that is drained deletes Pods; what they had used is to be paid for all the same."""
    polite = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nprint('up', flush=True); time.sleep(60)"
    )
    status = bench.start("python3", "-S", "-c", polite)
    until(lambda: bench.output(status.instance) == "up", "its first line", deadline_s=30)
    cluster.delete("pods", f"rios-{status.instance}", None)
    ended = bench.runtime.wait(status.instance, timeout_s=30)
    assert (ended.state, ended.exit_code) == ("exited", 7)
    assert bench.output(status.instance) == "up"
    bench.runtime.remove(status.instance)
    assert not cluster.of("pods", status.instance)


def test_a_lost_node_holds_nothing_up(bench: Bench, cluster: KubernetesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is to end a Pod does not answer: after a while it is taken away without."""
    monkeypatch.setattr("rios.deploy.runtimes.kubernetes._GONE_WITHIN_S", 1.0 * PATIENCE)
    status = bench.start("sleep", "60")
    running = cluster.node.pods[f"rios-{status.instance}"]
    node_sees = running.pod = {**running.pod, "metadata": {**running.pod["metadata"]}}
    bench.runtime.remove(status.instance)
    assert not cluster.of("pods", status.instance)
    node_sees["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"  # the node is back, and hears of it
    assert running.over.wait(30)


def test_egress_goes_to_addresses_of_allowed_names(bench: Bench, cluster: KubernetesServer) -> None:
    """The tests' cluster enforces no policy: what is asked for is read, and that names are known inside is seen."""
    allowed = (Allowed(OUTSIDE, 443), Allowed(HIDDEN, 443), Allowed("nowhere.invalid", 443))
    status = bench.start("sleep", "60", egress=allowed)
    (policy,) = cluster.of("networkpolicies", status.instance)
    assert policy["spec"]["egress"] == [
        {"to": [{"ipBlock": {"cidr": "127.0.0.1/32"}}], "ports": [{"protocol": "TCP", "port": 443}]}
    ]
    (pod,) = cluster.of("pods", status.instance)
    assert pod["spec"]["hostAliases"] == [{"ip": "127.0.0.1", "hostnames": [OUTSIDE]}]


def test_volumes_are_claims_that_grow_and_stay(bench: Bench, cluster: KubernetesServer) -> None:
    assert isinstance(bench.runtime, KubernetesRuntime)
    volume = Path("/network/organisation/app/data")
    bench.runtime.ensure_volume(volume, 1 << 20)
    status = bench.start("sh", "-c", "echo kept > /data/new", mounts=(Mount(source=volume, path="/data"),))
    assert bench.runtime.wait(status.instance, timeout_s=30).exit_code == 0
    bench.runtime.remove(status.instance)
    for size, found in ((2 << 20, 2 << 20), (1 << 20, 2 << 20)):
        bench.runtime.ensure_volume(volume, size)
        claim = cluster.objects["persistentvolumeclaims"][claim_name(volume)]
        assert claim["spec"]["resources"]["requests"]["storage"] == str(found)
    status = bench.start("cat", "/data/new", mounts=(Mount(source=volume, path="/data"),))
    bench.runtime.wait(status.instance, timeout_s=30)
    assert bench.output(status.instance) == "kept"
    bench.runtime.remove_volume(volume)
    bench.runtime.remove_volume(volume)
    assert claim_name(volume) not in cluster.objects["persistentvolumeclaims"]


def test_a_secret_that_goes_is_gone(bench: Bench, cluster: KubernetesServer) -> None:
    status = bench.start("sleep", "60", secrets={"OLD": SecretBytes(b"1"), "SAME": SecretBytes(b"2")})
    bench.runtime.put_secrets(status.instance, {"SAME": SecretBytes(b"3")})
    seen = bench.runtime.exec(status.instance, ("sh", "-c", "cat /run/secrets/*; ls /run/secrets"))
    assert seen.stdout == b"3SAME\n"
    with pytest.raises(InvalidRequest, match="at most 1048576"):
        bench.runtime.put_secrets(status.instance, {"BIG": SecretBytes(b"x" * (1 << 20) + b"x")})


# --- ways, lines, measures ------------------------------------------------------------------------------------


def test_pods_that_are_reached_have_their_own_addresses(bench: Bench, cluster: KubernetesServer) -> None:
    runtime = _runtime(cluster, reached_from=("10.1.0.0/16",))
    launch = bench.launch("sleep", "60", port=8000)
    assert runtime.start(launch).endpoint == ("127.0.0.1", 8000)
    assert runtime.way(launch.instance) is None
    (policy,) = cluster.of("networkpolicies", launch.instance)
    assert policy["spec"]["ingress"][0]["from"] == [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    runtime.close()


def test_streams_that_a_cluster_does_not_tell_apart_are_one(cluster: KubernetesServer, bench: Bench) -> None:
    status = bench.start("sh", "-c", "echo out; echo wrong >&2")
    bench.runtime.wait(status.instance, timeout_s=30)
    lines = {(line.stream, line.text) for line in bench.runtime.logs(status.instance)}
    assert lines == {("stdout", "out"), ("stderr", "wrong")}
    for lacks in ("splits_streams", "knows_streams"):  # one refuses it, an older one does not read it
        setattr(cluster, lacks, False)
        older = _runtime(cluster)
        try:
            for follow in (False, True):
                lines = {(line.stream, line.text) for line in older.logs(status.instance, follow=follow)}
                assert lines == {("stdout", "out"), ("stdout", "wrong")}
        finally:
            setattr(cluster, lacks, True)
            older.close()


def test_lines_of_one_moment_are_not_lost(bench: Bench) -> None:
    status = bench.start("sh", "-c", "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done")
    followed = list(bench.runtime.logs(status.instance, follow=True))
    assert [line.text for line in followed] == [str(number) for number in range(300)]
    assert list(bench.runtime.logs(status.instance)) == followed
    for line in (followed[0], followed[150], followed[298]):
        later = [one.text for one in bench.runtime.logs(status.instance, since=line.at)]
        assert later == [str(number) for number in range(int(line.text) + 1, 300)]


def test_a_silent_one_is_followed_to_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.deploy.runtimes.kubernetes_logs._SILENT_S", 0.3)
    status = bench.start("sh", "-c", "echo first; sleep 2; echo last")
    assert [line.text for line in bench.runtime.logs(status.instance, follow=True)] == ["first", "last"]


def test_a_command_runs_where_there_is_no_shell(bench: Bench, cluster: KubernetesServer, tmp_path: Path) -> None:
    status = bench.start("/usr/local/bin/python3", "-S", "-c", "import time; time.sleep(60)")
    shell = cluster.node.images[IMAGE] / "bin" / "sh"
    target = shell.readlink()
    shell.unlink()
    try:
        command = ("/usr/local/bin/python3", "-S", "-c", "import sys; print('bare'); sys.exit(3)")
        done = bench.runtime.exec(status.instance, command)
        assert (done.exit_code, done.stdout) == (3, b"bare\n")
        with pytest.raises(SandboxFailed, match="no shell"):
            bench.runtime.exec(status.instance, command, env={"A": "b"})
        assert bench.runtime.exec(status.instance, ("no-such-program",)).exit_code == 127
        with pytest.raises(DeadlineExceeded, match="may run on"):
            bench.runtime.exec(status.instance, ("sleep", "60"), timeout_s=0.7)
    finally:
        shell.symlink_to(target)


def test_an_environment_is_no_program(bench: Bench) -> None:
    status = bench.start("sleep", "60")
    value = "it's $HOME; $(id) `id`"
    seen = bench.runtime.exec(status.instance, ("sh", "-c", 'echo "$ASKED"'), env={"ASKED": value})
    assert seen.stdout.decode() == f"{value}\n"
    with pytest.raises(InvalidRequest, match="no name of an environment variable"):
        bench.runtime.exec(status.instance, ("true",), env={"A=1; touch /tmp/x; B": "1"})


def test_what_it_used_adds_up_and_is_kept_with_it(bench: Bench, cluster: KubernetesServer) -> None:
    status = bench.start("python3", "-S", "-c", "x = bytearray(20 << 20)\nwhile True: pass")

    def used(least_s: float) -> float:
        measured = bench.runtime.metrics(status.instance)
        return measured.cpu_seconds if measured.cpu_seconds > least_s else 0.0

    first = until(lambda: used(0.0), "a measurement", deadline_s=30, pause_s=0.2)
    second = until(lambda: used(first), "another one", deadline_s=30, pause_s=0.2)
    assert bench.runtime.metrics(status.instance).memory_peak_bytes > 20 << 20
    other = _runtime(cluster)
    assert other.metrics(status.instance).cpu_seconds >= second, "another process goes on from there"
    other.close()
    api = Api(Cluster(kubeconfig=str(cluster.kubeconfig), namespace=NAMESPACE))
    change = {"metadata": {"resourceVersion": "0", "annotations": {"rios/used": "{}"}}}
    assert api.merge("pods", f"rios-{status.instance}", change) is None, "who has read an older one writes nothing"
    api.close()
    bench.runtime.kill(status.instance)
    last = bench.runtime.metrics(status.instance)
    assert last.cpu_seconds >= second
    assert last.memory_bytes == 0


def test_a_cluster_that_measures_nothing_says_so(bench: Bench, cluster: KubernetesServer) -> None:
    status = bench.start("sleep", "60")
    cluster.measures = False
    other = _runtime(cluster)
    try:
        assert any("metrics-server" in note for note in other.capabilities().notes)
        measured = other.metrics(status.instance)
        assert (measured.cpu_seconds, measured.memory_peak_bytes) == (0.0, 0)
    finally:
        cluster.measures = True
        other.close()
    assert not any("metrics-server" in note for note in bench.runtime.capabilities().notes)
