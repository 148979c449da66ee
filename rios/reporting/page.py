"""What report notebooks are made of: their data, tiles, tables and charts. All of it is plain HTML and plotly.

Amounts come as text of whole wei and stay exact in tables; charts alone turn them into floats, to draw with.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rios.words.money import format_ros

DATA = "data.json"
"""The file beside the notebook that has what it is about."""
# Okabe and Ito's colours, which nearly everybody can tell apart, without their yellow.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#555555", "#8C564B")
_TOOLS = ("zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale")
SHOWN_MAX = 25
_LABEL_MAX = 28
_TICKS = 12
"""So many days are named below columns; the others stand between them."""
REST = "all others"
NONE = "(none)"


class Html:
    """HTML that a notebook shows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Html of {len(self.text)} characters>"

    def _repr_html_(self) -> str:
        return self.text


def read_data(path: str = DATA) -> dict[str, Any]:
    """What the report is about."""
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def ros(wei: str | int, *, digits: int | None = None) -> str:
    """An amount for people: exact, or to so many significant digits."""
    exact = int(wei)
    if digits is None or exact == 0:
        return format_ros(exact, unit=False)
    sign, size = ("-" if exact < 0 else ""), abs(exact)
    drop = max(len(str(size)) - digits, 0)
    scale: int = 10**drop
    rounded = (size + scale // 2) // scale * scale
    return sign + format_ros(rounded, unit=False)


def number(value: str | int) -> str:
    """A count for people."""
    return f"{int(value):,}".replace(",", "\u202f")


def change(now: str | int, before: str | int) -> str:
    """How much more or less, in percent: "+12.5 %", or what else there is to say."""
    new, old = int(now), int(before)
    if not old:
        return "new" if new else "0 %"
    permille = (new - old) * 1000 // abs(old)
    return f"{'+' if permille > 0 else ''}{permille / 10:g} %".replace("-", "\u2212")


def tiles(values: Sequence[tuple[str, str, str]]) -> Html:
    """Big figures: (what, figure, what to say below it)."""
    inner = "".join(
        f'<div class="tile"><div class="what">{html.escape(what)}</div><div class="figure">{html.escape(figure)}</div>'
        f'<div class="below">{html.escape(below)}</div></div>'
        for what, figure, below in values
    )
    return Html(f'<div class="rios-tiles">{inner}</div>')


def badge(state: str, why: str = "") -> str:
    """A word in the colour of what it says, and why where one points at it; for `table`, which leaves it as it is."""
    kind = {"good": "good", "ok": "good", "watch": "watch", "pending": "watch"}.get(state, "bad")
    return f'<span class="rios-badge {kind}" title="{html.escape(why)}">{html.escape(state)}</span>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, marks: Iterable[int] = ()) -> Html:
    """A table; all but the first column to the right where they are numbers. marks: columns of `badge`s."""
    body, marked = [], frozenset(marks)
    for row in rows:
        cells = []
        for place, cell in enumerate(row):
            text = str(cell) if place in marked else html.escape(str(cell))
            cells.append(f'<td class="{"n" if _is_number(cell) else "t"}">{text}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    if not body:
        return note(f"{columns[0]}: none")
    numbers = [place > 0 and 'class="n"' in one for place, one in enumerate(_cells(body[0]))]
    head = "".join(
        f'<th class="{"n" if right else "t"}" scope="col">{html.escape(column)}</th>'
        for column, right in zip(columns, numbers, strict=True)
    )
    return Html(f'<table class="rios-table"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>')


def note(text: str, *, bad: bool = False) -> Html:
    """A sentence of its own; in the colour of warnings where it is bad news."""
    return Html(f'<p class="rios-note{" bad" if bad else ""}">{html.escape(text)}</p>')


def top(rows: Sequence[Mapping[str, Any]], *, most: int = SHOWN_MAX) -> list[dict[str, Any]]:
    """The first rows, and the sum of the others in one more: nothing is lost."""
    shown = [{**row, "key": row["key"] or NONE} for row in rows[:most]]
    if len(rows) > most:
        rest: dict[str, Any] = {"key": f"{REST} ({len(rows) - most})"}
        for name, value in rows[0].items():
            if name != "key":
                total = sum(int(row[name]) for row in rows[most:] if row[name] is not None)
                rest[name] = None if value is None else total if isinstance(value, int) else str(total)
        shown.append(rest)
    return shown


def bars(rows: Sequence[Mapping[str, Any]], value: str, *, title: str, before: str | None = None) -> Any:
    """Horizontal bars in ROS, the longest on top; the period before as thin marks. A sentence where there are none."""
    if not rows:
        return _nothing(title)
    import plotly.graph_objects as go

    names = [_short(str(row["key"])) for row in rows]
    figure = go.Figure(
        go.Bar(
            x=[_float(row[value]) for row in rows], y=names, orientation="h", marker_color=COLORS[0],
            name="this period", hovertemplate="%{y}<br>%{x:.6g} ROS<extra></extra>",
        )
    )  # fmt: skip
    if before is not None:
        figure.add_trace(
            go.Scatter(
                x=[_float(row[before]) for row in rows], y=names, mode="markers", name="period before",
                marker={"symbol": "line-ns-open", "size": 16, "color": COLORS[1], "line": {"width": 3}},
                hovertemplate="%{y}, before<br>%{x:.6g} ROS<extra></extra>",
            )
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return styled(figure, title, height=max(220, 90 + 28 * len(rows)), x="ROS")


def columns(
    names: Sequence[str],
    series: Mapping[str, Sequence[str | int]],
    *,
    title: str,
    unit: str = "ROS",
    colors: Sequence[str] = COLORS,
) -> Any:
    """Stacked columns, one for each of `names`; amounts in wei where the unit is ROS. A sentence where all are zero."""
    if not any(float(value) for values in series.values() for value in values):
        return _nothing(title)
    import plotly.graph_objects as go

    as_float: Callable[[str | int], float] = _float if unit == "ROS" else float
    figure = go.Figure(
        [
            go.Bar(
                x=[_short(one) for one in names], y=[as_float(value) for value in values], name=_short(name),
                marker_color=colors[place % len(colors)],
                hovertemplate="%{x}<br>%{y:.6g} " + unit + "<extra>%{fullData.name}</extra>",
            )
            for place, (name, values) in enumerate(series.items())
        ]
    )  # fmt: skip
    figure.update_layout(barmode="stack", showlegend=len(series) > 1)
    figure.update_xaxes(type="category", nticks=_TICKS)
    return styled(figure, title, height=320, y=unit)


def heat(cells: Sequence[Mapping[str, Any]], *, rows: str, across: str, value: str, title: str) -> Any:
    """A heat map in ROS: `rows` down, `across` to the right, both by their sums. A sentence where there is none."""
    amounts = [_float(cell[value]) for cell in cells]
    if not any(amounts):
        return _nothing(title)
    import plotly.graph_objects as go

    down, right = _order(cells, rows, value), _order(cells, across, value)
    found = {(cell[rows], cell[across]): _float(cell[value]) for cell in cells}
    figure = go.Figure(
        go.Heatmap(
            z=[[found.get((one, other)) for other in right] for one in down],
            x=[_short(one) for one in right], y=[_short(one) for one in down], colorscale="Blues",
            zmin=min(0.0, *amounts), zmax=max(0.0, *amounts),  # of a single value plotly makes -0.5 to 0.5
            colorbar={"title": "ROS", "exponentformat": "none"},
            hovertemplate="%{y}, %{x}<br>%{z:.6g} ROS<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    figure.update_xaxes(type="category", automargin=True)
    return styled(figure, title, height=max(260, 140 + 22 * len(down)))


def _nothing(title: str) -> Html:
    """Instead of a chart: empty axes look like one that failed, and plotly's go below zero."""
    return note(f"{title}: nothing.")


def styled(figure: Any, title: str, *, height: int = 360, x: str = "", y: str = "") -> Any:
    """The same look for all charts of a report."""
    figure.update_layout(
        template="plotly_white", title={"text": title, "x": 0, "xanchor": "left", "font": {"size": 15}}, height=height,
        margin={"l": 10, "r": 10, "t": 46, "b": 36}, font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.96, "xanchor": "right"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "remove": list(_TOOLS)},
        xaxis_title=x or None, yaxis_title=y or None, bargap=0.35,
        # As the tables write it: else a small amount is "3\u00b5".
        xaxis_exponentformat="none", yaxis_exponentformat="none",
    )  # fmt: skip
    return figure


def _order(cells: Sequence[Mapping[str, Any]], name: str, value: str) -> list[str]:
    sums: dict[str, int] = {}
    for cell in cells:
        sums[cell[name]] = sums.get(cell[name], 0) + int(cell[value])
    return sorted(sums, key=lambda key: (-sums[key], key))[:SHOWN_MAX]


def _cells(row: str) -> list[str]:
    return row.split("<td ")[1:]


def _is_number(cell: object) -> bool:
    text = str(cell).strip("+\u2212-\u2013% ").replace("\u202f", "").replace(".", "", 1)
    return text.isdigit() or text in ("", "new")


def _float(wei: str | int) -> float:
    return int(wei) / 10**18


def _short(text: str) -> str:
    """A label of a chart. Plotly reads some tags in labels: a name may look like one and is none."""
    name = text or NONE
    return html.escape(name if len(name) <= _LABEL_MAX else f"{name[:14]}…{name[-12:]}", quote=False)
