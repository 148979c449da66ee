"""What a network, its workers, a placement and an answer show in a notebook: whatever is in a name is text there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rios
from rios import demo
from rios.dmoe.completion import Completion, HostUsage, Timing, Usage
from rios.services.jobs import JobView
from rios.services.panel import worker_of
from rios.services.views import Placement, WorkerInfo, Workers
from rios.words.display import html_table, text_table
from rios.words.errors import Cancelled, InvalidRequest
from tests.services.steps import one_step
from tests.waiting import until

EVIL = '<script>alert("x")</script>&'
ESCAPED = "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;"
REFUSING = "{{ raise_exception('roles must alternate') }}"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def assert_escaped(page: str) -> None:
    assert "<script" not in page
    assert ESCAPED in page


def test_workers_are_escaped() -> None:
    worker = WorkerInfo(EVIL, 7, EVIL, EVIL, 1 << 30, 1 << 20, EVIL, 3, 1.0, "m", "tcp://x:1")
    assert_escaped(Workers([worker])._repr_html_())
    assert EVIL in repr(Workers([worker]))
    assert_escaped(html_table([EVIL], [["a"]]))
    assert text_table(["a", "b"], [["1", "22"]]) == "a  b\n1  22"
    frame = Workers([worker]).to_frame()
    assert list(frame["memory"]) == [worker.memory]
    assert {"name", "pid", "address", "device", "state", "experts"} < set(frame.columns)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (None, None),
        ({"percent": 87, "used_bytes": 6, "total_bytes": 8}, {"percent": 87, "used_bytes": 6, "total_bytes": 8}),
        ({"error": "no NVML"}, {"error": "no NVML"}),
        ({"percent": EVIL, "used_bytes": 6, "total_bytes": 8}, {"error": "the host gives no figures of it"}),
        ({"error": "x" * 10_000}, {"error": "x" * 200}),
    ],
)
def test_what_a_host_says_of_its_gpu_has_a_form_that_panels_can_read(said: Any, shown: Any) -> None:
    worker = WorkerInfo("w", 7, "w:1", "cuda", 1 << 30, 1 << 20, "serving", 3, 1.0, "m", "tcp://x:1", said)
    assert worker_of(worker)["gpu"] == shown


def test_placements_are_escaped() -> None:
    placement = Placement(
        model=EVIL,
        holders=(((EVIL,), (EVIL,)),),
        load=((1, 2),),
        replicas=1,
        trunk=EVIL,
        trunk_pid=1,
        standby=(),
        bytes_by_host={EVIL: 1 << 20},
        states={EVIL: "serving"},
        reasons=EVIL,
    )
    assert_escaped(placement._repr_html_())


def test_answers_are_escaped() -> None:
    usage = Usage(1, 2, 4, 1000, 10, {EVIL: HostUsage(4, 1000, 10)})
    answer = Completion(EVIL, (5, 6), EVIL, usage, Timing(0.1, 0.2, 5.0))
    assert_escaped(answer._repr_html_())
    assert answer._repr_html_().count(ESCAPED) == 3


@pytest.fixture(scope="module")
def net() -> Iterator[rios.Network]:
    with rios.local(workers=1, threads=1, hold_step_tokens=16) as made:
        yield made


def test_networks_are_escaped(net: rios.Network) -> None:
    with net.dmoe.deploy("demo", name=EVIL, progress=False):
        assert_escaped(net._repr_html_())


def test_a_chat_is_its_template(net: rios.Network, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Was it a fine morning?"}, {"role": "assistant", "content": "It was."}]
    shutil.copytree(demo.path(), tmp_path / "chatting")
    (tmp_path / "chatting" / "chat_template.jinja").write_text(TEMPLATE)
    with net.dmoe.deploy(tmp_path / "chatting", progress=False) as model:
        answer = model.chat(messages, max_new_tokens=6)
        text = "user: Was it a fine morning?\nassistant: It was.\nassistant:"
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert answer.usage.prompt_tokens == len(ids)
        assert answer.token_ids == model.generate(ids, max_new_tokens=6).token_ids
    with net.dmoe.deploy("demo", progress=False) as model, pytest.raises(InvalidRequest, match="no chat template"):
        model.chat(messages)
    (tmp_path / "chatting" / "chat_template.jinja").write_text(REFUSING)
    with (
        net.dmoe.deploy(tmp_path / "chatting", progress=False) as model,
        pytest.raises(InvalidRequest, match="alternate"),
    ):
        model.chat(messages)


def test_an_answer_that_is_dropped_before_it_was_looked_at_is_cancelled(net: rios.Network) -> None:
    asked = {"max_new_tokens": 400}
    with net.dmoe.deploy("demo", progress=False) as model:
        with one_step(net, model, "It was", **asked):
            pieces = model.stream("It was", ignore_eos=True, **asked)
            dropped = next(one.id for one in net.jobs if one.live)
            del pieces
            until(lambda: not _found(net, dropped).live, "the end of what nobody reads", deadline_s=30)
        assert _found(net, dropped).state == "cancelled"
        with one_step(net, model, "It was", **asked):
            closed: Any = model.stream("It was", ignore_eos=True, **asked)
            next(closed)
            closed.close()
            with pytest.raises(Cancelled):
                list(closed)


def _found(net: rios.Network, job_id: str) -> JobView:
    return next(one for one in net.jobs if one.id == job_id)
