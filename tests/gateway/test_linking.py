"""An address is a user's once its key has said so, and then with all that was deposited from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from rios.billing.keystore import KeySigner, Keystore
from rios.cli import app
from rios.client.remote import TOKEN_VARIABLE, RemoteNetwork
from rios.client.where import URL_VARIABLE
from rios.services.linking import nonce_in
from rios.words.errors import InvalidRequest, LedgerConflict, NotAllowed
from tests.gateway.servers import Door, problem
from tests.gateway.test_money import user


@pytest.fixture(scope="module")
def ann(network: Door) -> dict[str, Any]:
    return user(network, "ann-who-links")


@pytest.fixture(scope="module")
def bob(network: Door) -> dict[str, Any]:
    return user(network, "bob-who-links")


def give(network: Door, address: str, wei: int) -> None:
    """A deposit of the address, as it makes one without us."""
    purse = network.gate.network._purse
    chain = purse.settlement.chain
    chain.as_wallet(f"{address}:approve", "RosToken", "approve", chain.addresses.escrow, wei)
    chain.as_wallet(f"{address}:give", "RiosEscrow", "depositFor", address, wei)
    purse.settlement.sync()


def signed(signer: KeySigner, message: str) -> dict[str, str]:
    return {"nonce": nonce_in(message), "signature": signer.sign_message(message.encode()).hex()}


def asked(http: httpx2.Client, address: str) -> str:
    found = http.post("/v1/wallet/address/message", json={"address": address})
    found.raise_for_status()
    return str(found.json()["message"])


def test_deposits_of_an_address_are_the_users_who_has_its_key(
    network: Door, ann: dict[str, Any], bob: dict[str, Any]
) -> None:
    mine, other = KeySigner.random(), KeySigner.random()
    give(network, mine.address, 5)
    with network.client(ann["token"]) as http, network.client(bob["token"]) as thief:
        message = asked(http, mine.address)
        assert all(part in message for part in (mine.address, ann["id"], "escrow: 0x", "chain: "))
        # Neither another key, nor another user with what Ann has signed, nor a text of one's own.
        refused = http.post("/v1/wallet/address", json=signed(other, message))
        assert mine.address in problem(refused, 403)["detail"]
        message = asked(http, mine.address)
        problem(thief.post("/v1/wallet/address", json=signed(mine, message)), 400)
        theirs = asked(thief, mine.address)
        stolen = {"nonce": nonce_in(theirs), "signature": mine.sign_message(asked(http, mine.address).encode()).hex()}
        problem(thief.post("/v1/wallet/address", json=stolen), 403)
        for nonsense in ("0x12", "no hex", "00" * 65):
            message = asked(http, mine.address)
            problem(http.post("/v1/wallet/address", json={"nonce": nonce_in(message), "signature": nonsense}), 400)
        assert http.get("/v1/wallet").json()["deposited_wei"] == "0"
        body = signed(mine, asked(http, mine.address))
        assert http.post("/v1/wallet/address", json=body).json() == {"address": mine.address}
        problem(http.post("/v1/wallet/address", json=body), 400)  # its nonce is used up
        wallet = http.get("/v1/wallet").json()
        assert (wallet["address"], wallet["deposited_wei"]) == (mine.address, "5")
        conflict = problem(thief.post("/v1/wallet/address/message", json={"address": mine.address}), 409)
        assert ann["id"] not in conflict["detail"]
        problem(http.post("/v1/wallet/address/message", json={"address": other.address}), 409)
    with network.client() as http:
        actions = [one["action"] for one in http.get("/v1/audit", params={"limit": 500}).json()["data"]]
        assert "wallet.link" in actions


def test_the_verb_and_the_command_do_the_same(
    network: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bob: dict[str, Any]
) -> None:
    signer = Keystore(tmp_path / "keys", scrypt_n=2**12).create("a word")
    carol = user(network, "carol-who-links")
    with RemoteNetwork(network.url, token=carol["token"]) as net:
        own = KeySigner.random()
        message = net.wallet.link_message(own.address)
        with pytest.raises(InvalidRequest, match="no message"):
            net.wallet.link("nothing", "0x")
        assert net.wallet.link(message, own.sign_message(message.encode())) == own.address == net.wallet.address
        with pytest.raises(LedgerConflict):
            net.wallet.link_message(signer.address)
    monkeypatch.setenv(URL_VARIABLE, network.url)
    monkeypatch.setenv(TOKEN_VARIABLE, bob["token"])
    file = next((tmp_path / "keys").glob("*.json"))
    arguments = ["wallet", "link", signer.address, "--key", str(file)]
    done = CliRunner().invoke(app, arguments, input="a word\n")
    assert done.exit_code == 0, done.output
    assert f"deposits of {signer.address} are yours" in done.output
    refused = CliRunner().invoke(app, ["wallet", "link", own.address], input="0x00\n")
    assert isinstance(refused.exception, LedgerConflict)


def test_a_viewer_links_nothing(network: Door) -> None:
    viewer = user(network, "vic-who-looks", "viewer")
    with RemoteNetwork(network.url, token=viewer["token"]) as net, pytest.raises(NotAllowed):
        net.wallet.link_message(KeySigner.random().address)
