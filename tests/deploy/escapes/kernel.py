"""The kernel."""

from __future__ import annotations

import ctypes
import os
import struct

from tests.deploy.escapes.tools import (
    ACCT,
    ADD_KEY,
    BPF,
    CLOCK_SETTIME,
    FINIT_MODULE,
    INIT_MODULE,
    IO_URING_SETUP,
    KEXEC_LOAD,
    KEYCTL,
    PERF_EVENT_OPEN,
    QUOTACTL,
    SWAPON,
    SYSLOG,
    TOLD,
    attempt,
    call,
    each,
    first,
    libc,
    read,
    syscall,
    write,
)


@attempt
def set_kernel_parameters():
    names = [
        "kernel/core_pattern",
        "kernel/modprobe",
        "kernel/hostname",
        "vm/overcommit_memory",
        "kernel/randomize_va_space",
    ]
    return each(lambda name: write(f"/proc/sys/{name}", read(f"/proc/sys/{name}")), names)


@attempt
def press_the_magic_key():
    return write("/proc/sysrq-trigger", b"h")


@attempt
def write_to_sys():
    paths = ["/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled"]
    for root, _, names in os.walk("/sys/fs/cgroup"):
        paths += [f"{root}/{name}" for name in names if name in ("release_agent", "memory.limit_in_bytes", "pids.max")]
    return each(write, paths[:40])


@attempt
def load_a_module():
    return first([lambda: syscall(INIT_MODULE, b"x", 1, b"") == 0, lambda: syscall(FINIT_MODULE, 0, b"", 0) == 0])


@attempt
def load_another_kernel():
    return syscall(KEXEC_LOAD, 0, 0, None, 0) == 0


@attempt
def restart_the_machine():
    return call(libc.reboot(0x89ABCDEF)) == 0  # Ctrl-Alt-Del on: harmless, and needs the right to restart


@attempt
def set_the_clock():
    return syscall(CLOCK_SETTIME, 0, struct.pack("qq", 0, 0)) == 0


@attempt
def rename_the_host():
    return call(libc.sethostname(b"mine", 4)) == 0


@attempt
def load_a_bpf_program():
    return syscall(BPF, 0, struct.pack("IIII", 2, 4, 4, 1) + bytes(48), 64) >= 0


@attempt
def count_events_of_the_kernel():
    return syscall(PERF_EVENT_OPEN, struct.pack("IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0) >= 0


@attempt
def use_the_keyring():
    return first([lambda: syscall(ADD_KEY, b"user", b"k", b"v", 1, -4) > 0, lambda: syscall(KEYCTL, 0, -4, 1) > 0])


@attempt
def set_up_a_ring_of_calls():
    return syscall(IO_URING_SETUP, 4, bytes(120)) >= 0


@attempt
def read_the_kernel_log():
    buffer = ctypes.create_string_buffer(1 << 20)
    syscall(SYSLOG, 3, buffer, 1 << 20)
    return TOLD["kernel"] if TOLD["kernel"].encode() in buffer.raw else None


@attempt
def account_or_swap_or_quota():
    write("/tmp/file")
    tries = [lambda: syscall(ACCT, b"/tmp/file") == 0, lambda: syscall(SWAPON, b"/tmp/file", 0) == 0]
    return first([*tries, lambda: syscall(QUOTACTL, 0x80000100, TOLD["disk"].encode(), 0, None) == 0])


@attempt
def read_the_memory_of_the_kernel():
    return each(lambda path: read(path).strip(b"\0 "), ["/proc/kcore", "/proc/keys"])
