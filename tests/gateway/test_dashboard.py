"""The dashboard over HTTP: it shows what a role may see, and no longer than the role and the session last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from rios.gateway.routes import dashboard
from rios.services.desk import Desk
from rios.services.tenant_network import TenantEarnings
from rios.services.wallet import Earned
from rios.words.ids import Address
from rios.words.money import Wei
from tests.gateway.browsing import Person, person
from tests.gateway.servers import Door
from tests.gateway.test_recent import age
from tests.waiting import until

DEADLINE_S = 30.0


def _signed_in(door: Door, role: str) -> Person:
    found = person(door, role)
    assert found.sign_in().status_code == 200
    return found


def _act(who: Person, **given: Any) -> tuple[int, Any]:
    """Plan and do something; status and answer of the first that is refused, or of the deed."""
    page = who.http.get("/dashboard").text
    headers = {"X-Rios-CSRF": page.split('data-csrf="')[1].split('"')[0]}
    planned = who.http.post("/dashboard/panel/plan", json=given, headers=headers)
    if planned.is_success:
        planned = who.http.post("/dashboard/panel/act", json={"plan": planned.json()["plan"]}, headers=headers)
    return planned.status_code, planned.json()


@pytest.mark.parametrize("role", ["admin", "developer", "worker", "viewer"])
def test_each_role_sees_the_panel_and_what_is_not_for_it_is_said(door: Door, role: str) -> None:
    state = _signed_in(door, role).http.get("/dashboard/panel/state")
    assert state.status_code == 200, state.text
    found = state.json()
    assert found["sections"]["wallet"]["data"]["available_wei"] == "0"
    assert found["sections"]["workers"]["data"] == {"workers": []}
    assert (found["jobs"], found["jobs_problem"]) == ([], None)


def test_the_jobs_of_a_viewer_are_listed_by_the_api_and_prompts_are_not(door: Door) -> None:
    viewer = person(door, "viewer")
    with door.client(viewer.token) as http:
        assert http.get("/v1/jobs").json()["data"] == []
        assert http.get("/v1/jobs/none/view").status_code == 404
        assert http.get("/v1/jobs/none/request").status_code == 403


def test_a_role_that_changes_changes_what_an_open_dashboard_may(door: Door) -> None:
    who = _signed_in(door, "developer")
    wish = {"action": "budget", "amount": "3", "period": "day"}
    assert _act(who, **wish)[0] == 200
    with door.client() as admin:
        assert admin.patch(f"/v1/users/{who.id}", json={"role": "viewer"}).is_success
    status, said = _act(who, **wish)
    assert (status, said["type"]) == (403, "NotAllowed")
    assert who.http.get("/dashboard/panel/state").json()["sections"]["spend"]["data"]["budgets"][0]["limit_wei"] == str(
        3 * 10**18
    )


def test_to_settle_takes_a_recent_sign_in(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the route; a plan alone settles nothing."""
    settled: list[str] = []
    earned = Earned(owner=Address("0x" + "1" * 40), earned_wei=Wei(1), claimable_wei=Wei(0), claimed_wei=Wei(0))
    monkeypatch.setattr(TenantEarnings, "now", earned)
    monkeypatch.setattr(type(door.gate.money), "settle", lambda _, who: settled.append(who.login))
    who = _signed_in(door, "admin")
    assert _act(who, action="settle")[0] == 200
    assert settled == [who.login]
    age(door)
    status, found = _act(who, action="settle")
    assert (status, found["type"]) == (403, "SignInAgain")
    assert settled == [who.login]
    assert who.sign_in(who.http.get("/login")).is_success
    assert _act(who, action="settle")[0] == 200


@contextmanager
def _told(who: Person, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """An open stream of events to which something happens all the time; whether it has ended."""
    desks: list[Desk] = []
    ended, over = threading.Event(), threading.Event()
    of = dashboard.Desks.of

    def caught(*given: Any) -> Desk:
        desks.append(of(*given))
        return desks[-1]

    monkeypatch.setattr(dashboard.Desks, "of", caught)

    def read() -> None:
        with who.http.stream("GET", "/dashboard/panel/events", timeout=DEADLINE_S) as answer:
            for _ in answer.iter_raw():
                if over.is_set():
                    return
        ended.set()

    def happen() -> None:
        while not over.wait(0.02):
            if desks:
                desks[0].feed._publish("section", {})

    threads = [threading.Thread(target=one) for one in (read, happen)]
    for one in threads:
        one.start()
    try:
        until(lambda: desks and desks[0].feed.followed, "the stream", deadline_s=DEADLINE_S)
        yield ended.is_set
    finally:
        over.set()
        for one in threads:
            one.join(DEADLINE_S)


def _demote(admin: httpx2.Client, who: Person) -> httpx2.Response:
    return admin.patch(f"/v1/users/{who.id}", json={"role": "viewer"})


def _close(admin: httpx2.Client, who: Person) -> httpx2.Response:
    return admin.delete(f"/v1/users/{who.id}")


@pytest.mark.parametrize("change", [_demote, _close])
def test_a_stream_ends_with_the_rights_it_was_opened_with_whatever_comes(
    door: Door, monkeypatch: pytest.MonkeyPatch, change: Callable[[httpx2.Client, Person], httpx2.Response]
) -> None:
    assert dashboard._CHECK_S + dashboard._CHECK_MAX_S <= 5.0
    monkeypatch.setattr(dashboard, "_CHECK_S", 0.1)
    who = _signed_in(door, "developer")
    with _told(who, monkeypatch) as has_ended:
        assert not has_ended()
        with door.client() as admin:
            assert change(admin, who).is_success
        until(has_ended, "the end of the stream", deadline_s=DEADLINE_S)


def test_where_there_are_too_many_those_that_somebody_follows_stay(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each panel that is made anew counts its events from another start."""

    def panel(who: Person) -> str:
        last: str = who.http.get("/dashboard/panel/state").json()["last"]
        return last.split(".", maxsplit=1)[0]

    monkeypatch.setattr(dashboard, "DESKS_MAX", 2)
    people = [_signed_in(door, "developer") for _ in range(3)]
    with _told(people[0], monkeypatch):
        first, second, _ = [panel(who) for who in people]
        assert panel(people[0]) == first
        assert panel(people[1]) != second
