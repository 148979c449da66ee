"""The commands that talk to a gateway: RIOS_URL, or the one that runs in RIOS_HOME, or the one signed in to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rios.client.remote import RemoteNetwork

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the token alone.")]
token = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
users = typer.Typer(help="Show and make the users of the organisation.", invoke_without_command=True)
audit = typer.Typer(help="Show who did what in the organisation.", invoke_without_command=True)


def add_to(app: typer.Typer) -> None:
    """Add all of them to the command line."""
    for command in (login, logout, deploy, undeploy, roles, limits):
        app.command()(command)
    app.add_typer(token, name="token")
    app.add_typer(users, name="users")
    app.add_typer(audit, name="audit")


@contextmanager
def _network() -> Iterator[RemoteNetwork]:
    from rios.client.where import must_find

    with must_find().connect() as network:
        yield network


def _say(value: object, as_json: bool, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rios.words.display import text_table

    sys.stdout.write((json.dumps(value) if as_json else text_table(columns, rows)) + "\n")


def _day(at: int | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M}"


def login(
    url: Annotated[str, typer.Argument(help="Such as https://rios.lab.example.")],
    token: Annotated[
        str | None, typer.Option(help="An API key, or - to be asked for one; by a browser where it is left out.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the authority that certified the gateway.")] = None,
) -> None:
    """Keep a gateway and a token for the commands that follow."""
    from rios.client.remote import RemoteNetwork
    from rios.client.where import LOGIN_FILE, home
    from rios.services.gate_file import write_file

    trusted = None if ca is None else str(ca.resolve())
    if token is None:
        found = _by_browser(url, trusted)
    else:
        asked = token == "-"  # noqa: S105  a dash
        found = typer.prompt("token", hide_input=True) if asked else token
    with RemoteNetwork(url, token=found, ca=trusted) as network:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(home(), url=url, token=found, ca=trusted or "", name=LOGIN_FILE)
        sys.stdout.write(f"{network!r}\n")


def _by_browser(url: str, ca: str | None) -> str:
    import platform

    from rios.client.device import key_by_browser

    def show(place: str, code: str) -> None:
        sys.stdout.write(f"open {place}\nand see that it shows {code}\n")
        sys.stdout.flush()

    return key_by_browser(url, ca=ca, name=f"rios login on {platform.node()}"[:200], show=show)


def logout() -> None:
    """Forget what `rios login` kept; the token stays good: `rios token revoke` ends it."""
    from rios.client.where import LOGIN_FILE, home

    (home() / LOGIN_FILE).unlink(missing_ok=True)


def deploy(
    model: Annotated[str, typer.Argument(help="'demo' or a folder in the gateway's directory of models.")] = "demo",
    name: Annotated[str | None, typer.Option(help="The name it is asked for by.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Copies of each expert in all.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it serves.")] = False,
) -> None:
    """Have a model deployed, now and whenever the network starts."""
    with _network() as network:
        found = network.dmoe.want(model, name=name, replicas=replicas, dtype=dtype)
        if wait:
            found.wait(600.0)
        sys.stdout.write(f"{found.name} {found.state}\n")


def undeploy(name: str) -> None:
    """Take a model down."""
    with _network() as network:
        network.dmoe.model(name).undeploy()


@token.command()
def create(
    name: Annotated[str, typer.Option(help="What it is for.")] = "token",
    scope: Annotated[list[str] | None, typer.Option(help="Once for each; all of the own token without.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="It ends after so many days; never without.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown this once."""
    body = {"name": name, "scopes": scope or None, "expires_in_s": None if days is None else days * 86_400}
    with _network() as network:
        made = network._http.post("/v1/tokens", body)
    if quiet:
        sys.stdout.write(f"{made['token']}\n")
    else:
        _say(made, as_json, ("id", "token", "scopes"), [(made["id"], made["token"], " ".join(made["scopes"]))])


@token.command("list")
def list_(as_json: AsJson = False) -> None:
    """The own API keys."""
    with _network() as network:
        found = network._http.pages("/v1/tokens")
    columns = ("id", "name", "prefix", "made", "ends", "used", "revoked", "scopes")
    rows = [
        (
            one["id"], one["name"], one["prefix"], _day(one["created_at"]), _day(one["expires_at"]),
            _day(one["last_used_at"]), _day(one["revoked_at"]), " ".join(one["scopes"]),
        )
        for one in found
    ]  # fmt: skip
    _say(found, as_json, columns, rows)


@token.command()
def revoke(id: Annotated[str, typer.Argument(help="As `rios token list` shows it.")]) -> None:  # noqa: A002
    """End an API key."""
    with _network() as network:
        network._http.ask("DELETE", f"/v1/tokens/{id}")


@users.callback()
def show_users(context: typer.Context, as_json: AsJson = False) -> None:
    """The users of the organisation."""
    if context.invoked_subcommand is None:
        with _network() as network:
            found = network._http.pages("/v1/users")
        rows = [(one["id"], one["login"], one["name"], one["role"], _day(one["created_at"])) for one in found]
        _say(found, as_json, ("id", "login", "name", "role", "made"), rows)


@users.command()
def add(
    login: str,
    role: Annotated[str, typer.Option(help="admin, developer, worker or viewer.")] = "developer",
    name: Annotated[str, typer.Option(help="What people call them.")] = "",
    email: Annotated[str | None, typer.Option(help="A link to choose a password is sent there.")] = None,
    password: Annotated[str | None, typer.Option(help="- to be asked for it, or to give it by standard input.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a user, with a first API key that is shown this once; to sign in takes a password."""
    if password not in (None, "-"):
        raise typer.BadParameter("every process can read it here; give -, and it by standard input")
    body = {"login": login, "role": role, "name": name, "email": email}
    if password is not None:
        body["password"] = _secret("password", new=True)
    with _network() as network:
        made = network._http.post("/v1/users", body)
    if quiet:
        sys.stdout.write(f"{made['token']}\n")
    else:
        _say(made, as_json, ("id", "login", "role", "token"), [(made["id"], made["login"], role, made["token"])])


@users.command("password")
def choose_password() -> None:
    """Choose the own password, the first one too; by standard input: the old one, where there is one, and the new."""
    with _network() as network:
        old = _secret("old password") if network._http.get("/v1/users/me")["has_password"] else None
        body = {"old": old, "new": _secret("new password", new=True)}
        network._http.ask("PUT", "/v1/users/me/password", json=body)


def _secret(what: str, *, new: bool = False) -> str:
    """What only the user knows: typed without being shown, or the next line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=True, confirmation_prompt=new, err=True))
    return sys.stdin.readline().rstrip("\r\n")


@users.command()
def close(id: Annotated[str, typer.Argument(help="As `rios users` shows it.")]) -> None:  # noqa: A002
    """Close a user: login and name are forgotten, all tokens end."""
    with _network() as network:
        network._http.ask("DELETE", f"/v1/users/{id}")


def roles(as_json: AsJson = False) -> None:
    """The table of roles and scopes."""
    from rios.accounts.roles import ROLES, TABLE

    value = [
        {"scope": r.scope, "allows": r.allows, "roles": sorted(r.roles), "network": r.network, "recent": r.recent}
        for r in TABLE
    ]
    rows = [
        (r.scope, *("x" if role in r.roles else "" for role in ROLES), "x" if r.recent else "", r.allows) for r in TABLE
    ]
    _say(value, as_json, ("scope", *ROLES, "recent", "allows"), rows)


def limits(as_json: AsJson = False) -> None:
    """How many requests the own token may make at once, and how many of them are left."""
    with _network() as network:
        found = network._http.room()
    _say(found, as_json, tuple(found), [tuple(found.values())])


@audit.callback()
def show_audit(context: typer.Context, as_json: AsJson = False) -> None:
    """Who did what in the organisation, oldest first."""
    if context.invoked_subcommand is None:
        with _network() as network:
            found = network._http.pages("/v1/audit")
        rows = [(one["seq"], _day(one["at"]), one["actor"], one["action"], one["object"]) for one in found]
        _say(found, as_json, ("seq", "at", "actor", "action", "object"), rows)


@audit.command()
def verify(as_json: AsJson = False) -> None:
    """Whether the whole log is as it was written; exit code 1 where it is not."""
    with _network() as network:
        found = network._http.get("/v1/audit/verify")
    good = found["broken_at"] is None
    said = f"whole: {found['entries']} entries, the last one's hash is {found['head']}"
    state = said if good else f"BROKEN at entry {found['broken_at']}"
    sys.stdout.write((json.dumps(found) if as_json else state) + "\n")
    raise typer.Exit(0 if good else 1)
