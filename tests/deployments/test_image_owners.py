"""Whose an image is: what one organisation had fetched to a host is not another's for knowing its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rios.deploy.runtimes.protocol import ImageBase
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.deployments.platform import Platform
from rios.services.deployments.service import Deployments
from rios.services.purse import Purse
from rios.words.config import settings
from rios.words.errors import NotFound, RiosError, SandboxFailed
from tests.deployments.simulated_hosts import SimulatedHost, SimulatedHosts
from tests.waiting import until

NAME, OTHER_NAME = "registry.example.org/lab/private:1", "registry.example.org/lab/private:2"
HELD = ImageBase("sha256:" + "1" * 64, "registry.example.org/lab/private@sha256:" + "2" * 64)
WAIT_S = 30.0


class WithImage(SimulatedHost):
    """A host that has an image; its registry gives that, or does not."""

    gives = True
    refuses: type[RiosError] = NotFound

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> bool:
        return image is None

    def prepare(  # type: ignore[override]  # the other ones have no images
        self, specification: Mapping[str, Any], image: ImageBase | None = None, *, here: bool = True
    ) -> ImageBase:
        if image is None and not here and not self.gives:
            raise self.refuses(f"the image {specification['image']} cannot be pulled: denied")
        return HELD


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[WithImage, Platform]]:
    with Purse(settings().model_copy(update={"home": tmp_path / "home"}), background=False) as purse:
        owner, one = purse.books.address, WithImage("one")
        found = Platform(purse.charging, lambda _: SimulatedHosts([one]), lambda _name: owner, home=tmp_path)
        yield one, found
        found.close()


@pytest.mark.parametrize("refuses", [NotFound, SandboxFailed])  # the second: for want of room
def test_an_organisation_runs_what_its_registry_gave_to_it(
    host: tuple[WithImage, Platform], refuses: type[RiosError]
) -> None:
    one, platform = host
    one.refuses = refuses
    first, mine, others = (
        Deployments(lambda: platform, user_id=LOCAL_USER, organisation_id=name)
        for name in (FIRST_ORGANISATION, "mine", "others")
    )
    fields: dict[str, Any] = {"command": ["serve"], "resources": {"cpu": 1, "memory": "64MiB"}, "restart": "never"}
    mine.create(name="at-first", image=NAME, **fields).wait(timeout=WAIT_S)
    one.gives = False
    for name in (NAME, HELD.digest, HELD.source):
        refused = others.create(name="stranger", image=name, **fields)
        until(lambda: "denied" in refused.reason, "nobody gives it to them", deadline_s=WAIT_S)  # noqa: B023
        assert refused.revisions[0]["image"] in (None, "")
        refused.delete(timeout=WAIT_S)
    for index, name in enumerate((NAME, HELD.digest, HELD.source)):
        mine.create(name=f"again-{index}", image=name, **fields).wait(timeout=WAIT_S)
    first.create(name="own", image=OTHER_NAME, **fields).wait(timeout=WAIT_S)
    refused = mine.create(name="never-had", image=OTHER_NAME, **fields)
    until(lambda: "denied" in refused.reason, "a name that never led anywhere", deadline_s=WAIT_S)
