# ruff: noqa: PTH115, PTH123, PTH208  -- little of the library is inside
"""Other processes."""

from __future__ import annotations

import ctypes
import os
import struct

from tests.deploy.escapes.tools import PROCESS_VM_READV, TOLD, attempt, call, each, libc, read, syscall


@attempt
def see_processes_of_the_host():
    def command(pid):
        found = read(f"/proc/{pid}/cmdline")
        return found if b"pytest" in found or b"podman-system" in found else None

    return each(command, [pid for pid in os.listdir("/proc") if pid.isdigit()])


@attempt
def signal_a_process_of_the_host():
    os.kill(TOLD["host_pid"], 0)
    return "it is there"


@attempt
def trace_a_process_of_the_host():
    return call(libc.ptrace(16, TOLD["host_pid"], None, None)) == 0


@attempt
def read_the_memory_of_a_process_of_the_host():
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("PN", ctypes.addressof(buffer), 8)
    return syscall(PROCESS_VM_READV, TOLD["host_pid"], vector, 1, vector, 1, 0) > 0


@attempt
def find_the_environment_of_the_host():
    def marked(pid):
        with open(f"/proc/{pid}/environ", "rb") as file:
            return TOLD["marker"].encode() in file.read()

    return each(marked, ["self", *(pid for pid in os.listdir("/proc") if pid.isdigit())])


@attempt
def use_descriptors_that_were_left_open():
    def leads_out(fd):
        target = os.readlink(f"/proc/self/fd/{fd}")
        return (
            target if target.startswith("/") and not target.startswith(("/dev/null", "/proc", "/usr/local")) else None
        )

    return each(leads_out, os.listdir("/proc/self/fd"))
