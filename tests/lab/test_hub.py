"""Two users of a real JupyterHub, behind its proxy and under its prefix: each sees its own money and jobs, live."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import websocket
from playwright.sync_api import Page, expect

from tests.lab.browser import (
    ACT_MS,
    LOAD_MS,
    command,
    execute,
    hear,
    kept,
    notebook,
    ready,
    run_all,
    said,
    shot,
)
from tests.lab.hub import PREFIX, Home, Hub, hub
from tests.lab.sidebar import closed, deed, line, row_of, wallet_of

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("npm")]

TOKENS = {"alice": 5, "bob": 9}
MADE = """
import json, pathlib, rios
net = rios.local(workers=1, threads=1)
model = net.dmoe.deploy("demo", progress=False)
def write(name, **said):
    part = pathlib.Path(name + ".part")
    part.write_text(json.dumps(said))
    part.rename(name)
answer = model.generate("It was a fine morning,", max_new_tokens={tokens})
write("first.json", id=answer.request_id, wei=str(sum(net.billing.usage().amount_wei)),
      available=str(net.wallet.available), address=net.wallet.address)
"""


@dataclass
class User:
    """Who signed in: the page, all that came to it, and what the user's notebook said of its first generation."""

    name: str
    page: Page
    home: Home
    heard: list[str] = field(default_factory=list)
    first: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def network_id(self) -> str:
        """The id of the network that the panel looked at when it was asked for first."""
        found = wallet_of(self.page).locator("[data-network]").get_attribute("data-network")
        assert found
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub of two users."""
    with hub(tmp_path_factory.mktemp("hub"), *TOKENS) as one:
        yield one


@pytest.fixture(scope="module")
def users(browser: Any, lab: Hub) -> Iterator[dict[str, User]]:
    """Both, signed in, each with a notebook that made a network; side by side, for a server takes its time to start."""
    found = {}
    for name, home in lab.homes.items():
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(ACT_MS)
        found[name] = User(name, page, home)
        hear(page, found[name].heard)
        lab.sign_in(page, name)
    for user in found.values():
        user.page.wait_for_url(f"{lab.url}user/{user.name}/lab**", timeout=LOAD_MS)
        ready(user.page)
        command(user.page, "rios:jobs")
        run_all(user.page, notebook(user.home, "own.ipynb", MADE.format(tokens=TOKENS[user.name])))
    for user in found.values():
        user.first = said(user.home, "first.json")
    yield found
    for user in found.values():
        user.page.context.close()


def test_each_sees_its_own_money_and_jobs_and_nothing_of_the_others(users: dict[str, User]) -> None:
    for name, user in users.items():
        row = row_of(user.page, user.first["id"])
        expect(row).to_contain_text(f"{TOKENS[name]}/{TOKENS[name]} tokens", timeout=LOAD_MS)
        expect(row.locator(".rios-cost [data-wei]")).to_have_attribute("data-wei", user.first["wei"])
        expect(line(user.page, "Available")).to_have_attribute("data-wei", user.first["available"])
        expect(line(user.page, "Today")).to_have_attribute("data-wei", user.first["wei"])
        expect(user.page.get_by_label("Network", exact=True).locator("option")).to_have_text(
            re.compile(r"^own\.ipynb · ")
        )
        expect(user.page.locator(".rios-count")).to_have_text("2 of 2 jobs")  # its generation, and its model
        shot(user.page, f"hub-{name}")
    alice, bob = users["alice"], users["bob"]
    for one, other in ((alice, bob), (bob, alice)):
        expect(wallet_of(one.page).get_by_title(one.first["address"])).to_be_visible()
        secrets = (other.first["address"], other.first["id"], other.network_id)
        assert not [text for text in one.heard if any(secret in text for secret in secrets)]


def test_what_happens_arrives_through_the_proxy_and_with_its_own_user_only(users: dict[str, User]) -> None:
    alice, bob = users["alice"], users["bob"]
    execute(alice.page, "more = model.generate('And', max_new_tokens=3); write('more.json', id=more.request_id)")
    row = row_of(alice.page, said(alice.home, "more.json")["id"])
    expect(row).to_contain_text("3/3 tokens")
    expect(row.locator(".rios-cost [data-wei]")).to_have_attribute("data-wei", re.compile(r"^[1-9]\d+$"))
    command(alice.page, "rios:deposit")
    closed(deed(alice.page, "Deposit", "2.000000000000000001"))
    expect(line(alice.page, "Deposited")).to_have_attribute("data-wei", "2000000000000000001")
    expect(line(bob.page, "Deposited")).to_have_attribute("data-wei", "0")
    expect(bob.page.locator(".rios-count")).to_have_text("2 of 2 jobs")
    for user in users.values():
        frames = [text for text in user.heard if text.startswith("ws://") and "/rios/stream" in text.split(" ", 1)[0]]
        assert frames
        assert all(f"{PREFIX}user/{user.name}/rios/stream" in text.split(" ", 1)[0] for text in frames)


def test_nobody_reaches_the_others_server(lab: Hub, users: dict[str, User]) -> None:
    for user in users.values():
        for other in users.values():
            root = f"{lab.url}user/{other.name}/rios/networks"
            answer = user.page.context.request.get(f"{root}/{other.network_id}/state")
            assert answer.status == (200 if user is other else 403), answer.text()
            other_s = user.page.context.request.get(f"{lab.url}user/{user.name}/rios/networks/{other.network_id}/state")
            assert other_s.status == (200 if user is other else 404), other_s.text()


def test_a_reload_restores(users: dict[str, User]) -> None:
    page, first = users["alice"].page, users["alice"].first
    page.get_by_label("Order").select_option("tokens")
    kept(page, '"sort":"tokens"')
    page.reload(timeout=LOAD_MS)
    ready(page)
    expect(page.get_by_label("Order")).to_have_value("tokens", timeout=LOAD_MS)
    expect(row_of(page, first["id"])).to_be_visible(timeout=LOAD_MS)
    expect(line(page, "Deposited")).to_have_attribute("data-wei", "2000000000000000001")


# What a page can do with a token, as a program in it would: the status of each answer, or of none.
ASK = """async ([paths, token]) => Promise.all(paths.map(async path => {
    const headers = token ? {Authorization: `token ${token}`} : {};
    const answer = await fetch(path, {headers, redirect: 'manual'});
    return answer.status;
}))"""


def _shows_nothing(page: Page, user: User) -> None:
    """Who looks is told that he is signed out, and of the user there is nothing in the sidebar."""
    expect(page.locator(".rios-forbidden")).to_contain_text("Signed out", timeout=LOAD_MS)
    expect(page.locator(".rios-forbidden")).to_contain_text("Sign in again")
    expect(page.locator(".rios-sidebar [data-wei]")).to_have_count(0)
    expect(page.locator(".rios-sidebar .rios-button")).to_have_count(0)
    shown = page.locator(".rios-sidebar").inner_html()
    of_him = (user.first["address"], user.first["id"][:8], user.network_id, "own.ipynb")
    assert not [one for one in of_him if one in shown]


def _ask(page: Page, paths: list[str], token: str = "") -> list[int]:
    found: list[int] = page.evaluate(ASK, [paths, token])
    return found


def test_who_signs_out_leaves_nothing_to_the_next_one_in_the_same_browser(lab: Hub, users: dict[str, User]) -> None:
    alice, bob = users["alice"], users["bob"]
    page, user = alice.page, f"{PREFIX}user/alice"
    paths = [f"{user}/api/me", f"{user}/rios/networks", f"{user}/rios/networks/{alice.network_id}/state"]
    token = page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').textContent).token")
    assert token, "the page has the token that it asks with"
    assert _ask(page, [*paths, f"{PREFIX}hub/api/user"], token) == [200] * 4
    cookies = "; ".join(f"{one['name']}={one['value']}" for one in page.context.cookies(f"{lab.url}user/alice/"))
    stream = f"{lab.url.replace('http', 'ws', 1)}user/alice/rios/stream"
    other = page.context.new_page()
    told = websocket.create_connection(stream, timeout=LOAD_MS / 1000, cookie=cookies, origin=lab.origin)
    with contextlib.ExitStack() as ends:  # of the same sign-in, and with nobody who would close it
        ends.callback(told.shutdown)
        assert alice.network_id in told.recv()
        lab.sign_out(other)
        page.bring_to_front()
        _shows_nothing(page, alice)
        shot(page, "hub-signed-out")
        assert not set(_ask(page, [*paths, f"{PREFIX}hub/api/user"], token)) & {200}
        assert not set(_ask(page, paths)) & {200}
        while told.recv_data()[0] != websocket.ABNF.OPCODE_CLOSE:
            pass  # what it was told before

    heard: list[str] = []
    hear(other, heard)
    lab.sign_in(other, "bob")
    other.wait_for_url(f"{lab.url}user/bob/lab**", timeout=LOAD_MS)
    ready(other)
    command(other, "rios:jobs")
    expect(row_of(other, bob.first["id"])).to_be_visible(timeout=LOAD_MS)
    secrets = (alice.first["address"], alice.first["id"], alice.network_id)
    assert not [text for text in (*heard, other.content()) if any(secret in text for secret in secrets)]
    page.bring_to_front()
    _shows_nothing(page, alice)
    assert not set(_ask(page, [*paths, f"{PREFIX}hub/api/user"], token)) & {200}
    other.close()


def test_a_server_that_the_hub_has_stopped_leaves_its_figures_with_their_age(lab: Hub, users: dict[str, User]) -> None:
    page, first = users["bob"].page, users["bob"].first
    home = page.context.new_page()
    home.goto(f"{lab.url}hub/home", timeout=LOAD_MS)
    home.get_by_role("button", name="Stop My Server").click()
    expect(home.get_by_role("button", name="Start My Server")).to_be_visible(timeout=LOAD_MS)
    expect(page.locator(".rios-stale")).to_contain_text(re.compile(r"These figures are \d+ (s|min) old"))
    expect(line(page, "Available")).to_have_attribute("data-wei", first["available"])
    expect(wallet_of(page).get_by_role("button", name="Deposit")).to_be_disabled()

    lab.sign_out(home)
    page.bring_to_front()
    _shows_nothing(page, users["bob"])
