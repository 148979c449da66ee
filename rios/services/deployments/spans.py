"""How many replicas a deployment has between: what its revision says, or what its owner scaled it to since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rios.services.deployments.values import App
from rios.words.errors import InvalidRequest

REPLICAS_MAX = 1000
"""Of one deployment, as in a specification."""


def span_after(app: App, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `app` when its revision `before` makes room for the revision `after`, forwards or back.

    Where both say the same, what it was scaled to stays: whoever changes something else does not mean that. Of models
    engines decide.
    """
    if after["model"] is not None or before["replicas"] == after["replicas"]:
        return {}
    low, high = after["replicas"]["min"], after["replicas"]["max"]
    wanted = min(max(app.replicas, low), high)
    return {"replicas_min": low, "replicas_max": high, "replicas": wanted, "reached": min(app.reached, wanted)}


def is_untried(app: App) -> bool:
    """Whether no replica of its wanted revision was ready yet, as where none was wanted since it was wished."""
    return app.settled_revision != app.revision


def woken(app: App, wanted: int, *, at: int) -> dict[str, Any]:
    """Further columns of `app` where it is to have so many replicas from the moment `at` on: of one that had none, the
    revision has its time from then on."""
    return {"since": at} if wanted and not app.replicas else {}


def span_of(replicas: int | tuple[int, int]) -> tuple[int, int]:
    """At least and at most so many. Raises InvalidRequest."""
    low, high = (replicas, max(replicas, 1)) if isinstance(replicas, int) else replicas
    if isinstance(replicas, bool) or not 0 <= low <= high <= REPLICAS_MAX:
        raise InvalidRequest(
            f"{replicas!r} is no number of replicas up to {REPLICAS_MAX}, nor two of them with the smaller first"
        )
    return low, high


def said_of(low: int, high: int) -> str:
    """For people."""
    return f"{low} replicas" if low == high else f"{low} to {high} replicas"


def scaled_to(app: App, specification: Mapping[str, Any]) -> tuple[int, int] | None:
    """What its owner scaled it to, where that is not what its revision says."""
    said = specification["replicas"]
    mine = (app.replicas_min, app.replicas_max)
    return None if specification["model"] is not None or mine == (said["min"], said["max"]) else mine
