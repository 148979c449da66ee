"""Replicas that follow something else than requests: cores, tokens, a metric of their own, what waits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rios.deploy.exposition import Said, read_metric
from rios.deploy.spec import Scaling
from rios.services.deployments.scaling import _queue, took_of
from rios.words.errors import InvalidRequest
from tests.deployments.stage import RESOURCES, WEB, Stage, get
from tests.deployments.test_traffic import load, ready
from tests.waiting import until

WAIT_S = 60.0
SAYS = """
import http.server, os, time
backlog = 0
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global backlog
        if self.path.startswith("/set"): backlog = float(self.path.partition("?")[2])
        said = f'''# HELP app_backlog What waits.
# TYPE app_backlog gauge
app_backlog{{queue="a, }}"}} {backlog}
app_backlog{{queue="b"}} 0
llm_tokens_total{{model="x"}} {int(time.time() * 50)}
'''.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Answer).serve_forever()
"""
QUICK = {"stabilise": 1.0}


def test_a_metric_of_its_own_and_tokens_a_second(stage: Stage) -> None:
    said = {"command": [*WEB, SAYS], "replicas": (1, 3), "health": {"tcp": 8000, "interval": 0.5}, "grace": 1}
    own = stage.web("own", scale={"on": "metric", "metric": "/metrics#app_backlog", "target": 10, **QUICK}, **said)
    tokens = stage.web("tokens", scale={"on": "tokens", "target": 30, **QUICK}, **said)
    for app in (own, tokens):
        app.wait(timeout=WAIT_S)
    assert get(f"{own.url}/set?25")[0] == 200
    until(ready(own, 3), "25 wait, and 10 are for each", deadline_s=WAIT_S)
    until(ready(tokens, 3), "each of them counts 50 a second", deadline_s=WAIT_S)
    assert any("for 10 each" in event.cause for event in own.events if event.kind == "scaled")
    tokens.delete()
    own.delete()


def test_cores_in_use_are_the_kernels(stage: Stage) -> None:
    app = stage.deploy.create(
        name="cores", command=["sh", "-c", "while :; do :; done"], replicas=(1, 2), grace=1,
        resources={"cpu": 0.1, "memory": "64MiB"}, scale={"on": "cpu", **QUICK},
    )  # fmt: skip
    assert app.specification["scale"]["target"] == 0.7
    until(ready(app, 2), "it uses all of its tenth of a core", deadline_s=WAIT_S)
    app.delete()


def test_what_waits_behind_what_is_answered(stage: Stage) -> None:
    assert [_queue(*one) for one in ((0, 2, 5.0), (1, 2, 5.0), (12, 2, 5.0), (42, 2, 5.0))] == [0, 5, 10, 40]
    app = stage.web("line", replicas=(1, 2), scale={"on": "queue", "target": 3, **QUICK})
    app.wait(timeout=WAIT_S)
    with load(f"{app.url}/slow?0.2", 6):
        until(ready(app, 2), "five wait while one is answered", deadline_s=WAIT_S)
    app.delete()


def test_a_scaler_knows_how_long_starts_took(stage: Stage) -> None:
    """What a trend comes to until then is made room for."""
    app = stage.web("slow-start", replicas=(1, 3), health={"tcp": 8000, "interval": 0.2})
    app.wait(timeout=WAIT_S)
    (one,) = stage.platform.store.replicas(app.id)
    took_s = (one.ready_at - one.created_at) / 1e6
    assert took_of([one, replace(one, id="new", ready_at=0)]) == took_s > 0
    found = stage.platform._scalers()
    until(lambda: app.id in found._scalers, "it is scaled", deadline_s=WAIT_S)
    until(lambda: found._scalers[app.id][1].target.start_s == took_s, "as its row says", deadline_s=WAIT_S)
    app.delete()
    assert took_of([]) is None


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        (" 7.5\n", "", Said(7.5, is_counter=False)),
        ("a 1\nb 2\n", "b", Said(2.0, is_counter=False)),
        ('a{x="1"} 1\na{x="} 9"} 2.5 1700000000\n', "a", Said(3.5, is_counter=False)),
        ("# TYPE a counter\na 4\n", "a", Said(4.0, is_counter=True)),
        ("# TYPE a_total gauge\na_total 4\n", "a_total", Said(4.0, is_counter=False)),
        ("vllm:generation_tokens_total 3\nother 1\n", "*tokens_total", Said(3.0, is_counter=True)),
    ],
)
def test_what_an_application_says_of_itself(text: str, name: str, found: Said) -> None:
    assert read_metric(text, name) == found


@pytest.mark.parametrize(("text", "name"), [("NaN", ""), ("<html>", ""), ("a 1", "b"), ("a +Inf", "a"), ("", "a")])
def test_what_is_no_metric_is_refused(text: str, name: str) -> None:
    with pytest.raises(InvalidRequest):
        read_metric(text, name)
    assert math.isfinite(read_metric("1").value)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"scale": {"on": "metric"}}, "metric"),
        ({"scale": {"metric": "/metrics"}}, "metric"),
        ({"scale": {"on": "cpu", "target": 2}}, "share of its cores"),
        ({"scale": {"on": "tokens"}, "port": None}, "no port"),
        ({"scale": {"on": "cpu"}, "replicas": (0, 2)}, "keep at least 1"),
    ],
)
def test_what_contradicts_itself_is_named(stage: Stage, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        stage.deploy.create(name="wrong", command=["true"], resources=RESOURCES, **{"port": 8000, **fields})
    assert Scaling().target == 10.0
