"""Loaded by Jupyter Server: the routes of the panels, and the networks behind them."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from rios.lab.handlers import routes
from rios.lab.networks import Networks


class RiosLab(ExtensionApp):
    """The server half of JupyterLab's panels of rios."""

    name = "rios_lab"
    load_other_extensions = True
    networks: Networks

    def initialize_settings(self) -> None:
        """Know the kernels of this server."""
        assert self.serverapp is not None
        manager = self.serverapp.kernel_manager
        self.networks = Networks(lambda: set(manager.list_kernel_ids()))
        self.settings["rios_networks"] = self.networks

    def initialize_handlers(self) -> None:
        """Answer under /rios; the base URL, such as JupyterHub's prefix, comes before it by itself."""
        self.handlers.extend(routes(""))

    async def stop_extension(self) -> None:
        """End the networks that were started here; those of kernels end with their kernels."""
        await self.networks.close()
