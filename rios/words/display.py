"""How things show themselves: tables as text, and as escaped HTML in the colours of whatever theme a notebook has.

Nothing that is shown is markup, whoever wrote it. What has to ask somebody in order to show itself does so by `answer`:
a notebook, a debugger and a traceback show what is closed or gone, too, and wait for nobody.
"""

from __future__ import annotations

import dataclasses
import html
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from rios.words.errors import DeadlineExceeded, RiosError
from rios.words.money import format_ros

T = TypeVar("T")

# Jupyter's variables: what is dark in a light theme is light in a dark one.
_COLOR = "color:var(--jp-content-font-color1)"
_MINOR = "color:var(--jp-content-font-color2)"
_CELL = "text-align:left;padding:2px 10px"
# Longer ones are for whoever reads the field itself: a table is to be taken in at a glance.
_TEXT_MAX = 200
_FEW = 12
_WEI = "_wei"
SHOW_S = 5.0
"""Who shows something waits no longer for what others say of it."""
_until: ContextVar[float | None] = ContextVar("rios_shown_until", default=None)


class Unknown(str):
    """Why something is not known, as it is shown in its place."""

    __slots__ = ()


def answer(ask: Callable[[], T]) -> T | Unknown:
    """What `ask` returns, or why nobody says it: closed, gone, or no answer within `SHOW_S`."""
    token = None if _until.get() else _until.set(time.monotonic() + SHOW_S)
    try:
        return ask()
    except RiosError as error:
        return Unknown(f"unknown: {error}")
    finally:
        if token is not None:
            _until.reset(token)


def patience_s() -> float | None:
    """Seconds that who shows something still waits, for those who ask over a network; None where nobody shows anything.

    Raises DeadlineExceeded where they are over.
    """
    until = _until.get()
    if until is None:
        return None
    if (left := until - time.monotonic()) <= 0:
        raise DeadlineExceeded(f"no answer within {SHOW_S:g} s")
    return left


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An escaped HTML table in the colours of the notebook."""
    head = "".join(f'<th style="{_CELL}">{html.escape(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{html.escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    style = f"{_COLOR};border-collapse:collapse"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def html_line(text: object, *, title: str = "", minor: bool = False) -> str:
    """An escaped line in the colours of the notebook, after its title in bold. minor: it is about what is above it."""
    bold = f"<b>{html.escape(title)}</b> " if title else ""
    style = f"{_MINOR};font-size:smaller;padding:4px 0" if minor else _COLOR
    return f'<div style="{style};white-space:pre-wrap">{bold}{html.escape(str(text))}</div>'


def text_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as aligned text."""
    cells = [list(columns), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def said(value: object) -> str:
    """A field for people: one line, of bounded length."""
    if value is None:
        text = ""
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, bytes):
        text = f"{len(value)} bytes"
    elif isinstance(value, Mapping):
        text = ", ".join(map(str, value)) if len(value) <= _FEW else f"{len(value)} entries"
    elif isinstance(value, Collection) and not isinstance(value, str):
        plain = len(value) <= _FEW and all(isinstance(one, str | int) for one in value)
        text = ", ".join(map(str, value)) if plain else f"{len(value)} entries"
    else:
        text = str(value)
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"


class Shown:
    """What a notebook shows as well as print does: a dataclass as a table of its fields, anything else as its `repr`.

    A field `..._wei` is shown in ROS. `_table` says what else is to be shown.
    """

    __slots__ = ()

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]] | None:
        """Columns and rows; None for the line that `repr` is."""
        found: Any = self
        if not dataclasses.is_dataclass(found):
            return None
        rows = []
        for field in dataclasses.fields(found):
            value = getattr(self, field.name)
            if field.name.endswith(_WEI) and isinstance(value, int):
                rows.append((field.name.removesuffix(_WEI), format_ros(value)))
            else:
                rows.append((field.name, said(value)))
        return (type(self).__name__, ""), rows

    def _repr_html_(self) -> str:
        found = self._table()
        return html_line(repr(self)) if found is None else html_table(*found)
