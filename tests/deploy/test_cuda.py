"""A CUDA program in a sandbox, on a real GPU: it computes there with `gpu`, and finds no device without."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.deploy.runtimes.bubblewrap import BubblewrapRuntime
from rios.deploy.runtimes.gpus import Gpus, read_gpus
from rios.deploy.runtimes.protocol import HostBase, Launch, Limits, Status
from tests.waiting import until

pytestmark = [pytest.mark.gpu, pytest.mark.needs("bwrap"), pytest.mark.needs("root")]
WAIT_S = 60.0
MEMORY = 4 << 30
WORDS = 1 << 20
# With the driver's library alone, for a sandbox has no torch: memory of the device is set by it, and read back.
PROGRAM = f"""
import ctypes, sys, time
cuda = ctypes.CDLL(sys.argv[1])
def ask(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{{name}} answered {{code}}")
count, device, context, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
ask("cuInit", 0)
ask("cuDeviceGetCount", ctypes.byref(count))
ask("cuDeviceGet", ctypes.byref(device), 0)
uuid = (ctypes.c_ubyte * 16)()
ask("cuDeviceGetUuid", uuid, device)
ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
ask("cuCtxSetCurrent", context)
ask("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t({4 * WORDS}))
ask("cuMemsetD32_v2", memory, ctypes.c_uint(7), ctypes.c_size_t({WORDS}))
back = (ctypes.c_uint * {WORDS})()
ask("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t({4 * WORDS}))
print(count.value, bytes(uuid).hex(), sum(back), flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def runtime(sandbox_directory: Path) -> Iterator[BubblewrapRuntime]:
    place = sandbox_directory / "cuda"
    place.mkdir(mode=0o711, exist_ok=True)
    made = BubblewrapRuntime(place)
    yield made
    for status in made.instances():
        made.remove(status.instance)


def library() -> str:
    """The driver's library of this machine: /usr has it, which sandboxes of the host's own files see."""
    ctypes.CDLL("libcuda.so.1")
    found = re.search(r"(/usr/\S*libcuda\.so\S*)", Path("/proc/self/maps").read_text())
    assert found, "the driver's library is under /usr"
    return found[1]


def start(runtime: BubblewrapRuntime, name: str, count: int, *, stay_s: float = 0.0) -> Status:
    command = ("/usr/bin/python3", "-c", PROGRAM, library(), str(stay_s))
    limits = Limits(cpu=2.0, memory_bytes=MEMORY, pids=64)
    return runtime.start(
        Launch(
            instance=f"cuda-{os.getpid()}-{name}",
            base=HostBase(),
            command=command,
            env={"LD_LIBRARY_PATH": str(Path(library()).parent)},
            gpus=count,
            limits=limits,
        )
    )


def said(runtime: BubblewrapRuntime, instance: str) -> str:
    return "\n".join(line.text for line in runtime.logs(instance))


def test_a_program_computes_on_the_gpu_that_it_was_given(runtime: BubblewrapRuntime) -> None:
    assert runtime.no_gpus() == ""
    first = start(runtime, "with", 1, stay_s=WAIT_S)
    until(
        lambda: said(runtime, first.instance) or runtime.status(first.instance).state == "exited",
        "a word of it",
        deadline_s=WAIT_S,
    )
    words = said(runtime, first.instance).split()
    assert words[0] == "1", said(runtime, first.instance)
    given = Gpus().of(runtime._records.of(first.instance).directory)
    assert [gpu.uuid.removeprefix("GPU-").replace("-", "") for gpu in given] == [words[1]]
    assert int(words[2]) == 7 * WORDS
    assert runtime.metrics(first.instance).gpu_memory_bytes > 4 * WORDS
    # Whoever did not ask for one has none, by the same program and the same library.
    none = runtime.wait(start(runtime, "without", 0).instance, timeout_s=WAIT_S)
    assert none.exit_code == 1
    assert "cuInit answered" in said(runtime, none.instance)


def test_what_was_in_its_memory_is_free_when_it_was_killed(runtime: BubblewrapRuntime) -> None:
    before = sum(gpu.used_bytes for gpu in read_gpus())
    one = start(runtime, "killed", 1, stay_s=WAIT_S)
    until(lambda: said(runtime, one.instance), "a word of it", deadline_s=WAIT_S)
    assert sum(gpu.used_bytes for gpu in read_gpus()) > before
    runtime.kill(one.instance)
    runtime.remove(one.instance)
    until(lambda: sum(gpu.used_bytes for gpu in read_gpus()) <= before, "its memory is given back", deadline_s=WAIT_S)
    assert start(runtime, "next", 1).state in ("running", "exited"), "and the device to the next one"
