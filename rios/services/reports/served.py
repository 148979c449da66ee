"""A report's file as a browser gets it, from a gateway or a panel."""

from __future__ import annotations

from collections.abc import Mapping

TYPES = {
    "html": "text/html; charset=utf-8", "pdf": "application/pdf", "json": "application/json",
    "ipynb": "application/x-ipynb+json",
}  # fmt: skip
# A page is whoever's notebook it was: what it would run here has nothing of this address.
_SHUT = {"Content-Security-Policy": "sandbox allow-scripts; default-src 'none'", "Cache-Control": "no-store"}


def headers(kind: str) -> Mapping[str, str]:
    """What its answer has beside the bytes. It is saved, and opens without a network."""
    return {"Content-Type": TYPES[kind], "Content-Disposition": f'attachment; filename="report.{kind}"', **_SHUT}
