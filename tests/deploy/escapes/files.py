# ruff: noqa: PTH208, PTH211  -- little of the library is inside
"""Files of the host and of others."""

from __future__ import annotations

import contextlib
import os
import struct

from tests.deploy.escapes.tools import OPEN_BY_HANDLE_AT, TOLD, attempt, each, read, syscall, write


@attempt
def read_a_file_of_the_host():
    return read(TOLD["canary"])


@attempt
def read_it_through_proc():
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    return each(lambda pid: read(f"/proc/{pid}/root{TOLD['canary']}"), pids)


@attempt
def read_it_by_climbing():
    return each(
        lambda start: read(start + "/.." * 20 + TOLD["canary"]), ["/proc/self/cwd", "/tmp", "/data", "/run/secrets"]
    )


@attempt
def read_the_shadow_of_the_host():
    return b"root:" in read("/etc/shadow")


@attempt
def read_the_records_of_instances():
    return os.listdir(TOLD["directory"])


@attempt
def read_a_volume_of_another_application():
    return read(TOLD["other_volume"] + "/private")


@attempt
def read_secrets_of_another_application():
    return each(read, [TOLD["other_secret"], TOLD["other_secret"].replace("/dev/shm", "/run")])


@attempt
def follow_a_link_out_of_the_volume():
    with contextlib.suppress(FileExistsError):
        os.symlink(TOLD["canary"], "/data/link")
    return read("/data/link")


@attempt
def link_a_file_of_the_root_into_the_volume():
    os.link("/etc/passwd", "/data/passwd")
    return write("/data/passwd")


@attempt
def write_outside_of_what_is_ones_own():
    places = ["/", "/bin", "/etc", "/usr", "/lib", "/run/secrets", "/run/rios", "/proc", "/sys", "/usr/local/bin"]
    return each(lambda place: write(f"{place}/new"), places)


@attempt
def write_over_what_names_hosts():
    return each(write, ["/etc/hosts", "/etc/resolv.conf"])


@attempt
def find_a_gpu_of_the_host():
    return [name for name in os.listdir("/dev") if name.startswith("nvidia")]


@attempt
def open_by_file_handle():
    handle = struct.pack("IiII", 8, 1, 2, 0)  # inode 2, the root of the disk
    return syscall(OPEN_BY_HANDLE_AT, os.open("/", os.O_RDONLY), handle, os.O_RDONLY) >= 0
