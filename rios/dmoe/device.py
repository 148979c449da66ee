"""The device of a host: which one, how much memory is free on it, how fast it is, how busy it is."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import torch

from rios.dmoe import ram

_SPEED_SIDE = 256  # a 256 x 256 product fits every cache: the figure is compute, not memory
_SPEED_SECONDS = 0.02
_SPEED_TURNS = 20


def index(count: int) -> int:
    """Which of `count` devices is this worker's: each takes the next, by its rank on the machine."""
    return int(os.environ.get("RIOS_DEVICE_INDEX", "0")) % count


def pick() -> torch.device:
    """The GPU that `RIOS_DEVICE` or this worker's rank names, else the CPU.

    Under `dask worker --nworkers N` each worker takes one GPU in turn; `CUDA_VISIBLE_DEVICES` is honoured.
    """
    wanted = os.environ.get("RIOS_DEVICE")
    if wanted:
        return torch.device(wanted)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", index(torch.cuda.device_count()))


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated, within the control group's limit where there is one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return ram.free_bytes()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short: PyTorch raises a plain RuntimeError for that of the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in said or "can't allocate memory" in said)


def return_freed() -> None:
    """Give memory that was freed back to the operating system, where the C library can (glibc).

    An expert's bytes are staged in memory of several megabytes, and small objects that come after it settle in what
    it leaves, so the next one does not fit there: measured, a host of 138 MB of experts kept 100 MB of holes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def measure_speed(device: torch.device) -> float:
    """Giga-floating-point operations per second of a small product: only ratios between hosts are used."""
    side = _SPEED_SIDE if device.type == "cpu" else 16 * _SPEED_SIDE
    a = torch.ones((side, side), device=device)
    b = torch.ones((side, side), device=device)
    best = float("inf")
    stop = time.perf_counter() + _SPEED_SECONDS
    turns = 0
    # The first products set the library up, and on a busy machine the clock may run out during one of them.
    while time.perf_counter() < stop or turns < _SPEED_TURNS:
        turns += 1
        started = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e9


def utilisation(device: torch.device) -> dict[str, Any] | None:
    """NVML's figures for a GPU: `percent` busy, `used_bytes`, `total_bytes`, or `error`; None on a CPU."""
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            uuid = str(torch.cuda.get_device_properties(device).uuid)  # without the prefix that NVML writes and wants
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:  # a container may hide the library
        return {"error": str(error)}
    return {"percent": int(rates.gpu), "used_bytes": int(memory.used), "total_bytes": int(memory.total)}
