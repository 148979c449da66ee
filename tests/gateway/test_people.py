"""Own accounts: mail through a real mail server, forgotten passwords, export, closing, sign-in through a provider."""

from __future__ import annotations

import email
import email.policy
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import select

from rios.services.accounts import Accounts
from rios.services.alerts import Alert
from rios.services.events import Events
from rios.services.mail import TOPIC, sender_of
from rios.services.openid import Provider
from rios.services.webhooks import Webhooks
from rios.storage.models import AccountRow, OutboxRow, PersonRow
from rios.storage.report_models import ReportScheduleRow
from rios.words.errors import InvalidRequest
from rios.words.money import Wei
from tests.gateway.browsing import PASSWORD, Person, code_for, person, program, unique
from tests.gateway.servers import UNLIMITED, Door, lean, problem
from tests.gateway.services import free_port
from tests.waiting import PATIENCE

NEW = "another long password"
WAIT_S = 20 * PATIENCE


@dataclass
class Post:
    """A mail server, and what it took."""

    port: int = 0
    refuses: bool = False
    taken: list[Any] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.refuses:
            return f"451 no room for {envelope.rcpt_tos[0]}"
        self.taken.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 taken"

    def to(self, address: str) -> Any:
        """The newest mail to an address, once there is one; it is taken away."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            found = [one for one in self.taken if one["To"] == address]
            if found:
                self.taken.remove(found[-1])
                return found[-1]
            time.sleep(0.05)
        raise AssertionError(f"no mail to {address} after {WAIT_S} s")


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    found = Post()
    controller = Controller(found, hostname="127.0.0.1", port=free_port())
    controller.start()
    found.port = controller.port
    yield found
    controller.stop()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Another network's gateway, which is an OpenID provider."""
    with lean(tmp_path_factory.mktemp("provider") / "home") as found:
        yield found


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, post: Post, provider: Door) -> Iterator[Door]:
    port = free_port()
    known = program(provider, "openid", "profile", "email", redirect_uris=[f"http://127.0.0.1:{port}/login/outside"])
    assert known.secret is not None
    settings = UNLIMITED.model_copy(
        update={
            "mail": type(UNLIMITED.mail)(f"smtp://127.0.0.1:{post.port}"), "mail_from": "rios@lab.example",
            "openid_url": provider.url, "openid_client_id": known.id, "openid_name": "the other lab",
            "openid_client_secret": type(UNLIMITED.mail)(known.secret), "openid_role": "viewer",
        }
    )  # fmt: skip
    with lean(tmp_path_factory.mktemp("people") / "home", settings, port=port) as found:
        yield found


def to(address: str) -> dict[str, str]:
    """The change of a profile to another address."""
    return {"email": address, "password": PASSWORD}


def link(message: Any, door: Door) -> str:
    """Where the link of a mail leads, on this gateway."""
    (found,) = re.findall(r"^(http\S+)\s*$", message.get_content(), re.MULTILINE)
    assert str(found).startswith(f"{door.url}/account/")
    return str(found).removeprefix(door.url)


def confirmed(door: Door, post: Post, address: str) -> Person:
    """A user whose address is confirmed, by the link in a mail."""
    ann = person(door)
    with door.client(ann.token) as http:
        said = http.patch("/v1/users/me/profile", json={"affiliation": "The lab", **to(address)}).json()
        assert (said["email"], said["email_confirmed_at"], said["affiliation"]) == (address, None, "The lab")
        message = post.to(address)
        assert (message["From"], message["Auto-Submitted"]) == ("rios@lab.example", "auto-generated")
        page = ann.get(link(message, door))
        assert http.get("/v1/users/me/profile").json()["email_confirmed_at"] is None, "to look at it confirms nothing"
        assert "confirmed" in ann.fill(page, "/account/confirm").text
        assert http.get("/v1/users/me/profile").json()["email_confirmed_at"] is not None
        assert ann.fill(page, "/account/confirm").status_code == 400, "once"
    return ann


# --- mail


def test_a_forgotten_password_is_chosen_anew(door: Door, post: Post) -> None:
    ann = confirmed(door, post, f"{unique('ann')}@lab.example")
    with door.client(ann.token) as http:
        address = http.get("/v1/users/me/profile").json()["email"]
    with door.client("") as http:
        before = http.post("/v1/sessions", json={"login": ann.login, "password": PASSWORD}).json()
    ann.fill(ann.get("/account/forgot"), "/account/forgot", login=ann.login)
    page = ann.get(link(post.to(address), door))
    assert "10 to 256" in ann.fill(page, "/account/reset", password="short").text, "the link is still good"
    assert "kept" in ann.fill(page, "/account/reset", password=NEW).text
    assert ann.fill(page, "/account/reset", password="a third long one").status_code == 400, "once"
    with door.client(before["access_token"]) as http:
        problem(http.get("/v1/users/me"), 401)
    with door.client("") as http:
        problem(http.post("/v1/sessions", json={"login": ann.login, "password": PASSWORD}), 401)
        assert http.post("/v1/sessions", json={"login": ann.login, "password": NEW}).status_code == 201


def test_a_key_is_not_enough_for_another_address(door: Door) -> None:
    """Who has the address has the account: a link for a new password is sent there."""
    address = f"{unique('thief')}@lab.example"
    ann, bob = person(door), person(door, password=None)
    narrow = {}
    for one in (ann, bob):
        with door.client(one.token) as http:
            narrow[one.id] = http.post("/v1/tokens", json={"scopes": ["tokens:write"]}).json()["token"]
    for one, token in ((ann, narrow[ann.id]), (ann, ann.token), (bob, narrow[bob.id])):
        with door.client(token) as http:
            problem(http.patch("/v1/users/me/profile", json={"email": address}), 403)
            problem(http.post("/v1/users/me/close", json={"login": one.login}), 403)
            assert http.patch("/v1/users/me/profile", json={"website": "x", "email": ""}).status_code == 200
            assert http.get("/v1/users/me/profile").json()["email"] is None
    with door.client(narrow[ann.id]) as http:
        problem(http.patch("/v1/users/me/profile", json=to(address) | {"password": "wrong"}), 401)
        assert http.patch("/v1/users/me/profile", json=to(address)).json()["email"] == address
    with door.client(narrow[bob.id]) as http:
        problem(http.put("/v1/users/me/password", json={"new": NEW}), 403)
    with door.client(bob.token) as http:
        assert http.patch("/v1/users/me/profile", json={"email": f"b{address}"}).json()["email"] == f"b{address}"
        assert http.put("/v1/users/me/password", json={"new": NEW}).status_code == 204
        problem(http.put("/v1/users/me/password", json={"new": PASSWORD}), 403)
        problem(http.patch("/v1/users/me/profile", json={"email": address}), 403)


def test_an_address_that_nobody_confirmed_opens_nothing(door: Door, post: Post) -> None:
    """Else who mistypes an address gives the account away."""
    ann, address = person(door), f"{unique('typo')}@lab.example"
    with door.client(ann.token) as http:
        http.patch("/v1/users/me/profile", json=to(address))
    first = link(post.to(address), door)
    ann.fill(ann.get("/account/forgot"), "/account/forgot", login=ann.login)
    with door.client(ann.token) as http:
        http.patch("/v1/users/me/profile", json=to(f"{unique('right')}@lab.example"))
    page = ann.get(first)
    assert ann.fill(page, "/account/confirm").status_code == 400, "the link was for the old address"
    _drained(door)
    assert not [one for one in post.taken if one["To"] == address]


def test_an_invitation_makes_a_member(door: Door, post: Post) -> None:
    with door.client() as http:
        lab = http.post("/v1/organisations", json={"name": unique("Lab "), "admin": unique("head")}).json()
    address = f"{unique('new')}@lab.example"
    bob = person(door, "viewer", token=lab["token"], email=address, password=None)
    assert bob.sign_in().status_code == 401, "no password yet"
    page = bob.get(link(post.to(address), door))
    bob.fill(page, "/account/reset", password=NEW)
    assert bob.login in bob.sign_in(password=NEW).text
    with door.client(lab["token"]) as http:
        assert http.get("/v1/organisation").json()["members"] == 2
        name = unique("Renamed ")
        assert http.patch("/v1/organisation", json={"name": name}).json()["name"] == name
    with door.client(bob.token) as http:
        problem(http.patch("/v1/organisation", json={"name": "Mine"}), 403)


def test_a_mail_server_that_refuses_is_asked_again(door: Door, post: Post, caplog: pytest.LogCaptureFixture) -> None:
    ann, address = person(door), f"{unique('late')}@lab.example"
    post.refuses = True
    try:
        with door.client(ann.token) as http:
            http.patch("/v1/users/me/profile", json=to(address))
        deadline = time.monotonic() + WAIT_S
        while not (tried := [row for row in _mails(door) if row["error"]]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        post.refuses = False
    assert address not in str(tried), "an error says nothing about who"
    assert address not in caplog.text
    assert post.to(address)["Subject"].startswith("Confirm")


def test_what_happens_to_an_account_is_told_to_its_confirmed_address(door: Door, post: Post) -> None:
    known, unknown = f"{unique('ann')}@lab.example", f"{unique('bob')}@lab.example"
    ann, bob = confirmed(door, post, known), person(door)
    with door.client(bob.token) as http:
        http.patch("/v1/users/me/profile", json=to(unknown))
    post.to(unknown)  # the link to confirm it
    with door.client("") as http:
        for login in (bob.login, ann.login):
            for _ in range(6):
                problem(http.post("/v1/sessions", json={"login": login, "password": "wrong one"}), 401)
    assert "wrong password" in post.to(known).get_content()
    ledger = door.gate.tenancy.ledger
    events = Events(
        door.gate.accounts.store, ledger, Webhooks(door.gate.accounts.store, ledger, home=None), broker=None
    )
    spent = Alert(
        key="a", about="budget", user=ann.id, share_bp=7500, amount_wei=Wei(3 * 10**18), whole_wei=Wei(4 * 10**18),
        at=datetime.now(UTC), period="month",
    )  # fmt: skip
    events.alert(spent)
    assert "75 % of a budget are spent: 3 ROS" in post.to(known).get_content()
    _drained(door)
    assert not [one for one in post.taken if one["To"] == unknown]


def test_the_outbox_has_neither_addresses_nor_links(door: Door, post: Post) -> None:
    confirmed(door, post, f"{unique('dan')}@lab.example")
    _drained(door)
    kept = json.dumps([row["payload"] for row in _mails(door)])
    assert "@" not in kept
    assert "rios_tk_" not in kept


def test_mail_can_be_files(tmp_path: Path) -> None:
    with lean(tmp_path / "home") as door:
        ann = person(door)
        with door.client(ann.token) as http:
            http.patch("/v1/users/me/profile", json=to("ann@lab.example"))
        deadline = time.monotonic() + WAIT_S
        while not (found := list((tmp_path / "home" / "mail").glob("*.eml"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert found[0].stat().st_mode & 0o077 == 0
        message = email.message_from_bytes(found[0].read_bytes(), policy=email.policy.default)
        assert link(message, door).startswith("/account/confirm?ticket=")
        with door.client() as http:
            assert http.delete(f"/v1/users/{ann.id}").status_code == 204
        assert not list((tmp_path / "home" / "mail").glob("*.eml")), "an address is not kept beside the database either"


@pytest.mark.parametrize("url", ["http://host/", "smtp://", "file:", "host:25"])
def test_what_is_no_place_for_mail(url: str) -> None:
    with pytest.raises(InvalidRequest, match="RIOS_GATEWAY_MAIL"):
        sender_of(url)


@pytest.mark.parametrize("address", ["x", "a@b\r\nBcc: c@d", "a b@c", "a@b@c", "<a@b>", "a@" + "b" * 300, "ü@b"])
def test_what_is_no_address(door: Door, address: str) -> None:
    """Header injection: nothing gets into a mail but an address."""
    with door.client(person(door).token) as http:
        problem(http.patch("/v1/users/me/profile", json=to(address)), 400)


def _mails(door: Door) -> list[dict[str, Any]]:
    with door.gate.accounts.ledger.database.reading() as connection:
        rows = connection.execute(select(OutboxRow.__table__).where(OutboxRow.topic == TOPIC))
        return [dict(row) for row in rows.mappings()]


def _drained(door: Door) -> None:
    deadline = time.monotonic() + WAIT_S
    while any(row["delivered_at"] is None for row in _mails(door)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- closing


def test_a_closed_account_is_exported_and_forgotten(door: Door, post: Post) -> None:
    address = f"{unique('gone')}@lab.example"
    ann = confirmed(door, post, address)
    accounts: Accounts = door.gate.accounts
    accounts.ledger.grant_trial(ann.id, 10**18, id=unique("grant"))
    books = _accounts(accounts)
    ann.sign_in()
    app = program(door, "usage:read")
    tokens = app.redeem(code_for(ann, app)).json()
    own = program(door, "usage:read", token=ann.token)
    with door.client(ann.token) as http:
        schedule = http.post("/v1/reports/schedules", json={"name": "cost", "cron": "0 6 * * *", "emails": [address]})
        assert schedule.status_code == 201, schedule.text
        made, later = schedule.json()["id"], accounts.now() + 86_400_000_000
        accounts.ledger.transact(lambda batch: batch.send("report.mail", f"{made}:1:x", {"to": address}, at=later))
        problem(http.post("/v1/users/me/close", json={"login": "other", "password": PASSWORD}), 400)
        problem(http.post("/v1/users/me/close", json={"login": ann.login, "password": "wrong"}), 401)
        said = http.post("/v1/users/me/close", json={"login": ann.login, "password": PASSWORD}).json()
        problem(http.get("/v1/users/me"), 401)
    assert (said["user"]["email"], said["profile"]["affiliation"]) == (address, "The lab")
    assert said["available_wei"] == str(10**18)
    assert len(said["sessions"]) == 2
    assert [one["id"] for one in said["programs"]] == [own.id]
    assert [(one["id"], one["emails"]) for one in said["schedules"]] == [(made, [address])]
    for secret in (ann.token, tokens["refresh_token"], *ann.http.cookies.values()):
        assert secret not in json.dumps(said)
    with door.client(tokens["access_token"]) as http:
        problem(http.get("/v1/users/me"), 401)
    assert 'name="password"' in ann.get("/account").text
    kept = accounts.store.row(PersonRow, PersonRow.id == ann.id)
    assert kept is not None
    assert (kept["login"], kept["name"], kept["email"], kept["profile"]) == (f"closed:{ann.id}", "", None, None)
    everything = _everything(accounts)
    assert address not in "\n".join(everything)
    for personal in (ann.login, "The lab", "python-httpx"):
        assert personal not in "\n".join(row for row in everything if ann.id in row), personal
    assert not accounts.store.row(ReportScheduleRow, ReportScheduleRow.closed_at.is_(None))
    assert _accounts(accounts) == books, "the ledger is as it was"
    assert accounts.verify_audit() is None


def test_the_last_admin_stays(door: Door) -> None:
    with door.client() as http:
        problem(http.post("/v1/users/me/close", json={"login": "admin"}), 403)
        assert http.get("/v1/users/me/export").json()["user"]["id"] == "local"


def _accounts(accounts: Accounts) -> list[Any]:
    with accounts.ledger.database.reading() as connection:
        return list(connection.execute(select(AccountRow.__table__)).all())


def _everything(accounts: Accounts) -> list[str]:
    from rios.storage.models import Base

    with accounts.ledger.database.reading() as connection:
        return [str(tuple(row)) for table in Base.metadata.sorted_tables for row in connection.execute(table.select())]


# --- another provider


def _through(who: Person, there: Person, page: Any = None) -> Any:
    """Sign in at the provider, agree, and come back."""
    sent = who.fill(page or who.get("/login"), "/login/outside", follow=False)
    assert sent.status_code == 303, sent.text
    place = sent.headers["location"].removeprefix(there.door.url)
    consent = there.get(place)
    if 'action="/login"' in consent.text:
        consent = there.sign_in(consent)
    back = there.fill(consent, "/oauth/authorize", follow=False, decision="allow")
    assert back.headers["location"].startswith(f"{who.door.url}/login/outside?")
    return back.headers["location"].removeprefix(who.door.url)


def test_users_of_another_provider_come_in(door: Door, provider: Door) -> None:
    there, here = person(provider), Person(door)
    page = here.get(_through(here, there))
    assert there.login in page.text, "the account is new, and signed in"
    again = Person(door)
    again.get(_through(again, there))
    assert _id(again) == _id(here), "the second time it is the same"
    with door.client() as http:
        made = http.get(f"/v1/users/{_id(here)}").json()
    assert (made["role"], made["has_password"]) == ("viewer", False)


def _id(who: Person) -> str:
    accounts: Accounts = who.door.gate.accounts
    page = who.get("/account").text
    (found,) = (one for one in accounts.store.users("network", limit=500) if f">{one.login}<" in page)
    return found.id


def test_an_account_is_linked_by_who_has_it(door: Door, provider: Door) -> None:
    ann, there = person(door), person(provider)
    page = ann.sign_in()
    ann.get(_through(ann, there, page))
    other = Person(door)
    other.get(_through(other, there))
    assert _id(other) == ann.id
    eve = person(door)
    assert eve.get(_through(eve, there, eve.sign_in())).status_code == 401, "it belongs to another user"


def test_answers_of_a_provider_that_nobody_asked_for(door: Door, provider: Door) -> None:
    """Forged, of another browser, replayed: nobody is signed in."""
    there, ann, eve = person(provider), Person(door), Person(door)
    place = _through(ann, there)
    eve.get("/login")
    assert eve.get(place).status_code == 401, "login CSRF: the answer is for another browser"
    assert ann.get(place).status_code == 401, "and is used up by that"
    place = _through(ann, there)
    assert ann.get(re.sub(r"code=[^&]*", "code=made-up", place)).status_code == 401
    place = _through(ann, there)
    assert ann.get(re.sub(r"iss=[^&]*", "iss=http%3A%2F%2Fevil.example", place)).status_code == 401
    assert ann.get("/login/outside?code=x&state=y").status_code == 401
    place = _through(ann, there)
    assert ann.get(place).status_code == 200
    assert Person(door).get(place).status_code == 401


def test_a_provider_is_at_https_and_makes_no_admins() -> None:
    with pytest.raises(InvalidRequest, match="https"):
        Provider(url="http://provider.example", client_id="a", client_secret="b")
    with pytest.raises(InvalidRequest, match="admin"):
        Provider(url="https://provider.example", client_id="a", client_secret="b", role="admin")
    assert "hidden" not in repr(Provider(url="https://provider.example", client_id="a", client_secret="hidden"))
