"""The only way in or out of a sandbox's network: TCP streams, copied by a process outside.

A sandbox has a network namespace with nothing but its loopback device: no route, no name server, no neighbour. Each
host that it may call has a loopback address of its own there (`/etc/hosts` says which); behind it listens a socket of
this process, which connects to the host by its name, resolved anew, and to public addresses alone. Requests come in the
same way: a loopback port of this machine leads to the application's port inside. No packet crosses, no firewall rule is
needed, and what crosses is counted. TLS goes through untouched: the application sees the host's own certificate.

The standard library, and words, alone: it is started for each instance, and must start quickly.
"""

from __future__ import annotations

import array
import contextlib
import ipaddress
import mmap
import os
import selectors
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rios.deploy.runtimes import doors, kernel
from rios.words import addresses

CONNECTIONS_MAX = 512
"""At the same time; more wait in the listeners' queues."""
CONNECT_TIMEOUT_S = 10.0
TAKEN_TIMEOUT_S = 30.0
"""An application whose queue is full takes a connection so late. Linux knocks again after 1, 3, 7 and 15 s, since
version 6.5 after 1, 2, 3, 4, 5, 7, 11 and 19 s. Whether who asked has given up meanwhile, a half-closed connection does
not tell."""
RESOLVED_FOR_S = 30.0
BUFFER_BYTES = 1 << 17
_COUNTERS = struct.Struct("=QQ")
_BACKLOG = 128
_HIDING_IPV4 = tuple(ipaddress.ip_network(text) for text in ("::/96", "64:ff9b::/96", "2002::/16"))


def inside_address(index: int) -> str:
    """The loopback address that stands for the `index`-th allowed host inside a sandbox."""
    return str(ipaddress.IPv4Address("127.64.0.1") + index)


def hosts_file(egress: Iterable[tuple[str, int]], hostname: str) -> str:
    """What /etc/hosts says inside: itself and the allowed hosts, and nobody else."""
    names = list(dict.fromkeys(host for host, _ in egress))
    lines = ["127.0.0.1 localhost", f"127.0.0.1 {hostname}"]
    return "\n".join([*lines, *(f"{inside_address(index)} {name}" for index, name in enumerate(names))]) + "\n"


def is_public(address: str, private: Iterable[str] = ()) -> bool:
    """Whether a sandbox may connect to it: a global unicast address, or one in the operator's `private` networks.

    Metadata services, private ranges, loopback, link-local, multicast, and IPv6 that hides an IPv4 address are not.
    """
    ip = _unmapped(address)
    if any(ip in ipaddress.ip_network(network) for network in private):
        return True
    if any(ip in network for network in _HIDING_IPV4):
        return False
    return addresses.is_public(ip)


def may_connect(address: str, private: Iterable[str] = ()) -> bool:
    """Whether a relay on this machine may connect to an address for a sandbox: a public one of another machine.

    A name may lead to this machine's own public address, where all listens that is not meant for strangers. The
    operator's networks do not open it either, unless one is that very address.
    """
    ip = _unmapped(address)
    if any(ip in network and network.num_addresses == 1 for network in map(ipaddress.ip_network, private)):
        return True
    return is_public(address, private) and kernel.leads_away(str(ip))


def _unmapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address)
    mapped: ipaddress.IPv4Address | None = getattr(ip, "ipv4_mapped", None)
    return ip if mapped is None else mapped


class Counters:
    """Bytes sent and received by a sandbox, in a file that outlives whoever counts."""

    def __init__(self, path: Path) -> None:
        with path.open("ab") as file:
            file.truncate(_COUNTERS.size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNTERS.size)

    def add(self, *, egress: int = 0, ingress: int = 0) -> None:
        """Count bytes that were sent out of the sandbox and into it."""
        sent, received = _COUNTERS.unpack(self._map)
        self._map[:] = _COUNTERS.pack(sent + egress, received + ingress)

    @staticmethod
    def read(path: Path) -> tuple[int, int]:
        """(egress, ingress) bytes; nothing where nothing was counted."""
        data = path.read_bytes() if path.exists() else b""
        sent, received = _COUNTERS.unpack(data) if len(data) == _COUNTERS.size else (0, 0)
        return int(sent), int(received)


def _send_socket(channel: socket.socket, fd: int) -> None:
    channel.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def _receive_socket(channel: socket.socket) -> socket.socket:
    data, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    if data != b"s" or not ancillary:
        raise OSError("the process inside the sandbox's network has ended")
    return socket.socket(fileno=struct.unpack("i", ancillary[0][2])[0])


def _listening_inside(address: str, port: int, deadline: float) -> socket.socket:
    """Retried until the loopback device is up, which the sandbox may be doing itself."""
    while True:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(_BACKLOG)
            return listener
        except OSError:
            listener.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _be_inside(
    channel: socket.socket, enter: Callable[[], None], listens: list[tuple[str, int]], others: list[int]
) -> None:
    """The life of the process inside: it makes sockets there and hands them out; it never reads what they carry."""
    kernel.die_with_parent(signal.SIGKILL)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    for fd in others:
        with contextlib.suppress(OSError):
            os.close(fd)
    enter()
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    for address, port in listens:
        with _listening_inside(address, port, deadline) as listener:
            _send_socket(channel, listener.fileno())
    channel.sendall(b"r")
    while channel.recv(1):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            _send_socket(channel, made.fileno())


class Inside:
    """A process in the sandbox's network namespace: listeners there, and new sockets to connect there."""

    def __init__(self, enter: Callable[[], None], listens: list[tuple[str, int]], *, close: Iterable[int] = ()) -> None:
        """enter: called in the new process, moves it into the namespace. close: descriptors it should not hold open."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._asking = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self._channel.close()
                _be_inside(theirs, enter, listens, list(close))
                status = 0
            except BaseException as error:  # noqa: BLE001 -- a forked process must end here, whatever happens
                with contextlib.suppress(OSError):
                    theirs.sendall(f"e{error}".encode())
            finally:
                os._exit(status)
        theirs.close()
        self._channel.settimeout(CONNECT_TIMEOUT_S + 5)
        self.listeners = [self._made() for _ in listens]
        if (said := self._channel.recv(1)) != b"r":
            raise OSError(f"the sandbox's network cannot be entered: {self._reason(said)}")

    def _made(self) -> socket.socket:
        try:
            return _receive_socket(self._channel)
        except OSError as error:
            raise OSError(f"the sandbox's network cannot be entered: {self._reason(b'')}") from error

    def _reason(self, first: bytes) -> str:
        with contextlib.suppress(OSError):
            return (first + self._channel.recv(1000)).decode(errors="replace").removeprefix("e")
        return "no answer"

    def socket(self) -> socket.socket:
        """A new TCP socket of the sandbox's network."""
        with self._asking:
            self._channel.sendall(b"c")
            return _receive_socket(self._channel)

    def close(self) -> None:
        self._channel.close()
        os.waitpid(self.pid, 0)


class _Flow:
    """One direction of one connection: what was read of `source` and is not yet written to `target`."""

    def __init__(self, source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
        self.source, self.target, self.count = source, target, count
        self.pending = b""
        self.ended = False
        """The source has ended, and the target was told so."""

    def step(self) -> bool:
        """Move what can be moved; False where the connection is broken."""
        try:
            if not self.pending and not self.ended:
                self.pending = self.source.recv(BUFFER_BYTES)
                self.count(len(self.pending))
                if not self.pending:
                    self.ended = True
                    with contextlib.suppress(OSError):
                        self.target.shutdown(socket.SHUT_WR)
            if self.pending:
                self.pending = self.pending[self.target.send(self.pending) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


class Relay:
    """Copies streams, in one thread, from a selector that its owner runs (`step`)."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        counters: Counters,
        *,
        private: Iterable[str] = (),
        names: Mapping[str, list[str]] | None = None,
        ways: Mapping[str, str] | None = None,
    ) -> None:
        """private: networks that count as public here. names: addresses the operator gives for names, before DNS.

        ways: names that lead to sockets in a directory of this machine (`doors`), and not over any network.
        """
        self._selector, self._counters = selector, counters
        self._private, self._names = tuple(private), dict(names or {})
        self._ways = {name: Path(directory) for name, directory in (ways or {}).items()}
        self._resolved: dict[str, tuple[float, list[str]]] = {}
        self._flows: dict[socket.socket, tuple[_Flow, _Flow]] = {}
        self._opening = 0
        self._opened: deque[tuple[socket.socket, socket.socket | None, bool]] = deque()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        selector.register(self._wake, selectors.EVENT_READ, self._take_opened)

    def listen_inside(self, listener: socket.socket, host: str, port: int) -> None:
        """Lead what connects to `listener`, a socket inside, to `host` outside."""
        if (door := self._ways.get(host)) is not None:
            self._listen(listener, lambda: doors.connect(door, CONNECT_TIMEOUT_S), outgoing=True, counted=False)
            return
        self._listen(listener, lambda: self._dial(host, port), outgoing=True)

    def listen_outside(self, listener: socket.socket, inside: Inside, port: int) -> None:
        """Lead what connects to `listener`, a socket of this machine, to the application's port inside."""

        def dial() -> socket.socket:
            connection = inside.socket()
            try:
                connection.settimeout(TAKEN_TIMEOUT_S)
                connection.connect(("127.0.0.1", port))
            except BaseException:
                connection.close()
                raise
            return connection

        self._listen(listener, dial, outgoing=False)

    def _listen(
        self, listener: socket.socket, dial: Callable[[], socket.socket], *, outgoing: bool, counted: bool = True
    ) -> None:
        """counted: where it is outgoing; what goes to this machine alone is nobody's traffic."""
        listener.setblocking(False)

        def accept(_: int) -> None:
            if len(self._flows) // 2 + self._opening >= CONNECTIONS_MAX:
                time.sleep(0.001)  # the listener stays readable; do not spin on it
                return
            try:
                near, _address = listener.accept()
            except OSError:
                return
            self._opening += 1
            threading.Thread(target=self._open, args=(near, dial, outgoing and counted), daemon=True).start()

        self._selector.register(listener, selectors.EVENT_READ, accept)

    def _open(self, near: socket.socket, dial: Callable[[], socket.socket], counted: bool) -> None:
        """In a thread of its own, because names and connections take their time."""
        far = None
        with contextlib.suppress(OSError, UnicodeError, ValueError):
            far = dial()
        self._opened.append((near, far, counted))
        with contextlib.suppress(OSError):
            self._waker.send(b"w")

    def _dial(self, host: str, port: int) -> socket.socket:
        refused = OSError(f"{host} has no address that a sandbox may connect to")
        for address in self._resolve(host):
            try:
                if not may_connect(address, self._private):
                    continue
                return socket.create_connection((address, port), CONNECT_TIMEOUT_S)
            except OSError as error:
                refused = error
        raise refused

    def _resolve(self, host: str) -> list[str]:
        if host in self._names:
            return self._names[host]
        known = self._resolved.get(host)
        if known is None or time.monotonic() - known[0] > RESOLVED_FOR_S:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            known = time.monotonic(), list(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._resolved[host] = known
        return known[1]

    def _take_opened(self, _: int) -> None:
        with contextlib.suppress(OSError):
            self._wake.recv(4096)
        while self._opened:
            near, far, counted = self._opened.popleft()
            self._opening -= 1
            if far is None:
                # A reset, and no quiet end: the application should see that nobody was reached.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
                continue
            for connection in (near, far):
                connection.setblocking(False)
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = _Flow(near, far, (lambda n: self._counters.add(egress=n)) if counted else _uncounted)
            got = _Flow(far, near, (lambda n: self._counters.add(ingress=n)) if counted else _uncounted)
            self._flows[near], self._flows[far] = (sent, got), (got, sent)
            for connection in (near, far):
                self._selector.register(connection, selectors.EVENT_READ, self._move(connection))

    def _move(self, connection: socket.socket) -> Callable[[int], None]:
        def move(events: int) -> None:
            reading, writing = self._flows[connection]
            good = True
            if events & selectors.EVENT_READ:
                good = reading.step()
            if good and events & selectors.EVENT_WRITE:
                good = writing.step()
            if not good or (reading.ended and writing.ended and not reading.pending and not writing.pending):
                self._drop(reading.source, reading.target)
                return
            self._watch(reading)
            self._watch(writing)

        return move

    def _watch(self, flow: _Flow) -> None:
        """Ask for what can go on: reading while nothing is pending, writing while something is."""
        for connection in (flow.source, flow.target):
            reading, writing = self._flows[connection]
            wanted = selectors.EVENT_READ if not reading.pending and not reading.ended else 0
            wanted |= selectors.EVENT_WRITE if writing.pending else 0
            registered = self._selector.get_map().get(connection)
            if wanted and registered is None:
                self._selector.register(connection, wanted, self._move(connection))
            elif wanted and registered is not None and registered.events != wanted:
                self._selector.modify(connection, wanted, registered.data)
            elif not wanted and registered is not None:
                self._selector.unregister(connection)

    def _drop(self, *pair: socket.socket) -> None:
        for connection in pair:
            self._flows.pop(connection, None)
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection)
            connection.close()


def _uncounted(_: int) -> None:
    """What comes in through the gateway, or goes to it, is counted there."""


def run_ready(selector: selectors.BaseSelector, timeout_s: float | None) -> None:
    """One turn of the loop: call what is registered for the descriptors that are ready."""
    for key, events in selector.select(timeout_s):
        # A call before this one may have closed it.
        registered: Any = selector.get_map().get(key.fileobj)
        if registered is not None and registered.data is key.data:
            key.data(events)
