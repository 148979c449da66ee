"""One recorded load curve for real: the same requests to the same deployment, scaled by rios and by Kubernetes' way.

Each request takes a place of a replica for half a second, and a replica has `PLACES` of them, as in `simulated.py`; who
finds none waits inside of it. A start takes as long as it takes.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.lifecycle import State
from tests.campaigns import Campaign
from tests.deployments.simulated import PLACES, SERVICE_S, TARGET, Hpa
from tests.deployments.stage import RESOURCES, WEB, Stage, get

CURVE = Path(__file__).with_name("step_curve.txt")
WAIT_S = 120.0
REPLICAS = (1, 6)
TURN_S = 30.0
"""A change the other way within this is a turn."""
LATER, LATER_S, DEARER = 1.15, 0.1, 1.02
"""What a p95 may be above the other one, and a cost. The two runs come one after the other, on a machine that others
use as well: the same request takes 0.6 s there now and 0.7 s then, and some wait for a core beside that."""
SERVER = f"""
import http.server, os, threading, time
threading.stack_size(1 << 18)
places = threading.Semaphore({PLACES})
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        with places: time.sleep({SERVICE_S})
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *a): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
Server(("0.0.0.0", int(os.environ["PORT"])), Answer).serve_forever()
"""


def arrivals() -> list[float]:
    """The seconds at which requests come."""
    return [float(line) for line in CURVE.read_text().splitlines() if not line.startswith("#")]


class Kubernetes:
    """Scales a deployment by the algorithm of Kubernetes, asked each second, as `simulated.Hpa` is."""

    def __init__(self, stage: Stage, app: Any) -> None:
        self._stage, self._app, self._way = stage, app, Hpa(REPLICAS[0])

    def look(self, at_s: float) -> None:
        route = self._stage.platform.routes.of(self._app.id)
        ready = sum(one.state is State.READY for one in self._app.replicas)
        current = self._app._app().replicas
        load = float(route.running) if route is not None else 0.0
        wanted = self._way.decide(at_s, load=load, waiting=0.0, current=current, ready=ready, arrivals=0.0)
        wanted = min(wanted, REPLICAS[1])
        if wanted != current:
            self._app.scale(wanted)


def played(stage: Stage, name: str, *, by_rios: bool) -> dict[str, Any]:
    """The curve against a deployment: p95 in seconds, replica-seconds, changes of their number, turns."""
    app = stage.deploy.create(
        name=name, command=[*WEB, SERVER], port=8000, resources=RESOURCES, grace=5, scale={"target": TARGET},
        replicas=REPLICAS if by_rios else 1, health={"tcp": 8000, "interval": 0.5},
    )  # fmt: skip
    app.wait(timeout=WAIT_S)
    moments, over = arrivals(), threading.Event()
    wanted: list[tuple[float, int]] = []
    begun = time.monotonic()

    def watch() -> None:
        """Each second: how many replicas are wanted, which is what is paid for; and Kubernetes' look."""
        scaler = None if by_rios else Kubernetes(stage, app)
        second = 0
        while not over.wait(max(begun + second - time.monotonic(), 0.0)):
            if scaler is not None:
                scaler.look(float(second))
            wanted.append((time.monotonic() - begun, app._app().replicas))
            second += 1

    def ask(at_s: float) -> float:
        """From when the request was due: a client that comes late to ask has waited too."""
        assert get(app.url, timeout_s=60)[0] == 200
        return time.monotonic() - begun - at_s

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(256) as clients:
            answers = []
            for at_s in moments:
                time.sleep(max(begun + at_s - time.monotonic(), 0.0))
                answers.append(clients.submit(ask, at_s))
            waits = sorted(answer.result(WAIT_S) for answer in answers)
    finally:
        over.set()
        watcher.join(WAIT_S)
    app.delete(timeout=WAIT_S)
    replica_s = sum((after - at) * count for (at, count), (after, _) in pairwise(wanted))
    changes = [(at, b - a) for (_, a), (at, b) in pairwise(wanted) if a != b]
    turns = sum((a > 0) != (b > 0) and later - at < TURN_S for (at, a), (later, b) in pairwise(changes))
    return {
        "requests": len(waits), "p95_s": round(waits[int(0.95 * len(waits))], 2), "replica_s": round(replica_s),
        "changes": len(changes), "turns": turns,
    }  # fmt: skip


@pytest.mark.long
def test_a_step_for_real(stage: Stage, campaign_record: Campaign) -> None:
    ours = campaign_record.once("rios", lambda: played(stage, "by-rios", by_rios=True))
    theirs = campaign_record.once("kubernetes", lambda: played(stage, "by-kubernetes", by_rios=False))
    campaign_record.conclude(
        requests=ours["requests"], p95_s=ours["p95_s"], p95_of_kubernetes_s=theirs["p95_s"],
        replica_s=ours["replica_s"], replica_s_of_kubernetes=theirs["replica_s"], turns=ours["turns"],
    )  # fmt: skip
    assert ours["p95_s"] <= LATER * theirs["p95_s"] + LATER_S, (ours, theirs)
    assert ours["replica_s"] <= DEARER * theirs["replica_s"], (ours, theirs)
    assert ours["turns"] == 0, ours
