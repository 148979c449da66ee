"""The demo model that ships with rios: a small mixture of experts, ready to run.

Two voices were mixed in its training, Jane Austen's and the King James Bible's, and
its experts divide the work between them. See ``model/README.md`` for its card.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """Return the folder of the shipped model, as ``from_pretrained`` takes it.

    >>> (path() / "config.json").is_file()
    True
    """
    return Path(__file__).parent / "model"
