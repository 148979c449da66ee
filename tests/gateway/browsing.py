"""A user with a browser: follows links, fills in forms, and keeps cookies. And a program that asks for access."""

from __future__ import annotations

import base64
import hashlib
import itertools
import secrets
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2

from tests.gateway.servers import NO_TLS, Door

PASSWORD = "correct horse battery"
BACK = "http://127.0.0.1:9/back"
_COUNT = itertools.count()
_OPEN: list[httpx2.Client] = []


def unique(word: str) -> str:
    return f"{word}-{next(_COUNT)}-{secrets.token_hex(2)}"


def close_all() -> None:
    """Close all browsers."""
    while _OPEN:
        _OPEN.pop().close()


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append({"action": found["action"], "method": found["method"], "fields": {}})
        elif tag == "input" and self.forms:
            self.forms[-1]["fields"][found["name"]] = found.get("value", "")
        elif tag == "script":
            raise AssertionError("the pages are usable without a script")


@dataclass
class Person:
    """Somebody with a browser."""

    door: Door
    login: str = ""
    id: str = ""
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self.http = httpx2.Client(base_url=self.door.url, timeout=30, follow_redirects=False, verify=NO_TLS)
        _OPEN.append(self.http)

    def get(self, place: str) -> httpx2.Response:
        """A page, after all redirects that stay here."""
        return self._settled(self.http.get(place))

    def _settled(self, response: httpx2.Response) -> httpx2.Response:
        while response.status_code == 303 and "location" in response.headers:
            place = response.headers["location"]
            if place.startswith("http") and not place.startswith(self.door.url):
                break
            response = self.http.get(place)
        return response

    def form(self, page: httpx2.Response, action: str) -> dict[str, str]:
        """The fields of the form of a page that leads to `action`."""
        parser = _Forms()
        parser.feed(page.text)
        found = next((one for one in parser.forms if one["action"] == action), None)
        assert found is not None, (page.status_code, page.text)
        return dict(found["fields"])

    def fill(self, page: httpx2.Response, action: str, *, follow: bool = True, **values: str) -> httpx2.Response:
        """Fill in a form and send it."""
        response = self.http.post(action, data=self.form(page, action) | values)
        return self._settled(response) if follow else response

    def sign_in(self, page: httpx2.Response | None = None, password: str = PASSWORD) -> httpx2.Response:
        return self.fill(page or self.get("/login"), "/login", login=self.login, password=password)


def person(door: Door, role: str = "developer", *, token: str | None = None, **more: Any) -> Person:
    """A new user with a browser; not signed in yet."""
    with door.client(token) as http:
        body = {"login": unique(role), "role": role, "password": PASSWORD, **more}
        response = http.post("/v1/users", json={name: value for name, value in body.items() if value is not None})
    assert response.status_code == 201, response.text
    found = response.json()
    return Person(door, found["login"], found["id"], found["token"])


@dataclass
class Program:
    """A program that was registered."""

    door: Door
    id: str
    secret: str | None = field(repr=False)
    scopes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.verifier = secrets.token_urlsafe(48)

    @property
    def challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()

    def asks(self, **changes: str | None) -> str:
        """The address to which it sends a browser; `changes` of parameters, None leaves one out."""
        wanted = {
            "response_type": "code", "client_id": self.id, "redirect_uri": BACK, "scope": " ".join(self.scopes),
            "state": "st", "nonce": "no", "code_challenge": self.challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        kept = {name: value for name, value in (wanted | changes).items() if value is not None}
        return f"/oauth/authorize?{httpx2.QueryParams(kept)}"

    def post(self, place: str, **form: str) -> httpx2.Response:
        """A request of the program's own, with its secret where it has one."""
        with httpx2.Client(base_url=self.door.url, timeout=30, verify=NO_TLS) as http:
            if self.secret is None:
                return http.post(place, data={"client_id": self.id, **form})
            return http.post(place, data=form, auth=(self.id, self.secret))

    def redeem(self, code: str, **changes: str) -> httpx2.Response:
        return self.post(
            "/oauth/token",
            **{
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": BACK,
                "code_verifier": self.verifier,
                **changes,
            },
        )


def program(door: Door, *scopes: str, token: str | None = None, **changes: Any) -> Program:
    """A new program; confidential unless `public` is among the changes."""
    body = {
        "name": unique("program "), "scopes": list(scopes), "grants": ["authorization_code", "refresh_token"],
        "redirect_uris": [BACK],
    }  # fmt: skip
    with door.client(token) as http:
        response = http.post("/v1/clients", json=body | changes)
    assert response.status_code == 201, response.text
    found = response.json()
    return Program(door, found["id"], found["client_secret"], scopes)


def answer(response: httpx2.Response) -> dict[str, str]:
    """What a redirect back to the program says."""
    assert response.status_code == 303, response.text
    assert response.headers["location"].startswith(BACK), response.headers["location"]
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))


def code_for(who: Person, which: Program, **changes: str | None) -> str:
    """The code that a program gets once the user has signed in and agreed."""
    page = who.get(which.asks(**changes))
    if 'action="/login"' in page.text:
        page = who.sign_in(page)
    return answer(who.fill(page, "/oauth/authorize", follow=False, decision="allow"))["code"]
