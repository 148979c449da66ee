"""Answers of the OAuth 2.0 and OpenID Connect server, by the names that the standards give; and its forms."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rios.gateway.answers.words import Answer, Login, UserId

_HERE = "https://rios.lab.example"
Uri = str


class Metadata(Answer):
    """What the server can do (RFC 8414; OpenID Connect Discovery)."""

    issuer: Uri = Field(examples=[_HERE])
    authorization_endpoint: Uri = Field(examples=[f"{_HERE}/oauth/authorize"])
    token_endpoint: Uri = Field(examples=[f"{_HERE}/oauth/token"])
    device_authorization_endpoint: Uri = Field(examples=[f"{_HERE}/oauth/device_authorization"])
    revocation_endpoint: Uri = Field(examples=[f"{_HERE}/oauth/revoke"])
    introspection_endpoint: Uri = Field(examples=[f"{_HERE}/oauth/introspect"])
    userinfo_endpoint: Uri = Field(examples=[f"{_HERE}/oauth/userinfo"])
    jwks_uri: Uri = Field(examples=[f"{_HERE}/.well-known/jwks.json"])
    scopes_supported: list[str] = Field(examples=[["generate", "models:read", "openid"]])
    response_types_supported: list[str] = Field(examples=[["code"]])
    response_modes_supported: list[str] = Field(examples=[["query"]])
    grant_types_supported: list[str] = Field(examples=[["authorization_code", "refresh_token"]])
    subject_types_supported: list[str] = Field(examples=[["public"]])
    id_token_signing_alg_values_supported: list[str] = Field(examples=[["EdDSA"]])
    code_challenge_methods_supported: list[str] = Field(examples=[["S256"]])
    token_endpoint_auth_methods_supported: list[str] = Field(examples=[["client_secret_basic", "none"]])
    revocation_endpoint_auth_methods_supported: list[str] = Field(examples=[["client_secret_basic", "none"]])
    introspection_endpoint_auth_methods_supported: list[str] = Field(examples=[["client_secret_basic"]])
    claims_supported: list[str] = Field(examples=[["sub", "name", "email"]])
    authorization_response_iss_parameter_supported: bool
    request_parameter_supported: bool
    request_uri_parameter_supported: bool


class Tokens(Answer):
    """Tokens for a program (RFC 6749, section 5.1)."""

    access_token: str = Field(examples=["eyJhbGciOiJFZDI1NTE5Iiwia2lkIjoi…"])
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="Seconds.", examples=[3600])
    scope: str = Field(examples=["generate models:read"])
    refresh_token: str = Field(
        "", description="Where the program may ask again; good once.", examples=["rios_refresh_Zk3…"]
    )
    id_token: str = Field("", description="With the scope openid.", examples=["eyJhbGciOiJFZDI1NTE5Iiwia2lkIjoi…"])


class DeviceCodes(Answer):
    """Codes for a program without a browser (RFC 8628)."""

    device_code: str = Field(examples=["rios_device_8uQ…"])
    user_code: str = Field(examples=["WDJB-MJHT"])
    verification_uri: Uri = Field(examples=[f"{_HERE}/oauth/device"])
    verification_uri_complete: Uri = Field(examples=[f"{_HERE}/oauth/device?user_code=WDJB-MJHT"])
    expires_in: int = Field(description="Seconds.", examples=[1800])
    interval: int = Field(description="Seconds between two questions.", examples=[5])


class Revoked(Answer):
    """Nothing more is said (RFC 7009)."""


class Introspected(Answer):
    """What a token is good for (RFC 7662); of one that is good for nothing, `active` alone."""

    active: bool
    sub: UserId = ""
    username: Login = ""
    client_id: str = Field("", examples=["client-77c2"])
    scope: str = Field("", examples=["generate models:read"])
    token_type: Literal["Bearer"] = Field("Bearer")
    exp: int = Field(0, description="Seconds of UTC since 1970, as the others.", examples=[1_764_414_000])
    iat: int = Field(0, examples=[1_764_410_400])
    nbf: int = Field(0, examples=[1_764_410_400])
    jti: str = Field("", examples=["9d3c1f"])
    sid: str = Field("", description="The session.", examples=["session-2b7e151628aed2a6"])
    iss: Uri = Field("", examples=[_HERE])
    aud: Any = Field(None, description="Whom it is for.", examples=["rios"])


class UserInfo(Answer):
    """Who the user is (OpenID Connect Core, section 5.3), as far as the program was told."""

    sub: UserId
    preferred_username: Login = ""
    name: str = Field("", examples=["Ada Lovelace"])
    email: str = Field("", examples=["ada@lab.example"])
    email_verified: bool = True


class PublicKey(Answer):
    """A JSON Web Key (RFC 7517, RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str = Field(examples=["11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"])
    kid: str = Field(examples=["FdFYFzERwC2uCBB46pZQi4GG85LujR8obt-KWRBICVQ"])
    alg: Literal["EdDSA"]
    use: Literal["sig"] = "sig"
    key_ops: list[str] = Field(default_factory=list, examples=[["verify"]])


class PublicKeys(Answer):
    """A JSON Web Key Set."""

    keys: list[PublicKey]


class OAuthError(Answer):
    """An error of OAuth 2.0 (RFC 6749, section 5.2)."""

    error: str = Field(examples=["invalid_grant"])
    error_description: str = Field("", examples=["The code was used, is over, or is another program's."])
    error_uri: str = Field("", examples=[f"{_HERE}/docs"])


_FIELDS = {
    "client_id": "client-77c2",
    "code": "rios_code_5hX…",
    "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    "csrf": "5f2b9c0d…",
    "decision": "allow",
    "grant_type": "authorization_code",
    "login": "ada",
    "next": "/account",
    "password": "four words nobody guesses",
    "redirect_uri": "https://dashboard.example/back",
    "request": "response_type=code&client_id=client-77c2",
    "scope": "generate models:read",
    "session_id": "session-2b7e151628aed2a6",
    "ticket": "rios_ticket_1qW…",
    "token": "rios_refresh_Zk3…",
}


def form(*names: str) -> dict[str, Any]:
    """For `openapi_extra=` of a route: it takes a form with these fields."""
    example = {name: _FIELDS[name] for name in names}
    properties = {name: {"type": "string", "examples": [value]} for name, value in example.items()}
    schema = {"type": "object", "properties": properties}
    content = {"application/x-www-form-urlencoded": {"schema": schema, "example": example}}
    return {"requestBody": {"content": content}}
