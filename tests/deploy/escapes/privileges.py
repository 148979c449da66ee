# ruff: noqa: PTH123, SIM115  -- little of the library is inside
"""Privileges."""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from tests.deploy.escapes.tools import TOLD, attempt, call, each, libc, read


@attempt
def become_root():
    os.setuid(0)
    return "uid 0"


@attempt
def run_a_privileged_program():
    import subprocess

    out = subprocess.run(["/bin/privileged", "id", "-u"], capture_output=True, check=False).stdout.strip()
    return out if out == b"0" else None


@attempt
def have_capabilities():
    status = open("/proc/self/status").read()
    return next((line for line in status.splitlines() if line.startswith("CapEff") and int(line.split()[1], 16)), None)


@attempt
def take_capabilities():
    header = struct.pack("=Ii", 0x20080522, 0)
    every = struct.pack("=6I", *[0xFFFFFFFF] * 6)
    return call(libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(every))) == 0


@attempt
def raise_a_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    return "raised"


@attempt
def make_a_device():
    os.mknod("/tmp/disk0", 0o60666, os.makedev(254, 0))
    return read("/tmp/disk0")


@attempt
def open_devices_of_the_host():
    return each(
        read, [TOLD["disk"], "/dev/mem", "/dev/kmsg", "/dev/port", "/dev/sda", "/dev/nvme0n1", "/dev/kvm", "/dev/fuse"]
    )
