"""Machines of tests that have GPUs: their device nodes are plain files of a directory."""

from __future__ import annotations

from pathlib import Path

from rios.deploy.runtimes import gpus
from rios.deploy.runtimes.gpus import Gpu, Gpus

A, B, C = (Gpu(uuid=f"GPU-{name}", minor=minor) for name, minor in (("aaaa", 0), ("bbbb", 1), ("cccc", 2)))


def machine(directory: Path, *found: Gpu, missing: tuple[str, ...] = (), mode: int = 0o666) -> Gpus:
    """A machine with these GPUs, whose nodes are plain files."""
    dev = directory / "dev"
    dev.mkdir()
    for name in {*gpus.SHARED, *(f"nvidia{gpu.minor}" for gpu in found)} - set(missing):
        (dev / name).touch()
        (dev / name).chmod(mode)
    return Gpus(dev=dev, claims=directory / "claims", read=lambda: found)


def record(directory: Path, name: str) -> Path:
    """A new directory, in which a replica's things are kept."""
    (directory / name).mkdir()
    return directory / name
