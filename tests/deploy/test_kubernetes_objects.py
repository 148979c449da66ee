"""What is asked of a cluster, read without one: each object by the official schema, and the words that close a Pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from pydantic import SecretBytes

from rios.deploy.runtimes import kubernetes_objects as objects
from rios.deploy.runtimes.kubernetes_objects import Cluster, literal
from rios.deploy.runtimes.kubernetes_states import Used, obstacle, quantity, state_of, status_of
from rios.deploy.runtimes.protocol import Allowed, ImageBase, Launch, Limits, Mount
from rios.words.errors import InvalidRequest
from tests.deploy.kubernetes_node import expanded
from tests.deploy.kubernetes_rules import APPS, changed_wrongly, forbidden, wrong

CLUSTER = Cluster(kubeconfig="x", namespace="rios-apps", runtime_class="gvisor", reached_from=("10.1.0.0/16",))
VOLUME = Path("/v/o/a/data")
SECRET = "a-very-secret-value"
LAUNCH = Launch(
    instance="shop-1", base=ImageBase("registry.example.org/shop@sha256:0"), command=("serve", "$(HOME)", "a$$b"),
    env={"PRICE": "$5 or $(PORT)"}, workdir="/srv", scratch=("/cache",), port=8000,
    limits=Limits(cpu=0.5, memory_bytes=128 << 20, tmp_bytes=4 << 20),
    egress=(Allowed("api.example.org", 443), Allowed("hidden.example.org", 443)),
    secrets={"TOKEN": SecretBytes(SECRET.encode())}, files={"hello": b"good morning"},
    mounts=(Mount(source=VOLUME, path="/data"), Mount(source=VOLUME, path="/r", read_only=True)),
    labels={"rios.app": "a1", "owner": "somebody else"},
)  # fmt: skip
ADDRESSES = {"api.example.org": ("203.0.113.7", "2001:db8::7"), "hidden.example.org": ()}


def _pod(launch: Launch = LAUNCH, cluster: Cluster = CLUSTER) -> dict[str, Any]:
    return objects.pod(launch, cluster, "net", ADDRESSES)


def _all() -> list[dict[str, Any]]:
    return [
        _pod(),
        _pod(Launch(instance="bare", base=ImageBase("x")), Cluster(kubeconfig="x", namespace="n")),
        objects.network_policy(LAUNCH, CLUSTER, "net", ADDRESSES),
        *objects.secrets(LAUNCH, CLUSTER, "net"),
        objects.volume_claim(VOLUME, 1 << 30, CLUSTER, "net"),
        objects.image_pod("registry.example.org/shop:1", 10001, CLUSTER, "net", deadline_s=0.5),
    ]


@pytest.mark.parametrize("one", _all(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_objects_are_what_kubernetes_takes(one: dict[str, Any]) -> None:
    assert wrong(one) is None


@pytest.mark.parametrize("one", APPS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_what_an_operator_applies_is_what_kubernetes_takes(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_rios_may_do_what_it_does_and_no_more() -> None:
    pods = "/api/v1/namespaces/rios-apps/pods"
    assert forbidden("GET", f"{pods}/x/exec") is None
    assert forbidden("GET", "/apis/metrics.k8s.io/v1beta1") is None
    assert forbidden("GET", "/api/v1/namespaces/rios-apps/secrets") is not None, "it does not list secrets"
    assert forbidden("PUT", f"{pods}/x") is not None
    assert forbidden("GET", "/api/v1/nodes/one/proxy") is not None


def test_a_pod_has_nothing_that_was_not_asked_for() -> None:
    spec = _pod()["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not any(spec[name] for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert (spec["restartPolicy"], spec["runtimeClassName"]) == ("Never", "gvisor")
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": str(128 << 20)}
    assert container["resources"]["requests"]["memory"] == str(128 << 20)
    assert "runtimeClassName" not in _pod(cluster=Cluster(kubeconfig="x", namespace="n"))["spec"]


def test_what_can_be_written_is_in_memory_with_a_bound_or_a_claim() -> None:
    spec = _pod()["spec"]
    volumes = {one["name"]: one for one in spec["volumes"]}
    kinds = {mount["mountPath"]: (volumes[mount["name"]], mount["readOnly"]) for mount in
             spec["containers"][0]["volumeMounts"]}  # fmt: skip
    for path in ("/tmp", "/home", "/dev/shm", "/cache"):
        assert kinds[path][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(4 << 20)}
    writable = {path for path, (_, read_only) in kinds.items() if not read_only}
    assert writable == {"/tmp", "/home", "/dev/shm", "/cache", "/run", "/data"}
    assert kinds["/data"][0] is kinds["/r"][0], "one claim, mounted twice"


def test_a_policy_lets_nothing_through_but_what_was_asked_for() -> None:
    spec = objects.network_policy(LAUNCH, CLUSTER, "net", ADDRESSES)["spec"]
    assert spec["podSelector"] == {"matchLabels": {"rios.instance": "shop-1"}}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    addresses = [{"ipBlock": {"cidr": "203.0.113.7/32"}}, {"ipBlock": {"cidr": "2001:db8::7/128"}}]
    assert spec["egress"] == [{"to": addresses, "ports": [{"protocol": "TCP", "port": 443}]}]
    reached = [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    assert spec["ingress"] == [{"from": reached, "ports": [{"protocol": "TCP", "port": 8000}]}]
    closed = Launch(instance="x", base=ImageBase("x"), port=80)
    spec = objects.network_policy(closed, Cluster(kubeconfig="x", namespace="n"), "net")["spec"]
    assert (spec["ingress"], spec["egress"]) == ([], []), "what comes through the API server comes from the node"
    aliases = _pod()["spec"]["hostAliases"]
    assert aliases == [
        {"ip": "203.0.113.7", "hostnames": ["api.example.org"]},
        {"ip": "2001:db8::7", "hostnames": ["api.example.org"]},
    ]


def test_secrets_are_in_their_secret_alone() -> None:
    secret, files = objects.secrets(LAUNCH, CLUSTER, "net")
    assert list(secret["data"]) == ["TOKEN"]
    assert list(files["data"]) == ["hello"]
    others = [one for one in _all() if one["metadata"]["name"] != "rios-shop-1" or one["kind"] != "Secret"]
    assert SECRET not in json.dumps(others)
    with pytest.raises(InvalidRequest, match="at most 1048576"):
        objects.secret_data({"BIG": b"x" * (1 << 20), "MORE": b"x"}, "secrets")


def test_words_come_as_they_were_given() -> None:
    """A cluster reads `$(NAME)` and `$$` in commands and environments; what a user wrote means itself."""
    (container,) = _pod()["spec"]["containers"]
    env = {one["name"]: expanded(one["value"], {"PORT": "8000"}) for one in container["env"]}
    assert env["PRICE"] == "$5 or $(PORT)"
    assert [expanded(word, env) for word in container["command"]] == ["serve", "$(HOME)", "a$$b"]
    for text in ("$", "$$", "$(A)", "$$(A)", "a$b", "$("):
        assert expanded(literal(text), {"A": "wrong"}) == text


def test_labels_that_a_cluster_cannot_hold_are_kept_too() -> None:
    pod = _pod()
    assert pod["metadata"]["labels"]["rios.app"] == "a1"
    assert "owner" not in pod["metadata"]["labels"]
    assert status_of(pod).labels == {"rios.app": "a1", "owner": "somebody else"}


def test_the_rules_of_the_tests_server_refuse() -> None:
    """A server that took everything would show nothing."""
    pod = _pod()
    assert "allowPrivilegeEscalation" in str(wrong(_with(pod, "allowPrivilegeEscalation", True)))
    assert "capabilities" in str(wrong(_with(pod, "capabilities", {"add": ["SYS_ADMIN"]})))
    assert "restricted" in str(wrong({**pod, "spec": {**pod["spec"], "hostNetwork": True}}))
    assert wrong({**pod, "spec": {**pod["spec"], "surprise": 1}})
    assert wrong({**pod, "metadata": {**pod["metadata"], "finalizers": ["kept"]}})
    assert wrong({**pod, "metadata": {**pod["metadata"], "labels": {"a": "not a value"}}})
    assert changed_wrongly(pod, {**pod, "spec": {**pod["spec"], "hostname": "other"}})
    assert not changed_wrongly(pod, {**pod, "spec": {**pod["spec"], "activeDeadlineSeconds": 1}})


def _with(pod: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    changed = {**container, "securityContext": {**container["securityContext"], key: value}}
    return {**pod, "spec": {**pod["spec"], "containers": [changed]}}


# --- what a Pod says ------------------------------------------------------------------------------------------


def _saying(state: dict[str, Any], phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    pod = _pod()
    pod["metadata"].update(metadata)
    pod["spec"]["nodeName"] = "n"
    return {**pod, "status": {"phase": phase, "containerStatuses": [{"name": "app", "state": state}]}}


def test_states() -> None:
    running = status_of(_saying({"running": {"startedAt": "2026-11-29T07:00:00Z"}}), ("127.0.0.1", 1))
    assert (running.state, running.endpoint) == ("running", ("127.0.0.1", 1))
    assert running.started_at == 1795935600.0
    times = {"startedAt": "2026-11-29T07:00:00Z", "finishedAt": "2026-11-29T07:00:09Z"}
    killed = status_of(_saying({"terminated": {"exitCode": 137, "reason": "OOMKilled", **times}}), ("127.0.0.1", 1))
    assert (killed.state, killed.exit_code, killed.out_of_memory, killed.endpoint) == ("exited", 137, True, None)
    assert killed.finished_at == 1795935609.0
    nothing = status_of(_saying({"terminated": {"exitCode": 128, "reason": "StartError", **times}}))
    assert nothing.exit_code == 127
    assert state_of(_saying({"waiting": {"reason": "ContainerCreating"}}, "Pending")) == "created"


def test_a_pod_whose_node_is_lost_has_exited() -> None:
    running = {"running": {"startedAt": "2026-11-29T07:00:00Z"}}
    assert state_of(_saying(running, "Failed")) == "exited", "the cluster gave it up"
    assert state_of(_saying(running, deletionTimestamp="2999-01-01T00:00:00Z")) == "running", "it is being ended"
    lost = status_of(_saying(running, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert (lost.state, lost.exit_code) == ("exited", None), "nobody saw it end"
    unplaced = _pod()
    unplaced["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z"
    assert state_of(unplaced) == "exited"


@pytest.mark.parametrize(
    ("reason", "is_hopeless", "image"),
    [
        ("ErrImagePull", False, False),
        ("ImagePullBackOff", True, True),
        ("InvalidImageName", True, True),
        ("CreateContainerConfigError", True, False),
        ("ContainerCreating", False, False),
    ],
)
def test_obstacles(reason: str, is_hopeless: bool, image: bool) -> None:
    found = obstacle(_saying({"waiting": {"reason": reason, "message": "why"}}, "Pending"))
    assert (found is not None) == is_hopeless
    assert found is None or (found.why, found.image) == ("why", image)


def test_what_is_measured_by_rates_adds_up() -> None:
    def said(at: str, cpu: str, memory: str) -> dict[str, Any]:
        return {"timestamp": at, "window": "15s", "containers": [{"usage": {"cpu": cpu, "memory": memory}}]}

    start = 1795935600.0
    used = Used().after(said("2026-11-29T07:00:10Z", "500m", "64Mi"), started_at=start)
    assert (used.cpu_seconds, used.memory_bytes) == (5.0, 64 << 20)
    assert used.after(said("2026-11-29T07:00:10Z", "1", "1Gi"), started_at=start) == used, "the same sample"
    used = used.after(said("2026-11-29T07:00:20Z", "250000000n", "32Mi"), started_at=start)
    assert (used.cpu_seconds, used.memory_bytes, used.memory_peak_bytes) == (7.5, 32 << 20, 64 << 20)
    pod = _pod()
    pod["metadata"]["annotations"]["rios/used"] = used.to_json()
    assert Used.of(pod) == used


def test_quantities() -> None:
    read = {
        "2": 2.0, "1500m": 1.5, "3Ki": 3072.0, "1G": 1e9, "1Pi": 2.0**50, "500P": 5e17, "1Ei": 2.0**60, "2E": 2e18,
        "1e3": 1e3, "1.5E-3": 1.5e-3, ".5": 0.5, "12.": 12.0,
    }  # fmt: skip
    assert {text: quantity(text) for text in read} == read
    for text in ("many", "", "1e", "1e3k", "1 Gi", "."):
        with pytest.raises(ValueError, match="no quantity"):
            quantity(text)
