# ruff: noqa: PLW0108, PTH102, PTH103, PTH115, PTH123, PTH208, PTH211, SIM115 -- little of the library is inside
"""Attempts to get out of a sandbox, to be run inside one. Standard library alone; it prints one JSON object.

Each attempt returns what it got, or None, or raises OSError, where it was denied. `ATTEMPTS` are all functions of this
file; what lies outside is told as JSON in the first argument, and which of them to try in the others: all, without.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
TOLD = json.loads(sys.argv[1]) if __name__ == "__main__" else {}
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


# Files of the host and of others.


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
def open_by_file_handle():
    handle = struct.pack("IiII", 8, 1, 2, 0)  # inode 2, the root of the disk
    return syscall(OPEN_BY_HANDLE_AT, os.open("/", os.O_RDONLY), handle, os.O_RDONLY) >= 0


# Mounts and namespaces.


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


# Other processes.


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


# Privileges.


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


# The kernel.


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


# Networks.


@attempt
def open_a_raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "raw"


@attempt
def open_a_packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    return "packet"


@attempt
def ask_the_metadata_service():
    return each(connected, [("169.254.169.254", 80), ("169.254.170.2", 80), ("100.100.100.200", 80)])


@attempt
def ask_the_metadata_service_by_ipv6():
    return connected(("fd00:ec2::254", 80), socket.AF_INET6)


@attempt
def reach_the_internet():
    return each(connected, [("1.1.1.1", 443), ("8.8.8.8", 53), ("93.184.216.34", 80)])


@attempt
def reach_private_networks():
    return each(connected, [("10.0.0.1", 22), ("172.17.0.1", 22), ("192.168.0.1", 80), ("10.88.0.1", 53)])


@attempt
def reach_ports_of_the_host():
    return each(lambda address: connected((address, TOLD["host_port"])), ["127.0.0.1", *TOLD["host_addresses"]])


@attempt
def reach_the_port_of_another_application():
    return first(
        [lambda: connected(("127.0.0.1", TOLD["other_port"])), lambda: connected(("127.0.0.1", TOLD["other_inside"]))]
    )


@attempt
def reach_an_abstract_socket_of_the_host():
    return connected("\0" + TOLD["abstract"], socket.AF_UNIX)


@attempt
def reach_the_container_engine():
    return each(lambda path: connected(path, socket.AF_UNIX), TOLD["engine_sockets"])


@attempt
def resolve_a_name_that_is_not_allowed():
    return each(lambda name: socket.getaddrinfo(name, 443)[0][4][0], ["example.com", "metadata.google.internal"])


@attempt
def send_to_a_name_server():
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1)
        udp.sendto(question, ("8.8.8.8", 53))
        return udp.recv(512)


@attempt
def have_another_network_device():
    devices = [name for _, name in socket.if_nameindex() if name != "lo"]
    return devices or None


def main() -> None:
    found = {}
    for name in sys.argv[2:] or ATTEMPTS:
        function = ATTEMPTS[name]
        # In a process of its own: some would change what comes after them.
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(reading)
            try:
                got = function()
            except (OSError, ValueError):  # a limit that may not be raised is a ValueError
                got = None
            except BaseException as error:  # noqa: BLE001 -- a broken attempt is no denial
                got = f"BROKEN {error!r}"
            os.write(writing, repr(got).encode()[:1000] if got else b"")
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as result:
            found[name] = result.read().decode()
        os.waitpid(pid, 0)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
