"""`rios login URL`: the user says yes in a browser, and the commands that follow have a key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rios.client import device
from rios.client.device import key_by_browser
from rios.words.errors import GatewayLost, NotSignedIn
from tests.campaigns import ROOT
from tests.client.conftest import Both
from tests.gateway.browsing import close_all, person
from tests.gateway.servers import Door


def test_a_sign_in_from_a_terminal(both: Both, tmp_path: Path) -> None:
    door = Door(both.url, both.token, gate=both.gate)
    ann = person(door)
    process = subprocess.Popen(
        [sys.executable, "-m", "rios.cli", "login", door.url], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={"PATH": "", "HOME": str(tmp_path), "RIOS_HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        place, code = process.stdout.readline().split()[-1], process.stdout.readline().split()[-1]
        page = ann.sign_in(ann.get(place.removeprefix(door.url)))
        assert code in page.text
        assert "connected" in ann.fill(page, "/oauth/device", decision="allow").text
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(10)
        close_all()
    assert "RemoteNetwork" in said
    kept = json.loads((tmp_path / "login.json").read_text())
    assert (tmp_path / "login.json").stat().st_mode & 0o077 == 0
    with door.client(kept["token"]) as http:
        assert http.get("/v1/users/me").json()["id"] == ann.id
        assert [one["client_id"] for one in http.get("/v1/sessions").json()["data"]] == [None], "the browser's alone"
        (key,) = [one for one in http.get("/v1/tokens").json()["data"] if one["name"].startswith("rios login on")]
    assert key["expires_at"] is not None


def test_a_refused_sign_in(both: Both) -> None:
    door = Door(both.url, both.token, gate=both.gate)
    ann = person(door)

    def refuse(place: str, code: str) -> None:
        page = ann.sign_in(ann.get(place.removeprefix(door.url)))
        assert re.search(code, page.text)
        ann.fill(page, "/oauth/device", decision="deny")

    try:
        with pytest.raises(NotSignedIn, match="refused"):
            key_by_browser(door.url, ca=None, name="x", show=refuse)
    finally:
        close_all()
    assert device.KEY_S == 30 * 86_400


def test_what_is_no_gateway() -> None:
    with pytest.raises(GatewayLost):
        key_by_browser("http://127.0.0.1:9", ca=None, name="x", show=lambda _place, _code: None)
