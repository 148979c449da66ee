"""What a machine has that rios needs, in words."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_REACH_S = 2.0
_ROOT = Path(__file__).resolve().parents[1]
_PARTS = {
    "widgets": ("widgets/static", ("widget.js", "widget.css"), "run `make lab`"),
    "dashboard": ("gateway/static", ("dashboard.js", "dashboard.css"), "run `make lab`"),
    "contracts": (
        "billing/artifacts",
        tuple(
            f"{one}.json"
            for one in (
                "RiosEscrow",
                "RiosGovernor",
                "RiosPriceBook",
                "RiosSettlement",
                "RiosStaking",
                "RosToken",
                "TimelockController",
            )
        ),
        "install again",
    ),
    "demo model": ("demo/model", ("config.json", "model.safetensors", "tokenizer.json"), "install again"),
}
"""What is not Python, and how it comes back."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    said: str


def examine() -> Iterator[Finding]:
    """Look at interpreter, libraries, device, memory, ports, shared memory, and what rios has besides Python."""
    from importlib.metadata import version

    import torch
    import transformers

    from rios.dmoe import device
    from rios.dmoe.host import machine_id
    from rios.dmoe.shm import Segment, supported
    from rios.services.views import size

    yield Finding("Python", sys.version_info >= (3, 11), platform.python_version())
    yield Finding(
        "libraries",
        True,
        f"torch {torch.__version__}, transformers {transformers.__version__}, distributed {version('distributed')}",
    )
    picked = device.pick()
    yield Finding("device", True, f"{picked}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    free = device.free_bytes(picked)
    yield Finding("memory", free > 1 << 29, f"{size(free)} free for shards and trunks")
    yield Finding("machine", True, f"{machine_id()}; hosts that say the same share memory")
    yield _ports()
    yield from _jupyter()
    yield from _parts(_ROOT)
    yield from _reports()
    if not supported:
        yield Finding("shared memory", False, "hosts of one machine talk by sockets: this needs Linux on x86-64")
        return
    segment, nonce = Segment.create(1 << 16)
    seen = Segment.open(os.getpid(), segment.fd, 1 << 16, nonce) is not None
    segment.close()
    yield Finding("shared memory", seen, "works" if seen else "/proc/PID/fd cannot be opened: sockets are used instead")


def _jupyter() -> Iterator[Finding]:
    """Whether JupyterLab of this environment has both halves of the panels, of this version."""
    from importlib.metadata import version

    from jupyter_core.paths import jupyter_config_path, jupyter_path

    folders = [Path(one) / "rios-lab" for one in jupyter_path("labextensions")]
    front = next((one / "package.json" for one in folders if (one / "package.json").is_file()), None)
    if front is None:
        yield Finding("panels", False, "JupyterLab has no panels of rios: install the wheel, or run `make lab`")
    else:
        there, here = str(json.loads(front.read_text())["version"]), version("rios")
        said = f"{there} in {front.parent}" if there == here else f"{there}, but rios is {here}: install or build again"
        yield Finding("panels", there == here, said)
    enabled = [Path(one) / "jupyter_server_config.d" / "rios-lab.json" for one in jupyter_config_path()]
    found = next((one for one in enabled if one.is_file()), None)
    switched_on = found is not None and json.loads(found.read_text())["ServerApp"]["jpserver_extensions"].get(
        "rios.lab"
    )
    said = f"enabled by {found}" if switched_on else "not enabled: `jupyter server extension enable rios.lab`"
    yield Finding("panels' server", bool(switched_on), said)


def _parts(root: Path) -> Iterator[Finding]:
    """Whether the package in `root` has its bundles, contracts and model."""
    for what, (folder, names, remedy) in _PARTS.items():
        missing = [name for name in names if not (root / folder / name).is_file()]
        said = f"{root / folder} has no {', '.join(missing)}: {remedy}" if missing else f"in {root / folder}"
        yield Finding(what, not missing, said)


def _reports() -> Iterator[Finding]:
    """Whether the notebooks of reports are here, and what prints them."""
    from rios.reporting.pdf import browser
    from rios.reporting.templates import Templates
    from rios.services.reports.kinds import KINDS

    names = set(Templates.of(None).names())
    missing = sorted(set(KINDS) - names)
    said = f"no notebook for {', '.join(missing)}: install again" if missing else ", ".join(sorted(names))
    yield Finding("reports", not missing, said)
    found = browser()
    yield Finding("browser", found is not None, found or "reports have no PDF: install chromium")


def _ports() -> Finding:
    """Whether a host of this machine can listen where others reach it: at RIOS_DATA_PORT, or at any port."""
    wanted = os.environ.get("RIOS_DATA_PORT", "0")
    which = f"port {wanted} (RIOS_DATA_PORT)" if wanted != "0" else "a port"
    try:
        with socket.create_server(("", int(wanted))) as listener:
            port = listener.getsockname()[1]
            name = socket.gethostname()
            try:
                socket.create_connection((name, port), timeout=_REACH_S).close()
            except OSError as error:
                return Finding(
                    "ports", False, f"{name}:{port} cannot be reached from here: {error}; is a firewall there?"
                )
    except (OSError, OverflowError, ValueError) as error:
        return Finding("ports", False, f"{which} cannot be opened: {error}; give RIOS_DATA_PORT another number")
    return Finding("ports", True, f"{which} can be opened and reached at {name}")
