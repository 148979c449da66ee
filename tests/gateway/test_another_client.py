"""A second OpenAI-compatible client, with HTTP of its own: huggingface_hub's, plain and asynchronous."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, InferenceTimeoutError

from tests.gateway.servers import Door
from tests.gateway.test_openai import MESSAGES, agrees

ASKED: Any = {"model": "demo", "max_tokens": 16, "temperature": 0}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests ask no hub for anything, and this client holds any address for one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def client(network: Door) -> InferenceClient:
    return InferenceClient(base_url=f"{network.url}/v1", api_key=network.token, timeout=60)


def test_a_streamed_answer_is_the_whole_one(client: InferenceClient, network: Door) -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **ASKED)
    text, usage, last, reason = "", None, "", None
    for chunk in client.chat.completions.create(
        messages=MESSAGES, **ASKED, stream=True, stream_options={"include_usage": True}
    ):
        last = chunk.id
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content != ""
    assert reason == whole.choices[0].finish_reason == "length"
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens == 16
    agrees(network, whole.id, whole.usage)
    agrees(network, last, usage)


def test_an_answer_is_sent_back_as_it_came(client: InferenceClient) -> None:
    said = client.chat_completion(messages=MESSAGES, **ASKED).choices[0].message
    again: Any = {"role": "user", "content": "And then?"}
    plain = client.chat_completion(messages=[*MESSAGES, {"role": "assistant", "content": said.content}, again], **ASKED)
    back: Any = [*MESSAGES, said, again]
    assert client.chat_completion(messages=back, **ASKED).choices[0].message == plain.choices[0].message


def test_parameters_arrive(client: InferenceClient) -> None:
    sampled = {"messages": MESSAGES, "model": "demo", "max_tokens": 12, "temperature": 1.0, "top_p": 0.9, "seed": 5}
    first, again = (client.chat_completion(**sampled).choices[0].message.content for _ in range(2))
    assert first == again
    assert client.chat_completion(**{**sampled, "seed": 6}).choices[0].message.content != first
    one = client.chat_completion(messages=MESSAGES, **ASKED, logprobs=True, top_logprobs=2, n=1).choices[0]
    assert len(one.logprobs.content) == 16
    assert all(len(token.top_logprobs) == 2 for token in one.logprobs.content)
    free = client.chat_completion(messages=MESSAGES, **ASKED).choices[0].message.content
    stop = free[5:9]
    cut = client.chat_completion(messages=MESSAGES, **ASKED, stop=[stop]).choices[0]
    assert cut.message.content == free[: free.index(stop)]


def test_asynchronous_clients_are_served_together(client: InferenceClient, network: Door) -> None:
    alone = client.chat_completion(messages=MESSAGES, **ASKED).choices[0].message.content

    async def ask() -> list[str]:
        async with AsyncInferenceClient(base_url=f"{network.url}/v1", api_key=network.token, timeout=60) as together:

            async def streamed() -> str:
                chunks = await together.chat_completion(messages=MESSAGES, **ASKED, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

            async def whole() -> str:
                found = await together.chat_completion(messages=MESSAGES, **ASKED)
                return found.choices[0].message.content or ""

            return list(await asyncio.gather(*(act() for act in (streamed, whole) for _ in range(3))))

    assert asyncio.run(ask()) == [alone] * 6


def test_errors_are_understood(client: InferenceClient, network: Door) -> None:
    stranger = InferenceClient(base_url=f"{network.url}/v1", api_key="rios_sk_nonsense", timeout=60)
    for stream in (False, True):
        with pytest.raises(HfHubHTTPError) as refused:
            stranger.chat_completion(messages=MESSAGES, **ASKED, stream=stream)
        assert refused.value.response.status_code == 401
        with pytest.raises(HfHubHTTPError) as missing:
            client.chat_completion(messages=MESSAGES, model="none", max_tokens=1, stream=stream)
        assert missing.value.response.status_code == 404
        with pytest.raises(BadRequestError, match="max_tokens"):
            client.chat_completion(messages=MESSAGES, model="demo", max_tokens=0, stream=stream)
        with pytest.raises(BadRequestError, match="frequency_penalty"):
            client.chat_completion(messages=MESSAGES, **ASKED, frequency_penalty=0.5, stream=stream)
    impatient = InferenceClient(base_url=f"{network.url}/v1", api_key=network.token, timeout=0.05)
    with pytest.raises(InferenceTimeoutError):
        impatient.chat_completion(messages=MESSAGES, model="demo", max_tokens=400, temperature=0)
