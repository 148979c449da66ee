"""Pages for people: templates and the files that they use, named by their contents so that they can be kept forever."""

from __future__ import annotations

import functools
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import rios
from rios.services.views import size
from rios.words.errors import NotFound

_HERE = Path(__file__).parent
# What `make lab` builds of extension/, which a wheel carries.
_BUILT = _HERE.parent / "static"
_KINDS = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".js": "text/javascript; charset=utf-8"}
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""A browser loads nothing from elsewhere, and runs no script."""
IMMUTABLE = "public, max-age=31536000, immutable"


@functools.cache
def assets() -> dict[str, tuple[bytes, str]]:
    """Contents and type of each file that pages use, by a name that changes with the contents."""
    found = {}
    built = _BUILT.iterdir() if _BUILT.is_dir() else ()
    for path in sorted([*_HERE.iterdir(), *built]):
        if path.suffix in _KINDS:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            found[f"{path.stem}.{digest}{path.suffix}"] = (content, _KINDS[path.suffix])
    return found


def asset(name: str) -> str:
    """The address of a file such as "page.css"."""
    path = Path(name)
    found = next((one for one in assets() if one.startswith(f"{path.stem}.") and one.endswith(path.suffix)), None)
    if found is None:
        raise NotFound(f"{name} was not built: install a wheel of rios, or run `make lab`")
    return f"/static/{found}"


def moment(text: str) -> str:
    """A moment of ISO 8601 for people."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S %Z}"


@functools.cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.globals.update(asset=asset, size=size, moment=moment, version=rios.__version__)
    return found


def render(name: str, **values: Any) -> str:
    """A page; whatever is put into it is escaped."""
    return _environment().get_template(f"{name}.html.jinja").render(**values)
