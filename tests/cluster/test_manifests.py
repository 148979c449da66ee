"""The files of cluster/ that others' tools read: each is checked by the tool, or the schema, that owns its format."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from compose_spec import ComposeSpecification

from rios.cli import app
from rios.gateway.settings import GatewaySettings
from rios.storage.broker import parameters
from rios.words.config import Settings
from rios.words.errors import InvalidRequest
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


def test_composes_gateway_is_told_of_all_that_it_waits_for(tmp_path: Path) -> None:
    gateway = COMPOSE["services"]["gateway"]
    said = gateway["environment"]
    for name in ("database", "redis", "broker"):
        assert name in gateway["depends_on"]
        assert any(f"{name}:" in value or f"@{name}/" in value for value in said.values()), name
    files = {Path(value).name for value in said.values() if value.startswith("/run/secrets/")}
    assert files == set(gateway["secrets"]) <= set(COMPOSE["secrets"])
    assert not any(name.endswith("_FILE") for name in COMPOSE["services"]["broker"]["environment"]), "RabbitMQ 4 ends"
    password = tmp_path / "broker"
    password.write_text("a/b@c:d%\n")
    url = said["RIOS_GATEWAY_BROKER"]
    settings = GatewaySettings(broker=url, broker_password_file=str(password))
    found = parameters(settings.broker_url() or "")
    assert (found.host, found.port, found.credentials.username) == ("broker", 5672, "rios")
    assert found.credentials.password == "a/b@c:d%"
    for wrong in ({"broker": "amqp://rios:x@broker/"}, {"broker_password_file": str(tmp_path / "none")}):
        with pytest.raises(InvalidRequest, match="RIOS_GATEWAY_BROKER"):
            settings.model_copy(update=wrong).broker_url()


SETTINGS = {f"RIOS_{name.upper()}" for name in Settings.model_fields}
SETTINGS |= {f"RIOS_GATEWAY_{name.upper()}" for name in GatewaySettings.model_fields}
OTHERS = {
    "RIOS_SCHEDULER": "the units' own command takes it",
    "RIOS_RANK": "the worker's preload",
    "RIOS_DATA_PORT": "the worker's preload",
    "RIOS_MEMORY_BYTES": "the worker's preload",
    "RIOS_SECRETS_KEY": "rios.services.deployments.secrets",
    "RIOS_IMAGE": "the compose file",
}


def commands() -> list[list[str]]:
    """Every `rios ...` that a file of cluster/ starts."""
    found = [service["command"] for service in COMPOSE["services"].values() if "command" in service]
    found += [container["args"] for spec in pods().values() for container in spec["containers"]]
    units = [line for path in (CLUSTER / "systemd").iterdir() for line in path.read_text().splitlines()]
    starts = "ExecStart=/opt/rios/.venv/bin/"
    found += [line.removeprefix(starts).split() for line in units if line.startswith(starts)]
    return [[str(word) for word in one] for one in found if one[0] == "rios"]


def test_commands_and_settings_are_those_there_are() -> None:
    import typer

    group: Any = typer.main.get_command(app)
    assert commands()
    for _, name, *arguments in commands():
        options = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= options, name
    variables = [service.get("environment", {}) for service in COMPOSE["services"].values()]
    variables += [one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap"]
    containers = [container for spec in pods().values() for container in spec["containers"]]
    variables += [{one["name"]: one for one in container.get("env", ())} for container in containers]
    assert {name for one in variables for name in one if name.startswith("RIOS_")} <= SETTINGS
    units = [path.read_text() for path in (CLUSTER / "systemd").iterdir()]
    named = {name for text in units for name in re.findall(r"^Environment=(RIOS_\w+)=", text, re.MULTILINE)}
    assert "RIOS_HOST_APPS" in named
    assert named <= SETTINGS | set(OTHERS)


@pytest.mark.parametrize(
    "path", sorted(path for path in CLUSTER.rglob("*") if path.is_file()), ids=lambda path: path.name
)
def test_comments_name_settings_that_there_are(path: Path) -> None:
    assert set(re.findall(r"\bRIOS_[A-Z_]*[A-Z]\b", path.read_text())) <= SETTINGS | set(OTHERS)


def test_units_that_run_applications_leave_their_mounts_to_the_machine() -> None:
    """Each start would have mounts of its own, and volumes of what goes on stay mounted in those of the one before."""
    own = re.compile(
        r"^(Private(Tmp|Devices|Mounts|Users)|Protect\w+|ReadOnlyPaths|InaccessiblePaths|TemporaryFileSystem)="
    )
    for name in ("rios-gateway", "rios-apps-host"):
        lines = (CLUSTER / "systemd" / f"{name}.service").read_text().splitlines()
        assert not [line for line in lines if own.match(line)], name
        assert "KillMode=process" in lines, name


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", sorted((CLUSTER / "systemd").iterdir()), ids=lambda path: path.name)
def test_units_are_understood_by_systemd(unit: Path, tmp_path: Path) -> None:
    # A timer needs its service beside it. The programs are where they are installed, which is not here.
    for one in (CLUSTER / "systemd").iterdir():
        text = one.read_text()
        for program in ("rios", "dask"):
            text = text.replace(f"/opt/rios/.venv/bin/{program}", "/bin/true")
        (tmp_path / one.name.replace("@", "@0" if "@." in one.name else "")).write_text(text)
    copy = tmp_path / unit.name.replace("@", "@0" if "@." in unit.name else "")
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False)
    assert unit.stem.split("@")[0] not in done.stderr, done.stderr


OPERATOR = "dask_kubernetes-2026.3.0-py3-none-any.whl"
OPERATOR_SHA256 = "5cf138e03cb1851063b82b74e9fd4679251238e3867fcae1e3682aada6410728"
DEFINITIONS = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds/"


@pytest.fixture(scope="module")
def definitions() -> dict[str, Any]:
    """The schemas of the operator's kinds, as its own package has them: fetched once, and installed nowhere."""
    place = ROOT / ".make" / "operator"
    wheel = place / OPERATOR
    if not wheel.exists():
        wanted = "{}=={}".format(*OPERATOR.split("-")[:2])
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(place)]
        subprocess.run([*fetch, wanted], check=True, timeout=120)
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == OPERATOR_SHA256
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(DEFINITIONS) and name.endswith(".yaml")]
        found = [yaml.safe_load(archive.read(name)) for name in names]
    return {one["spec"]["names"]["kind"]: one["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for one in found}


def unknown(value: Any, schema: dict[str, Any], place: str = "") -> list[str]:
    """Fields that a schema does not have: Kubernetes leaves them out without a word."""
    if isinstance(value, list):
        return [one for item in value for one in unknown(item, schema.get("items", {}), f"{place}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    found = []
    for name, one in value.items():
        inner = known.get(name, rest)
        if inner is None:
            found.append(f"{place}.{name}")
        elif isinstance(inner, dict):
            found += unknown(one, inner, f"{place}.{name}")
    return found


@pytest.mark.long
@pytest.mark.parametrize("manifest", [one for one in MANIFESTS if "dask.org" in one["apiVersion"]], ids=named)
def test_the_operators_objects_follow_its_own_definitions(
    manifest: dict[str, Any], definitions: dict[str, Any]
) -> None:
    schema = definitions[manifest["kind"]]
    body = {name: value for name, value in manifest.items() if name not in ("apiVersion", "kind", "metadata")}
    jsonschema.validate(body, schema)
    assert unknown(body, schema) == []
    assert unknown({"spec": {"minimun": 1}}, definitions["DaskAutoscaler"]) == [".spec.minimun"]
