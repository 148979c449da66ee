"""How many hosts there should be, asked of a real scheduler as the operator of Kubernetes asks it: over HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from distributed import Client

import rios
from rios.dmoe.wanted import under_way
from tests import waiting
from tests.cluster.test_workers import Lab

until = partial(waiting.until, deadline_s=120.0, pause_s=0.2)


def ask(api: str, what: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON that the scheduler answers; None where it says that it does not know."""
    request = urllib.request.Request(f"{api}/{what}", None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != 500:
            raise
        return None


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("wanted")
        made = Lab(folder, {"DASK_DISTRIBUTED__SCHEDULER__PRELOAD": "tests.cluster.hasty", "RIOS_HOST_REQUESTS": "3"})
        stack.callback(made.close)
        made.workers("--nworkers", "2", "--nthreads", "1", "--no-dashboard")
        yield made


def test_hosts_follow_the_requests_that_trunks_have(lab: Lab) -> None:
    """Neither is a task of Dask's, whose own rule would have none of the hosts."""
    said = json.loads((lab.folder / "scheduler.json").read_text())
    api = f"http://127.0.0.1:{said['services']['dashboard']}/api/v1"
    assert ask(api, "adaptive_target") is None, "hosts that were there before are still to come"
    with rios.connect(lab.address) as net, Client(lab.address, set_as_default=False) as client:
        net.wait_for_workers(2, timeout=300)
        until(lambda: ask(api, "adaptive_target") == {"workers": 1}, "one host for nothing to do")
        assert client.sync(client.scheduler.adaptive_target) == 1
        with net.dmoe.deploy("demo", progress=False) as model:
            enough = threading.Event()

            def work() -> None:
                while not enough.is_set():
                    model.generate(["It was a fine morning,"] * 12, max_new_tokens=50, ignore_eos=True)

            thread = threading.Thread(target=work)
            thread.start()
            try:
                until(lambda: ask(api, "adaptive_target") == {"workers": 4}, "four hosts for twelve requests")
            finally:
                enough.set()
                thread.join(300)
            until(lambda: ask(api, "adaptive_target") == {"workers": 1}, "one host again")
        gone = ask(api, "retire_workers", {"n": 1})
        (name,) = {one["name"] for one in gone.values()}
        until(lambda: {one.name for one in net.workers} != {name} and len(net.workers) == 1, "the other one alone")


def test_requests_that_wait_count_and_paused_ones_do_not() -> None:
    busy = {"deployments": {"a": {"trunk": {"running": 3, "waiting": 2, "paused": 9}}, "b": {"trunk": None}}}
    assert under_way({"one": busy, "two": busy, "three": {}}) == 10


def test_settings_say_for_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import ValidationError

    from rios.words.config import Settings

    monkeypatch.setenv("RIOS_HOST_REQUESTS", "0")
    with pytest.raises(ValidationError):
        Settings()
