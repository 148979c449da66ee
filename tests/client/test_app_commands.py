"""The commands for applications, at the command line of whoever has a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import Both
from tests.client.test_commands import call
from tests.deployments.stage import SERVER
from tests.waiting import until

WAIT_S = 60.0


@pytest.fixture(scope="module")
def said(both: Both, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What a command says to the gateway of the tests."""
    home = tmp_path_factory.mktemp("command-home")

    def run(*arguments: str, code: int = 0) -> str:
        return call(*arguments, home=home, code=code, RIOS_URL=both.url, RIOS_TOKEN=both.token)

    return run


@pytest.mark.needs("root")
def test_an_application_at_the_command_line(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINE_TOKEN", "shibboleth")
    file = tmp_path / "rios.yaml"
    one = {"name": "line", "command": ["python3", "-c", SERVER], "port": 8000, "grace": 3}
    one |= {"secrets": {"TOKEN": {"env": "LINE_TOKEN"}}}
    one |= {"resources": {"cpu": 0.5, "memory": "64MiB"}, "health": {"http": "/", "interval": 0.5, "timeout": 10}}
    one |= {"volumes": {"/data": "4MiB"}}
    file.write_text(json.dumps({"version": 1, "apps": [one]}))
    assert said("apply", "-f", str(file), "--plan") == "create line\n"
    assert json.loads(said("apps", "--json")) == []
    assert said("apply", "-f", str(file), "--wait").splitlines()[-1] == "line ready"
    assert "line" in said("apps")
    assert json.loads(said("apps", "--json"))[0]["status"] == "ready"
    assert said("app", "line").startswith("line ready")
    until(lambda: "serves" in said("logs", "line"), "its first line", deadline_s=WAIT_S)
    assert "its probe is answered" in said("events", "line")
    assert said("exec", "line", "--", "echo", "-n", "hello", code=0) == "hello"
    said("exec", "line", "--", "sh", "-c", "exit 7", code=7)
    value = tmp_path / "token"
    value.write_text("sesame\n")
    assert said("rotate", "line", "TOKEN", "--file", str(value)) == ""
    assert said("exec", "line", "--", "cat", "/run/secrets/TOKEN") == "sesame"
    assert said("secrets", "line").splitlines()[-1].startswith("TOKEN")
    monkeypatch.setenv("LINE_TOKEN", "sesame")
    one["env"] = {"SAYS": "second"}
    file.write_text(json.dumps({"version": 1, "apps": [one]}))
    assert "env.SAYS: None -> 'second'" in said("apply", "-f", str(file))
    until(lambda: "ready" in said("app", "line").splitlines()[0], deadline_s=WAIT_S)
    assert said("rollback", "line") == "line revision 1\n"
    said("scale", "line", "0", "2")
    assert json.loads(said("app", "line", "--json"))["replicas_max"] == 2
    (name,) = said("snapshot", "line", "/data").split()
    assert [(one["id"], one["state"]) for one in json.loads(said("snapshots", "line", "--json"))] == [(name, "kept")]
    assert said("snapshots", "line").splitlines()[-1].startswith(name)
    assert said("snapshot", "line", name, "--delete") == ""
    assert json.loads(said("snapshots", "line", "--json")) == []
    said("pause", "line")
    assert said("app", "line").startswith("line paused")
    said("resume", "line")
    said("restart", "line")
    said("delete", "line")
    assert json.loads(said("apps", "--json")) == []
    (kept,) = json.loads(said("volumes", "--json"))
    assert (kept["deployment"], kept["path"], kept["host"]) == ("line", "/data", "localhost")
    assert said("volumes").splitlines()[-1].startswith(kept["id"])
    assert said("volumes", "--delete", kept["id"]) == ""
    assert json.loads(said("volumes", "--json")) == []
    assert "no kept volume" in said("volumes", "--delete", kept["id"], code=1)
    assert "there is no deployment 'line'" in said("app", "line", code=1)
