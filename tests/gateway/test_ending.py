"""A gateway that is told to end does, also before it listens."""

from __future__ import annotations

import gc
import signal
from typing import Any

import pytest
import uvicorn

from rios.gateway import serve


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that nobody asks."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_its_server_hears_them_ends_it(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It came when the handlers of the process were set, and those of uvicorn were not yet."""
    server = uvicorn.Server(uvicorn.Config(_nothing, lifespan="off", log_config=None))
    run, before = server.run, signal.getsignal(number)

    def later(sockets: Any) -> None:
        signal.raise_signal(number)
        run(sockets=sockets)

    monkeypatch.setattr(server, "run", later)
    try:
        with serve.bind("127.0.0.1", 0) as place:
            serve.serve(server, place)
    finally:
        gc.unfreeze()
    assert signal.getsignal(number) == before
