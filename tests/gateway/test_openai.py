"""OpenAI's own client against a gateway: what it asks for is what it gets, and what it used is what it pays."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.gateway.servers import Door
from tests.holding import held_after
from tests.waiting import PATIENCE

PROMPT = "It was a fine morning,"
MESSAGES: Any = [{"role": "system", "content": "A novel."}, {"role": "user", "content": "Tell me of Elizabeth."}]


@pytest.fixture(scope="module")
def client(network: Door) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{network.url}/v1", api_key=network.token, max_retries=0, timeout=60) as found:
        yield found


def billed(network: Door, request_id: str) -> dict[str, int]:
    """Quantities that the ledger has for a request, by resource."""
    with network.client() as client:
        rows = client.get("/v1/usage", params={"request_id": request_id, "limit": 1000}).json()["data"]
    found: dict[str, int] = {}
    for row in rows:
        found[row["resource"]] = found.get(row["resource"], 0) + int(row["quantity"])
    return found


def agrees(network: Door, id: str, usage: Any) -> None:  # noqa: A002
    """What the answer says was used is what the ledger has."""
    found = billed(network, id.partition("-")[2])
    assert (found["tokens_in"], found["tokens_out"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "network"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("none")
    assert caught.value.code == "not_found"


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_streamed_completion_is_the_whole_one(client: OpenAI, network: Door, temperature: float) -> None:
    asked: Any = {"model": "demo", "prompt": PROMPT, "max_tokens": 24, "temperature": temperature, "seed": 7}
    whole = client.completions.create(**asked)
    text, reason, usage, ids = "", None, None, set()
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        ids.add(chunk.id)
        if chunk.choices:
            text += chunk.choices[0].text
            reason = chunk.choices[0].finish_reason or reason
        usage = chunk.usage
    assert text == whole.choices[0].text != ""
    assert reason == whole.choices[0].finish_reason == "length"
    assert usage == whole.usage
    assert len(ids) == 1
    agrees(network, whole.id, whole.usage)
    agrees(network, ids.pop(), usage)


def test_a_streamed_chat_is_the_whole_one(client: OpenAI, network: Door) -> None:
    asked: Any = {"model": "demo", "messages": MESSAGES, "max_completion_tokens": 16, "temperature": 0}
    whole = client.chat.completions.create(**asked, user="somebody")
    text, roles, reason, usage, last = "", [], None, None, ""
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        last = chunk.id
        if chunk.choices:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            roles += [delta.role] if delta.role else []
            reason = chunk.choices[0].finish_reason or reason
        usage = chunk.usage
    assert text == whole.choices[0].message.content != ""
    assert (roles, reason) == (["assistant"], whole.choices[0].finish_reason)
    assert usage == whole.usage
    agrees(network, whole.id, whole.usage)
    agrees(network, last, usage)


def test_choices_and_prompts_are_answered_in_order(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "max_tokens": 8, "temperature": 1, "seed": 3}
    whole = client.completions.create(**asked, prompt=[PROMPT, "In the beginning"], n=2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in whole.choices}) == 4
    again = client.completions.create(**asked, prompt=[PROMPT, "In the beginning"], n=2)
    assert [choice.text for choice in again.choices] == [choice.text for choice in whole.choices]
    texts = ["", "", "", ""]
    for chunk in client.completions.create(**asked, prompt=[PROMPT, "In the beginning"], n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 32


def test_stop_cuts_the_text_wherever_it_is_asked(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    free = client.completions.create(**asked).choices[0].text
    stop = free[9:14]
    expected = free[: free.index(stop)]
    whole = client.completions.create(**asked, stop=[stop, "never there"]).choices[0]
    assert (whole.text, whole.finish_reason) == (expected, "stop")
    streamed = [chunk.choices[0] for chunk in client.completions.create(**asked, stop=stop, stream=True)]
    assert "".join(choice.text for choice in streamed) == expected
    assert streamed[-1].finish_reason == "stop"


def test_token_ids_are_a_prompt(client: OpenAI) -> None:
    found = client.completions.create(model="demo", prompt=[5, 6, 7], max_tokens=4, temperature=0)
    both = client.completions.create(model="demo", prompt=[[5, 6, 7], [8]], max_tokens=4, temperature=0)
    assert found.choices[0].text == both.choices[0].text
    assert found.usage is not None
    assert found.usage.prompt_tokens == 3


def test_log_probabilities(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    found = client.completions.create(**asked, logprobs=3).choices[0]
    assert found.logprobs is not None
    assert found.logprobs.tokens is not None
    assert found.logprobs.text_offset is not None
    assert "".join(found.logprobs.tokens) == found.text
    assert found.logprobs.text_offset == [len("".join(found.logprobs.tokens[:n])) for n in range(6)]
    for token, value, top in zip(
        found.logprobs.tokens, found.logprobs.token_logprobs or [], found.logprobs.top_logprobs or [], strict=True
    ):
        assert len(top) == 3
        assert top[token] == value == max(top.values())  # greedy
    chat: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 5, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**chat, top_logprobs=2).choices[0]
    streamed: list[Any] = []
    for chunk in client.chat.completions.create(**chat, top_logprobs=2, stream=True):
        logprobs = chunk.choices[0].logprobs
        streamed += (logprobs.content or []) if logprobs else []
    assert whole.logprobs is not None
    assert whole.logprobs.content is not None
    assert [one.token for one in streamed] == [one.token for one in whole.logprobs.content]
    assert "".join(bytes(one.bytes or []).decode() for one in whole.logprobs.content) == whole.message.content
    assert all(len(one.top_logprobs) == 2 for one in whole.logprobs.content)
    plain = client.chat.completions.create(**chat).choices[0].logprobs
    assert plain is not None
    assert plain.content is not None
    assert plain.content[0].top_logprobs == []


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 17}, "n"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"logprobs": 6}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "."}, "suffix"),
        ({"extra_body": {"made_up": 1}}, "made_up"),
        ({"extra_body": {"frequency_penalty": False}}, "frequency_penalty"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**({"model": "demo", "prompt": PROMPT} | wrong))
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == "invalid_request"
    assert (caught.value.param or "").startswith(param)
    assert param in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"top_logprobs": 2},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        {"messages": [{"role": "user", "content": "x", "name": "ann"}]},
        {"max_tokens": 3, "max_completion_tokens": 3},
        {"stream_options": {"include_usage": True}},
        {"max_tokens": 10**6},
    ],
    ids=str,
)
def test_chats_that_are_refused(client: OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": "demo", "messages": MESSAGES} | wrong))
    assert caught.value.type == "invalid_request_error"


def test_neutral_values_ask_for_nothing(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
    plain = client.chat.completions.create(**asked)
    same = client.chat.completions.create(
        **asked, frequency_penalty=0, presence_penalty=0.0, logit_bias={}, response_format={"type": "text"}, n=1,
        store=False, stop=None, top_p=1.0,
    )  # fmt: skip
    assert same.choices == plain.choices
    parts: Any = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]
    assert client.chat.completions.create(**(asked | {"messages": parts})).choices == plain.choices


def test_an_answer_is_sent_back_as_it_came(client: OpenAI) -> None:
    messages: list[Any] = list(MESSAGES)
    first = client.chat.completions.create(model="demo", messages=messages, max_tokens=4, temperature=0)
    said = first.choices[0].message
    plain = [*messages, {"role": "assistant", "content": said.content}, {"role": "user", "content": "And then?"}]
    wanted = client.chat.completions.create(model="demo", messages=plain, max_tokens=4, temperature=0)
    for back in (said, said.model_dump()):
        turn: list[Any] = [*messages, back, {"role": "user", "content": "And then?"}]
        again = client.chat.completions.create(model="demo", messages=turn, max_tokens=4, temperature=0)
        assert again.choices == wanted.choices
    calls: Any = {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function"}]}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=[*messages, calls], max_tokens=4)


def test_errors_are_openais(client: OpenAI, network: Door) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="rios_sk_nonsense").models.list()
    assert refused.value.type == "authentication_error"
    assert refused.value.response.headers["www-authenticate"].startswith("Bearer")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="none", prompt="x")
    with network.client() as http:
        user = http.post("/v1/users", json={"login": "poor", "role": "developer"}).json()
        viewer = http.post("/v1/users", json={"login": "looks", "role": "viewer"}).json()
    with pytest.raises(openai.APIStatusError) as poor:
        client.with_options(api_key=user["token"]).completions.create(model="demo", prompt="x")
    assert (poor.value.status_code, poor.value.type) == (402, "insufficient_quota")
    assert "InsufficientBalance".lower() == str(poor.value.code).replace("_", "")
    with pytest.raises(openai.PermissionDeniedError, match="generate"):
        client.with_options(api_key=viewer["token"]).completions.create(model="demo", prompt="x")
    assert poor.value.request_id == poor.value.response.headers["x-request-id"] != ""


def test_each_user_pays_for_its_own(client: OpenAI, network: Door) -> None:
    with network.client() as http:
        user = http.post("/v1/users", json={"login": "pays", "role": "developer"}).json()
        credit = {"Idempotency-Key": "one"}
        for _ in range(2):
            done = http.post(f"/v1/users/{user['id']}/credit", json={"amount": "1 ROS"}, headers=credit)
            assert done.status_code == 204, done.text
        before = http.get("/v1/wallet").json()
    done = client.with_options(api_key=user["token"]).completions.create(model="demo", prompt=PROMPT, max_tokens=3)
    with network.client(user["token"]) as http:
        wallet = http.get("/v1/wallet").json()
        costs = http.get("/v1/costs").json()
        usage = http.get("/v1/usage", params={"request_id": done.id.removeprefix("cmpl-")}).json()["data"]
    spent = 10**18 - int(wallet["available_wei"])
    assert spent == int(costs["total_wei"]) == sum(int(row["amount_wei"]) for row in usage) > 0
    assert wallet["held_wei"] == "0"
    with network.client() as http:
        assert http.get("/v1/wallet").json() == before
        assert http.get("/v1/usage", params={"request_id": done.id.removeprefix("cmpl-")}).json()["data"] == []


def test_async_clients_are_served_together(network: Door) -> None:
    async def ask() -> tuple[list[str], list[str]]:
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key=network.token, timeout=60) as client:

            async def one(number: int) -> str:
                stream = await client.completions.create(
                    model="demo", prompt=PROMPT, max_tokens=12, temperature=1, seed=number, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            together = await asyncio.gather(*(one(number) for number in range(8)))
            alone = [await one(number) for number in range(2)]
            return list(together), alone

    together, alone = asyncio.run(ask())
    assert together[:2] == alone
    assert len(set(together)) == 8


def _cancelled(network: Door, before: int) -> dict[str, Any]:
    """The usage of the request that was cancelled, once it is posted."""
    deadline = time.monotonic() + 30 * PATIENCE
    while time.monotonic() < deadline:
        with network.client() as http:
            rows = http.get("/v1/usage", params={"limit": 1000, "resource": "tokens_out"}).json()["data"]
            wallet = http.get("/v1/wallet").json()
        if len(rows) > before and wallet["held_wei"] == "0":
            found: dict[str, Any] = rows[-1]
            return found
        time.sleep(0.05)
    raise AssertionError("what was cancelled was never posted")


def _count(network: Door) -> int:
    with network.client() as http:
        found = http.get("/v1/usage", params={"limit": 1000, "resource": "tokens_out"}).json()
    assert found["next"] is None
    return len(found["data"])


def test_who_leaves_a_stream_cancels_and_pays_what_came(client: OpenAI, network: Door) -> None:
    before = _count(network)
    with held_after(40) as hold:
        stream = client.completions.create(model="demo", prompt=PROMPT, max_tokens=400, temperature=0, stream=True)
        for read, _ in enumerate(stream, 1):
            hold.tokens = 40 + read  # it goes on while it is read
            if read == 5:
                break
        stream.close()
        assert 5 <= int(_cancelled(network, before)["quantity"]) < 400


def test_who_leaves_before_the_answer_cancels_too(network: Door) -> None:
    before = _count(network)
    asked = {"model": "demo", "prompt": PROMPT, "max_tokens": 450, "temperature": 0}
    with held_after(40):
        with network.client() as http, pytest.raises(httpx2.ReadTimeout):
            http.post("/v1/completions", json=asked, timeout=httpx2.Timeout(60, read=0.3))
        assert int(_cancelled(network, before)["quantity"]) < 450


def test_the_stream_is_as_the_specification_has_it(network: Door) -> None:
    asked = {"model": "demo", "prompt": PROMPT, "max_tokens": 3, "stream": True}
    with network.client() as http, http.stream("POST", "/v1/completions", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in response.headers
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(line[6:]) for line in lines[:-1])
