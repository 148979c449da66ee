"""rios: pool machines to run mixture-of-experts models.

>>> import rios
>>> with rios.local(workers=2) as net:                                  # doctest: +SKIP
...     model = net.dmoe.deploy("demo")
...     print(model.generate("It was a fine morning,"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rios.words import errors

if TYPE_CHECKING:
    from rios.client import connect
    from rios.client.remote import RemoteNetwork
    from rios.dmoe.adaptive import TargetTracking
    from rios.services.network import Network, local

__version__ = "0.1.0"
__all__ = ["Network", "RemoteNetwork", "TargetTracking", "connect", "errors", "local"]

_HOMES = {
    "Network": "rios.services.network",
    "RemoteNetwork": "rios.client.remote",
    "TargetTracking": "rios.dmoe.adaptive",
    "connect": "rios.client",
    "local": "rios.services.network",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import rios` is quick."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rios' has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext rios`: the magics `%rios` and `%%rios`."""
    from rios.widgets import magics

    magics.register(shell)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
