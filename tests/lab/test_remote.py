"""A gateway's network in Lab: its token stays on the server, and the panel says when it ends."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from rios.gateway.certs import Certificates, init
from tests.gateway.browsing import Person, close_all, person
from tests.gateway.servers import Door, lean
from tests.lab.browser import LOAD_MS, command, open_lab, shot, violations
from tests.lab.jupyter import Jupyter
from tests.lab.sidebar import line

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("npm")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority that no machine knows, and what it has certified."""
    return init(tmp_path_factory.mktemp("tls") / "home", names=("localhost",))


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway without workers."""
    with lean(tmp_path_factory.mktemp("gateway") / "home") as found:
        yield found
    close_all()


@pytest.fixture(scope="module")
def ann(door: Door) -> Person:
    """A developer of it, with credit."""
    found = person(door)
    with door.client() as admin:
        credit = {"amount": "3 ROS"}
        answer = admin.post(f"/v1/users/{found.id}/credit", json=credit, headers={"Idempotency-Key": found.login})
    assert answer.is_success, answer.text
    return found


@pytest.fixture(scope="module")
def heard() -> list[str]:
    """All that came to the browser."""
    return []


@pytest.fixture(scope="module")
def page(browser: Any, server: Jupyter, heard: list[str]) -> Iterator[Page]:
    """Lab in a browser."""
    page = open_lab(browser, server, heard=heard)
    command(page, "rios:wallet")
    yield page
    page.context.close()


def connect(page: Page, url: str, token: str, ca: str = "") -> None:
    """As a user does it."""
    command(page, "rios:connect")
    dialog = page.get_by_role("dialog", name="Connect to a network")
    dialog.get_by_label("Address of its gateway").fill(url)
    dialog.get_by_label(re.compile("^Token;")).fill(token)
    dialog.get_by_label(re.compile("^Certificate of its CA")).fill(ca)
    dialog.get_by_role("button", name="Connect").click()


def network_of(page: Page, url: str) -> Any:
    """Its entry in the list of networks."""
    return page.get_by_label("Network", exact=True).locator("option").filter(has_text=url)


def end(page: Page) -> None:
    """End the network that is looked at."""
    page.get_by_role("button", name="End", exact=True).click()


def test_a_network_by_url_shows_and_its_token_stays_on_the_server(
    page: Page, server: Jupyter, door: Door, ann: Person, heard: list[str]
) -> None:
    connect(page, door.url, ann.token)
    expect(network_of(page, door.url)).to_have_count(1, timeout=LOAD_MS)
    expect(line(page, "Available")).to_have_attribute("data-wei", str(3 * 10**18), timeout=LOAD_MS)
    kept = page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie")
    for place, text in (("page", page.content()), ("stores", kept), ("log", server.log.read_text())):
        assert ann.token not in text, place
    for part in ("/rios/stream", "/rios/networks", "/state"):
        assert [one for one in heard if part in one.split(" ", 1)[0]], f"nothing of {part} was seen"
    assert not [one for one in heard if ann.token in one]
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            assert ann.token.encode() not in one.read_bytes()


def test_a_token_that_ends_is_said_so_and_the_old_figures_stay(page: Page, door: Door, ann: Person) -> None:
    with door.client(ann.token) as own:
        for key in own.get("/v1/tokens").json()["data"]:
            assert own.delete(f"/v1/tokens/{key['id']}").status_code in (204, 401)
    wallet = page.locator(".rios-view-wallet")
    expect(wallet.locator(".rios-forbidden").first).to_contain_text("Stale since", timeout=LOAD_MS)
    expect(line(page, "Available")).to_have_attribute("data-wei", str(3 * 10**18))
    shot(page, "token-over")
    end(page)
    expect(network_of(page, door.url)).to_have_count(0, timeout=LOAD_MS)


@pytest.mark.long
@pytest.mark.parametrize("role", ["viewer", "worker"])
def test_who_may_not_generate_sees_the_panel_too(page: Page, door: Door, role: str) -> None:
    connect(page, door.url, person(door, role).token)
    expect(line(page, "Available")).to_have_attribute("data-wei", "0", timeout=LOAD_MS)
    expect(page.locator(".rios-view-network [role=alert]")).to_have_count(0)
    assert not violations(page, ".rios-view-wallet")
    end(page)
    expect(network_of(page, door.url)).to_have_count(0, timeout=LOAD_MS)


@pytest.mark.long
def test_a_gateway_whose_authority_is_its_own_is_reached_by_the_file_of_that(page: Page, files: Certificates) -> None:
    with lean(files.certificate.parent.parent, certificates=files) as secured:
        connect(page, secured.url, secured.token, str(files.ca))
        expect(line(page, "Available")).to_have_attribute("data-wei", re.compile(r"^\d+$"), timeout=LOAD_MS)
        connect(page, secured.url, secured.token, "/no/such/file")
        expect(page.locator(".rios-picker [role=alert]")).to_contain_text("no certificate", timeout=LOAD_MS)
        end(page)
        expect(network_of(page, secured.url)).to_have_count(0, timeout=LOAD_MS)
