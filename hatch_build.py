"""What a wheel of rios carries beside the package: both halves of JupyterLab's panels. No wheel lacks a bundle.

The front end is built beforehand (`make lab`): who installs the wheel, or builds it from a source distribution, has no
need of Node. An editable installation has the built files linked by `make lab` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CONFIG = "extension/jupyter-config/server-config/rios-lab.json"
BUILT = "extension/labextension"
BUNDLES = (f"{BUILT}/package.json", "rios/widgets/static/widget.js", "rios/gateway/static/dashboard.js")


class Panels(BuildHookInterface[Any]):
    """Adds the files that Jupyter looks for outside packages."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the build."""
        if version != "editable":
            for bundle in BUNDLES:
                if not Path(self.root, bundle).is_file():
                    raise FileNotFoundError(f"{bundle} is not built: run `make lab` (it needs Node), then again")
        if self.target_name != "wheel":
            return
        build_data["shared_data"][CONFIG] = "etc/jupyter/jupyter_server_config.d/rios-lab.json"
        if version != "editable":
            build_data["shared_data"][BUILT] = "share/jupyter/labextensions/rios-lab"
