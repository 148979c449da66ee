"""Which gateway a command talks to: RIOS_URL, else the one that runs in the home, else the one signed in to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from rios.client.remote import TOKEN_VARIABLE, RemoteNetwork
from rios.services import gate_file
from rios.words.config import settings
from rios.words.errors import NotSignedIn

URL_VARIABLE = "RIOS_URL"
DEFAULT_HOME = "~/.rios"
LOGIN_FILE = "login.json"
_LIVE_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway, and the token for it."""

    url: str
    token: str | None = field(repr=False)

    def connect(self) -> RemoteNetwork:
        """The network there."""
        return RemoteNetwork(self.url, token=self.token)


def home() -> Path:
    """RIOS_HOME, or the usual one."""
    return settings().home or Path(DEFAULT_HOME).expanduser()


def find() -> Place | None:
    """The gateway that commands of this environment talk to; None where there is none."""
    url, token = os.environ.get(URL_VARIABLE), os.environ.get(TOKEN_VARIABLE)
    kept = gate_file.read_file(home()), gate_file.read_file(home(), LOGIN_FILE)
    if url:
        same = next((one for one in kept if one.get("url", "").rstrip("/") == url.rstrip("/")), {})
        return Place(url, token or same.get("token"))
    running, signed_in = kept
    if running.get("url") and _is_live(running["url"]):
        return Place(running["url"], token or running.get("token"))
    return Place(signed_in["url"], token or signed_in.get("token")) if signed_in.get("url") else None


def must_find() -> Place:
    """As `find`, or NotSignedIn."""
    found = find()
    if found is None:
        raise NotSignedIn(
            f"no gateway runs in {home()}, and none was signed in to: start one with `rios up`, sign in with "
            f"`rios login URL`, or set {URL_VARIABLE}"
        )
    return found


def _is_live(url: str) -> bool:
    """Whether a gateway answers there: the file of one that was killed is still there."""
    try:
        return httpx2.get(f"{url}/live", timeout=_LIVE_S).is_success
    except httpx2.HTTPError:
        return False
