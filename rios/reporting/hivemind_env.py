"""An environment of its own for hivemind, which is only measured against and no part of rios."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rios.words.errors import RiosError

# What was measured, and what worked together: its own bounds are open.
PINS = (
    "hivemind==1.1.12",
    "torch==2.13.0",
    "safetensors==0.8.0",
    "numpy==2.4.6",
    "scipy==1.17.1",
    "grpcio==1.85.3",
    "grpcio-tools==1.85.1",
    "protobuf==7.36.2",
    "pydantic==2.14.4",
    "uvloop==0.23.0",
    "msgpack==1.2.4",
    "py-multihash==3.0.0",
    "py-cid==0.5.0",
    "prefetch_generator==1.0.3",
    "configargparse==1.9.0",
    "setuptools==84.2.1",
)
INSTALL_S = 540.0
_LAST_WORDS = 1500


def python(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is made where it is missing or has other versions.

    Making it takes a minute or two, once. Raises `RiosError` with what pip said.
    """
    stamp, interpreter = folder / ".installed", folder / "bin" / "python"
    wanted = "\n".join((str(folder), sys.version, *PINS))
    if interpreter.exists() and stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    stamp.unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], folder)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    # Older pips choose an unsuitable build of torch, several gigabytes large.
    _run([*pip, "pip>=25"], folder)
    _run([*pip, *PINS], folder)
    _run([str(interpreter), "-c", "import hivemind, safetensors, torch"], folder)
    stamp.write_text(wanted)
    return interpreter


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise RiosError(
            f"no environment with {PINS[0]} could be made in {folder}, so rios cannot be compared with it; "
            f"`{' '.join(command)[:300]}` failed:\n{said.strip()[-_LAST_WORDS:]}"
        ) from error
