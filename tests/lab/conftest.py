"""One Jupyter Server and one browser for all tests of the panels; the front end is built where it is not current."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.browser import chromium
from tests.lab.jupyter import Jupyter, jupyter


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium."""
    with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A Jupyter Server of its own."""
    with jupyter(tmp_path_factory.mktemp("jupyter")) as one:
        yield one
