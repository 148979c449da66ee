"""What `net.deploy` promises, in this process and through a gateway: each case runs on both."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rios
from rios.deploy.lifecycle import State
from rios.words.errors import AlreadyExists, DeadlineExceeded, DeploymentFailed, InvalidRequest, NotFound
from tests.client.conftest import Both
from tests.deployments.stage import RESOURCES, SERVER, WEB
from tests.waiting import until

WAIT_S = 60.0


@pytest.fixture(scope="module")
def web(network: Any) -> Iterator[Any]:
    app = network.deploy.create(
        name="web", command=[*WEB, SERVER], port=8000, health={"http": "/", "interval": 0.5, "timeout": 10}, grace=3,
        env={"SAYS": "first"}, secrets={"TOKEN": "shibboleth"}, resources=RESOURCES,
    )  # fmt: skip
    app.wait(timeout=WAIT_S)
    yield app
    app.delete()
    assert app.status == "stopped"
    with pytest.raises(NotFound):
        network.deploy.get("web")


def ask(app: Any, both: Both, path: str = "", *, data: bytes | None = None) -> tuple[int, str]:
    """What an application answers at its address."""
    request = urllib.request.Request(f"{app.url.rstrip('/')}/{path}", data=data)
    request.add_header("Authorization", f"Bearer {both.token}")
    request.add_header("Cookie", "session=secret")
    plain = ssl.create_default_context()
    plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE  # which certificate it shows is another test's
    try:
        with urllib.request.urlopen(request, timeout=30, context=plain) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_is_ready_and_answers(web: Any, both: Both) -> None:
    assert web.status == "ready"
    assert ask(web, both) == (200, "first GET / ")
    assert ask(web, both, "a%20b?c=d", data=b"body") == (200, "first POST /a%20b?c=d body")
    assert [one.state for one in web.replicas] == [State.READY]
    assert web.replicas[0].host == "localhost"
    assert web.revision == 1
    assert web.wait() is web


def test_what_is_shown(web: Any, network: Any) -> None:
    until(lambda: "serves" in web.logs(), "its first line", deadline_s=WAIT_S)
    assert web.logs(replica=web.replicas[0].id)[0] == "serves"
    lines = web.logs(follow=True)
    assert next(lines) == "serves"
    lines.close()
    states = [event.state for event in web.events if event.kind == "state" and not event.replica]
    assert (states[0], states[-1]) == ("requested", "ready")
    assert web.metrics()[0]["cpu_seconds"] > 0
    assert web.cost >= 0
    assert str(web.cost).endswith(" ROS")
    assert web.specification["secrets"] == {"TOKEN": {"store": "TOKEN"}}
    assert [one["number"] for one in web.revisions] == [1]
    assert "web" in [one.name for one in network.deploy.list()]
    assert network.deploy.get("web").id == web.id
    assert (web.view().owner, web.view().owner_login) == ("local", "admin")
    assert "'web'" in repr(web)


def test_commands_run_inside(web: Any) -> None:
    done = web.exec(["sh", "-c", "cat /run/secrets/TOKEN; echo wrong >&2; exit 4"])
    assert (done.exit_code, done.stdout, done.stderr) == (4, b"shibboleth", b"wrong\n")
    with pytest.raises(NotFound):
        web.exec(["true"], replica="none")


def test_the_organisations_secrets(network: Any) -> None:
    network.deploy.secrets.put({"OF_ALL": "shibboleth"})
    assert "OF_ALL" in [one["name"] for one in network.deploy.secrets.list()]
    assert "shibboleth" not in str(network.deploy.secrets.list())
    network.deploy.secrets.delete("OF_ALL")
    with pytest.raises(NotFound, match="OF_ALL"):
        network.deploy.secrets.delete("OF_ALL")


def test_secrets_change_while_it_runs(web: Any) -> None:
    before = [one.id for one in web.replicas]
    web.rotate_secrets({"TOKEN": "sesame"})
    assert web.behind() == []
    assert web.exec(["cat", "/run/secrets/TOKEN"]).stdout == b"sesame"
    assert ([one.id for one in web.replicas], web.revision) == (before, 1), "nothing was restarted"
    assert [one["name"] for one in web.secrets] == ["TOKEN"]
    assert [event.kind for event in web.events if event.kind in ("secrets", "rotated")] == ["secrets", "rotated"]
    assert "sesame" not in repr(web.events) + repr(web.secrets)
    with pytest.raises(NotFound, match="no secret 'NONE'; it has TOKEN"):
        web.rotate_secrets({"NONE": "x"})
    for wrong in ({}, {"TOKEN": 7}):
        with pytest.raises(InvalidRequest):
            web.rotate_secrets(wrong)
    web.rotate_secrets({"TOKEN": "shibboleth"}, wait=False)
    until(lambda: web.exec(["cat", "/run/secrets/TOKEN"]).stdout == b"shibboleth", deadline_s=WAIT_S)


@pytest.mark.needs("root")
def test_a_volume_begins_with_a_snapshot_of_another(network: Any) -> None:
    fields = {"command": ["sleep", "600"], "resources": RESOURCES, "grace": 1}
    disk = network.deploy.create(name="disk", volumes={"/data": {"size": "4MiB", "keep": False}}, **fields)
    disk.wait(timeout=WAIT_S)
    disk.exec(["sh", "-c", "echo first > /data/file; sync"])
    snapshot = disk.snapshots.take("/data")
    assert (snapshot.state, snapshot.path, snapshot.hosts) == ("kept", "/data", ("localhost",))
    assert (disk.snapshots.list(), disk.snapshots.get(snapshot.id)) == ([snapshot], snapshot)
    disk.exec(["sh", "-c", "echo second > /data/file; sync"])
    for path, size in (("/kept", "4MiB"), ("/kept", "8MiB")):
        volumes = {path: {"size": size, "keep": False, "snapshot": snapshot.id}}
        other = network.deploy.create(name="other", volumes=volumes, **fields).wait(timeout=WAIT_S)
        assert other.exec(["cat", "/kept/file"]).stdout == b"first\n"
        other.delete()
    for size, name, why in (("2MiB", snapshot.id, "as much"), ("4MiB", "none", "no snapshot 'none'")):
        wrong = {"size": size, "snapshot": name}
        with pytest.raises(InvalidRequest, match=why):
            network.deploy.create(name="wrong", volumes={"/data": wrong}, **fields)
    with pytest.raises(NotFound, match="it has /data"):
        disk.snapshots.take("/none")
    with pytest.raises(InvalidRequest):
        disk.snapshots.take("/data", copies=0)
    disk.snapshots.delete(snapshot.id)
    assert disk.snapshots.list() == []
    for call in (disk.snapshots.delete, disk.snapshots.get):
        with pytest.raises(NotFound, match=snapshot.id):
            call(snapshot.id)
    disk.delete()


def test_a_volume_is_kept_and_another_deployment_takes_it(network: Any) -> None:
    fields = {"command": ["sleep", "600"], "resources": RESOURCES, "grace": 1}
    first = network.deploy.create(name="first", volumes={"/data": "4MiB"}, **fields).wait(timeout=WAIT_S)
    first.exec(["sh", "-c", "echo kept > /data/file; sync"])
    first.delete()
    (kept,) = network.deploy.volumes.list()
    assert (kept.deployment, kept.path, kept.host, kept.taken_by) == ("first", "/data", "localhost", "")
    assert network.deploy.volumes.get(kept.id) == kept
    assert kept.id in network.deploy.volumes._repr_html_()
    volume = {"size": "4MiB", "keep": False, "kept": kept.id}
    with pytest.raises(InvalidRequest, match="as much"):
        network.deploy.create(name="small", volumes={"/data": {**volume, "size": "2MiB"}}, **fields)
    second = network.deploy.create(name="second", volumes={"/more": volume}, **fields).wait(timeout=WAIT_S)
    assert second.exec(["cat", "/more/file"]).stdout == b"kept\n"
    with pytest.raises(InvalidRequest, match="no kept volume"):
        network.deploy.create(name="third", volumes={"/data": volume}, **fields)
    second.delete()
    assert network.deploy.volumes.list() == []
    for call in (network.deploy.volumes.get, network.deploy.volumes.delete):
        with pytest.raises(NotFound, match=kept.id):
            call(kept.id)


def test_what_is_refused(web: Any, network: Any) -> None:
    with pytest.raises(AlreadyExists):
        network.deploy.create(name="web", command=["true"])
    for wrong in ({"command": []}, {"command": ["true"], "made_up": 1}, {"command": ["true"], "replicas": (3, 1)}):
        with pytest.raises(InvalidRequest):
            network.deploy.create(name="wrong", **wrong)
    with pytest.raises(InvalidRequest):
        network.deploy.create(name="Wrong Name", command=["true"])
    with pytest.raises(InvalidRequest):
        network.deploy.create(name="wrong", command=["true"], secrets={"A": {"env": "NO_SUCH_VARIABLE"}})
    with pytest.raises(InvalidRequest):
        web.scale((3, 1))
    with pytest.raises(NotFound):
        network.deploy.get("none")
    with pytest.raises(InvalidRequest):
        web.resume()
    with pytest.raises(DeadlineExceeded):
        web.wait("paused", timeout=0.1)


def test_updates_and_the_way_back(web: Any, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOTHER_VALUE", "sesame")
    assert web.update(env={"SAYS": "second"}, secrets={"OTHER": {"env": "ANOTHER_VALUE"}}) == 2
    until(lambda: ask(web, both) == (200, "second GET / "), deadline_s=WAIT_S)
    web.wait(timeout=WAIT_S)
    assert web.exec(["sh", "-c", "cat /run/secrets/*"]).stdout in (b"sesameshibboleth", b"shibbolethsesame")
    assert web.update(env={"SAYS": "second"}) == 2
    assert web.rollback() == 1
    until(lambda: ask(web, both) == (200, "first GET / "), deadline_s=WAIT_S)
    web.wait(timeout=WAIT_S)


def test_scale_pause_resume_restart(web: Any) -> None:
    web.scale(2)
    until(lambda: sum(one.state is State.READY for one in web.replicas) == 2, deadline_s=WAIT_S)
    web.scale((1, 1))
    until(lambda: len(web.replicas) == 1, deadline_s=WAIT_S)
    before = web.replicas[0].id
    web.restart()
    until(lambda: web.status == "ready" and before not in [one.id for one in web.replicas], deadline_s=WAIT_S)
    web.pause()
    assert web.status == "paused"
    web.resume()
    web.wait(timeout=WAIT_S)


def test_a_job_and_a_failure(network: Any) -> None:
    job = network.deploy.create(name="job", command=["echo", "done"], restart="on-failure", resources=RESOURCES)
    job.wait("stopped", timeout=WAIT_S)
    until(lambda: job.logs() == ["done"], "what it said", deadline_s=WAIT_S)
    assert list(job.logs(follow=True)) == ["done"]
    job.delete()
    bad = network.deploy.create(name="bad", command=["sh", "-c", "exit 9"], restart="never", resources=RESOURCES)
    with pytest.raises(DeploymentFailed, match="exit code 9"):
        bad.wait("stopped", timeout=WAIT_S)
    bad.delete()


def test_a_model_is_a_deployment(network: Any, both: Both, tmp_path: Path) -> None:
    chat = network.deploy.create(name="chat", model="demo", dtype="float32", served_name="Chat.1")
    chat.wait(timeout=WAIT_S)
    first = chat.model.generate("It was", max_new_tokens=3)
    assert len(first.token_ids) == 3
    assert [one.state for one in chat.replicas] == [State.READY]
    assert both.local.deploy.get("chat").model.name == "Chat.1"
    with rios.connect(both.url, token=both.token) as other:
        assert "Chat.1" in [model.name for model in other.models]
        assert other.dmoe.model("Chat.1").generate("It was", max_new_tokens=3).token_ids == first.token_ids
    with pytest.raises(NotFound):
        chat.exec(["true"])
    chat.pause()
    until(lambda: not chat.replicas, deadline_s=WAIT_S)
    with pytest.raises(NotFound):
        _ = chat.model
    chat.resume()
    chat.wait(timeout=WAIT_S)
    assert chat.update(dtype="bfloat16") == 2
    until(lambda: chat.status == "ready" and {one.revision for one in chat.replicas} == {2}, deadline_s=WAIT_S)
    assert chat.rollback() == 1
    until(lambda: chat.status == "ready" and {one.revision for one in chat.replicas} == {1}, deadline_s=WAIT_S)
    assert chat.model.generate("It was", max_new_tokens=3).token_ids == first.token_ids
    file = tmp_path / "rios.yaml"
    fields = "name: chat, model: demo, dtype: float32, served_name: Chat.1"
    file.write_text(f"version: 1\napps:\n- {{{fields}}}\n")
    assert str(network.deploy.plan(file)) == "nothing chat"
    file.write_text(f"version: 1\napps:\n- {{{fields}, copies: 1}}\n")
    assert str(network.deploy.plan(file)) == "update chat\n  copies: None -> 1"
    chat.delete(timeout=WAIT_S)
    assert "Chat.1" not in [model.name for model in network.models]


def test_what_is_no_model(network: Any, both: Both, web: Any) -> None:
    with pytest.raises(InvalidRequest):
        _ = web.model
    if network is both.local:
        return  # whoever has the process names any place of its machine
    for outside in ("../dense", "/etc", "none", str(both.models / "none")):
        with pytest.raises(InvalidRequest, match="no checkpoint"):
            network.deploy.create(name="wrong", model=outside)
    with pytest.raises(InvalidRequest, match="no checkpoint"):
        web.update(command=[], port=None, health=None, model="../dense")


def test_plan_and_apply(network: Any, tmp_path: Path) -> None:
    file = tmp_path / "rios.yaml"
    text = """
version: 1
apps:
- {name: a, command: [sleep, "100"], resources: {cpu: 0.5, memory: 64MiB}, env: {A: "1"}}
"""
    file.write_text(text)
    assert str(network.deploy.plan(file)) == "create a"
    (app,) = network.deploy.apply(file)
    app.wait(timeout=WAIT_S)
    assert str(network.deploy.plan(file)) == "nothing a"
    file.write_text(text.replace('"1"', '"2"'))
    assert str(network.deploy.plan(str(file))) == "update a\n  env.A: '1' -> '2'"
    assert [one.revision for one in network.deploy.apply(file)] == [2]
    app.delete()
