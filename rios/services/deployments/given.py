"""Secrets as users give them, and by which names specifications keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from rios.words.errors import InvalidRequest


def secret_values(values: Mapping[str, Any]) -> dict[str, SecretStr]:
    """Values of secrets by their names. Raises InvalidRequest, which shows none of them."""
    wrong = sorted(name for name, value in values.items() if not isinstance(value, str))
    if not values or wrong:
        raise InvalidRequest(f"{', '.join(wrong) or 'no secret'} is no text: give names with values that are text")
    return {name: SecretStr(value) for name, value in values.items()}


def kept_names(specification: Mapping[str, Any]) -> set[str]:
    """What the secrets of a specification are called where they are kept."""
    return {reference.get("store", name) for name, reference in specification["secrets"].items()}


def given_secrets(now: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with some fields in place of others; secrets that are not given stay."""
    return {**now, **fields, "secrets": {**now["secrets"], **fields.get("secrets", {})}}
