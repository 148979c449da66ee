"""Specifications from keyword arguments and files; mistakes name the place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rios.deploy.spec import App, AppFile
from rios.words.errors import InvalidRequest


def read_app(fields: Mapping[str, Any]) -> App:
    try:
        return App.model_validate(dict(fields))
    except ValidationError as error:
        raise InvalidRequest(
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from error


def read_file(path: Path) -> AppFile:
    try:
        return AppFile.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        raise InvalidRequest(
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from error
