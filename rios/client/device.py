"""Signing in from a terminal: the user says yes in a browser, on whatever machine that is (RFC 8628)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx2

from rios.client.http import Http, trusting
from rios.words.errors import DeadlineExceeded, GatewayLost, NotSignedIn

_CLIENT = "rios-cli"
_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_ANSWER_S = 20.0
KEY_S = 30 * 86_400


def key_by_browser(url: str, *, ca: str | None, name: str, show: Callable[[str, str], None]) -> str:
    """An API key for 30 days, once the user has agreed in a browser.

    show: told the address to open, and the code that it shows there. Raises NotSignedIn where the user refuses,
    DeadlineExceeded where nobody answers in time, GatewayLost.
    """
    verify: Any = True if ca is None else trusting(ca)
    with httpx2.Client(base_url=url.rstrip("/"), timeout=_ANSWER_S, verify=verify) as http:
        begun = _ask(http, "/oauth/device_authorization")
        show(begun["verification_uri_complete"], begun["user_code"])
        session = _wait(http, begun)
        with closing(Http(url, session["access_token"], ca=ca)) as keeper:
            made = keeper.post("/v1/tokens", {"name": name, "expires_in_s": KEY_S})
        # The key is what is kept; the session was for making it.
        _ask(http, "/oauth/revoke", token=session["refresh_token"])
    return str(made["token"])


def _wait(http: httpx2.Client, begun: dict[str, Any]) -> dict[str, Any]:
    deadline, pause_s = time.monotonic() + begun["expires_in"], float(begun["interval"])
    while time.monotonic() + pause_s < deadline:
        time.sleep(pause_s)
        found = _ask(http, "/oauth/token", grant_type=_GRANT, device_code=begun["device_code"])
        error = found.get("error")
        if error is None:
            return found
        if error == "slow_down":
            pause_s += 5.0
        elif error != "authorization_pending":
            raise NotSignedIn("the sign-in was refused in the browser, or the code is too old; begin again")
    raise DeadlineExceeded("nobody said yes in a browser in time; begin again")


def _ask(http: httpx2.Client, path: str, **form: str) -> dict[str, Any]:
    try:
        response = http.post(path, data={"client_id": _CLIENT, **form})
        found = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise GatewayLost(f"{http.base_url} does not answer as a gateway of rios does: {error}") from error
    if not isinstance(found, dict) or not (response.is_success or "error" in found):
        raise GatewayLost(f"{http.base_url} answers {response.status_code} at {path}; is it a gateway of rios?")
    return found
