"""Hosts of a machine with four GPUs, as far as the choice of one goes."""

from __future__ import annotations

from typing import Any

from rios.dmoe import device as devices
from rios.dmoe.host import Host
from rios.dmoe.wire import Frame


class FourDevices(Host):
    """Computes on the CPU, and says which of four GPUs it would have taken."""

    def _info(self, request: dict[str, Any], frame: Frame | None, session: str) -> dict[str, Any]:
        return {**super()._info(request, frame, session), "device": f"cuda:{devices.index(4)}"}
