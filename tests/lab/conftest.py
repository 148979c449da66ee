"""One Jupyter Server for all tests of the panels, a browser for each module; a front end that is stale is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.browser import chromium
from tests.lab.jupyter import Jupyter, jupyter


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium. Not longer than a module: while Playwright runs, this thread has a running event loop."""
    with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A Jupyter Server of its own."""
    with jupyter(tmp_path_factory.mktemp("jupyter")) as one:
        yield one
