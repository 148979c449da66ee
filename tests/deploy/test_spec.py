"""Specifications: what is safe without being asked for, and where a mistake is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rios.deploy.quantity import format_size, parse_size
from rios.deploy.reading import read_app, read_file, read_text
from rios.deploy.spec import App, SecretRef, differences
from rios.words.errors import InvalidRequest

FULL: dict[str, Any] = {
    "name": "search",
    "image": "registry.example.org/lab/search:1.4",
    "command": ["serve", "--port", "8000"],
    "port": 8000,
    "env": {"MODE": "fast"},
    "secrets": {"TOKEN": "a-very-secret-value", "STORED": {"store": "lab-key"}},
    "volumes": {"/data": "10GiB", "/models": {"size": "1GiB", "keep": False, "read_only": True}},
    "resources": {"cpu": 2, "memory": "2GiB", "gpu": 0},
    "replicas": (1, 5),
    "runtime": "gvisor",
    "egress": ["api.example.org:443"],
    "health": {"http": "/health", "interval": 5, "live": {"tcp": 8000}},
    "schedule": {"region": "eu", "objective": "cost"},
    "budget": "5 ROS",
}
FILE = """\
version: 1
apps:
  - name: search
    image: lab/search:1.4
    port: 8000
    resources:
      cpu: 2
      memory: 2GiB
  - name: job
    command: [train, --steps, "10"]
    restart: never
"""


def test_what_is_not_asked_for_is_safe() -> None:
    app = read_app({"name": "quiet", "command": ["true"]})
    assert not app.egress
    assert not app.secrets
    assert not app.volumes
    assert app.user >= 1000
    assert app.port is None
    assert app.access == "platform"
    assert 0 < app.resources.memory <= 1 << 30
    assert 0 < app.resources.pids <= 1024
    assert app.kind == "application"
    assert read_app({"name": "chat", "model": "demo"}).kind == "model"


def test_the_example_of_the_manual() -> None:
    app = read_app(FULL)
    assert app.resources.memory == 2 << 30
    assert (app.replicas.min, app.replicas.max) == (1, 5)
    assert app.volumes["/data"].size == 10 << 30
    assert str(app.egress[0]) == "api.example.org:443"
    assert app.budget == 5 * 10**18
    assert read_app({**FULL, "replicas": 3}).replicas.max == 3


def test_secrets_are_nowhere_in_what_is_kept_or_shown() -> None:
    app = read_app(FULL)
    assert app.secret_values()["TOKEN"].get_secret_value() == "a-very-secret-value"
    for shown in (repr(app), str(app.stored()), app.model_dump_json(), str(app.model_dump())):
        assert "a-very-secret-value" not in shown
    again = App.model_validate(app.stored())
    assert again.secrets == {"TOKEN": SecretRef(store="TOKEN"), "STORED": SecretRef(store="lab-key")}
    assert again.digest == app.digest
    with pytest.raises(InvalidRequest) as refused:
        read_app({**FULL, "secrets": {"TOKEN": ["a-very-secret-value"]}})
    assert "a-very-secret-value" not in str(refused.value)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"privileged": True}, "no such field"),
    ({"capabilities": ["SYS_ADMIN"]}, "no such field"),
    ({"resources": {"cpu": 2, "memry": "1GiB"}}, "resources.memry"),
    ({"name": "Search"}, "name"),
    ({"name": "a" * 41}, "name"),
    ({"name": "a/../b"}, "name"),
    ({"user": 0}, "user"),
    ({"port": 70000}, "port"),
    ({"resources": {"memory": "2 bananas"}}, "no size"),
    ({"resources": {"memory": 1000}}, "memory"),
    ({"resources": {"cpu": float("nan")}}, "cpu"),
    ({"resources": {"cpu": 0}}, "cpu"),
    ({"replicas": (5, 1)}, "contradict"),
    ({"replicas": (1, 2, 3)}, "replicas"),
    ({"replicas": -1}, "replicas"),
    ({"runtime": "none"}, "runtime"),
    ({"egress": ["169.254.169.254:80"]}, "address"),
    ({"egress": ["10.0.0.1:22"]}, "address"),
    ({"egress": ["[::1]:80"]}, "host name"),
    ({"egress": ["*.example.org:443"]}, "host name"),
    ({"egress": ["localhost:80"]}, "host name"),
    ({"egress": ["db.internal:5432"]}, "inside some network"),
    ({"egress": ["api.example.org"]}, "host:port"),
    ({"egress": ["api.example.org:443", "api.example.org:443"]}, "twice"),
    ({"egress": ["gateway", "gateway"]}, "twice"),
    ({"egress": ["gateway:80", "gateway"]}, "twice"),
    ({"egress": ["gateway:22"]}, "host name"),
    ({"egress": [{"host": "gateway", "port": 8123}]}, "host name"),
    ({"egress": ["gateway"], "secrets": {"RIOS_TOKEN": "mine"}}, "comes with egress to the gateway"),
    ({"volumes": {"/etc/ssl": "1GiB"}}, "place of the system"),
    ({"volumes": {"/proc": "1GiB"}}, "place of the system"),
    ({"volumes": {"/": "1GiB"}}, "root"),
    ({"volumes": {"/data.frozen": "1GiB"}}, "beside volumes"),
    ({"volumes": {"/a/b.volume": "1GiB"}}, "beside volumes"),
    ({"scratch": ["/data.restoring"]}, "beside volumes"),
    ({"volumes": {"/data/../etc": "1GiB"}}, "shortest"),
    ({"volumes": {"data": "1GiB"}}, "absolute"),
    ({"volumes": {"/" + "a" * 4095: "1GiB"}}, "4096 bytes or more"),
    ({"volumes": {"/data": "1GiB", "/data/inner": "1GiB"}}, "beside each other"),
    ({"volumes": {"/tmp/x": "1GiB"}}, "beside each other"),
    ({"scratch": ["/run/secrets"]}, "place of the system"),
    ({"env": {"BAD-NAME": "x"}}, "env"),
    ({"env": {"X": "a\0b"}}, "NUL"),
    ({"secrets": {"../x": "y"}}, "secrets"),
    ({"secrets": {"X": {"store": "a", "env": "B"}}}, "one place"),
    ({"health": {"http": "/h", "tcp": 80}}, "one thing"),
    ({"health": {"interval": 5}}, "one thing"),
    ({"health": {"http": "no-slash"}}, "http"),
    ({"rootfs": "base.tar"}, "contradict"),
    ({"model": "demo"}, "contradict"),
    ({"update": {"surge": 0, "unavailable": 0}}, "cannot move"),
    ({"scale": {"on": "metric"}}, "metric"),
    ({"budget": 1.5}, "float"),
    ({"budget": "-1 ROS"}, "budget"),
    ({"version": 2}, "version"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG, ids=[str(fields)[:40] for fields, _ in WRONG])
def test_mistakes_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match="the application") as refused:
        read_app({**FULL, **fields})
    assert said in str(refused.value)


def test_something_must_run() -> None:
    for fields, said in (
        ({}, "nothing says what runs"),
        ({"rootfs": "base.tar"}, "give a command"),
        ({"model": "demo", "command": ["x"]}, "served by the network"),
        ({"command": ["x"], "health": {"http": "/"}}, "no port"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            read_app({"name": "x", **fields})


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rios.yaml"
    path.write_text(FILE)
    apps = read_file(path).apps
    assert [app.name for app in apps] == ["search", "job"]
    assert apps[0].resources.memory == 2 << 30
    assert apps[1].command == ("train", "--steps", "10")


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("memory: 2GiB", "memory: two", ":8:", "apps[0].resources.memory"),
        ("memory: 2GiB", "memroy: 2GiB", ":8:", "no such field"),
        ("port: 8000", "port: 0", ":5:", "apps[0].port"),
        ("name: job", "name: search", ":1:", "two apps"),
        ("restart: never", "restart: sometimes", ":11:", "apps[1].restart"),
        ("version: 1", "version: 7", ":1:", "version"),
        ("    restart: never", "    restart: never\n    restart: always", ":12:", "twice"),
        ("    restart: never", "    env: &a {X: y}\n    labels: *a", ":12:", "aliases"),
        ("    restart: never", "   restart: never", ":11:", "no YAML"),
        ("restart: never", "env: !!python/object:os.system {}", ":11:", "no YAML"),
        ("    restart: never", "    secrets: {TOKEN: written-out}", ":11:", "{store: TOKEN}"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(old: str, new: str, place: str, said: str) -> None:
    assert old in FILE
    with pytest.raises(InvalidRequest) as refused:
        read_text(FILE.replace(old, new), name="rios.yaml")
    assert f"rios.yaml{place}" in str(refused.value)
    assert said in str(refused.value)
    assert "written-out" not in str(refused.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_file(tmp_path / "nowhere.yaml")
    (tmp_path / "large.yaml").write_text("x" * (1 << 21))
    with pytest.raises(InvalidRequest, match="bytes"):
        read_file(tmp_path / "large.yaml")
    for text in ("", "- a\n", "just text", "[" * 5000):
        with pytest.raises(InvalidRequest):
            read_text(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_text(text)
    except InvalidRequest:
        return
    raise AssertionError("random text is no specification")


def test_what_differs() -> None:
    old, new = read_app(FULL).stored(), read_app({**FULL, "port": 9000, "env": {}}).stored()
    assert differences(old, old) == []
    assert differences(old, new) == [("env.MODE", "fast", None), ("port", 8000, 9000)]


@given(st.integers(0, 1 << 50))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_sizes() -> None:
    assert [parse_size(text) for text in ("1KiB", "1.5 GiB", "2GB", "7", "1Mi")] == [
        1024,
        3 << 29,
        2 * 10**9,
        7,
        1 << 20,
    ]
    for wrong in ("", "GiB", "-1GiB", "1e9", "1 PB", True, 1.5, None):
        with pytest.raises(ValueError, match="no size"):
            parse_size(wrong)


def test_the_networks_own_gateway_is_named_by_a_word() -> None:
    app = read_app({"name": "asks", "command": ["ask"], "egress": ["api.example.org:443", "gateway"]})
    assert app.asks_gateway
    assert [str(rule) for rule in app.egress] == ["api.example.org:443", "gateway"]
    assert app.stored()["egress"][1] == {"host": "gateway", "port": 80}
    assert App.model_validate(app.stored()) == app
    assert not read_app({"name": "asks", "command": ["ask"], "egress": ["api.example.org:443"]}).asks_gateway
