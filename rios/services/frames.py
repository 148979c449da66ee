"""Tables of pandas whose whole numbers stay Python ints: no amount, and no number beside a gap, becomes a float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def exact_frame(rows: Sequence[Sequence[Any]], columns: Sequence[str], *, whole: Sequence[str]) -> pd.DataFrame:
    """`rows` as a frame, where what the columns `whole` have stays what it was, None included."""
    import pandas as pd

    from rios.services.plots import register

    register()
    frame = pd.DataFrame(rows, columns=list(columns))
    for name in whole:
        # Not from the frame: it has made floats of ints beside None already.
        place = columns.index(name)
        frame[name] = pd.Series([row[place] for row in rows], dtype=object, index=frame.index)
    return frame
