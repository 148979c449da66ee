"""JupyterLab's panels of rios: a server extension beside a prebuilt front end."""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from rios.lab.extension import RiosLab

    return [{"module": "rios.lab.extension", "app": RiosLab}]
