"""Which gateway a command talks to: RIOS_URL, else the one that runs in the home, else the one signed in to."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from rios.client.remote import CA_VARIABLE, TOKEN_VARIABLE, RemoteNetwork
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
    ca: str | None = None

    def connect(self) -> RemoteNetwork:
        """The network there."""
        return RemoteNetwork(self.url, token=self.token, ca=self.ca)


def home() -> Path:
    """RIOS_HOME, or the usual one."""
    return settings().home or Path(DEFAULT_HOME).expanduser()


def find() -> Place | None:
    """The gateway that commands of this environment talk to; None where there is none."""
    url, token = os.environ.get(URL_VARIABLE), os.environ.get(TOKEN_VARIABLE)
    kept = gate_file.read_file(home()), gate_file.read_file(home(), LOGIN_FILE)
    if url:
        same = next((one for one in kept if one.get("url", "").rstrip("/") == url.rstrip("/")), {})
        return _place(url, token, same)
    running, signed_in = kept
    if running.get("url") and _is_live(running["url"], os.environ.get(CA_VARIABLE) or running.get("ca")):
        return _place(running["url"], token, running)
    return _place(signed_in["url"], token, signed_in) if signed_in.get("url") else None


def _place(url: str, token: str | None, kept: dict[str, str]) -> Place:
    return Place(url, token or kept.get("token"), os.environ.get(CA_VARIABLE) or kept.get("ca") or None)


def must_find() -> Place:
    """As `find`, or NotSignedIn."""
    found = find()
    if found is None:
        raise NotSignedIn(
            f"no gateway runs in {home()}, and none was signed in to: start one with `rios up`, sign in with "
            f"`rios login URL`, or set {URL_VARIABLE}"
        )
    return found


def _is_live(url: str, ca: str | None) -> bool:
    """Whether a gateway answers there: the file of one that was killed is still there."""
    try:
        verify = ssl.create_default_context(cafile=ca) if ca else True
        return httpx2.get(f"{url}/live", timeout=_LIVE_S, verify=verify).is_success
    except (httpx2.HTTPError, OSError):
        return False
