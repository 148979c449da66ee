from __future__ import annotations

import socket

import pynvml
import pytest
import torch

from rios.dmoe import device as devices
from rios.dmoe.host import Host
from rios.words.config import Settings

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FREE_BYTES = 1000


def host(device: torch.device, monkeypatch: pytest.MonkeyPatch, **limits: int) -> Host:
    monkeypatch.setattr(devices, "free_bytes", lambda _: FREE_BYTES)
    monkeypatch.setattr(devices, "measure_speed", lambda _: 1.0)
    with socket.socket() as listener:
        return Host(listener, name="h", key="k", settings=Settings(memory_fraction=0.9), device=device, **limits)


@pytest.mark.parametrize(
    ("device", "limits", "capacity_bytes"),
    [
        (CPU, {}, 900),
        (CPU, {"ram_bytes": 500}, 500),
        (CPU, {"ram_bytes": 5000}, 900),
        (CPU, {"memory_bytes": 700, "ram_bytes": 500}, 500),
        (CPU, {"memory_bytes": 700, "ram_bytes": 0}, 700),
        (CPU, {"memory_bytes": 5000}, 900),
        (CUDA, {}, 900),
        (CUDA, {"ram_bytes": 500}, 900),  # what Dask allows in main memory says nothing about a GPU's
        (CUDA, {"memory_bytes": 700, "ram_bytes": 500}, 700),
        (CUDA, {"memory_bytes": 5000}, 900),
    ],
    ids=str,
)
def test_a_host_takes_no_more_than_is_free(
    device: torch.device, limits: dict[str, int], capacity_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host(device, monkeypatch, **limits).budget.capacity_bytes == capacity_bytes


def test_a_gpu_without_nvml_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    found = devices.utilisation(CUDA)
    assert found is not None
    assert set(found) == {"error"}
    assert devices.utilisation(CPU) is None


@pytest.mark.gpu
def test_a_gpu_tells_how_busy_it_is() -> None:
    found = devices.utilisation(CUDA)
    assert found is not None
    assert 0 <= found["percent"] <= 100
    assert 0 < found["used_bytes"] < found["total_bytes"]


def test_each_rank_has_the_next_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for rank in range(6):
        monkeypatch.setenv("RIOS_DEVICE_INDEX", str(rank))
        chosen.append(devices.index(4))
    assert chosen == [0, 1, 2, 3, 0, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices.pick() == torch.device("cuda", 1)
    monkeypatch.setenv("RIOS_DEVICE", "cuda:3")
    assert devices.pick() == torch.device("cuda", 3)


def test_memory_that_was_short_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 52)
    assert devices.out_of_memory(found.value)
    assert devices.out_of_memory(MemoryError())
    assert devices.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not devices.out_of_memory(RuntimeError("shape '[2]' is invalid for input of size 3"))
    assert not devices.out_of_memory(ValueError("DefaultCPUAllocator"))
