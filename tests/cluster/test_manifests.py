"""The files of cluster/ that others' tools read: each is checked by the tool, or the schema, that owns its format."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
KUBERNETES = (CLUSTER / "kubernetes" / "rios.yaml").read_text()
MANIFESTS = [one for one in yaml.safe_load_all(KUBERNETES) if one]
APPS = [one for one in yaml.safe_load_all((CLUSTER / "kubernetes" / "apps.yaml").read_text()) if one]
COMPOSE = yaml.safe_load((CLUSTER / "compose" / "compose.yaml").read_text())


def named(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    "manifest", [one for one in (*MANIFESTS, *APPS) if "dask.org" not in one["apiVersion"]], ids=named
)
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


def policy(name: str) -> dict[str, Any]:
    (found,) = [one["spec"] for one in MANIFESTS if named(one) == f"NetworkPolicy {name}"]
    return dict(found)


def test_the_operator_reaches_the_scheduler_and_nothing_else() -> None:
    """It is in a namespace of its own, where the command in the file's head puts it, and asks over HTTP."""
    spec = policy("operator")
    # As its controller names the Pod of the scheduler of a cluster that is called rios.
    assert spec["podSelector"] == {"matchLabels": {"dask.org/cluster-name": "rios", "dask.org/component": "scheduler"}}
    ((rule),) = spec["ingress"]
    ((peer),) = rule["from"]
    command = re.search(r"helm install .* -n (\S+)", KUBERNETES)
    assert command is not None
    assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": command[1]}}}
    (scheduler,) = pods()["scheduler"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in scheduler["ports"]}
    assert rule["ports"] == [{"protocol": "TCP", "port": ports["http-dashboard"]}]
    assert scheduler["args"][-2:] == ["--preload", "rios.dmoe.wanted"], "it counts tasks else, and experts have none"


def test_service_accounts_are_where_their_pods_are_and_bindings_have_subjects() -> None:
    accounts = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in (*MANIFESTS, *APPS)
                if one["kind"] == "ServiceAccount"}  # fmt: skip
    named_by = {("rios", spec["serviceAccountName"]) for spec in pods().values() if "serviceAccountName" in spec}
    subjects = [one for binding in APPS if binding["kind"].endswith("RoleBinding") for one in binding["subjects"]]
    assert len(subjects) == 2
    assert {(one["namespace"], one["name"]) for one in subjects} == named_by == accounts
    roles = {(one["kind"], one["metadata"]["name"]) for one in APPS if one["kind"].endswith("Role")}
    assert {(one["roleRef"]["kind"], one["roleRef"]["name"]) for one in APPS if "roleRef" in one} == roles


PORTS = {"postgresql": 5432, "redis": 6379, "amqp": 5672, "amqps": 5671, "smtp": 25, "smtps": 465, "https": 443}


def test_what_the_gateway_is_told_of_it_may_reach() -> None:
    """Each URL that the file's head puts into the Secret, and what else has an address among the settings."""
    allowed = {one["port"] for rule in policy("gateway")["egress"] for one in rule["ports"]}
    urls = dict(re.findall(r"--from-literal=(RIOS_\w+)=(\S+)", KUBERNETES))
    assert {"RIOS_DATABASE", "RIOS_GATEWAY_REDIS", "RIOS_GATEWAY_BROKER", "RIOS_CHAIN", "RIOS_GATEWAY_MAIL"} <= set(
        urls
    )
    assert set(urls) <= SETTINGS
    for name, url in urls.items():
        parts = urlsplit(url)
        assert (parts.port or PORTS[parts.scheme]) in allowed, name
        assert re.search(rf"# .*{name}\b", KUBERNETES.partition("kind: NetworkPolicy")[2]), f"{name}: which port is its"
    assert {*PORTS.values(), 6443} <= allowed, "and an API server behind its Service"


def homes() -> dict[str, tuple[list[str], list[str], dict[str, Any]]]:
    """By who has them: the words that start it, where volumes are mounted, and what it is told."""
    data = {one["metadata"]["name"]: one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap"}
    found = {}
    for name, spec in pods().items():
        for one in spec["containers"]:
            told = {entry["name"]: entry.get("value") for entry in one.get("env", ())}
            for source in one.get("envFrom", ()):
                told |= data.get(source.get("configMapRef", {}).get("name"), {})
            found[f"pod {name}"] = one["args"], [mount["mountPath"] for mount in one.get("volumeMounts", ())], told
    for name, one in COMPOSE["services"].items():
        if "rios:" in one["image"]:
            places = [volume.split(":")[1] for volume in one.get("volumes", ())]
            found[f"service {name}"] = one["command"], places, one.get("environment", {})
    return found


@pytest.mark.parametrize("name", homes())
def test_a_home_that_is_mounted_is_known_as_one(name: str) -> None:
    """Else nothing is kept in it: shards are fetched again after each start."""
    words, places, told = homes()[name]
    home = words[words.index("--home") + 1] if "--home" in words else told.get("RIOS_HOME")
    assert ("/var/lib/rios" in places) == (home == "/var/lib/rios")
    assert home is not None or "scheduler" in name


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


def setting(unit: str, name: str) -> str:
    text = (CLUSTER / "systemd" / unit).read_text().replace("\\\n", " ")
    (found,) = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return str(found)


def test_less_than_five_minutes_are_lost_at_most() -> None:
    """One that begins as its timer says and the end of the next one and its copy, which does not begin later."""
    (minutes,) = re.findall(r"^\*:0/(\d+)$", setting("rios-backup.timer", "OnCalendar"))
    every_s, late_s = 60 * int(minutes), int(setting("rios-backup.timer", "AccuracySec").removesuffix("s"))
    takes_s = int(setting("rios-backup.service", "TimeoutStartSec"))
    text = (CLUSTER / "systemd" / "rios-backup.service").read_text()
    (copy_s,) = map(int, re.findall(r"ExecStartPost=timeout (\d+) ", text))
    assert takes_s + copy_s < every_s, "else the next one waits for it, and for the timer after that"
    loss_s = every_s + late_s + takes_s + copy_s
    assert loss_s < 300
    said = (ROOT / "docs" / "regions.md").read_text()
    assert f"{every_s} s + {late_s} s + {takes_s} s + {copy_s} s = {loss_s} s" in said
    assert f"--keep {86_400 // every_s}\n" in text, "those of a day"


@pytest.mark.parametrize(
    ("ages_s", "is_late"), [((), True), ((290, 4000), False), ((310, 4000), True)], ids=["none", "in time", "late"]
)
def test_a_backup_that_is_late_is_an_alert(ages_s: tuple[int, ...], is_late: bool, tmp_path: Path) -> None:
    for age_s in ages_s:
        moment = datetime.fromtimestamp(time.time() - age_s, UTC)
        (tmp_path / f"rios-{moment:%Y%m%dT%H%M%SZ}.backup").touch()
    (tmp_path / "rios-backup-draft").mkdir()
    # As systemd reads it: two signs are one.
    words = shlex.split(setting("rios-backup-late.service", "ExecStart").replace("$$", "$").replace("%%", "%"))
    done = subprocess.run(
        words, env={"BACKUPS": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == is_late, done
    for unit in ("rios-backup.service", "rios-backup-late.service"):
        assert setting(unit, "OnFailure") == "rios-alert@%n.service"


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
