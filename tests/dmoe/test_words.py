"""What every part shares: logs without secrets, settings from the environment, one tree of errors."""

from __future__ import annotations

import inspect
import json
import logging
import sys
import typing
from pathlib import Path
from typing import Any

import pydantic
import pytest
from pydantic import SecretStr

from rios.dmoe.control import error_of
from rios.dmoe.peer import Peer
from rios.words import errors
from rios.words.config import Settings
from rios.words.errors import DeadlineExceeded, InvalidRequest, RiosError
from rios.words.logs import JsonFormatter, configure

TREE = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, BaseException)]


def line_of(message: str = "event", *, exc_info: Any = None, **extra: Any) -> dict[str, Any]:
    record = logging.LogRecord("rios.test", logging.WARNING, "file.py", 1, message, (), exc_info)
    record.__dict__.update(extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_a_line_is_json() -> None:
    line = line_of("host lost", host="a", reason='it said "no"\nand left', count=3, path=Path("x"))
    assert line["time"].endswith("Z")
    assert (line["level"], line["logger"], line["event"]) == ("warning", "rios.test", "host lost")
    assert (line["host"], line["reason"], line["count"], line["path"]) == ("a", 'it said "no"\nand left', 3, "x")


@pytest.mark.parametrize(
    "name", ["key", "KEY", "token", "api_key", "hf_token", "secret", "client_secret", "password", "Authorization"]
)
def test_secrets_are_masked(name: str) -> None:
    assert line_of(**{name: "s3cret"})[name] == "***"
    line = line_of(peer={"name": "a", name: "s3cret", "inner": {name: "s3cret"}})
    assert line["peer"] == {"name": "a", name: "***", "inner": {name: "***"}}


@pytest.mark.parametrize("name", ["tokens", "token_ids", "monkey", "keys", "tokens_per_s", "request_id"])
def test_what_is_no_secret_is_shown(name: str) -> None:
    assert line_of(**{name: "shown"})[name] == "shown"


def test_a_peer_is_logged_without_its_key() -> None:
    peer = Peer("a", ("127.0.0.1", 1), "s3cret", "m")
    assert "s3cret" not in json.dumps([line_of(peer=peer), line_of(peer=peer.to_dict()), line_of(f"{peer}")])


def test_odd_extras_do_not_lose_the_line() -> None:
    line = line_of(table={(1, 2): b"x", 3: {4}}, thing=object())
    assert line["table"]["(1, 2)"] == "b'x'"


def test_an_exception_is_one_field() -> None:
    try:
        raise HostError
    except HostError:
        line = line_of(exc_info=sys.exc_info())
    assert "HostError" in line["exception"]


class HostError(RiosError):
    pass


def test_configure(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", context={"worker": "w-0"})
    configure("INFO", context={"worker": "w-0"})
    logging.getLogger("rios.dmoe.host").info("once", extra={"request_id": "r1", "key": "s3cret"})
    logging.getLogger("rios.dmoe.host").debug("below the level")
    (line,) = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["worker"], line["request_id"], line["key"]) == ("once", "w-0", "r1", "***")


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_each_setting_is_an_environment_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Settings.model_fields[name]
    assert field.description
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    lowest = max((getattr(bound, "ge", 0) for bound in field.metadata), default=0)
    other = 2.0 if field.default == 1 or lowest > 1 else 1.0
    values = {bool: False, int: 123, float: other, str: "somewhere", Path: Path("somewhere"), SecretStr: "x"}
    value = kinds[-1] if typing.get_origin(field.annotation) is typing.Literal else values[kinds[0]]
    said = str(value)
    if typing.get_origin(field.annotation) is tuple:  # as JSON
        said, value = json.dumps([value]), (value,)
    monkeypatch.setenv(f"RIOS_{name.upper()}", said)
    found = getattr(Settings(), name)
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connect_timeout_s", "0"),
        ("connect_timeout_s", "-1"),
        ("connect_timeout_s", "soon"),
        ("kv_fraction", "1.5"),
        ("memory_fraction", "0"),
        ("max_running", "0"),
        ("spin_us", "-1"),
        ("max_frame_bytes", "1.5"),
    ],
)
def test_a_setting_out_of_its_bounds_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"RIOS_{name.upper()}", value)
    with pytest.raises(pydantic.ValidationError, match=name):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(pydantic.ValidationError):
        Settings().spin_us = 1  # type: ignore[misc]


# --- errors ------------------------------------------------------------------------------------------------------


def test_the_tree_is_the_one_that_is_documented() -> None:
    assert errors.__doc__ is not None
    named = [line.strip(" |+-").split()[0] for line in errors.__doc__.splitlines()[2:] if line.strip()]
    assert sorted(named) == sorted(found.__name__ for found in TREE)
    parents: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines()[2:]:
        name = line.strip(" |+-").split()[0] if line.strip() else ""
        if not name:
            continue
        depth = line.index(name)
        parents = [(other, parent) for other, parent in parents if other < depth]
        if parents:
            assert issubclass(getattr(errors, name), getattr(errors, parents[-1][1]))
        parents.append((depth, name))


@pytest.mark.parametrize("error", TREE)
def test_an_error_crosses_the_wire_as_itself(error: type[RiosError]) -> None:
    assert issubclass(error, RiosError)
    found = error_of({"error": error.__name__, "message": "so it is"})
    assert type(found) is error
    assert str(found) == "so it is"


@pytest.mark.parametrize("name", [None, 5, "OutOfMemory", "annotations", "__name__", "SystemExit", "RiosError"])
def test_what_is_no_error_of_ours_is_a_plain_one(name: object) -> None:
    assert type(error_of({"error": name, "message": "x"})) is RiosError


def test_standard_errors_catch_ours() -> None:
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(DeadlineExceeded, TimeoutError)
