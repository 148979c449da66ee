"""What a user asks for: an application or a model as a service, with safe defaults.

A specification has no way to ask for privileges, capabilities, devices, host directories or a host's network: what it
does not name, a sandbox does not get. Unknown fields are refused. Sizes are bytes or text ("2GiB"), times are seconds.
`reading.py` makes one of a YAML file or of keyword arguments, and names the place of a mistake.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import posixpath
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.config import JsonDict

from rios.deploy.quantity import Bytes, parse_size
from rios.words.money import parse_ros

NAME_MAX = 40
SECRETS_AT = "/run/secrets"
"""Where secrets are files, in memory: the secret TOKEN is read from /run/secrets/TOKEN."""
GATEWAY, GATEWAY_PORT = "gateway", 80
"""What egress calls the network's own gateway, and its name and port inside: models are asked there and no more."""
TOKEN = "RIOS_TOKEN"  # noqa: S105 -- the name of a secret
"""The secret that comes with that: a key that may generate, and nothing else."""
RESERVED_ENDS = (".volume", ".making", ".restoring", ".frozen")
"""Of names that a host keeps beside its volumes (`deploy.volumes`)."""
RESERVED_PATHS = ("/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")
"""Where no volume can be mounted."""
MEMORY_MIN = 4 << 20
USER = 10001
"""The user id an application has inside, and its group's: never 0."""

RuntimeName = Literal["bubblewrap", "runc", "gvisor", "kata", "kubernetes"]
Dtype = Literal["float32", "bfloat16", "float16"]
MODEL_FIELDS = ("served_name", "dtype", "copies", "partial", "wire_dtype", "private")
"""Of models alone. What is not given is not kept, so that what was wanted before there was a field stays the same."""
IsolationName = Literal["process", "container", "kernel", "machine"]
"""From least to most: namespaces made by us; by a container engine; a kernel of its own; a virtual machine."""

_HOST_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def _path(value: str) -> str:
    if not value.startswith("/") or posixpath.normpath(value) != value or "\0" in value or value == "/":
        raise ValueError(f"{value!r} is no absolute path in its shortest spelling, or it is the root")
    if len(value.encode()) >= 4096:
        raise ValueError("is a path of 4096 bytes or more, which no system takes")
    return value


def _volume_path(value: str) -> str:
    _path(value)
    if any(value == place or value.startswith(place + "/") for place in RESERVED_PATHS):
        raise ValueError(f"{value!r} lies in a place of the system; choose another, such as /data")
    if value.endswith(RESERVED_ENDS):
        raise ValueError(f"{value!r} ends as what a host keeps beside volumes does ({', '.join(RESERVED_ENDS)})")
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("text with a NUL character cannot be given to a process")
    return value


Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=NAME_MAX)]
"""Lower case letters, digits and hyphens: it becomes part of URLs and of containers' names."""
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
GRACE_MAX_S = 60.0
"""What is to end may take so long: so much is held for beside a period (`services.deployments.metering`)."""
Grace = Annotated[float, Field(gt=0, le=GRACE_MAX_S, allow_inf_nan=False)]
PROBE_MAX_S = 10.0
"""A question to a replica holds a thread of the reconciler's."""
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")]
SecretName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")]
HttpPath = Annotated[str, Field(pattern=r"^/[!-~]*$", max_length=1024)]
StoredId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


class Resources(_Part):
    """What one replica gets at most, and what is reserved for it."""

    cpu: float = Field(default=1.0, gt=0, le=1024, allow_inf_nan=False, description="Cores; may be a fraction.")
    memory: Bytes = Field(default=512 << 20, ge=MEMORY_MIN, description="Bytes, files in memory included.")
    gpu: int = Field(default=0, ge=0, le=64, description="Whole devices.")
    pids: int = Field(default=256, ge=1, le=65536, description="Processes and threads at the same time.")
    files: int = Field(default=1024, ge=16, le=1 << 20, description="Open files of one process.")
    tmp: Bytes = Field(
        default=64 << 20, ge=1 << 16, description="Bytes of /tmp, of /home, and of each other place in memory."
    )


class Egress(_Part):
    """One service outside that may be called: a host by its name, and a TCP port; or the network's own gateway."""

    host: str
    port: Port

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value == GATEWAY:
            return {"host": GATEWAY, "port": GATEWAY_PORT}
        host, colon, port = value.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f'{value!r} is no "host:port", such as "api.example.org:443", and not "{GATEWAY}"')
        return {"host": host, "port": int(port)}

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.host, self.port) == (GATEWAY, GATEWAY_PORT):
            return self
        if not re.fullmatch(rf"{_HOST_LABEL}(\.{_HOST_LABEL})+", self.host) or len(self.host) > 253:
            raise ValueError(f"{self.host!r} is no full host name in lower case, such as api.example.org")
        if self.host.rpartition(".")[2].isdecimal():
            raise ValueError(f"{self.host!r} is an address; egress names hosts, so that an address can change")
        if self.host.endswith((".localhost", ".local", ".internal")):
            raise ValueError(f"{self.host!r} is a name inside some network; egress leads to public hosts")
        return self

    def __str__(self) -> str:
        return GATEWAY if self.host == GATEWAY else f"{self.host}:{self.port}"


class Probe(_Part):
    """One question: an HTTP path that answers 2xx or 3xx, a port that accepts, or a command that ends with 0."""

    http: HttpPath | None = None
    tcp: Port | None = None
    command: tuple[Text, ...] | None = Field(default=None, min_length=1)
    interval: Seconds = Field(default=5.0, description="Seconds between two questions.")
    timeout: Annotated[float, Field(gt=0, le=PROBE_MAX_S, allow_inf_nan=False)] = Field(
        default=2.0, description="An answer must come within this, all of it."
    )
    failures: int = Field(default=3, ge=1, le=100, description="So many in a row count as failed.")
    successes: int = Field(default=1, ge=1, le=100, description="So many in a row count as good.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.http, self.tcp, self.command)) != 1:
            raise ValueError("a probe asks one thing: give http, tcp or command, and no two of them")
        return self


class Health(Probe):
    """When a replica is ready (its own fields), has started, and lives."""

    start: Probe | None = Field(default=None, description="Asked first; the others wait for it.")
    live: Probe | None = Field(default=None, description="A replica that fails it is restarted.")
    deadline: Seconds = Field(default=60.0, description="Seconds from the start until it must be ready.")


class Scaling(_Part):
    """Replicas follow a load between the two bounds of `replicas`."""

    on: Literal["requests", "queue", "cpu", "tokens", "metric"] = Field(
        default="requests",
        description="Requests under way; those beyond the one that each replica answers; cores; tokens a second; or a "
        "metric of the application's own.",
    )
    target: float = Field(
        default=10.0,
        gt=0,
        allow_inf_nan=False,
        description="Of `on`, per replica. cpu: the share of its cores, 0.7 without.",
    )
    metric: HttpPath | None = Field(
        default=None,
        description="Where a replica says it, in Prometheus' text or as one number: /metrics#NAME. A counter counts by "
        "the second. tokens: /metrics without, and its counters that end in tokens_total.",
    )
    stabilise: Seconds = Field(default=120.0, description="The need of the last so many seconds keeps replicas alive.")
    idle: Seconds = Field(default=90.0, description="To zero after so long without a request.")

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("on") == "cpu":
            return {"target": 0.7, **value}
        if isinstance(value, Mapping) and value.get("on") == "tokens":
            return {"metric": "/metrics", **value}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.on in ("metric", "tokens")) != (self.metric is not None):
            raise ValueError(
                "`metric` is the HTTP path of a metric of your own: give it with on: metric or on: tokens, and only "
                "then"
            )
        if self.on == "cpu" and self.target > 1:
            raise ValueError("target is the share of its cores that a replica should use: from 0 to 1, such as 0.7")
        return self


class Schedule(_Part):
    """Where replicas may run, and what a good place is."""

    region: str | None = Field(default=None, min_length=1, max_length=64)
    objective: Literal["latency", "cost", "both"] = "both"
    spread: bool = Field(default=True, description="Replicas on different hosts where there are enough.")
    isolation: IsolationName = Field(default="process", description="At least so much; the network may ask for more.")


class Update(_Part):
    """How a new revision takes the place of the old one."""

    strategy: Literal["rolling", "blue-green", "canary"] = "rolling"
    surge: int = Field(default=1, ge=0, le=100, description="Replicas above the wanted number meanwhile.")
    unavailable: int = Field(default=0, ge=0, le=100, description="Replicas below the wanted number meanwhile.")
    weight: int = Field(default=10, ge=1, le=99, description="Per cent of requests that a canary gets.")
    deadline: Seconds = Field(default=300.0, description="A revision that is not ready by then is rolled back.")

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.surge == 0 and self.unavailable == 0:
            raise ValueError("an update with surge 0 and unavailable 0 cannot move: let one of them be 1")
        return self


class Volume(_Part):
    """A directory that outlives its replicas."""

    size: Bytes = Field(ge=1 << 20, description="Quota in bytes.")
    keep: bool = Field(default=True, description="Whether it stays when the deployment is deleted.")
    read_only: bool = False
    snapshot: StoredId | None = Field(default=None, description="A snapshot that it begins with, by its id.")
    kept: StoredId | None = Field(default=None, description="Which kept volume of the organisation it is, by its id.")

    @model_serializer(mode="wrap")
    def _said(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.snapshot is not None and self.kept is not None:
            raise ValueError("snapshot and kept contradict each other: it begins with one of them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        return {"size": parse_size(value)} if isinstance(value, str | int) else value


class SecretRef(_Part):
    """Where a secret's value is: in the network's store, or in the environment of who applies the specification."""

    store: SecretName | None = None
    env: EnvName | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.store is None) == (self.env is None):
            raise ValueError("a secret is taken from one place: give {store: NAME} or {env: NAME}")
        return self


class Function(_Part):
    """A Python function by value: what `functions.packed` made of it."""

    payload: str = Field(repr=False, max_length=16 << 20, description="The pickle, in base64.")
    python: str = Field(pattern=r"^3\.\d{1,3}$", description="The version that made the pickle, and that runs it.")
    name: str = Field(default="function", max_length=200)


class Replicas(_Part):
    """How many: `min` always, up to `max` as the load wants it."""

    min: int = Field(default=1, ge=0, le=1000)
    max: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"min": value, "max": max(value, 1)}
        if isinstance(value, list | tuple):
            if len(value) != 2:
                raise ValueError("replicas are one number, or two: (at least, at most)")
            return {"min": value[0], "max": value[1]}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"at least {self.min} replicas and at most {self.max} contradict each other")
        return self


_EXAMPLE: JsonDict = {"name": "hello", "command": ["python3", "-m", "http.server", "8000"], "port": 8000}


def _budget(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError('a float is no amount of money; write "5 ROS"')
    return parse_ros(value)


class App(_Part, json_schema_extra={"examples": [_EXAMPLE]}):
    """One deployment. Exactly one of `image`, `rootfs`, `python`, `model`, or `command` alone, says what runs."""

    version: Literal[1] = 1
    name: Name
    image: str | None = Field(
        default=None, pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$", max_length=400, description="A reference, or a digest."
    )
    rootfs: str | None = Field(
        default=None,
        min_length=1,
        max_length=4200,
        description="A local archive (tar): a root file system or an image. Once it is kept, with @ and its digest.",
    )
    python: Function | None = None
    model: str | None = Field(default=None, min_length=1, max_length=4096, description="A checkpoint, or demo.")
    served_name: Annotated[Text, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Of a model: what requests call it; its name without."
    )
    dtype: Dtype | None = Field(default=None, description="Of a model: the one on disk without.")
    copies: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Of a model: of each expert in all; without, `replicas`, as the load asks.",
    )
    partial: bool = Field(
        default=False, description="Of a model: hosts return one weighted sum per token: less traffic, other rounding."
    )
    wire_dtype: Dtype | None = Field(default=None, description="Of a model: bfloat16 halves the traffic of float32.")
    private: bool = Field(
        default=False, description="Of a model: hosts keep its shards on disk encrypted, or not at all."
    )
    command: tuple[Text, ...] = Field(default=(), max_length=1000)
    workdir: Annotated[str, AfterValidator(_path)] | None = None
    port: Port | None = Field(default=None, description="Where it answers HTTP; no port: it serves nobody.")
    env: dict[EnvName, Text] = {}
    secrets: dict[SecretName, SecretStr | SecretRef] = {}
    volumes: dict[Annotated[str, AfterValidator(_volume_path)], Volume] = {}
    resources: Resources = Resources()
    replicas: Replicas = Replicas()
    scale: Scaling = Scaling()
    runtime: RuntimeName | None = Field(default=None, description="None: the best of the host that is isolated enough.")
    egress: tuple[Egress, ...] = Field(default=(), max_length=64)
    health: Health | None = None
    schedule: Schedule = Schedule()
    update: Update = Update()
    restart: Literal["always", "on-failure", "never"] = "always"
    grace: Grace = Field(
        default=10.0,
        description="Seconds between being asked to stop and being killed; as many before, to answer what it has.",
    )
    access: Literal["platform", "public"] = "platform"
    user: int = Field(default=USER, ge=1, le=65533, description="User and group id inside; 0 is refused.")
    scratch: tuple[Annotated[str, AfterValidator(_volume_path)], ...] = Field(
        default=(), max_length=16, description="Places in memory that may be written, beside /tmp, /home and /run."
    )
    budget: Annotated[int, BeforeValidator(_budget)] | None = Field(
        default=None, ge=0, description="Wei per day; beyond it the deployment pauses."
    )

    @field_validator(*MODEL_FIELDS, mode="after")
    @classmethod
    def _of_a_model(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in (None, False) and info.data.get("model") is None:
            raise ValueError("is for models alone; what runs here is no `model`")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("image", "rootfs", "python", "model") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other: give one of them")
        if not given and not self.command:
            raise ValueError("nothing says what runs: give image, rootfs, python, model, or a command")
        if self.model is not None and (self.command or self.egress or self.volumes or self.port):
            raise ValueError(
                "a model is served by the network itself: command, egress, volumes and port are not for it"
            )
        if self.python is not None and self.command:
            raise ValueError("python and command contradict each other: the function is what runs")
        if self.rootfs is not None and not self.command:
            raise ValueError("a root file system says nothing of what to run: give a command")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.health is not None and self.health.http is not None and self.port is None:
            raise ValueError("health asks by http and there is no port: give one")
        if self.model is not None and self.scale.on not in ("requests", "queue", "tokens"):
            raise ValueError(f"a model says no {self.scale.on}: scale it on requests, queue or tokens")
        if self.scale.metric is not None and self.port is None and self.model is None:
            raise ValueError("scale asks for a metric by http and there is no port: give one")
        if self.scale.on in ("cpu", "tokens", "metric") and self.replicas.min == 0 and self.model is None:
            raise ValueError(
                f"nobody says {self.scale.on} where no replica runs: keep at least 1, or scale on requests or queue"
            )
        if len({str(rule) for rule in self.egress}) != len(self.egress):
            raise ValueError("egress names the same host and port twice")
        if self.asks_gateway and TOKEN in self.secrets:
            raise ValueError(f"the secret {TOKEN} comes with egress to the gateway: call yours by another name")
        for outer, inner in itertools.pairwise(sorted((*self.volumes, *self.scratch, "/tmp", "/home"))):  # noqa: S108 -- inside the sandbox
            if inner == outer or inner.startswith(outer + "/"):
                raise ValueError(f"{inner!r} is, or lies inside, {outer!r}: choose places beside each other")
        return self

    @property
    def kind(self) -> Literal["model", "application"]:
        """Whether the engine serves it, or a sandbox runs it."""
        return "application" if self.model is None else "model"

    @property
    def asks_gateway(self) -> bool:
        """Whether it asks the models of its own network."""
        return any(rule.host == GATEWAY for rule in self.egress)

    def stored(self) -> dict[str, Any]:
        """The specification as JSON values, to be kept. Values of secrets are not in it: each becomes its reference."""
        unsaid = {name for name in MODEL_FIELDS if getattr(self, name) in (None, False)}
        data = self.model_dump(mode="json", exclude={"secrets", *unsaid})
        data["secrets"] = {
            name: (value if isinstance(value, SecretRef) else SecretRef(store=name)).model_dump(exclude_none=True)
            for name, value in sorted(self.secrets.items())
        }
        return data

    def secret_values(self) -> dict[str, SecretStr]:
        """The secrets that were given by value, to be sealed by whoever stores the specification."""
        return {name: value for name, value in self.secrets.items() if isinstance(value, SecretStr)}

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what `stored` gives: two equal specifications are one revision."""
        text = json.dumps(self.stored(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class AppFile(_Part, json_schema_extra={"examples": [{"version": 1, "apps": [_EXAMPLE]}]}):
    """A whole file: `version: 1` and a list of `apps` with different names."""

    version: Literal[1]
    apps: tuple[App, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _different(self) -> Self:
        seen: set[str] = set()
        for app in self.apps:
            if app.name in seen:
                raise ValueError(f"two apps are named {app.name!r}")
            seen.add(app.name)
        return self


def bounded(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored specification, which may be older than the bounds of its times, within these: so it is valid now."""
    stored["grace"] = min(stored["grace"], GRACE_MAX_S)
    if (health := stored["health"]) is not None:
        for probe in (health, health["start"], health["live"]):
            if probe is not None:
                probe["timeout"] = min(probe["timeout"], PROBE_MAX_S)
    return stored


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[tuple[str, Any, Any]]:
    """Where two stored specifications differ: (field, before, after), with None for what is not there."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        place = f"{at}.{key}" if at else str(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, place)
        elif before != after:
            found.append((place, before, after))
    return found
