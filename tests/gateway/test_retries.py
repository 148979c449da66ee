"""OpenAI's client asks again by itself: after a 429 when it was told to, and after a connection that was lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from rios.gateway.settings import GatewaySettings
from tests.client.test_remote import cutting
from tests.gateway.servers import Door, lean

FEW = GatewaySettings(burst=2, rate_per_s=2)


def test_it_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    with lean(tmp_path / "home", FEW) as door:
        with OpenAI(base_url=f"{door.url}/v1", api_key=door.token, max_retries=5) as client:
            assert [client.models.list().data for _ in range(5)] == [[]] * 5
            hasty = client.with_options(max_retries=0)
            with pytest.raises(openai.RateLimitError) as refused:
                [hasty.models.list() for _ in range(200)]  # two a second may be had, and each takes its time
            assert int(refused.value.response.headers["retry-after"]) >= 1

        async def ask() -> list[int]:
            async with AsyncOpenAI(base_url=f"{door.url}/v1", api_key=door.token, max_retries=5) as client:
                return [len((await client.models.list()).data) for _ in range(4)]

        assert asyncio.run(ask()) == [0] * 4


def test_it_comes_back_after_a_lost_connection(door: Door) -> None:
    with cutting(door.url) as proxy, OpenAI(base_url=f"{proxy.url}/v1", api_key=door.token, max_retries=2) as client:
        client.models.list()
        proxy.after_bytes = 20
        assert client.models.list().data == []
        assert proxy.after_bytes is None, "it was cut"
        proxy.after_bytes = 20
        with pytest.raises(openai.APIConnectionError):
            client.with_options(max_retries=0).models.list()


def test_what_is_wrong_is_not_asked_again(door: Door) -> None:
    """Else each refusal would take three requests of the bucket."""
    with OpenAI(base_url=f"{door.url}/v1", api_key=door.token, max_retries=2) as client:
        metrics = f"{door.url}/metrics"

        def refusals() -> float:
            text = client._client.get(metrics).text
            lines = [line for line in text.splitlines() if 'route="/v1/completions"' in line and "_total" in line]
            return sum(float(line.rpartition(" ")[2]) for line in lines)

        before = refusals()
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="none", prompt="x")
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="none", prompt="x", n=1000)
        assert refusals() - before == 2
