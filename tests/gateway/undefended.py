"""Defences, each with the way to switch it off: what the tests of attacks are tried against."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import re
import ssl
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from rios.accounts.clients import CLIENT_SCOPES
from rios.accounts.passwords import is_password
from rios.accounts.signing import Signer
from rios.accounts.store import AccountStore, first
from rios.accounts.tokens import Claims, fingerprint
from rios.accounts.values import Principal
from rios.dmoe import authority
from rios.gateway import certs, connections, pages, protect, schemas, serve
from rios.gateway.certs import Certificates
from rios.gateway.limits import Limits, Room
from rios.gateway.once import Idempotent
from rios.gateway.redirect import Redirect
from rios.gateway.routes import sign_in
from rios.gateway.turns import Turns
from rios.services import accounts, oauth_grants, oauth_store, outbound, tenancy, tokens
from rios.services.accounts import scopes_of
from rios.storage.models import RefreshTokenRow
from rios.storage.sign_in_models import CodeRow
from tests.billing import test_recursion
from tests.gateway import (
    test_accounts,
    test_connections,
    test_long_bodies,
    test_oauth_attacks,
    test_once,
    test_origins,
    test_people,
    test_protection,
    test_recent,
    test_tls,
    test_turns,
)
from tests.gateway.servers import UNLIMITED, Door, lean
from tests.services import test_outbound

# For the process that a test of nested JSON starts: what libraries do to its recursion limit stays.
_UNBOUNDED = "import rios.billing.recursion as recursion\nrecursion.put_back = lambda: None\n"
Off = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Case:
    """A defence: how it is switched off, and the attack whose test has to notice."""

    defence: str
    off: Off
    attack: Callable[[Door, Path], None]
    settings: dict[str, Any] | None = None
    """Of the gateway without the defence, where they are what defends."""

    def door(self, home: Path, *, defended: bool) -> AbstractContextManager[Door]:
        """A gateway to attack."""
        more = {} if defended or self.settings is None else self.settings
        return lean(home, UNLIMITED.model_copy(update=more))


def _to(name: str, target: Any, value: Any) -> Off:
    return lambda patch: patch.setattr(target, name, value)


def _at_door(test: Callable[..., None], *more: Any) -> Callable[[Door, Path], None]:
    return lambda door, _: test(door, *more)


def _at_own(test: Callable[..., None], *more: Any) -> Callable[[Door, Path], None]:
    """Of a test that makes its own gateway."""
    return lambda _, folder: test(folder, *more)


def _unverified(_: Signer, token: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return found


def _never_used(connection: Any, table: Any, *wanted: Any) -> Any:
    row = first(connection, table, *wanted)
    return {**row, "used_at": None} if table is RefreshTokenRow and row is not None else row


def _ids_for_anybody(patch: pytest.MonkeyPatch) -> None:
    """The key's type and what the token is for are not looked at."""
    patch.setattr(Signer, "verify", _unverified)
    good = Claims.checked

    def checked(claims: Any, *, issuer: str, now_s: int) -> Claims:
        more = {"iss": issuer, "aud": "rios", "sid": "x", "scope": "usage:read", "nbf": 0}
        return good({**claims, **more}, issuer=issuer, now_s=now_s)

    patch.setattr(Claims, "checked", staticmethod(checked))
    patch.setattr(
        tokens.Tokens, "_by_session",
        lambda self, token: (
            self.principal(
                self._store.user(self.claims(token).subject), frozenset({"usage:read"}), "x", signed_in_at=None
            ), 2**62
        ),
    )  # fmt: skip


def _claiming(**better: Any) -> Off:
    """A claim is taken for what it should be."""

    def off(patch: pytest.MonkeyPatch) -> None:
        good = Claims.checked
        patch.setattr(
            Claims, "checked",
            staticmethod(lambda claims, *, issuer, now_s: good({**claims, **better}, issuer=issuer, now_s=now_s)),
        )  # fmt: skip

    return off


def _codes_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A code that was used is as new."""

    def unused(connection: Any, table: Any, *wanted: Any) -> Any:
        row = first(connection, table, *wanted)
        return {**row, "used_at": None} if table is CodeRow and row is not None else row

    patch.setattr(oauth_store, "first", unused)
    patch.setattr(
        oauth_store.OAuthStore, "code", lambda self, code, _: self._store.row(
            CodeRow, CodeRow.fingerprint == fingerprint(code)
        )
    )  # fmt: skip


def _rebound(patch: pytest.MonkeyPatch) -> None:
    """The address is looked at, and then the name is connected to."""
    real = outbound.resolve

    def resolve(host: str, port: int, **more: Any) -> str:
        real(host, port, **more)
        return host

    patch.setattr(outbound, "resolve", resolve)


def _patched(test: Callable[..., None], *more: Any) -> Callable[[Door, Path], None]:
    """Of a test that needs no gateway, and patches something itself."""

    def attack(_: Door, __: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            test(patch, *more)

    return attack


def _given(who: Principal, role: str) -> frozenset[str]:
    return scopes_of(role, operator=who.operator)


def _pasted(self: AccountStore, organisation_id: str, *, after: str = "", limit: int) -> Any:
    with self._database.reading() as connection:
        wanted = f"SELECT id FROM people WHERE organisation_id = '{organisation_id}' AND id > '{after}' LIMIT {limit}"
        ids = [row[0] for row in connection.exec_driver_sql(wanted)]
    return [self.user(one) for one in ids]


def _ignoring(patch: pytest.MonkeyPatch) -> None:
    """What nobody offered is ignored instead of refused. `mend` makes the schema anew afterwards."""
    kind = schemas.NewUser
    patch.setitem(kind.model_config, "extra", "ignore")  # type: ignore[misc]
    kind.model_rebuild(force=True)


def mend() -> None:
    """What undoing a patch does not bring back."""
    schemas.NewUser.model_rebuild(force=True)


async def _any_body(self: Any) -> Any:
    return await self._receive()


async def _straight(self: Any, scope: Any, receive: Any, send: Any) -> None:
    await self._app(scope, receive, send)


def _believing(patch: pytest.MonkeyPatch) -> None:
    real = uvicorn.Config

    def config(*arguments: Any, **more: Any) -> uvicorn.Config:
        return real(*arguments, **{**more, "proxy_headers": True, "forwarded_allow_ips": "*"})

    patch.setattr(serve.uvicorn, "Config", config)


def _unescaped(patch: pytest.MonkeyPatch) -> None:
    plain = pages._environment().overlay(autoescape=False)
    patch.setattr(pages, "_environment", lambda: plain)


def _named_by_the_client(request: Any) -> str:
    return f"http://{request.headers['host']}"


def _quickly(kept: str | None, password: str) -> bool:
    return kept is not None and is_password(kept, password)


def _unhashed(patch: pytest.MonkeyPatch) -> None:
    for module in [one for name, one in sys.modules.items() if name.startswith("rios.")]:
        if getattr(module, "fingerprint", None) is fingerprint:
            patch.setattr(module, "fingerprint", str.encode)


def _anywhere(self: Any, checkpoint: str) -> str:
    return str(self._directory / checkpoint)


def _older(self: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    self.load_into(context)
    return context


def _trusting(patch: pytest.MonkeyPatch) -> None:
    real = httpx2.Client
    patch.setattr(httpx2, "Client", lambda **more: real(**{**more, "verify": False}))


def _as_the_host_says(self: Redirect, request: Any) -> str:
    return f"https://{dict(request.headers)[b'host'].decode()}:{self._port}/"


async def _whatever_comes(self: Redirect, reader: Any) -> bytes:
    await reader.read(4096)
    return b"HTTP/1.1 308 \r\nlocation: https://localhost/\r\ncontent-length: 0\r\n\r\n"


def _in_one_row(patch: pytest.MonkeyPatch) -> None:
    take = Turns.take
    patch.setattr(Turns, "take", lambda self, _: take(self, "anybody"))


def _without_end(patch: pytest.MonkeyPatch) -> None:
    make = Turns.__init__
    patch.setattr(Turns, "__init__", lambda self, places, _: make(self, places, 1 << 40))


async def _leaving_with_it(self: Turns, user: str) -> None:
    """As `Turns.take`, and who leaves in the moment when his turn comes takes it away."""
    if self._free and not self._waiting:
        self._free -= 1
        return
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    self._waiting.setdefault(user, deque()).append(turn)
    self._count += 1
    await turn


def _by_tls(test: Callable[..., None], *more: Any) -> Callable[[Door, Path], None]:
    """Of a test of a gateway with certificates, and of who made them."""

    def attack(_: Door, folder: Path) -> None:
        files = certs.init(folder / "home", names=test_tls.NAMES)
        with pytest.MonkeyPatch.context() as patch, lean(folder / "home", certificates=files) as door:
            given = {"secured": door, "files": files, "tmp_path": folder / "other", "monkeypatch": patch}
            given["tmp_path"].mkdir()
            test(*more, **{name: given[name] for name in inspect.signature(test).parameters if name in given})

    return attack


def _sent_on(test: Callable[..., None], *more: Any) -> Callable[[Door, Path], None]:
    """Of a test of the plain port beside such a gateway."""

    def attack(secured: Door, files: certs.Certificates) -> None:
        with test_tls.beside(secured, files) as place:
            test(place, *more)

    return _by_tls(attack)


CASES = (
    Case("signatures of access tokens", _to("verify", Signer, _unverified),
         _at_door(test_accounts.test_forged_access_tokens_are_refused)),
    *(
        Case(f"{name} of access tokens", off,
             _at_door(test_oauth_attacks.test_a_good_signature_excuses_nothing, *mistaken))
        for name, off, mistaken in (
            ("ends", _claiming(exp=1 << 40), ({}, {"exp": 1})),
            ("audiences", _claiming(aud="rios"), ({}, {"aud": "another"})),
            ("issuers", _claiming(iss="rios"), ({}, {"iss": "https://elsewhere.example"})),
            ("keys", _to("_key_of", Signer, lambda self, _: self._key), ({"kid": "another"}, {})),
        )
    ),
    Case("codes are good once", _codes_for_ever,
         _at_door(test_oauth_attacks.test_a_replayed_code_ends_what_came_of_it)),
    Case("kinds of tokens", _ids_for_anybody, _at_door(test_oauth_attacks.test_an_id_token_is_no_access_token)),
    Case("refresh tokens are good once", _to("first", tokens, _never_used),
         _at_door(test_accounts.test_a_stolen_refresh_token_ends_the_session)),
    Case("PKCE for everybody", _to("validate_code_challenge", oauth_grants.StrictChallenge, lambda *_: None),
         _at_door(test_oauth_attacks.test_a_code_without_pkce_is_not_given)),
    Case("who brings a code knows the verifier",
         _to("validate_code_verifier", oauth_grants.StrictChallenge, lambda *_: None),
         _at_door(test_oauth_attacks.test_a_code_is_worth_nothing_to_who_stole_it)),
    Case("exact redirect addresses",
         _to("check_redirect_uri", oauth_store.Client, lambda *_: True),
         _at_door(test_oauth_attacks.test_nobody_is_sent_to_an_address_that_was_not_registered, "http://evil.example/")),
    Case("a sign-in leads to own pages", _to("safe_next", sign_in, lambda wanted: wanted),
         _at_door(test_oauth_attacks.test_a_sign_in_leads_to_pages_of_the_gateway_alone, "http://evil.example/")),
    Case("forms are bound to their browser", _to("check_csrf", sign_in, lambda *_: None),
         _at_door(test_oauth_attacks.test_forms_of_other_sites_are_refused)),
    Case("escaped templates", _unescaped, _at_door(test_oauth_attacks.test_what_programs_call_themselves_is_text)),
    Case("links never follow the Host header", _to("base_url", sign_in, _named_by_the_client),
         _at_door(test_oauth_attacks.test_links_in_mails_do_not_follow_the_host_header)),
    Case("programs of one organisation", _to("may_be_used", oauth_store.OAuthStore, lambda *_: True),
         _at_door(test_oauth_attacks.test_programs_of_another_organisation_ask_in_vain)),
    Case("guesses are counted", _to("failed", tokens, lambda *_: None),
         _at_door(test_oauth_attacks.test_who_guesses_passwords_waits)),
    Case("a hash for nobody, too", _to("is_password", tokens, _quickly),
         _at_door(test_oauth_attacks.test_unknown_users_take_as_long)),
    Case("secrets are hashed", _unhashed,
         _at_door(test_oauth_attacks.test_nothing_in_the_database_opens_anything)),
    Case("scopes of routes", _to("require", Principal, lambda *_: None),
         _at_door(test_accounts.test_every_route_holds_to_the_table, "viewer")),
    Case("nobody gives what he does not have", _to("_may_give", accounts, _given),
         _at_door(test_accounts.test_nobody_becomes_more_than_he_is)),
    Case("programs by themselves may what their maker's token may", _to("OPENID_SCOPES", oauth_store, CLIENT_SCOPES),
         _at_door(test_accounts.test_nobody_becomes_more_than_he_is)),
    Case("admins act after a recent sign-in", _to("require_recent", Principal, lambda *_, **__: None),
         _at_door(test_recent.test_every_act_of_admins_takes_a_recent_sign_in)),
    Case("a key is not its user", _to("prove", tokens.Tokens, lambda *_: None),
         _at_door(test_people.test_a_key_is_not_enough_for_another_address)),
    Case("unknown fields are refused", _ignoring,
         _at_door(test_accounts.test_fields_that_are_not_for_the_caller_are_refused, {"operator": True})),
    Case("bound parameters", _to("users", AccountStore, _pasted),
         _at_door(test_protection.test_sql_is_a_text_like_any_other)),
    Case("letters of request ids", _to("_REQUEST_ID", protect, re.compile(r"(?s).*")),
         _at_door(test_protection.test_headers_cannot_be_injected)),
    Case("headers that browsers obey", _to("_HEADERS", protect, {}),
         _at_door(test_protection.test_browsers_are_told_to_be_careful)),
    Case("closed to pages of other origins", lambda _: None, _at_door(test_origins.test_it_is_closed_by_default),
         {"origins": test_origins.NAMED}),
    Case("the longest body", lambda _: None, _at_door(test_protection.test_a_long_body_is_refused),
         {"body_bytes_max": 1 << 40}),
    Case("the longest specification", lambda _: None,
         _at_door(test_long_bodies.test_nothing_is_read_of_who_may_not, "POST", ""),
         {"deploy_body_bytes_max": 1 << 40}),
    Case("the time of a body", _to("__call__", protect._Body, _any_body),
         _at_own(test_protection.test_a_slow_body_is_refused)),
    Case("the longest headers", lambda _: None, _at_door(test_protection.test_giant_headers_are_refused),
         {"header_bytes_max": 1 << 30}),
    Case("the time of headers", lambda _: None, _at_door(test_connections.test_who_does_not_ask_is_ended, b"GET /"),
         {"header_timeout_s": 1e9}),
    Case("connections of an address", _to("_of", connections, lambda *_: 0),
         _at_own(test_connections.test_an_address_has_so_many)),
    Case("buckets", _to("take", Limits, lambda *_: Room(5, 4, 0.0)),
         _at_own(test_protection.test_limits_are_exact_and_say_so)),
    Case("forwarded addresses are not believed", _believing,
         _at_own(test_protection.test_a_forwarded_address_is_not_believed)),
    Case("each Idempotency-Key once", _to("__call__", Idempotent, _straight),
         _at_door(test_once.test_the_same_key_does_it_once)),
    Case("checkpoints stay in their directory", _to("_path", tenancy.Tenancy, _anywhere),
         _at_own(test_protection.test_a_checkpoint_outside_the_directory_is_not_there)),
    Case("TLS 1.3 alone", _to("context", Certificates, _older), _by_tls(test_tls.test_others_are_not)),
    Case("clients trust their authority alone", _trusting, _by_tls(test_tls.test_others_are_not)),
    Case("keys of certificates are for their owner", _to("write", authority, Path.write_bytes),
         _by_tls(test_tls.test_what_the_authority_makes)),
    Case("plain HTTP leads to certified names", _to("_target", Redirect, _as_the_host_says),
         _sent_on(test_tls.test_nobody_is_sent_elsewhere, *test_tls.EVIL)),
    Case("plain HTTP answers requests alone", _to("_reply", Redirect, _whatever_comes),
         _sent_on(test_tls.test_nonsense_is_no_reason_to_redirect, test_tls.NONSENSE)),
    Case("users take turns", _in_one_row, lambda *_: test_turns.test_users_take_turns()),
    Case("generations that wait are bounded", _without_end, lambda *_: test_turns.test_the_queue_is_bounded()),
    Case("who leaves gives his place back", _to("take", Turns, _leaving_with_it),
         lambda *_: test_turns.test_no_place_is_lost_by_who_leaves()),
    Case("webhooks reach public addresses alone", _to("check_address", outbound, lambda *_, **__: None),
         lambda *_: test_outbound.test_addresses_that_are_not_public_are_refused("https://127.0.0.1/")),
    Case("webhooks reach the address that was looked at", _rebound,
         _patched(test_outbound.test_a_name_is_resolved_once)),
    Case("the depth of JSON is bounded", _to("BOMB", test_recursion, _UNBOUNDED + test_recursion.BOMB),
         lambda *_: test_recursion.test_nested_json_kills_nobody("from rios.billing.chain.evm_store import EvmStore")),
)  # fmt: skip
