"""Passwords by the command line: what the first admin of `rios up` needs before any browser lets it in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.test_commands import call
from tests.gateway.browsing import Person, close_all
from tests.gateway.servers import Door, lean

FIRST, SECOND = "correct horse battery", "another long password"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with lean(tmp_path_factory.mktemp("passwords") / "home") as found:
        yield found


@pytest.fixture(autouse=True)
def _browsers() -> Iterator[None]:
    yield
    close_all()


def test_the_first_admin_chooses_a_password_and_signs_in(door: Door, tmp_path: Path) -> None:
    there = {"RIOS_URL": door.url, "RIOS_TOKEN": door.token}
    admin = Person(door, "admin")
    refused = admin.sign_in()
    assert refused.status_code == 401
    assert "rios users password" in refused.text
    call("users", "password", home=tmp_path, told=f"{FIRST}\n", **there)
    assert "Sign out" in admin.sign_in(password=FIRST).text
    call("users", "password", home=tmp_path, told=f"wrong\n{SECOND}\n", code=1, **there)
    call("users", "password", home=tmp_path, told=f"{FIRST}\n{SECOND}\n", **there)
    assert "Sign out" in admin.sign_in(password=SECOND).text


def test_users_are_made_with_what_they_sign_in_by(door: Door, tmp_path: Path) -> None:
    there = {"RIOS_URL": door.url, "RIOS_TOKEN": door.token}
    add = ("users", "add")
    call(*add, "ann", "--password", "-", "--email", "ann@lab.example", home=tmp_path, told=f"{FIRST}\n", **there)
    assert "ann" in Person(door, "ann").sign_in(password=FIRST).text
    with door.client() as http:
        (ann,) = [one for one in http.get("/v1/users").json()["data"] if one["login"] == "ann"]
    assert (ann["email"], ann["has_password"]) == ("ann@lab.example", True)
    call(*add, "bob", "--password", FIRST, home=tmp_path, code=2, **there)
    assert "10 to 256" in call(*add, "bob", "--password", "-", home=tmp_path, told="short\n", code=1, **there)
    key = call(*add, "bob", "--quiet", home=tmp_path, **there).strip()
    call("users", "password", home=tmp_path, told=f"{FIRST}\n", **there | {"RIOS_TOKEN": key})
    assert "bob" in Person(door, "bob").sign_in(password=FIRST).text
