"""Where what a user holds reaches an edge above it: its widget, or a panel that wants to know of it.

Services import nothing from above, so edges are found by their entry points (group `rios.edges` of pyproject.toml).
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from rios.words.errors import InvalidRequest

log = logging.getLogger(__name__)

_GROUP = "rios.edges"


@functools.cache
def edge(name: str) -> Any:
    """What the entry point `name` stands for. Raises InvalidRequest where this installation lacks it."""
    found = next(iter(entry_points(group=_GROUP, name=name)), None)
    if found is None:
        raise InvalidRequest(f"this installation of rios has no {name!r}; install it again, with pip or make setup")
    return found.load()


def in_kernel() -> bool:
    """Whether this process is a notebook's kernel. Nothing is imported to find out."""
    module = sys.modules.get("ipykernel.kernelapp")
    return module is not None and bool(module.IPKernelApp.initialized())


def announce(network: Any, *, kind: str) -> Callable[[], None]:
    """Let the panels of this user's JupyterLab find a network made in a kernel; returns what takes that back.

    Nobody's notebook fails for want of a panel: what goes wrong is logged.
    """
    if not in_kernel():
        return _nothing
    try:
        taken: Callable[[], None] = edge("announce")(network, kind=kind)
    except (InvalidRequest, OSError) as error:
        log.warning("this network does not show in JupyterLab's panel", extra={"reason": str(error)})
        return _nothing
    return taken


def _nothing() -> None:
    """What was not announced need not be taken back."""
