"""Widgets and magics against a real network: what they send, when they stop, and how they read without a kernel."""

from __future__ import annotations

import dataclasses
import html
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import rios
from rios.services.generation import Model
from rios.services.jobs import JobView
from rios.services.network import Network
from rios.services.panel import Panel
from rios.widgets import base
from rios.widgets.generation import GenerationWidget
from rios.widgets.panel import PanelWidget
from rios.words.errors import Elsewhere, GatewayLost, InvalidRequest, NotFound
from tests.deployments.stage import RESOURCES, SERVER, WEB
from tests.holding import held_after
from tests.waiting import until

DEADLINE_S = 60.0
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """A network with one worker."""
    with rios.local(workers=1, threads=1) as one:
        yield one


@pytest.fixture(scope="module")
def model(net: Network) -> Model:
    """The demo model on it."""
    return net.dmoe.deploy("demo", progress=False)


@pytest.fixture
def shell(net: Network) -> Iterator[InteractiveShell]:
    """A notebook's shell that has this network, and the extension."""
    before = sys.modules["__main__"]  # it puts a module of its own in that place, and empties it
    made = InteractiveShell()
    made.run_line_magic("load_ext", "rios")
    made.user_ns["net"] = net
    yield made
    made.reset()
    sys.modules["__main__"] = before


def test_a_prompt_is_answered_and_priced(model: Model, net: Network) -> None:
    widget = model.widget()
    assert "not started" in repr(widget)
    widget.prompt, widget.params = "It was a fine morning,", {"max_new_tokens": 8}
    widget._heard(None, {"do": "start"}, None)
    until(lambda: widget.job.get("posted"), "the price", deadline_s=DEADLINE_S)
    wanted = model.generate("It was a fine morning,", max_new_tokens=8)
    assert widget.answer == wanted.text
    used = net.billing.usage(request_id=widget.job["id"])
    assert widget.job["cost_wei"] == str(sum(used.amount_wei))
    assert [host["name"] for host in widget.hosts] == ["worker-0"]
    assert wanted.text in repr(widget)
    widget.close()


def test_the_stop_button_stops_and_a_mistake_is_shown(model: Model) -> None:
    widget = model.widget()
    widget.prompt, widget.params = "Once upon a time", {"max_new_tokens": 400}
    with held_after(5):
        widget.start()
        until(lambda: widget.job.get("tokens"), "a token", deadline_s=DEADLINE_S)
        widget._heard(None, {"do": "stop"}, None)
        until(lambda: widget.job.get("state") == "cancelled", "the end", deadline_s=DEADLINE_S)
    widget.params = {"max_new_tokens": 10**6}
    widget._heard(None, {"do": "start"}, None)
    assert "exceed the context" in widget.problem["detail"]
    widget.close()


def test_what_is_saved_reads_as_text_and_as_html_without_scripts(model: Model, net: Network) -> None:
    widget = model.widget()
    widget.prompt = EVIL
    bundle, _ = widget._repr_mimebundle_()
    assert EVIL in bundle["text/plain"]
    assert EVIL not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    widget.close()
    panel = net.wallet.widget()
    assert str(net.wallet.address) in panel._repr_mimebundle_()[0]["text/html"]
    panel.close()


def test_what_is_saved_becomes_the_answer_when_that_is_there(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, bool, str]] = []

    def display(data: Any, *, metadata: Any, raw: bool, display_id: str, update: bool) -> None:
        assert raw
        shown.append((display_id, update, data["text/html"]))

    monkeypatch.setattr(base, "display", display)
    monkeypatch.setattr(base, "in_kernel", lambda: True)
    widget = model.widget()
    widget.prompt, widget.params = "It was a fine morning,", {"max_new_tokens": 6}
    widget._ipython_display_()
    widget.start()
    until(lambda: len(shown) == 2, "the copy of the answer", deadline_s=DEADLINE_S)
    (first, begun, before), (second, updated, after) = shown
    assert (first, begun, updated) == (second, False, True)
    assert "not started" in before
    assert html.escape(widget.answer) in after
    assert "6 of 6" in after
    widget.close()


def test_a_panel_answers_its_view_and_ends_with_it(net: Network, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = net.widget("jobs")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(widget, "send", lambda said, *_: sent.append(said))
    widget._heard(None, {"id": 1, "ask": {"method": "GET", "what": "state", "given": {}}}, None)
    until(lambda: sent, "an answer", deadline_s=DEADLINE_S)
    assert sent[0]["status"] == 200
    assert sent[0]["body"]["sections"]["wallet"]["data"]["available_wei"] == str(net.wallet.available)
    widget._heard(None, {"id": 2, "ask": {"method": "GET", "what": "keys"}}, None)
    until(lambda: len(sent) > 1, "a refusal", deadline_s=DEADLINE_S)
    assert sent[1]["status"] == 404
    widget._heard(None, {"follow": sent[0]["body"]["last"]}, None)
    answer = model.generate("And", max_new_tokens=3)

    def heard() -> bool:
        events = [event for said in sent for event in said.get("events", [])]
        views = [job for event in events if event["name"] == "jobs" for job in event["data"]["jobs"]]
        return any(job["id"] == answer.request_id and job["posted"] for job in views)

    until(heard, "the job's event", deadline_s=DEADLINE_S)
    widget.close()
    until(lambda: _threads() == 0, "the end of what told it", deadline_s=DEADLINE_S)
    count = len(sent)
    model.generate("And", max_new_tokens=3)
    widget._heard(None, {"id": 3, "ask": {"method": "GET", "what": "state"}}, None)
    assert len(sent) == count, "a closed widget sends nothing"
    with pytest.raises(InvalidRequest, match="one of all, wallet, jobs, hosts"):
        net.widget("money")


def _threads() -> int:
    names = ("rios-feed-jobs", "rios-feed-figures", "rios-widget")
    return sum(one.name in names and one.is_alive() for one in threading.enumerate())


def test_a_view_that_goes_leaves_nothing_running_and_one_that_stays_goes_on(
    net: Network, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that is run again leaves a widget of the same network each time, without a view."""
    until(lambda: _threads() == 0, "the end of other widgets", deadline_s=DEADLINE_S)
    widget = net.widget("jobs")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(widget, "send", lambda said, *_: sent.append(said))
    for _ in range(3):
        widget._heard(None, {"follow": None}, None)
        widget._heard(None, {"follow": False}, None)
    until(lambda: {"ended": True} in sent and _threads() == 0, "rest", deadline_s=DEADLINE_S)
    widget._heard(None, {"follow": None}, None)  # what another view of it answers
    answer = model.generate("And", max_new_tokens=2)
    until(lambda: any(answer.request_id in str(one.get("events")) for one in sent), "its event", deadline_s=DEADLINE_S)
    widget.close()
    until(lambda: _threads() == 0, "rest", deadline_s=DEADLINE_S)


def test_a_view_is_told_ten_times_a_second_at_most_and_nothing_is_left_out(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = net.widget("jobs")
    sent: list[tuple[float, dict[str, Any]]] = []
    monkeypatch.setattr(widget, "send", lambda said, *_: sent.append((time.monotonic(), said)))
    widget._heard(None, {"follow": None}, None)
    until(lambda: widget._desk.feed.followed, "the feed", deadline_s=DEADLINE_S)
    begun = time.monotonic()
    for number in range(300):
        widget._desk.feed._publish("section", {"number": number})
        time.sleep(0.002)

    def told() -> list[int]:
        events = [event["data"] for _, said in list(sent) for event in said.get("events", [])]
        return [data["number"] for data in events if "number" in data]

    until(lambda: len(told()) == 300, "all events", deadline_s=DEADLINE_S)
    widget.close()
    assert told() == list(range(300))
    messages = [at for at, said in sent if said.get("events")]
    assert len(messages) <= 10 * (messages[-1] - begun) + 2


def test_a_panel_of_a_closed_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        address = "here"

    network = Gone()
    widget = PanelWidget(network, "jobs")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(widget, "send", lambda said, *_: sent.append(said))
    widget._desk.feed.close()
    widget._heard(None, {"follow": None}, None)
    until(lambda: sent, "the reason", deadline_s=DEADLINE_S)
    assert sent[0]["lost"]["type"] == "NetworkClosed"
    widget.close()


class _Away:
    """The jobs of a network whose gateway is away now and then."""

    def __init__(self, jobs: Any, faults: list[Exception]) -> None:
        self._jobs, self._faults = jobs, faults
        self.elsewhere = False

    def __getitem__(self, job_id: str) -> Any:
        if self._faults:
            raise self._faults.pop()
        return self._jobs[job_id]

    def text(self, job_id: str) -> Any:
        if self.elsewhere:
            raise Elsewhere("another gateway has it")
        return self._jobs.text(job_id)


def test_a_generation_goes_on_after_its_gateway_was_away_and_says_what_cannot_be_had(model: Model) -> None:
    jobs = _Away(model.jobs, [GatewayLost("away"), GatewayLost("away")])
    shown = SimpleNamespace(name=model.name, jobs=jobs, submit=model.submit, placement=model.placement)
    widget = GenerationWidget(shown)
    widget.prompt, widget.params = "It was", {"max_new_tokens": 4}
    problems: list[str] = []
    widget.observe(lambda change: problems.append(change["new"].get("type", "")), "problem")
    widget.start()
    until(lambda: widget.job.get("posted"), "the price", deadline_s=DEADLINE_S)
    assert "GatewayLost" in problems
    assert widget.problem == {}, "it was heard of since"
    assert widget.answer == model.generate("It was", max_new_tokens=4).text
    jobs.elsewhere = True
    widget.start()
    until(lambda: widget.job.get("posted"), "the price", deadline_s=DEADLINE_S)
    assert widget.problem["type"] == "Elsewhere"
    widget.close()


def test_a_job_that_is_not_known_yet_is_no_problem_and_one_that_is_forgotten_is(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _Away(model.jobs, [NotFound("no such job"), NotFound("no such job")])
    shown = SimpleNamespace(name=model.name, jobs=jobs, submit=model.submit, placement=model.placement)
    widget = GenerationWidget(shown)
    widget.prompt, widget.params = "It was", {"max_new_tokens": 4}
    problems: list[str] = []
    widget.observe(lambda change: problems.append(change["new"].get("type", "")), "problem")
    widget.start()
    until(lambda: widget.job.get("posted"), "the price", deadline_s=DEADLINE_S)
    assert not any(problems)
    monkeypatch.setattr("rios.widgets.generation._UNTOLD_S", 0.01)
    jobs._faults += [NotFound("no such job")] * 1000
    widget.start()
    until(lambda: widget.problem and _threads() == 0, "its end", deadline_s=DEADLINE_S)
    assert widget.problem["type"] == "NotFound"
    widget.close()


def test_a_price_that_never_comes_is_not_waited_for_for_ever(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gateway has ended before it could say it."""
    monkeypatch.setattr("rios.widgets.generation._UNPRICED_S", 0.01)
    answer = model.generate("It was", max_new_tokens=4)
    last = dataclasses.replace(model.jobs[answer.request_id], posted=False)
    jobs = _Unpriced(model.jobs, last)
    shown = SimpleNamespace(name=model.name, jobs=jobs, submit=model.submit, placement=model.placement)
    widget = GenerationWidget(shown)
    widget.prompt, widget.params = "It was", {"max_new_tokens": 4}
    widget.start()
    until(lambda: widget.job and _threads() == 0, "its end", deadline_s=DEADLINE_S)
    assert (widget.job["state"], widget.job["posted"]) == ("done", False)
    widget.close()


class _Unpriced:
    """The jobs of a network, of which one is over and was never priced."""

    def __init__(self, jobs: Any, last: JobView) -> None:
        self._jobs, self._last = jobs, last

    def __getitem__(self, job_id: str) -> JobView:
        return self._last

    def text(self, job_id: str) -> Any:
        return self._jobs.text(self._last.id)


def test_views_hear_a_sign_of_life_while_something_goes_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that hears none for 12 s says that its kernel does not answer; a kernel that was killed says nothing."""
    monkeypatch.setattr("rios.widgets.generation.ALIVE_S", 0.01)
    assert base.ALIVE_S * 3 == 12.0
    widget = model.widget()
    sent: list[Any] = []
    monkeypatch.setattr(widget, "send", lambda said, *_: sent.append(said))
    widget.prompt, widget.params = "Once upon a time", {"max_new_tokens": 20}
    widget.start()
    until(lambda: widget.job.get("posted"), "the price", deadline_s=DEADLINE_S)
    assert {"alive": True} in sent
    widget.close()


def test_magics(shell: InteractiveShell, model: Model) -> None:
    with capture_output() as seen:
        shell.run_cell_magic("rios", "demo --max-new-tokens 6 --into answer", "It was a fine morning,\n")
    answer = shell.user_ns["answer"]
    assert answer.text == model.generate("It was a fine morning,", max_new_tokens=6).text
    assert "It was a fine morning," + answer.text in seen.stdout
    assert shell.run_line_magic("rios", "wallet") is shell.user_ns["net"].wallet
    assert answer.request_id in [one.id for one in shell.run_line_magic("rios", "jobs")]
    for line in ("money", "wallet jobs"):
        with pytest.raises(UsageError, match="%rios takes one of"):
            shell.run_line_magic("rios", line)
    with pytest.raises(UsageError, match="invalid int value"):
        shell.run_cell_magic("rios", "demo --max-new-tokens many", "x")
    with pytest.raises(UsageError, match=r"InvalidRequest: .* exceed the context"):
        shell.run_cell_magic("rios", "demo --max-new-tokens 100000", "x")


def test_costs_are_drawn_to_the_wei(net: Network, model: Model) -> None:
    model.generate("It was", max_new_tokens=2)
    costs = net.billing.costs(by="model")
    figure = costs.rios.plot()
    assert list(figure.data[0].x) == ["demo"]
    assert figure.data[0].customdata[0] == str(costs).split("demo", 1)[1].split("\n")[0].strip()
    assert list(net.billing.usage().rios.plot(by="worker").data[0].x) == ["worker-0"]
    with pytest.raises(InvalidRequest, match="no column 'colour'"):
        costs.rios.plot(by="colour")


def test_an_application_is_shown_scaled_and_stopped(net: Network) -> None:
    app = net.deploy.create(
        name="web", command=[*WEB, SERVER], port=8000, env={"SAYS": EVIL}, resources=RESOURCES, grace=1
    )
    app.wait()
    panel = Panel(lambda: net, kind="local")
    row = next(one for one in panel.jobs() if one["kind"] == "deployment" and one["name"] == "web")
    assert (row["id"], row["phase"], row["parts"], row["parts_max"]) == (app.id, "ready", 1, 1)
    widget = app.widget()
    until(lambda: widget.lines, "its log", deadline_s=DEADLINE_S)
    assert widget.lines[0]["text"] == panel.log(app.id, 0.0)["lines"][0]["text"] == "serves"
    assert "1 of 1 ready" in repr(widget)
    assert "serves" in widget._repr_mimebundle_()[0]["text/html"]
    widget._heard(None, {"follow": False}, None)
    until(lambda: widget._follower is None, "nobody looks", deadline_s=DEADLINE_S)
    widget._heard(None, {"follow": True}, None)
    assert widget._follower is not None
    widget._heard(None, {"do": "scale", "replicas": 2}, None)
    until(lambda: widget.app["parts"] == 2, "a second replica", deadline_s=DEADLINE_S)
    until(lambda: widget.app["cost_wei"] == str(int(app.cost)), "what it costs by now", deadline_s=DEADLINE_S)
    widget._heard(None, {"do": "scale", "replicas": "many"}, None)
    until(lambda: "whole number" in widget.problem.get("detail", ""), "the refusal", deadline_s=DEADLINE_S)
    widget._heard(None, {"do": "pause"}, None)
    until(lambda: widget.app["phase"] == "paused", "a rest", deadline_s=DEADLINE_S)
    assert panel.job(app.id)["job"]["deeds"] == ["scale", "resume", "retry", "duplicate", "cancel"]
    twins = [panel.job(panel.duplicate(app.id)["id"])["job"] for _ in range(2)]
    assert [(one["name"], one["parts_max"]) for one in twins] == [("web-2", 1), ("web-3", 1)]
    for one in twins:
        assert net.deploy.get(one["name"]).specification["env"] == {"SAYS": EVIL}
        net.deploy.get(one["name"]).delete()
    widget._heard(None, {"do": "cancel"}, None)
    until(lambda: widget.app["phase"] == "stopped", "its end", deadline_s=DEADLINE_S)
    assert "stopped" in repr(widget)
    widget.close()
    with pytest.raises(NotFound):
        panel.log(app.id, 0.0)
