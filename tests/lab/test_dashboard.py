"""The gateway's dashboard in a real browser, and what of the gateway's jobs a user sees there and in `net.jobs`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, expect

import rios
from rios.client.remote import RemoteNetwork
from rios.services.gate import Gate
from rios.words.errors import NotFound
from tests.gateway.browsing import PASSWORD, Person, close_all, person
from tests.gateway.servers import UNLIMITED, Door, deploy, serving
from tests.lab.browser import ACT_MS, LOAD_MS, shot, violations
from tests.waiting import until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("npm")]


@dataclass(frozen=True)
class User:
    """Who signs in by the browser, and has the network in a notebook too."""

    person: Person
    net: RemoteNetwork


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A network with one worker, its gateway in this process, and the demo model on it."""
    with rios.local(workers=1, threads=1, home=tmp_path_factory.mktemp("network") / "home") as behind:
        gate = Gate.open(behind)
        with serving(gate, UNLIMITED) as url:
            found = Door(url, gate.accounts.first_token(), gate=gate, network=behind)
            deploy(found)
            yield found
        gate.close()
    close_all()


def _user(door: Door) -> User:
    one = person(door)
    with door.client() as admin:
        given = admin.post(
            f"/v1/users/{one.id}/credit", json={"amount": "5 ROS"}, headers={"Idempotency-Key": one.login}
        )
    assert given.is_success, given.text
    net = rios.connect(door.url, token=one.token)
    assert isinstance(net, RemoteNetwork)
    return User(one, net)


@pytest.fixture(scope="module")
def ann(door: Door) -> Iterator[User]:
    """A developer with credit."""
    found = _user(door)
    yield found
    found.net.close()


@pytest.fixture(scope="module")
def bob(door: Door) -> Iterator[User]:
    """Another one."""
    found = _user(door)
    yield found
    found.net.close()


def _signed_in(context: Any, door: Door, who: User) -> Page:
    """A tab of this browser with the dashboard, after `who` has signed in in it."""
    page: Page = context.new_page()
    page.set_default_timeout(ACT_MS)
    page.goto(f"{door.url}/login?next=%2Fdashboard", timeout=LOAD_MS)
    page.get_by_label("Login").fill(who.person.login)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").first.click()
    page.wait_for_url("**/dashboard")
    return page


@pytest.fixture(scope="module")
def page(browser: Any, door: Door, ann: User) -> Iterator[Page]:
    """The dashboard, after signing in."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield _signed_in(context, door, ann)
    context.close()


def test_a_users_jobs_are_its_own(ann: User, bob: User) -> None:
    answer = ann.net.models[0].generate("It was a fine morning,", max_new_tokens=6)
    view = ann.net.jobs[answer.request_id]
    until(lambda: ann.net.jobs[view.id].posted, "the price", deadline_s=30)
    view = ann.net.jobs[view.id]
    assert (view.state, view.tokens) == ("done", 6)
    assert view.cost_wei == sum(ann.net.billing.usage(request_id=view.id).amount_wei)
    assert ann.net.jobs.text(view.id)[0] == "It was a fine morning,"
    assert view.id not in [one.id for one in bob.net.jobs]
    with pytest.raises(NotFound) as theirs:
        bob.net.jobs.text(view.id)
    with pytest.raises(NotFound) as nobodys:
        bob.net.jobs.text("0" * 32)
    assert str(theirs.value).replace(view.id, "") == str(nobodys.value).replace("0" * 32, ""), "nobody learns which"
    version, _ = ann.net.jobs.changed(0, 0.0)
    again = ann.net.jobs.retry(view.id)
    changed = until(lambda: ann.net.jobs.changed(version, 5.0)[1], "the retried job", deadline_s=30)
    assert [one.id for one in changed] == [again]


def test_the_dashboard_shows_what_is_the_users(page: Page, ann: User, bob: User) -> None:
    own = ann.net.models[0].generate("And it came to pass", max_new_tokens=5)
    bob.net.models[0].generate("And it came to pass", max_new_tokens=5)
    row = page.get_by_role("listbox", name="Jobs").get_by_role("option").filter(has_text=own.request_id[:8])
    expect(row).to_contain_text("5/5 tokens")
    expect(row.locator(".rios-owner")).to_have_text(ann.person.login)
    expect(row.locator(".rios-owner")).to_have_attribute("title", ann.person.id)
    wei = str(sum(ann.net.billing.usage(request_id=own.request_id).amount_wei))
    expect(row.locator("[data-wei]")).to_have_attribute("data-wei", wei)
    rows = page.get_by_role("listbox", name="Jobs").get_by_role("option").count()
    assert rows == len(ann.net.jobs) + len(ann.net.deploy.list()), "generations, and the models of the organisation"
    available = page.locator(".rios-line").filter(has=page.get_by_text("Available", exact=True)).locator("[data-wei]")
    expect(available).to_have_attribute("data-wei", str(ann.net.wallet.available))
    page.get_by_role("button", name="Deposit").click()
    dialog = page.get_by_role("dialog", name="Deposit")
    dialog.get_by_label("Amount in ROS").fill("1")
    dialog.get_by_role("button", name="What will happen").click()
    expect(dialog.get_by_role("alert")).to_contain_text("more than the wallet has")
    page.keyboard.press("Escape")
    expect(page.locator(".rios-wallet")).to_contain_text("Nothing: a worker earns for an address on the chain")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_for_axe_to_find(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    assert not violations(page, "#dashboard")
    shot(page, f"dashboard-{scheme}")


def test_other_pages_cannot_act_and_who_signs_out_is_out(page: Page, door: Door, ann: User) -> None:
    cookies = {one["name"]: one["value"] for one in page.context.cookies()}
    with httpx2.Client(base_url=door.url, cookies=cookies) as client:
        assert client.get("/dashboard/panel/state").status_code == 200
        assert client.get("/dashboard/panel/state", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 401
        assert client.post("/dashboard/panel/plan", json={"action": "settle"}).status_code == 403
    assert httpx2.get(f"{door.url}/dashboard/panel/state").status_code == 401
    assert httpx2.get(f"{door.url}/dashboard").headers["location"] == "/login?next=%2Fdashboard"
    page.context.clear_cookies()
    page.get_by_role("listbox", name="Jobs").get_by_role("option").first.click()
    expect(page.get_by_role("alert").first).to_contain_text("Signed out", timeout=LOAD_MS)
    expect(page.locator("[data-wei], [role=option]")).to_have_count(0)


def test_a_tab_left_open_forgets_whose_it_was_when_another_signs_in(
    browser: Any, door: Door, ann: User, bob: User
) -> None:
    hers, his = (one.net.models[0].generate("And it was so", max_new_tokens=2).request_id for one in (ann, bob))
    context = browser.new_context()
    page = _signed_in(context, door, ann)
    rows = page.get_by_role("listbox", name="Jobs").get_by_role("option")
    expect(rows.filter(has_text=hers[:8])).to_be_visible()
    held: list[Any] = []
    free: list[bool] = []
    # Its whole answer would replace what was not forgotten.
    page.route("**/dashboard/panel/state", lambda route: route.continue_() if free else held.append(route))
    _signed_in(context, door, bob)
    expect(rows.filter(has_text=hers[:8])).to_have_count(0, timeout=LOAD_MS)
    expect(page.locator("#dashboard")).not_to_contain_text(ann.person.login)
    free.append(True)
    for one in held:
        one.continue_()
    expect(rows.filter(has_text=his[:8])).to_be_visible()
    expect(page.locator("#dashboard")).to_contain_text(f"Account of {bob.person.login}")
    context.close()
