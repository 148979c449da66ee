"""Applications that really run in sandboxes on this machine, through all that can be wanted of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.lifecycle import State
from rios.words.errors import (
    AlreadyExists,
    DeadlineExceeded,
    DeploymentFailed,
    HostLost,
    InvalidRequest,
    NotFound,
)
from tests.deployments.stage import RESOURCES, SERVER, WEB, Stage, get
from tests.waiting import PATIENCE, until

WAIT_S = 60.0


@pytest.fixture(scope="module")
def web(stage: Stage) -> Any:
    app = stage.web("web", env={"SAYS": "first"}, secrets={"TOKEN": "shibboleth"})
    app.wait(timeout=WAIT_S)
    yield app
    if app.status != "stopped":
        app.delete()


def test_it_becomes_ready_and_answers(web: Any) -> None:
    assert web.status == "ready"
    assert get(web.url) == (200, "first GET / ")
    assert get(f"{web.url}/a%20b?c=d", data=b"body") == (200, "first POST /a%20b?c=d body")
    assert get(f"{web.url}/bad")[0] == 500, "what a replica answers is passed on as it is"
    states = [event.state for event in web.events if event.kind == "state" and not event.replica]
    assert states[0] == "requested"
    assert states[-1] == "ready"
    replica = web.replicas[0]
    assert [e.state for e in web.events if e.replica == replica.id and e.kind == "state"] == [
        "scheduled",
        "starting",
        "ready",
    ]
    assert all(event.cause for event in web.events)
    assert "localhost: 1 of 1 hosts have room" in str(web.events)
    assert repr(web) == "<Deployment 'web' ready>"


def test_a_host_that_does_not_answer_keeps_no_other_lines_away(
    web: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise HostLost("host localhost does not answer")

    with monkeypatch.context() as change:
        change.setattr(stage.platform.hosts.now()["localhost"], "logs", silent)
        assert web.logs() == []
        with pytest.raises(HostLost):
            web.logs(replica=web.replicas[0].id)
    assert "serves" in web.logs()


def test_the_sandbox_is_seen_through_logs_metrics_and_commands(web: Any) -> None:
    assert "serves" in web.logs()
    found = web.exec(["sh", "-c", "id -u; cat /run/secrets/TOKEN; env"])
    assert found.exit_code == 0
    text = found.stdout.decode()
    assert text.splitlines()[0] != "0"
    assert "shibboleth" in text
    assert text.count("shibboleth") == 1, "a secret is a file, and in no variable"
    measured = web.metrics()
    assert measured[0]["cpu_seconds"] > 0
    assert 0 < measured[0]["memory_bytes"] < 64 << 20
    assert (measured[0]["gpu_percent"], measured[0]["gpu_memory_bytes"]) == (0, 0), "it has none"
    with pytest.raises(NotFound):
        web.exec(["true"], replica="web-none")


def test_secrets_are_nowhere_in_clear(web: Any, stage: Stage) -> None:
    seen = [repr(web), repr(web.specification), repr(web.events), repr(web.replicas)]
    assert web.specification["secrets"] == {"TOKEN": {"store": "TOKEN"}}
    files = [Path(f"{stage.ledger.database.engine.url.database}{end}") for end in ("", "-wal")]
    stored = b"".join(path.read_bytes() for path in files if path.exists())
    assert "shibboleth" not in "".join(seen)
    assert b"shibboleth" not in stored
    assert b"SAYS" in stored, "the rest is there, so the file that was searched is the right one"


def test_names_are_unique_and_mistakes_are_named(web: Any, stage: Stage) -> None:
    with pytest.raises(AlreadyExists, match="'web'"):
        stage.web("web")
    with pytest.raises(InvalidRequest, match="ports"):
        stage.deploy.create(name="wrong", command=["true"], ports=8000)
    with pytest.raises(NotFound, match="'none'"):
        stage.deploy.get("none")
    assert [one.name for one in stage.deploy.list()] == ["web"]
    assert stage.deploy.get("web").id == web.id


@pytest.mark.needs("root")
def test_a_killed_replica_is_replaced_and_what_it_used_is_billed(web: Any, stage: Stage) -> None:
    before = web.replicas[0].id
    assert get(f"{web.url}/end", data=b"x")[0] == 502, "the request in its hands fails, for it may not be sent twice"
    until(lambda: [r.id for r in web.replicas if r.state is State.READY and r.id != before], deadline_s=WAIT_S)
    until(lambda: before not in {r.id for r in web.replicas}, "what it used is posted with its end", deadline_s=WAIT_S)
    web.wait(timeout=WAIT_S)
    assert get(web.url)[0] == 200
    told = " ".join(map(str, web.events))
    assert "it ended with exit code 7" in told
    assert f"{before} failed" in told
    usage = list(stage.ledger.usage(request_id=before))
    assert {one.resource for one in usage} == {"cpu", "memory"}
    assert sum(one.amount_wei for one in usage) == int(web.cost) > 0
    assert "serves" in web.logs(replica=before), "its log is kept when it has gone"


def test_a_bad_update_is_rolled_back_and_a_good_one_takes_over_without_a_failed_request(web: Any) -> None:
    web.update(command=["sh", "-c", "exit 3"])
    with pytest.raises(DeploymentFailed, match="is at revision 1 again: revision 2 does not become ready"):
        web.wait(timeout=WAIT_S * PATIENCE)
    web.wait(timeout=WAIT_S)
    assert get(web.url) == (200, "first GET / ")
    number = web.update(env={"SAYS": "second"})
    assert number == 3
    said = []

    def taken_over() -> bool:
        status, text = get(web.url)
        assert status == 200
        said.append(text)
        return text == "second GET / " and web.status == "ready"

    until(taken_over, deadline_s=WAIT_S, pause_s=0)
    assert [key for key, _ in itertools.groupby(said)] in (["first GET / ", "second GET / "], ["second GET / "])
    assert web.update(env={"SAYS": "second"}) == 3, "the same is no new revision"
    assert web.exec(["cat", "/run/secrets/TOKEN"]).stdout == b"shibboleth", "secrets stay when others change"
    assert web.rollback(1) == 1
    until(lambda: get(web.url)[1] == "first GET / ", deadline_s=WAIT_S)
    with pytest.raises(NotFound, match="revision 9"):
        web.rollback(9)


def test_scale_pause_resume_restart(web: Any, stage: Stage) -> None:
    web.wait(timeout=WAIT_S)
    web.scale(2)
    until(lambda: sum(r.state is State.READY for r in web.replicas) == 2, deadline_s=WAIT_S)
    before = {one.id for one in web.replicas}
    web.restart()
    until(lambda: web.status == "ready" and not before & {r.id for r in web.replicas}, deadline_s=WAIT_S)
    web.pause()
    assert web.status == "paused"
    until(lambda: not web.replicas and not stage.instances(), deadline_s=WAIT_S)
    assert get(web.url)[0] == 503
    web.resume()
    web.wait(timeout=WAIT_S)
    with pytest.raises(InvalidRequest, match="not paused"):
        web.resume()
    with pytest.raises(InvalidRequest):
        web.scale((3, 1))
    web.scale(1)
    until(lambda: len(web.replicas) == 1, deadline_s=WAIT_S)


def test_delete_leaves_nothing(web: Any, stage: Stage) -> None:
    url = web.url
    web.delete()
    assert web.status == "stopped"
    assert not stage.instances()
    assert stage.deploy.list() == ()
    assert get(url)[0] == 404
    assert not list(stage.platform.hosts.now()["localhost"]._directory.glob(f"logs/{web.id}/*"))
    balance = stage.ledger.balance("local")
    assert balance.held_wei == 0
    stage.web("web").delete()


def test_a_job_is_done_once_and_its_log_stays_until_it_is_deleted(stage: Stage) -> None:
    job = stage.deploy.create(
        name="job", command=["sh", "-c", "echo one; echo two"], restart="on-failure", resources=RESOURCES
    )
    job.wait("stopped", timeout=WAIT_S)
    assert job.logs() == ["one", "two"]
    assert list(job.logs(follow=True)) == ["one", "two"]
    assert job.reason == "it has done its work"
    job.restart()
    until(lambda: job.logs() == ["one", "two"] * 2, deadline_s=WAIT_S)
    job.wait("stopped", timeout=WAIT_S)
    job.delete()


def test_one_that_fails_says_why(stage: Stage) -> None:
    once = stage.deploy.create(name="once", command=["sh", "-c", "exit 5"], restart="never", resources=RESOURCES)
    with pytest.raises(DeploymentFailed, match="exit code 5"):
        once.wait("stopped", timeout=WAIT_S)
    once.delete()
    # Ready as soon as its process has started, for it has no port: so it is tried on, and less and less often.
    crash = stage.deploy.create(name="crash", command=["no-such-program"], resources=RESOURCES)
    until(lambda: "in a row" in str(crash.events), deadline_s=WAIT_S)
    crash.delete()
    slow = stage.web("slow", command=["sleep", "1000"], health={"http": "/", "interval": 0.2, "deadline": 0.5})
    until(lambda: "was not ready within 0.5 s" in str(slow.events), deadline_s=WAIT_S)
    with pytest.raises(DeadlineExceeded, match="slow is"):
        slow.wait("paused", timeout=0.1)
    slow.delete()


def test_what_fits_nowhere_says_by_how_much(stage: Stage) -> None:
    app = stage.deploy.create(name="big", command=["sleep", "9"], resources={"memory": "9TiB", "cpu": 900, "gpu": 64})
    until(lambda: "no host" in app.reason, deadline_s=WAIT_S)
    assert "localhost misses" in app.reason
    assert "of 900 cores" in app.reason
    assert "of 9216 GiB" in app.reason
    assert "of 64 GPUs" in app.reason
    app.delete()


def test_lines_are_followed_over_replicas(stage: Stage) -> None:
    app = stage.deploy.create(name="talks", command=["sh", "-c", "echo begins; sleep 0.3; exit 1"], resources=RESOURCES)
    lines = app.logs(follow=True)
    assert [next(lines) for _ in range(2)] == ["begins", "begins"]
    lines.close()
    app.delete()


def test_plan_shows_and_apply_does(stage: Stage, tmp_path: Any) -> None:
    file = tmp_path / "rios.yaml"
    text = """
version: 1
apps:
- {name: a, command: [sleep, "100"], resources: {cpu: 0.5, memory: 64MiB}}
- {name: b, command: [sleep, "100"], resources: {cpu: 0.5, memory: 64MiB}, env: {A: "1"}}
"""
    file.write_text(text)
    assert [change.action for change in stage.deploy.plan(file)] == ["create", "create"]
    assert stage.deploy.list() == ()
    for app in stage.deploy.apply(file):
        app.wait(timeout=WAIT_S)
    assert [change.action for change in stage.deploy.plan(file)] == ["nothing", "nothing"]
    file.write_text(text.replace('A: "1"', 'A: "2"'))
    plan = stage.deploy.plan(str(file))
    assert str(plan) == "nothing a\nupdate b\n  env.A: '1' -> '2'"
    assert repr(plan) == "<Plan 1 update, 1 nothing>"
    a, b = stage.deploy.apply(file)
    b.wait(timeout=WAIT_S)
    assert (a.revision, b.revision) == (1, 2)
    file.write_text(text.replace("cpu: 0.5", "cpu: -1"))
    with pytest.raises(InvalidRequest, match=r"apps.*0.*cpu"):
        stage.deploy.apply(file)
    for app in (a, b):
        app.delete()


def test_volumes_outlive_replicas_and_go_when_that_was_wanted(stage: Stage) -> None:
    app = stage.web("keeper", volumes={"/data": {"size": "2MiB", "keep": False}})
    app.wait(timeout=WAIT_S)
    assert app.exec(["sh", "-c", "echo kept > /data/file"]).exit_code == 0
    before = app.replicas[0].id
    app.restart()
    until(lambda: app.status == "ready" and before not in {one.id for one in app.replicas}, deadline_s=WAIT_S)
    assert app.exec(["cat", "/data/file"]).stdout == b"kept\n"
    host = stage.platform.hosts.now()["localhost"]
    app.delete()
    assert not list(host._directory.glob(f"volumes/*/{app.id}/*"))


def test_without_a_probe_the_port_is_what_makes_it_ready(stage: Stage) -> None:
    app = stage.deploy.create(name="plain", command=[*WEB, SERVER], port=8000, resources=RESOURCES)
    app.wait(timeout=WAIT_S)
    assert get(app.url) == (200, "hello GET / ")
    app.delete()


def test_a_python_function_is_an_application(stage: Stage) -> None:
    greeting = "bonjour"

    def work() -> None:
        import sys

        sys.stdout.write(f"{greeting} from a function\n")

    app = stage.deploy.create(name="function", python=work, restart="on-failure", resources=RESOURCES)
    app.wait("stopped", timeout=WAIT_S)
    assert app.logs() == ["bonjour from a function"]
    app.delete()
