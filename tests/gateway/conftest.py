"""One gateway without workers for the tests of a module, and one with them for all that generate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import rios
from rios.services.gate import Gate
from tests.gateway.browsing import close_all
from tests.gateway.load import end_all
from tests.gateway.servers import UNLIMITED, Door, deploy, lean, serving


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway in this process, without workers and limits."""
    with lean(tmp_path_factory.mktemp("lean") / "home") as found:
        yield found


@pytest.fixture(scope="package")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A network with one worker, its gateway in this process, and the demo model on it."""
    with rios.local(workers=1, threads=1, home=tmp_path_factory.mktemp("network") / "home") as behind:
        gate = Gate.open(behind)
        with serving(gate, UNLIMITED) as url:
            found = Door(url, gate.accounts.first_token(), gate=gate, network=behind)
            deploy(found)
            yield found
        gate.close()


@pytest.fixture(autouse=True)
def _browsers() -> Iterator[None]:
    """Whoever opens one in a test need not close it."""
    yield
    close_all()


@pytest.fixture(autouse=True)
def _loads() -> Iterator[None]:
    """Nor those who ask, when it fails."""
    yield
    end_all()
