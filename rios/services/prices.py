"""Price book and parameters as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rios.words.display import text_table
from rios.words.money import format_ros

if TYPE_CHECKING:
    from rios.billing.books import Line, PriceBook
    from rios.billing.parameters import Setting


def book_text(book: PriceBook, parameters: Sequence[Setting]) -> str:
    """A price book with all of its lines, and the network's own parameters beside it."""
    rows = [row for key in book.keys() for row in _line_rows(key, book.line(key))]  # noqa: SIM118  it is no mapping
    for name, discount in book.discounts.items():
        rows.append((f"discount {name}", f"{discount.off_bp / 100:g} % off {', '.join(discount.lines) or 'all lines'}"))
    rows += [
        ("a request, at least", format_ros(book.minimum_wei)),
        ("workers ask", f"{book.ask_min_bp / 100:g} % to {book.ask_max_bp / 100:g} % of these prices"),
        ("platform's share", f"{book.platform_bp / 100:g} %"),
    ]
    prices = text_table(("line", "price"), rows)
    return f"price book {book.version}, {book.digest}\n{prices}\n\n{parameters_text(parameters)}"


def parameters_text(parameters: Sequence[Setting]) -> str:
    """Parameters, what they are, and who says so."""
    rows = [(one.name, "never" if one.value is None else _shown(one), one.by) for one in parameters]
    return text_table(("parameter", "value", "by"), rows)


def _line_rows(key: str, line: Line) -> Iterator[tuple[str, str]]:
    start = 0
    for tier in line.tiers:
        span = "" if len(line.tiers) == 1 else f" from {start} {line.unit}s a month on"
        yield f"{key}{span}", f"{format_ros(tier.price_wei)} a {line.unit}"
        start = tier.up_to or 0
    if line.minimum_wei:
        yield f"{key}, at least", format_ros(line.minimum_wei)


def _shown(one: Setting) -> str:
    if one.name.endswith("_wei") and isinstance(one.value, int):
        return format_ros(one.value)
    return f"{one.value:,}" if isinstance(one.value, int) else f"{one.value:g}"
