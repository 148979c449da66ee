# ruff: noqa: PLW0108, PTH102, PTH103  -- little of the library is inside
"""Mounts and namespaces."""

from __future__ import annotations

import os

from tests.deploy.escapes.files import read_a_file_of_the_host
from tests.deploy.escapes.privileges import make_a_device
from tests.deploy.escapes.tools import PIVOT_ROOT, TOLD, attempt, call, each, first, libc, read, syscall, write


@attempt
def mount_memory():
    call(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
    return "mounted"


@attempt
def mount_the_root_writable():
    call(libc.mount(b"none", b"/", None, 0x20 | 0x1000, None))  # MS_REMOUNT | MS_BIND
    return write("/new")


@attempt
def mount_a_disk():
    os.mkdir("/tmp/disk")
    return each(
        lambda kind: call(libc.mount(TOLD["disk"].encode(), b"/tmp/disk", kind, 1, None)) == 0, [b"ext4", b"xfs"]
    )


@attempt
def unmount_the_secrets():
    call(libc.umount2(b"/run/secrets", 2))
    return "unmounted"


@attempt
def pivot_the_root():
    syscall(PIVOT_ROOT, b"/tmp", b"/tmp")
    return "pivoted"


@attempt
def climb_out_of_a_chroot():
    os.makedirs("/tmp/jail", exist_ok=True)
    os.chroot("/tmp/jail")
    for _ in range(30):
        os.chdir("..")
    return read("." + TOLD["canary"])


@attempt
def become_root_in_a_namespace_and_read_the_disk():
    call(libc.unshare(0x10000000 | 0x00020000))  # a user and a mount namespace
    return first([lambda: mount_a_disk(), lambda: read_a_file_of_the_host(), lambda: make_a_device()])


@attempt
def enter_the_namespaces_of_the_host():
    def enter(name):
        fd = os.open(f"/proc/{TOLD['host_pid']}/ns/{name}", os.O_RDONLY)
        return call(libc.setns(fd, 0)) == 0

    return each(enter, ["mnt", "net", "pid", "user"])
