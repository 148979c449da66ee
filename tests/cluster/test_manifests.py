"""The files of cluster/ that others' tools read: each is checked by the tool, or the schema, that owns its format."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import ComposeSpecification

from rios.cli import app
from rios.words.config import Settings
from tests.campaigns import ROOT

CLUSTER = ROOT / "cluster"
MANIFESTS = [one for one in yaml.safe_load_all((CLUSTER / "kubernetes" / "rios.yaml").read_text()) if one]
COMPOSE = yaml.safe_load((CLUSTER / "compose" / "compose.yaml").read_text())


def named(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("manifest", [one for one in MANIFESTS if "dask.org" not in one["apiVersion"]], ids=named)
def test_manifests_follow_kubernetes_schemas(manifest: dict[str, Any]) -> None:
    kubernetes(manifest)


def pods() -> dict[str, dict[str, Any]]:
    """Every pod that the manifests make."""
    found = {}
    for one in MANIFESTS:
        if one["kind"] == "Deployment":
            found[named(one)] = one["spec"]["template"]["spec"]
        elif one["kind"] == "DaskCluster":
            found["scheduler"] = one["spec"]["scheduler"]["spec"]
            found["worker"] = one["spec"]["worker"]["spec"]
    return found


@pytest.mark.parametrize("name", pods())
def test_pods_are_whole_and_have_no_rights(name: str) -> None:
    spec = pods()[name]
    kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec})
    assert spec["securityContext"]["runAsNonRoot"]
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_the_operators_objects_are_there_and_everything_is_denied_first() -> None:
    kinds = [one["kind"] for one in MANIFESTS]
    wanted = {"DaskCluster", "DaskAutoscaler", "Deployment", "PodDisruptionBudget", "NetworkPolicy"}
    assert wanted <= set(kinds)
    (deny,) = [one for one in MANIFESTS if named(one) == "NetworkPolicy deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    pod = pods()["Deployment gateway"]["containers"][0]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= pod.keys()


def test_gateways_have_one_folder_of_reports_and_reach_a_mail_server() -> None:
    spec = pods()["Deployment gateway"]
    (gateway,) = spec["containers"]
    place = {one["name"]: one["value"] for one in gateway["env"]}["RIOS_REPORTS"]
    (name,) = [one["name"] for one in gateway["volumeMounts"] if one["mountPath"] == place]
    (volume,) = [one for one in spec["volumes"] if one["name"] == name]
    claims = {one["metadata"]["name"]: one["spec"] for one in MANIFESTS if one["kind"] == "PersistentVolumeClaim"}
    assert claims[volume["persistentVolumeClaim"]["claimName"]]["accessModes"] == ["ReadWriteMany"]
    (policy,) = [one for one in MANIFESTS if named(one) == "NetworkPolicy gateway"]
    assert {25, 465, 587} <= {one["port"] for rule in policy["spec"]["egress"] for one in rule["ports"]}


@pytest.mark.parametrize("name", ["worker", "Deployment gateway"])
def test_who_executes_reports_has_somewhere_to_write(name: str) -> None:
    (container,) = pods()[name]["containers"]
    assert "/tmp" in [one["mountPath"] for one in container["volumeMounts"]]


def test_compose_follows_its_specification() -> None:
    found = ComposeSpecification.model_validate(COMPOSE)
    assert found.services is not None
    assert {"database", "redis", "broker", "scheduler", "worker", "gateway"} <= set(found.services)
    for name, service in COMPOSE["services"].items():
        assert "healthcheck" in service or name == "worker"
        assert "password" not in str(service.get("environment", "")).lower().replace("password_file", "")


def commands() -> list[list[str]]:
    """Every `rios ...` that a file of cluster/ starts."""
    found = [service["command"] for service in COMPOSE["services"].values() if "command" in service]
    found += [container["args"] for spec in pods().values() for container in spec["containers"]]
    return [[str(word) for word in one] for one in found if one[0] == "rios"]


def test_commands_and_settings_are_those_there_are() -> None:
    import typer

    group: Any = typer.main.get_command(app)
    assert commands()
    for _, name, *arguments in commands():
        options = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= options, name
    settings = {f"RIOS_{name.upper()}" for name in Settings.model_fields} | {"RIOS_GATEWAY_REDIS"}
    variables = [service.get("environment", {}) for service in COMPOSE["services"].values()]
    variables += [one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap"]
    containers = [container for spec in pods().values() for container in spec["containers"]]
    variables += [{one["name"]: one for one in container.get("env", ())} for container in containers]
    assert {name for one in variables for name in one if name.startswith("RIOS_")} <= settings


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", sorted((CLUSTER / "systemd").iterdir()), ids=lambda path: path.name)
def test_units_are_understood_by_systemd(unit: Path, tmp_path: Path) -> None:
    # The programs are where they are installed, which is not here.
    text = (
        unit.read_text()
        .replace("/opt/rios/.venv/bin/rios", "/bin/true")
        .replace("/opt/rios/.venv/bin/dask", "/bin/true")
    )
    copy = tmp_path / unit.name.replace("@", "@0" if "@." in unit.name else "")
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False)
    assert unit.stem.split("@")[0] not in done.stderr, done.stderr
