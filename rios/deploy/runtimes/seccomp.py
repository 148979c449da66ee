"""Which system calls a sandbox may make: all that libseccomp knows by name, but those listed here.

A call that libseccomp does not know (newer than it) gets ENOSYS, as on an older kernel; a forbidden one gets EPERM.
Sockets may be TCP, UDP, Unix and netlink; the terminal's input queue may not be written to. The list follows what
container engines and Flatpak forbid by default, and forbids user namespaces and io_uring besides.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from rios.words.errors import UnsupportedRuntime

_FORBIDDEN = """
    acct add_key adjtimex bpf chroot clock_adjtime clock_adjtime64 clock_settime clock_settime64 create_module
    delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy
    init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
    lookup_dcookie mbind migrate_pages mknod mknodat modify_ldt mount mount_setattr move_mount move_pages
    name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open personality pivot_root process_vm_readv
    process_vm_writev ptrace query_module quotactl quotactl_fd reboot request_key set_mempolicy
    set_mempolicy_home_node setdomainname sethostname setns settimeofday stime swapoff swapon sysfs syslog umount
    umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old vserver
"""
FORBIDDEN = frozenset(_FORBIDDEN.split())
ANSWERED_ENOSYS = frozenset({"clone3"})
"""Its flags lie in memory, where no filter sees them; libraries then use `clone`."""
_NAMESPACES = 0x7E020000  # CLONE_NEW*: cgroup, uts, ipc, user, pid, net, mount
_FAMILIES = (1, 2, 10, 16)  # Unix, IPv4, IPv6, netlink
_STREAM_AND_DATAGRAM = (1, 2, 5)
_TIOCSTI = 0x5412
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NUMBERS = 700
"""Numbers of system calls that are looked up: more than any architecture of 64 bits has."""
_NE, _EQ, _MASKED_EQ = 1, 4, 7


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    for name in ("libseccomp.so.2", ctypes.util.find_library("seccomp")):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            library.seccomp_init.restype = ctypes.c_void_p
            library.seccomp_init.argtypes = [ctypes.c_uint32]
            library.seccomp_release.argtypes = [ctypes.c_void_p]
            library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
            library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
            library.seccomp_rule_add_array.argtypes = [
                ctypes.c_void_p,
                ctypes.c_uint32,
                ctypes.c_int,
                ctypes.c_uint,
                ctypes.POINTER(_Comparison),
            ]
            return library
    raise UnsupportedRuntime("libseccomp.so.2 is not on this host: install libseccomp2 (Debian) or libseccomp")


@functools.cache
def _known() -> dict[str, int]:
    """Name -> number of each call that libseccomp knows on this machine."""
    library, libc = _library(), ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    found = {}
    for number in range(_NUMBERS):
        name = library.seccomp_syscall_resolve_num_arch(0, number)
        if name:
            found[ctypes.string_at(name).decode()] = number
            libc.free(name)
    return found


def available() -> bool:
    """Whether this host has the library that makes filters."""
    try:
        return bool(_library())
    except UnsupportedRuntime:
        return False


@functools.cache
def program() -> bytes:
    """The filter as a BPF program of this machine's architecture.

    Raises UnsupportedRuntime without libseccomp.
    """
    library = _library()
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)

    def rule(action: int, name: str, *comparisons: tuple[int, int, int, int]) -> None:
        array = (_Comparison * max(1, len(comparisons)))(*(_Comparison(*c) for c in comparisons))
        result = library.seccomp_rule_add_array(context, action, _known()[name], len(comparisons), array)
        if result != 0:
            raise UnsupportedRuntime(f"libseccomp takes no rule for {name}: {os.strerror(-result)}")

    try:
        for name in _known().keys() - ANSWERED_ENOSYS:
            if name in FORBIDDEN:
                rule(_ERRNO | errno.EPERM, name)
            elif name == "clone":
                rule(_ALLOW, name, (0, _MASKED_EQ, _NAMESPACES, 0))
            elif name == "socket":
                for family in _FAMILIES:
                    # The low bits are the type; SOCK_NONBLOCK and SOCK_CLOEXEC lie above.
                    for kind in (*_STREAM_AND_DATAGRAM, 3) if family == 16 else _STREAM_AND_DATAGRAM:
                        rule(_ALLOW, name, (0, _EQ, family, 0), (1, _MASKED_EQ, 0xF, kind))
            elif name == "ioctl":
                rule(_ALLOW, name, (1, _NE, _TIOCSTI, 0))
            else:
                rule(_ALLOW, name)
        with tempfile.TemporaryFile() as file:
            if library.seccomp_export_bpf(context, file.fileno()) != 0:
                raise UnsupportedRuntime("libseccomp writes no program")
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def profile() -> dict[str, Any]:
    """The same filter as the JSON that container engines take."""

    def argument(index: int, op: str, value: int, second: int = 0) -> dict[str, Any]:
        return {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{op}"}

    def calls(names: list[str], action: str, *args: dict[str, Any], number: int | None = None) -> dict[str, Any]:
        rule: dict[str, Any] = {"names": names, "action": f"SCMP_ACT_{action}", "args": list(args)}
        return rule if number is None else {**rule, "errnoRet": number}

    special = {"clone", "socket", "ioctl"}
    plain = sorted(_known().keys() - ANSWERED_ENOSYS - FORBIDDEN - special)
    sockets = [
        calls(["socket"], "ALLOW", argument(0, "EQ", family), argument(1, "MASKED_EQ", 0xF, kind))
        for family in _FAMILIES
        for kind in ((*_STREAM_AND_DATAGRAM, 3) if family == 16 else _STREAM_AND_DATAGRAM)
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": [f"SCMP_ARCH_{os.uname().machine.upper()}"],
        "syscalls": [
            calls(plain, "ALLOW"),
            calls(sorted(_known().keys() & FORBIDDEN), "ERRNO", number=errno.EPERM),
            calls(["clone"], "ALLOW", argument(0, "MASKED_EQ", _NAMESPACES, 0)),
            calls(["ioctl"], "ALLOW", argument(1, "NE", _TIOCSTI)),
            *sockets,
        ],
    }


def write_profile(path: Path) -> None:
    """Write the filter as engines read it."""
    path.write_text(json.dumps(profile()))
