"""What a `Network` promises, in this process and through a gateway: each case runs on both."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rios.dmoe.completion import Completion
from rios.dmoe.job import Job
from rios.words.errors import Cancelled, DeadlineExceeded, InvalidRequest, RiosError
from tests.client.conftest import Both
from tests.holding import held_after
from tests.waiting import until

PROMPT = "It was a fine morning,"
# By greedy decoding in float32: the same wherever it runs, so both ways are compared with this and so with each other.
_FIRST: dict[tuple[Any, ...], Completion] = {}
_ERRORS: dict[str, type[RiosError]] = {}
_PAID = "that what was asked for before is paid"


def same(key: tuple[Any, ...], found: Completion) -> None:
    """`found` is what the other way gave."""
    known = _FIRST.setdefault(key, found)
    assert (known.text, known.token_ids, known.finish_reason) == (found.text, found.token_ids, found.finish_reason)
    assert known.usage.rows == found.usage.rows
    assert (known.usage.prompt_tokens, known.usage.completion_tokens) == (
        found.usage.prompt_tokens,
        found.usage.completion_tokens,
    )


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"max_new_tokens": 5},
        {"temperature": 0.8, "seed": 3, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1},
        {"stop": " and"},
        {"stop": ["never", " the"], "stop_token_ids": [5]},
        {"ignore_eos": True, "max_new_tokens": 9},
    ],
    ids=str,
)
def test_generate(model: Any, params: dict[str, Any]) -> None:
    found = model.generate(PROMPT, **({"max_new_tokens": 12} | params))
    same(tuple(map(str, params.items())), found)
    assert found.text == str(found)
    assert found.usage.by_host
    assert found.timing.total_s > 0
    assert found.request_id


def test_lists_and_token_ids(model: Any) -> None:
    texts = model.generate([PROMPT, "In the beginning"], max_new_tokens=4)
    ids = model.generate([[5, 6, 7], [8]], max_new_tokens=4)
    one = model.generate([5, 6, 7], max_new_tokens=4)
    assert [len(found.token_ids) for found in (*texts, *ids, one)] == [4] * 5
    assert one.token_ids == ids[0].token_ids
    for place, found in enumerate((*texts, *ids)):
        same(("lists", place), found)


def test_no_tokens_cost_nothing(network: Any, model: Any) -> None:
    until(lambda: network.wallet.held == 0, _PAID, deadline_s=30)
    before = network.billing.balance.wei
    found = model.generate([PROMPT, "In"], max_new_tokens=0)
    assert [(one.text, one.token_ids, one.finish_reason) for one in found] == [("", (), "length")] * 2
    assert [one.usage.prompt_tokens for one in found] == [len(model.tokens(PROMPT)), len(model.tokens("In"))]
    assert list(model.stream(PROMPT, max_new_tokens=0)) == []
    assert network.billing.balance.wei == before
    assert model.tokens([5, 6]) == [5, 6]
    for act in (lambda: model.generate("", max_new_tokens=0), lambda: model.submit(PROMPT, max_new_tokens=0)):
        with pytest.raises(InvalidRequest):
            act()


def test_options_of_a_deployment(network: Any) -> None:
    options: dict[str, Any] = {"dtype": "float32", "replicas": 1, "partial": True, "wire_dtype": "bfloat16"}
    narrow = network.dmoe.deploy("demo", name="narrow", **options, progress=False)
    assert len(narrow.generate(PROMPT, max_new_tokens=3).token_ids) == 3
    for wrong in ({"wire_dtype": "int8"}, {"dtype": "int8"}, {"replicas": 0}):
        with pytest.raises(InvalidRequest):
            network.dmoe.deploy("demo", name="wrong", **wrong, progress=False)
    getattr(narrow, "undeploy", narrow.close)()
    assert "narrow" not in [one.name for one in network.models]


@pytest.mark.parametrize("name", ["dense", "empty", "../dense", "none"])
def test_what_cannot_be_deployed(network: Any, both: Both, name: str) -> None:
    """The same class of error, whether a process of one's own or a gateway found it out."""
    local = network is both.local
    with pytest.raises(RiosError) as caught:
        network.dmoe.deploy(both.models / name if local else name, name=f"bad-{name[-4:]}", progress=False)
    assert _ERRORS.setdefault(name, type(caught.value)) is type(caught.value)
    assert type(caught.value) is not RiosError
    if not local and name in ("dense", "empty"):
        network.dmoe.model(f"bad-{name[-4:]}").undeploy()


def test_logprobs(model: Any) -> None:
    found = model.generate(PROMPT, max_new_tokens=4, logprobs=2)
    assert [one.token_id for one in found.logprobs] == list(found.token_ids)
    assert all(len(one.top) == 2 and one.top[0] == (one.token_id, one.logprob) for one in found.logprobs)
    assert model.generate(PROMPT, max_new_tokens=1).logprobs is None
    same(("logprobs",), found)


def test_a_stream_is_the_whole_answer(model: Any) -> None:
    whole = model.generate(PROMPT, max_new_tokens=20, logprobs=0)
    with held_after(0) as hold:
        stream = model.stream(PROMPT, max_new_tokens=20, logprobs=0)
        pieces = []
        for hold.tokens in (3, 6, 9, 12):
            pieces.append(next(stream))  # as it comes: the rest is not there yet
        hold.go.set()
        pieces += stream
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == whole.token_ids
    assert [one.token_id for piece in pieces for one in piece.logprobs] == list(whole.token_ids)
    assert len(pieces) > 3


def test_a_stream_waits_so_long_for_a_piece(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    may, take = threading.Event(), Job.take

    def late(job: Job, *given: Any, **more: Any) -> bool:
        assert may.wait(60)
        return take(job, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Job, "take", late)
        with pytest.raises(DeadlineExceeded, match=r"no token for 0\.2 s"):
            next(model.stream(PROMPT, max_new_tokens=450, timeout=0.2))
        may.set()
    assert list(model.stream(PROMPT, max_new_tokens=3, timeout=60))


def test_leaving_a_stream_cancels(model: Any, both: Both) -> None:
    with held_after(0) as hold:
        stream = model.stream(PROMPT, max_new_tokens=450)
        for hold.tokens in (3, 6, 9):
            next(stream)
        stream.close()
    both.local.billing._charging.post_late()
    assert model.generate(PROMPT, max_new_tokens=1).token_ids, "the model is free for others"


def test_a_job(network: Any, model: Any) -> None:
    job = model.submit(PROMPT, max_new_tokens=6)
    found = job.result()
    assert job.status == "done"
    assert job.result(timeout=0) is not None
    assert found.request_id == job.request_id
    job.cancel()
    assert job.status == "done", "what has ended stays as it is"
    same(("job",), found)
    view = network.jobs[job.request_id]
    assert (view.owner, view.owner_login) == ("local", "admin")
    assert {one.owner_login for one in network.jobs} == {"admin"}


def test_a_job_that_is_cancelled(model: Any) -> None:
    with held_after(5):
        job = model.submit(PROMPT, max_new_tokens=450)
        with pytest.raises(DeadlineExceeded):
            job.result(timeout=0)
        job.cancel()
        with pytest.raises(Cancelled):
            job.result(timeout=30)
    assert job.status == "cancelled"


@pytest.mark.parametrize(
    ("prompt", "params"),
    [
        ("", {}),
        ([], {}),
        ([-1], {}),
        ([10**6], {}),
        (5, {}),
        (PROMPT, {"max_new_tokens": -1}),
        (PROMPT, {"max_new_tokens": 10**6}),
        (PROMPT, {"temperature": -1.0}),
        (PROMPT, {"top_p": 0}),
        (PROMPT, {"seed": -1}),
        (PROMPT, {"stop": [""]}),
        (PROMPT, {"stop_token_ids": [10**6]}),
        (PROMPT, {"logprobs": 1000}),
        (PROMPT, {"made_up": 1}),
        (PROMPT, {"timeout": -1}),
        (PROMPT, {"max_new_tokens": 2.5}),
    ],
    ids=str,
)
def test_what_is_refused(model: Any, prompt: Any, params: dict[str, Any]) -> None:
    for verb in (model.generate, lambda *a, **k: list(model.stream(*a, **k))):
        with pytest.raises(InvalidRequest):
            verb(prompt, **params)


def test_a_conversation_needs_a_template(model: Any) -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        model.chat([{"role": "user", "content": "hello"}])


def test_what_was_used_is_what_is_paid(network: Any, model: Any) -> None:
    until(lambda: network.wallet.held == 0, _PAID, deadline_s=30)
    before = network.billing.balance.wei
    found = model.generate(PROMPT, max_new_tokens=7)
    frame = network.billing.usage(request_id=found.request_id)
    by_resource = frame.groupby("resource")["quantity"].sum()
    assert by_resource["tokens_in"] == found.usage.prompt_tokens
    assert by_resource["tokens_out"] == 7
    spent = sum(frame["amount_wei"])
    assert before - network.billing.balance.wei == spent > 0
    assert network.wallet.available == network.billing.balance.available
    assert network.wallet.held == 0
    assert list(frame.columns) == list(network.billing.usage(model="none").columns)
    costs = network.billing.costs("model")
    assert 0 < costs.wei["demo"] <= costs.total_wei == sum(costs.wei.values())
    assert costs.total_wei == network.billing.costs("day").total_wei


def test_budgets(network: Any) -> None:
    found = network.billing.budget("5 ROS", period="day", hard=False)
    assert (found.limit_wei, found.hard, str(found.period)) == (5 * 10**18, False, "day")
    assert [one.limit_wei for one in network.billing.budgets] == [5 * 10**18]
    assert network.billing.budget(None, period="day") is None
    with pytest.raises(InvalidRequest):
        network.billing.budget("1 ROS", period="hour")


def test_workers_are_shown(network: Any) -> None:
    network.wait_for_workers(1, timeout=30)
    assert [worker.name for worker in network.workers] == ["worker-0"]
    assert network.workers["worker-0"].state == "serving"
    assert network.workers["worker-0"].pid > 0
    assert "worker-0" in repr(network.workers)
