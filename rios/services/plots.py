"""`frame.rios.plot()`: pictures of what a network's tables say, as plotly figures that need no network."""

from __future__ import annotations

import functools
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rios.words.display import Shown
from rios.words.errors import InvalidRequest
from rios.words.money import WEI_PER_ROS, format_ros

if TYPE_CHECKING:
    import pandas as pd


class Plots(Shown):
    """The accessor `rios` of pandas frames that have a column `wei` or `amount_wei`."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def __repr__(self) -> str:
        return f"<Plots of a table with {', '.join(map(str, self._frame.columns))}>"

    def plot(self, by: str | None = None, *, title: str | None = None) -> Any:
        """Bars of ROS by a column: the first of a table of costs, "model" of usage. Exact amounts are in the hover.

        Raises InvalidRequest where there is no such column, or no amount.
        """
        import plotly.graph_objects as go

        frame = self._frame
        amount = next((name for name in ("wei", "amount_wei") if name in frame.columns), None)
        if amount is None:
            raise InvalidRequest(f"this table has no amounts, but {', '.join(map(str, frame.columns))}")
        by = by or ("model" if amount == "amount_wei" else str(frame.columns[0]))
        if by not in frame.columns:
            raise InvalidRequest(f"this table has no column {by!r}, but {', '.join(map(str, frame.columns))}")
        sums: dict[str, int] = {}
        for key, wei in zip(frame[by], frame[amount], strict=True):
            sums[str(key)] = sums.get(str(key), 0) + int(wei)
        figure = go.Figure(
            go.Bar(
                x=list(sums),
                y=[float(Decimal(wei) / WEI_PER_ROS) for wei in sums.values()],
                customdata=[format_ros(wei) for wei in sums.values()],
                hovertemplate="%{x}<br>%{customdata}<extra></extra>",
            )
        )
        figure.update_layout(title=title or f"ROS by {by}", xaxis_title=by, yaxis_title="ROS")
        return figure


@functools.cache
def register() -> None:
    """Give pandas frames the accessor; once a process."""
    import pandas as pd

    pd.api.extensions.register_dataframe_accessor("rios")(Plots)
