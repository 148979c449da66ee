"""Lists in pages: an answer has at most `limit` rows, and `next`, which is the `after` of the page that follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from rios.words.errors import InvalidRequest

T = TypeVar("T")
After = Annotated[
    str,
    Query(
        max_length=300, pattern=r"^[^\x00]*$", description="The `next` of the page before; nothing for the first one."
    ),
]
AfterNumber = Annotated[int, Query(ge=0, lt=2**53, description="The `next` of the page before; 0 for the first one.")]
Limit = Annotated[int, Query(ge=1, le=500)]
_DIGITS_MAX = 16


def page_of(
    rows: Sequence[T], limit: int, *, shown: Callable[[T], dict[str, Any]], cursor: Callable[[T], str | int]
) -> dict[str, Any]:
    """The answer that a page is. rows: those that follow, one more than `limit` at least where there are more.

    cursor: what `next` says of the last row of a page that others follow.
    """
    page = rows[:limit]
    return {"data": [shown(one) for one in page], "next": cursor(page[-1]) if len(rows) > limit else None}


def moment_cursor(at: int, id: str) -> str:  # noqa: A002
    """A place in a list that is ordered by moment and id."""
    return f"{at}:{id}"


def read_last_first(after: str) -> tuple[int, str] | None:
    """As `read_moment_cursor`, of a list that begins with the last one; None before all rows."""
    return read_moment_cursor(after) if after else None


def read_moment_cursor(after: str) -> tuple[int, str]:
    """Moment and id of the last row before a page; before all rows for "". Raises InvalidRequest."""
    if not after:
        return -1, ""
    at, colon, id_ = after.partition(":")
    if not (at.isascii() and at.isdecimal() and len(at) <= _DIGITS_MAX and colon):
        raise InvalidRequest(f"after is {after!r}; it must be the `next` of the page before")
    return int(at), id_
