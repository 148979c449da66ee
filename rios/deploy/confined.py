"""What bubblewrap is told for everybody who runs in a process sandbox of rios, an application or a report: one list.

A sandbox that root makes has root's capabilities, in a user namespace of its own, until they are taken away: enough to
mount what it sees read-only once more, and to write to the host.
"""

from __future__ import annotations

from collections.abc import Callable

MASKED = (
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
)
"""Of /proc, files that are empty inside."""
MASKED_DIRECTORIES = ("acpi", "scsi", "driver", "irq", "bus", "fs")


def apart() -> list[str]:
    """Namespaces of its own, no network but a loopback device, no capability, and an end with who made it."""
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
    ]


def kernel_files(has: Callable[[str], bool]) -> list[str]:
    """A /proc and a /dev that say little of the host. has: whether the host's own /proc has that name."""
    arguments = ["--proc", "/proc", "--dev", "/dev"]
    for name in MASKED:
        if has(name):
            arguments += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    for name in MASKED_DIRECTORIES:
        if has(name):
            arguments += ["--perms", "0555", "--tmpfs", f"/proc/{name}", "--remount-ro", f"/proc/{name}"]
    return arguments
