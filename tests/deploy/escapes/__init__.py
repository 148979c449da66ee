"""Attempts to get out of a sandbox, to be made inside one. Standard library alone; it prints one JSON object.

Each attempt returns what it got, or None, or raises OSError, where it was denied. `ATTEMPTS` are all functions of these
files; what lies outside is told as JSON in the first argument, and which of them to try in the others: all, without.
"""

from __future__ import annotations

from tests.deploy.escapes import files, kernel, mounts, networks, privileges, processes
from tests.deploy.escapes.tools import ATTEMPTS

__all__ = ["ATTEMPTS", "files", "kernel", "mounts", "networks", "privileges", "processes"]
