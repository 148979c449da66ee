"""The process keeps its recursion limit, whatever libraries do on import.

py_ecc sets it to 100,000 and py-evm to 12,288, for everybody in the process. Under the first, a JSON text of 100,000
opening brackets no longer ends in RecursionError: it overflows the C stack and kills the process. Whoever imports
eth-account or py-evm calls `put_back` after it.
"""

from __future__ import annotations

import sys

# The package `rios.billing` imports this module before any other of its modules, so before those libraries come in.
_LIMIT = sys.getrecursionlimit()


def put_back() -> None:
    """Sets the limit to what it was when `rios.billing` was first imported."""
    sys.setrecursionlimit(_LIMIT)
