"""That the search of all logs finds what it is for, so that its silence means something."""

from __future__ import annotations

import logging

import pytest

from rios.accounts.passwords import hash_password
from tests.gateway.secrets_seen import CANARY, FILES, searched
from tests.gateway.servers import Door


def secrets(door: Door) -> dict[str, str]:
    """One of each kind, as a gateway really makes them."""
    with door.client() as http:
        made = {"login": "leaky", "role": "viewer", "password": "correct horse battery"}
        http.post("/v1/users", json=made).raise_for_status()
        signed_in = http.post("/v1/sessions", json={"login": "leaky", "password": made["password"]}).json()
    return {
        "an API key": door.token,
        "an access token": signed_in["access_token"],
        "a refresh token": signed_in["refresh_token"],
        "a password": made["password"],
        "its hash": hash_password(made["password"]),
        "a header": f"Authorization: Bearer {door.token}",
    }


def test_each_kind_of_secret_is_found(door: Door, tmp_path_factory: pytest.TempPathFactory) -> None:
    for kind, secret in secrets(door).items():
        with pytest.raises(AssertionError, match="have a secret"), searched(canaries=True):
            logging.getLogger(CANARY).info("it was said", extra={"about": f"<{secret}>"})
        file = tmp_path_factory.mktemp("leaky") / "up.log"
        file.write_text(f"before\nit was {secret} that was said\n")
        with pytest.raises(AssertionError, match="1 lines of"), searched():
            FILES.append(file)
        FILES.remove(file)
        with searched(canaries=True):
            logging.getLogger(CANARY).debug(f"a request about {kind}, by the key {door.token[:12]}")  # noqa: G004


def test_a_search_that_hears_nothing_is_no_search() -> None:
    ours = logging.getLogger("rios")
    with pytest.raises(AssertionError, match="the end of the search was heard"), searched():
        ours.setLevel(logging.ERROR)
    with searched() as lines:
        assert lines, "its own beginning"
