# ruff: noqa: PTH123 -- little of the library is inside
"""What attempts are made with."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket

libc = ctypes.CDLL(None, use_errno=True)
TOLD = {}
"""What lies outside, by name; `run` fills it."""
ATTEMPTS = {}
# System calls by number, of x86-64 and aarch64.
X86 = os.uname().machine == "x86_64"
INIT_MODULE = 175 if X86 else 105
FINIT_MODULE = 313 if X86 else 273
KEYCTL = 250 if X86 else 219
ADD_KEY = 248 if X86 else 217
BPF = 321 if X86 else 280
PERF_EVENT_OPEN = 298 if X86 else 241
KEXEC_LOAD = 246 if X86 else 104
OPEN_BY_HANDLE_AT = 304 if X86 else 265
IO_URING_SETUP = 425
PROCESS_VM_READV = 310 if X86 else 270
PIVOT_ROOT = 155 if X86 else 41
ACCT = 163 if X86 else 89
SYSLOG = 103 if X86 else 116
SWAPON = 167 if X86 else 224
QUOTACTL = 179 if X86 else 60
CLOCK_SETTIME = 227 if X86 else 112


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(result):
    """The result of a C call, or the OSError it stands for."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def syscall(number, *arguments):
    return call(libc.syscall(ctypes.c_long(number), *arguments))


def read(path):
    with open(path, "rb") as file:
        return file.read(100)


def write(path, data=b"x"):
    with open(path, "wb") as file:
        file.write(data)
    return f"wrote {path}"


def first(attempts, *arguments):
    """What the first of several tries got."""
    for one in attempts:
        with contextlib.suppress(OSError):
            if got := one(*arguments):
                return got
    return None


def each(function, values):
    """What a function got for the first value it got something for."""
    for value in values:
        with contextlib.suppress(OSError):
            if got := function(value):
                return got
    return None


def connected(address, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as connection:
        connection.settimeout(2)
        connection.connect(address)
        return f"connected to {address}"
