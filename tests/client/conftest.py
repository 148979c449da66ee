"""One network with its gateway in this process, and all ways to use it: in the process, by HTTP, and by TLS."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rios
from rios.gateway.certs import init
from rios.services.gate import Gate
from tests.gateway.servers import UNLIMITED, serving


@dataclass
class Both:
    """A network, its gateway, and the first admin there."""

    local: Any
    gate: Gate
    url: str
    token: str
    models: Path
    """The gateway's directory of models; what is deployed from there, here by its path, there by its name."""

    def connect(self, token: str | None = None) -> Any:
        return rios.connect(self.url, token=self.token if token is None else token)


@pytest.fixture(scope="package")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    home = tmp_path_factory.mktemp("client") / "home"
    models = tmp_path_factory.mktemp("models")
    dense = models / "dense"
    dense.mkdir()
    (dense / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    (models / "empty").mkdir()
    apps = Path(tempfile.mkdtemp(prefix="rios-apps-"))  # where sandboxes' own users may pass through
    apps.chmod(0o711)
    with rios.local(workers=1, threads=1, home=home, apps=apps) as network:
        gate = Gate.open(network, models=models)
        with serving(gate, UNLIMITED) as url:
            yield Both(network, gate, url, gate.accounts.first_token(), models)
        gate.close()
    shutil.rmtree(apps)


@pytest.fixture(scope="package", params=["local", "http", "tls"])
def network(request: pytest.FixtureRequest, both: Both, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The network in this process, then through its gateway, in plain and by TLS: what holds for one holds for all."""
    if request.param == "local":
        yield both.local
    elif request.param == "http":
        with both.connect() as found:
            yield found
    else:
        files = init(tmp_path_factory.mktemp("tls"))
        with (
            serving(both.gate, UNLIMITED, files) as url,
            rios.connect(url, token=both.token, ca=files.ca) as found,
        ):
            assert url.startswith("https://")
            yield found


@pytest.fixture(scope="package")
def model(network: Any) -> Any:
    """The demo model, in float32 so that its answers do not depend on who is in the same batch."""
    return network.dmoe.deploy("demo", dtype="float32", progress=False)
