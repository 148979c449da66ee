"""Calls of the Linux kernel that Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import struct

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_LAST = 63
_NS_GET_USERNS = 0xB701
_TMPFS_MAGIC = 0x01021994
_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST, _RTA_DST, _RTN_UNICAST = 24, 26, 1, 1, 1
_NETLINK_HEADER, _ROUTE = struct.Struct("=IHHII"), struct.Struct("=8BI")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def setns(fd: int, kind: int = 0) -> None:
    """Move this thread into the namespace of `fd`."""
    _checked(_libc.setns(fd, kind), "setns")


def owner_of(fd: int) -> int:
    """A descriptor of the user namespace that a namespace belongs to."""
    import fcntl

    return fcntl.ioctl(fd, _NS_GET_USERNS)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones, as unshare(2). Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def die_with_parent(signal_number: int) -> None:
    """Have this process get a signal when its parent ends. Raises OSError."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def no_new_privileges() -> None:
    """No program that is executed from now on gains privileges. Raises OSError."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def drop_capabilities() -> None:
    """Give up all capabilities, and the chance to get any."""
    for capability in range(_CAP_LAST + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the kernel knows no more of them
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))), "capset")


def load_seccomp(program: bytes) -> None:
    """Filter this thread's system calls, for ever, by a BPF program."""
    buffer = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    argument = Filter(len(program) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(argument), 0, 0), "prctl(PR_SET_SECCOMP)")


def loopback_up() -> None:
    """Bring the loopback device of this network namespace up; it has 127.0.0.0/8 then."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def in_memory(path: str) -> bool:
    """Whether a directory lies in a file system that is memory alone (tmpfs)."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with the type, a machine word
    _checked(_libc.statfs(os.fsencode(path), buffer), f"statfs {path}")
    return int(ctypes.cast(buffer, ctypes.POINTER(ctypes.c_long)).contents.value) == _TMPFS_MAGIC


def leads_away(address: str) -> bool:
    """Whether what is sent to an address leaves this machine, as nothing does that is sent to one of its own.

    The kernel's routes are asked, as `ip route get` does (rtnetlink(7)): a table of the interfaces' addresses would
    miss those that are only routed here.
    """
    import socket

    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_unspecified:
        return False  # connect(2) takes it for the loopback address
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    asked = _ROUTE.pack(family, ip.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    asked += struct.pack("=HH", 4 + len(ip.packed), _RTA_DST) + ip.packed
    header = _NETLINK_HEADER.pack(_NETLINK_HEADER.size + len(asked), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as routes:
        routes.settimeout(1.0)
        routes.sendto(header + asked, (0, 0))
        answer = routes.recv(1 << 16)
    if _NETLINK_HEADER.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return False  # there is no way to it at all
    return bool(_ROUTE.unpack_from(answer, _NETLINK_HEADER.size)[7] == _RTN_UNICAST)
