"""`rios gateway`: what it takes of TLS is what `rios up` takes. That it joins a network is shown in `test_failover`."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rios.gateway import join
from tests.client.test_commands import call
from tests.gateway.servers import Door, lean
from tests.gateway.services import free_port

COMMAND = ("gateway", "--scheduler", "tcp://127.0.0.1:9", "--port", "0")


@pytest.fixture
def behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """The network that it finds at the scheduler, whatever that is."""
    with lean(tmp_path / "network") as found:
        monkeypatch.setattr(join, "connect", lambda *_, **__: contextlib.nullcontext(found.gate.network))
        yield found


def test_it_has_tls_of_its_home_and_sends_plain_http_there(
    behind: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = f"http://127.0.0.1:{free_port()}"
    answers: list[httpx2.Response] = []
    listens = threading.Event()
    real = join.server_of

    def server_of(gate: Any, settings: Any, *, ready: Any, **more: Any) -> Any:
        return real(gate, settings, ready=lambda: (ready(), listens.set()), **more)

    def asked_once(server: Any, place: Any) -> None:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            assert listens.wait(60)
            trusts = ssl.create_default_context(cafile=tmp_path / "home" / "certs" / "ca.pem")
            with httpx2.Client(verify=trusts, follow_redirects=True, timeout=30) as http:
                answers.append(http.get(f"{plain}/v1/roles"))
        finally:
            server.should_exit = True
            thread.join(30)

    monkeypatch.setattr(join, "server_of", server_of)
    monkeypatch.setattr(join, "serve", asked_once)
    said = call(*COMMAND, "--tls", "--redirect", plain.rpartition(":")[2], home=tmp_path / "home")
    (answer,) = answers
    assert answer.status_code == 200
    assert [one.status_code for one in answer.history] == [308]
    assert str(answer.url).startswith("https://127.0.0.1:")
    assert f"rios is at {str(answer.url).removesuffix('/v1/roles')}\n" in said


def test_a_redirect_needs_tls(tmp_path: Path) -> None:
    assert "--tls or --certificate" in call(*COMMAND, "--redirect", "0", home=tmp_path, code=1)
    assert "go together" in call(*COMMAND, "--certificate", "x.pem", home=tmp_path, code=1)
