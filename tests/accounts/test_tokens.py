"""Keys, sessions and passwords: who gets in, for how long, and who does not."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey
from sqlalchemy import select, update

from rios.accounts import roles
from rios.accounts.passwords import hash_password, is_password
from rios.accounts.signing import REGISTRY, SIGNS_S
from rios.accounts.tokens import fingerprint, new_secret, prefix_of
from rios.accounts.values import Principal
from rios.services.accounts import Accounts
from rios.services.guesses import mark_of
from rios.services.rotation import Rotation
from rios.services.tokens import SignedIn
from rios.storage.gateway_models import SigningKeyRow
from rios.words.errors import AlreadyExists, InvalidRequest, NotAllowed, NotFound, NotSignedIn
from tests.accounts.conftest import SECOND, Clock
from tests.waiting import until

PASSWORD = "correct horse battery"


@pytest.fixture
def ann(accounts: Accounts, admin: Principal) -> Principal:
    """A developer with a password."""
    _, secret = accounts.create_user(admin, "Ann@example.org", role="developer", password=PASSWORD)
    return accounts.tokens.authenticate(secret)


@pytest.fixture
def session(accounts: Accounts, ann: Principal) -> SignedIn:
    return accounts.tokens.sign_in("ann@example.org", PASSWORD, client="tests")


def refused(accounts: Accounts, token: str) -> str:
    with pytest.raises(NotSignedIn) as caught:
        accounts.tokens.authenticate(token)
    return str(caught.value)


# --- keys


def test_a_key_is_shown_once_and_kept_as_a_hash(both: Accounts, tmp_path: Path) -> None:
    admin = both.tokens.authenticate(both.first_token())
    key, secret = both.tokens.create_key(admin, "ci", scopes=["generate"])
    assert secret.startswith(key.prefix)
    assert len(key.prefix) < 16 < len(secret)
    principal = both.tokens.authenticate(secret)
    assert principal.scopes == {"generate"}
    assert principal.user_id == "local"
    stored = json.dumps([str(row) for row in both.store.keys("local")])
    assert secret not in stored
    assert both.store.key_by_fingerprint(fingerprint(secret)) == replace(key, last_used_at=both._ledger.now())
    assert prefix_of(secret) == key.prefix


def test_a_key_ends_when_it_is_revoked_or_expires(accounts: Accounts, admin: Principal, clock: Clock) -> None:
    key, secret = accounts.tokens.create_key(admin, "one")
    _, brief = accounts.tokens.create_key(admin, "two", expires_in_s=60)
    accounts.tokens.authenticate(secret)
    accounts.tokens.authenticate(brief)
    accounts.tokens.revoke_key(admin, key.id)
    assert "revoked" in refused(accounts, secret)
    clock.pass_(59)
    accounts.tokens.authenticate(brief)
    clock.pass_(1)
    refused(accounts, brief)


def test_a_key_has_no_more_than_who_made_it(accounts: Accounts, admin: Principal, ann: Principal) -> None:
    with pytest.raises(NotAllowed, match="users:write"):
        accounts.tokens.create_key(ann, "x", scopes=["users:write"])
    _, secret = accounts.tokens.create_key(admin, "x", scopes=["tokens:write", "users:write"])
    limited = accounts.tokens.authenticate(secret)
    with pytest.raises(NotAllowed, match="generate"):
        accounts.tokens.create_key(limited, "x", scopes=["generate"])
    with pytest.raises(NotAllowed, match="may more"):
        accounts.create_user(limited, "eve", role="admin")
    with pytest.raises(NotAllowed, match="may more"):
        accounts.change_role(limited, ann.user_id, "admin")
    for wrong in ([], ["no:such"]):
        with pytest.raises(InvalidRequest):
            accounts.tokens.create_key(admin, "x", scopes=wrong)


def test_nobody_revokes_the_key_of_another(accounts: Accounts, admin: Principal, ann: Principal) -> None:
    key, secret = accounts.tokens.create_key(admin, "mine")
    with pytest.raises(NotFound):
        accounts.tokens.revoke_key(ann, key.id)
    accounts.tokens.authenticate(secret)


def test_made_up_keys_are_refused(accounts: Accounts, admin: Principal) -> None:
    for token in (new_secret("rios_sk_"), "rios_sk_", "", "x" * 5000, "a.b.c", "\ud800"):
        refused(accounts, token.encode("utf-8", "replace").decode())


def test_a_smaller_role_makes_smaller_tokens(accounts: Accounts, admin: Principal, ann: Principal) -> None:
    _, secret = accounts.tokens.create_key(ann, "x")
    assert "generate" in accounts.tokens.authenticate(secret).scopes
    accounts.change_role(admin, ann.user_id, "viewer")
    assert accounts.tokens.authenticate(secret).scopes == roles.scopes_of("viewer", operator=False) & ann.scopes


# --- access tokens


def _encode(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


def test_an_access_token_is_good_for_an_hour(
    accounts: Accounts, session: SignedIn, ann: Principal, clock: Clock
) -> None:
    found = accounts.tokens.authenticate(session.access_token)
    assert (found.user_id, found.scopes) == (ann.user_id, roles.scopes_of("developer", operator=True))
    clock.pass_(3599)
    accounts.tokens.authenticate(session.access_token)
    clock.pass_(1)
    assert "expired" in refused(accounts, session.access_token)


def test_forged_tokens_are_refused(accounts: Accounts, session: SignedIn) -> None:
    header, claims = _parts(session.access_token)
    assert header["alg"] == "EdDSA"
    better = {**claims, "sub": "local", "scope": "users:write"}
    stranger = OKPKey.generate_key("Ed25519", parameters={"kid": header["kid"]})
    head, body, signature = session.access_token.split(".")
    public = accounts.signer.jwks()["keys"][0]["x"]
    forged = [
        jwt.encode(header, claims, stranger, registry=REGISTRY),
        _encode({**header, "alg": "none"}, better),
        _encode({**header, "alg": "None"}, better, b"x"),
        f"{head}.{_encode({}, better).split('.')[1]}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        # The public key as if it were the secret of an HMAC.
        jwt.encode({**header, "alg": "HS256"}, better, OctKey.import_key(public), algorithms=["HS256"]),
    ]
    for token in forged:
        assert "not one of this gateway's" in refused(accounts, token)


@pytest.mark.parametrize(
    ("header", "claims", "why"),
    [
        ({}, {"aud": "another"}, "audience"),
        ({}, {"aud": ["another"]}, "audience"),
        ({}, {"aud": None}, "audience"),
        ({}, {"iss": "https://elsewhere"}, "issuer"),
        ({}, {"exp": 1}, "expired"),
        ({}, {"exp": "never"}, "claim"),
        ({}, {"exp": None}, "claim"),
        ({}, {"nbf": 4_000_000_000, "exp": 5_000_000_000}, "not valid yet"),
        ({}, {"sub": "local"}, "revoked"),
        ({}, {"sid": "session-x"}, "revoked"),
        ({"kid": "another"}, {}, "not one of"),
        ({"kid": None}, {}, "not one of"),
        ({"typ": "JWT"}, {}, "not one of"),
    ],
    ids=str,
)
def test_what_a_good_signature_does_not_excuse(
    accounts: Accounts, session: SignedIn, header: dict[str, Any], claims: dict[str, Any], why: str
) -> None:
    """Signed with the real key, as a mistaken or older gateway could have."""
    head, body = _parts(session.access_token)
    head = {k: v for k, v in (head | header).items() if v is not None}
    body = {k: v for k, v in (body | claims).items() if v is not None}
    token = jwt.encode(head, body, accounts.signer._key, registry=REGISTRY)
    assert why in refused(accounts, token)


def test_keys_rotate_without_signing_anybody_out(accounts: Accounts, session: SignedIn, tmp_path: Path) -> None:
    before = accounts.signer.kid
    accounts.signer.rotate()
    accounts.tokens.forget()
    accounts.tokens.authenticate(session.access_token)
    kids = [key["kid"] for key in accounts.signer.jwks()["keys"]]
    assert set(kids) == {accounts.signer.kid, before}
    file = tmp_path / "keys" / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert all("d" not in key for key in accounts.signer.jwks()["keys"])
    assert Accounts(accounts.ledger, home=tmp_path).signer.kid == accounts.signer.kid, "a restart goes on with it"


def test_keys_rotate_by_themselves_and_end(accounts: Accounts, ann: Principal, clock: Clock, tmp_path: Path) -> None:
    first, old = accounts.signer.kid, accounts.signer._key
    other = Accounts(accounts.ledger, home=tmp_path).signer
    accounts.signer.rotate_if_due()
    assert accounts.signer.kid == first
    clock.pass_(SIGNS_S - 1)
    last = accounts.tokens.sign_in("ann@example.org", PASSWORD)
    clock.pass_(1)
    accounts.signer.rotate_if_due()
    second = accounts.signer.kid
    assert second != first
    accounts.tokens.forget()
    accounts.tokens.authenticate(last.access_token)
    other.rotate_if_due()
    assert other.kid == second, "two gateways of one home have one key"
    clock.pass_(86_400)
    assert [key["kid"] for key in accounts.signer.jwks()["keys"]] == [second]
    header, claims = _parts(last.access_token)
    late = {**claims, "exp": clock.now // SECOND + 60}
    assert "not one of" in refused(accounts, jwt.encode(header, late, old, registry=REGISTRY))


def test_a_gateway_looks_by_itself(accounts: Accounts, clock: Clock) -> None:
    first = accounts.signer.kid
    rotation = Rotation(accounts.signer, look_s=0.01)
    rotation.start()
    try:
        clock.pass_(SIGNS_S)
        until(lambda: accounts.signer.kid != first, "a new key signs", deadline_s=30)
    finally:
        rotation.close()


def test_gateways_with_different_homes_take_each_others_tokens(both: Accounts, tmp_path: Path, clock: Clock) -> None:
    """And the private key of each stays in its own home."""
    other = Accounts(both.ledger, home=tmp_path / "elsewhere")
    admin = both.tokens.authenticate(both.first_token())
    both.create_user(admin, "ann@example.org", role="developer", password=PASSWORD)
    for one, another in ((both, other), (other, both)):
        session = one.tokens.sign_in("ann@example.org", PASSWORD)
        assert another.tokens.authenticate(session.access_token).login == "ann@example.org"
        assert another.tokens.authenticate(another.tokens.refresh(session.refresh_token).access_token)
    assert both.signer.kid != other.signer.kid
    assert both.signer.jwks() == other.signer.jwks()
    private = json.loads((tmp_path / "keys" / "tokens.json").read_text())["keys"][0]["d"]
    with both.ledger.database.reading() as connection:
        kept = [row.public for row in connection.execute(select(SigningKeyRow.public))]
    assert len(kept) == 2
    assert not [one for one in kept if private in one or '"d"' in one]


def test_public_keys_check_tokens_elsewhere(accounts: Accounts, session: SignedIn) -> None:
    """By another library, from the key set alone."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    header, body, signature = session.access_token.split(".")
    jwk = accounts.signer.jwks()["keys"][0]
    assert jwk["kid"] == _parts(session.access_token)[0]["kid"]
    raw = [base64.urlsafe_b64decode(part + "==") for part in (jwk["x"], signature)]
    Ed25519PublicKey.from_public_bytes(raw[0]).verify(raw[1], f"{header}.{body}".encode())
    assert Ed25519PrivateKey.generate().public_key().public_bytes_raw() != raw[0]


def test_tokens_say_the_algorithm_by_the_name_that_libraries_know(
    accounts: Accounts, session: SignedIn, tmp_path: Path
) -> None:
    """And where home and database have keys of before, by the name of RFC 9864, what these signed is taken."""
    assert _parts(session.access_token)[0]["alg"] == accounts.signer.jwks()["keys"][0]["alg"] == "EdDSA"
    file = tmp_path / "keys" / "tokens.json"
    (kept,) = json.loads(file.read_text())["keys"]
    older = {**kept, "alg": "Ed25519"}
    file.write_text(json.dumps({"keys": [older]}))
    public = json.dumps({name: value for name, value in older.items() if name != "d"})
    accounts.store.transact(lambda connection: connection.execute(update(SigningKeyRow).values(public=public)))
    head, claims = _parts(session.access_token)
    token = jwt.encode({**head, "alg": "Ed25519"}, claims, OKPKey.import_key(older), registry=REGISTRY)
    again = Accounts(accounts.ledger, home=tmp_path)
    for one in (token, session.access_token):
        assert again.tokens.authenticate(one).login == "ann@example.org"
    assert again.signer.kid == head["kid"]
    assert [key["alg"] for key in again.signer.jwks()["keys"]] == ["EdDSA"]
    assert _parts(again.tokens.sign_in("ann@example.org", PASSWORD).access_token)[0]["alg"] == "EdDSA"


# --- refresh


def test_a_refresh_token_is_good_once(both: Accounts, clock: Clock) -> None:
    admin = both.tokens.authenticate(both.first_token())
    both.create_user(admin, "ann", role="developer", password=PASSWORD)
    first = both.tokens.sign_in("ann", PASSWORD)
    second = both.tokens.refresh(first.refresh_token)
    assert second.session_id == first.session_id
    both.tokens.authenticate(second.access_token)
    with pytest.raises(NotSignedIn, match="used before"):
        both.tokens.refresh(first.refresh_token)
    # Whoever has the younger one is out too: thief and owner cannot be told apart.
    with pytest.raises(NotSignedIn):
        both.tokens.refresh(second.refresh_token)
    refused(both, second.access_token)
    assert both.audit(admin)[-1].action == "session.stolen"
    third = both.tokens.sign_in("ann", PASSWORD)
    clock.pass_(30 * 86_400)
    with pytest.raises(NotSignedIn):
        both.tokens.refresh(third.refresh_token)


def test_a_session_can_be_seen_and_ended(
    accounts: Accounts, session: SignedIn, ann: Principal, admin: Principal
) -> None:
    assert [(one.id, one.client) for one in accounts.tokens.sessions(ann)] == [(session.session_id, "tests")]
    with pytest.raises(NotFound):
        accounts.tokens.revoke_session(admin, session.session_id)
    accounts.tokens.revoke_session(ann, session.session_id)
    refused(accounts, session.access_token)
    with pytest.raises(NotSignedIn):
        accounts.tokens.refresh(session.refresh_token)
    assert accounts.tokens.sessions(ann) == []


# --- passwords


def test_passwords_are_argon2id() -> None:
    kept = hash_password(PASSWORD)
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert is_password(kept, PASSWORD)
    assert not is_password(kept, PASSWORD + " ")
    assert not is_password(None, PASSWORD)
    assert not is_password("nonsense", PASSWORD)
    assert kept != hash_password(PASSWORD)
    for wrong in ("short", "x" * 257):
        with pytest.raises(InvalidRequest):
            hash_password(wrong)


def test_who_guesses_waits(accounts: Accounts, ann: Principal, clock: Clock) -> None:
    said = set()
    for _ in range(6):
        with pytest.raises(NotSignedIn) as caught:
            accounts.tokens.sign_in("ann@example.org", "wrong password")
        said.add(str(caught.value))
    with pytest.raises(NotSignedIn) as caught:  # right, and too early
        accounts.tokens.sign_in("ann@example.org", PASSWORD)
    said.add(str(caught.value))
    with pytest.raises(NotSignedIn) as caught:
        accounts.tokens.sign_in("nobody", PASSWORD)
    said.add(str(caught.value))
    assert len(said) == 1, "who guesses learns nothing"
    clock.pass_(3)
    accounts.tokens.sign_in("ann@example.org", PASSWORD)
    clock.now -= 3 * SECOND
    accounts.tokens.sign_in("ann@example.org", PASSWORD)


def test_waiting_grows(accounts: Accounts, ann: Principal, clock: Clock) -> None:
    waits = []
    for _ in range(9):
        with pytest.raises(NotSignedIn):
            accounts.tokens.sign_in("ann@example.org", "wrong password")
        row = accounts.store.guess(mark_of("ann@example.org"))
        assert row is not None
        waits.append(max(0, row["locked_until"] - clock.now) // SECOND)
        clock.pass_(waits[-1])
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16]


def test_a_changed_password_ends_the_other_sessions(accounts: Accounts, session: SignedIn, ann: Principal) -> None:
    here = accounts.tokens.authenticate(accounts.tokens.sign_in("ann@example.org", PASSWORD).access_token)
    with pytest.raises(NotSignedIn):
        accounts.tokens.set_password(here, "another long one", old="wrong")
    accounts.tokens.set_password(here, "another long one", old=PASSWORD)
    refused(accounts, session.access_token)
    assert [one.id for one in accounts.tokens.sessions(ann)] == [here.by]
    accounts.tokens.sign_in("ann@example.org", "another long one")


def test_secrets_are_in_no_text(accounts: Accounts, session: SignedIn) -> None:
    assert session.access_token not in repr(session)
    assert session.refresh_token not in repr(session)
    assert accounts.signer.kid in repr(accounts.signer)


# --- users


def test_users_are_of_an_organisation(both: Accounts) -> None:
    admin = both.tokens.authenticate(both.first_token())
    bob, _ = both.create_user(admin, "bob", role="viewer", name="Bob")
    other, eve, token = both.create_organisation(admin, "Lab", admin="eve")
    eves = both.tokens.authenticate(token)
    assert (eves.organisation_id, eves.role, eves.operator) == (other.id, "admin", False)
    assert eves.scopes == roles.scopes_of("admin", operator=False)
    assert [user.login for user in both.users(eves)] == ["eve"]
    with pytest.raises(NotFound):
        both.user(eves, bob.id)
    for act in (lambda: both.change_role(eves, bob.id, "admin"), lambda: both.close_user(eves, bob.id)):
        with pytest.raises(NotFound):
            act()
    with pytest.raises(NotAllowed):
        both.create_organisation(eves, "Mine", admin="x")
    with pytest.raises(NotAllowed):
        both.give_credit(eves, eve.id, 1, key="x")
    for login, name in (("eve", "Other"), ("new", "Lab")):
        with pytest.raises(AlreadyExists):
            both.create_organisation(admin, name, admin=login)
    assert len(both.store.organisations()) == 2
    with pytest.raises(NotAllowed, match="last admin"):
        both.change_role(eves, eve.id, "viewer")


def test_a_closed_user_is_forgotten_and_cannot_come_back(
    accounts: Accounts, admin: Principal, session: SignedIn
) -> None:
    user = accounts.tokens.authenticate(session.access_token)
    accounts.give_credit(admin, user.user_id, 10, key="a")
    accounts.give_credit(admin, user.user_id, 10, key="a")
    accounts.close_user(admin, user.user_id)
    refused(accounts, session.access_token)
    with pytest.raises(NotSignedIn):
        accounts.tokens.sign_in("ann@example.org", PASSWORD)
    found = accounts.user(admin, user.user_id)
    assert (found.login, found.name, found.has_password) == (f"closed:{user.user_id}", "", False)
    assert accounts._ledger.balance(user.user_id).wei == 10
    with pytest.raises(NotFound):
        accounts.close_user(admin, user.user_id)


def test_the_first_token_stays(accounts: Accounts) -> None:
    first = accounts.first_token()
    assert accounts.first_token(first) == first
    who = accounts.tokens.authenticate(first)
    assert who.scopes == roles.scopes_of("admin", operator=True)
    accounts.tokens.revoke_key(who, who.by)
    assert accounts.first_token(first) != first


def test_a_first_token_of_an_older_version_is_made_anew(accounts: Accounts, admin: Principal) -> None:
    """It lacks the scopes that came later: the home's own commands would be refused."""
    _, older = accounts.tokens.create_key(admin, "older", scopes=admin.scopes - {roles.UNATTENDED})
    found = accounts.tokens.authenticate(accounts.first_token(older))
    assert found.scopes == roles.scopes_of("admin", operator=True)


@pytest.mark.parametrize("login", ["", "a b", "../x", "a\nb", "x" * 200, "<script>", "-"])
def test_logins_are_plain(accounts: Accounts, admin: Principal, login: str) -> None:
    with pytest.raises(InvalidRequest):
        accounts.create_user(admin, login, role="viewer")
