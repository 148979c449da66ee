"""One stage for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deployments.stage import Stage


@pytest.fixture(scope="package")
def stage() -> Iterator[Stage]:
    with Stage() as found:
        yield found
        assert not found.instances() or found.deploy.list(), "what was deleted has left something"
