"""A real node: anvil, on a port of its own, that can be killed, started again, and made to misbehave."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.contracts import toolchain
from tests.waiting import stop

START_TIMEOUT_S = 60.0
ANVIL_CHAIN_ID = 31337


def _binary() -> Path:
    toolchain.install()
    found = sorted((toolchain.MODULES / "@foundry-rs").glob("anvil-*/bin/anvil*"))
    assert found, "npm ci did not bring anvil"
    return found[0]


def _free_port() -> int:
    """One that nobody has, also while the node is away: of those that no connection of this machine begins at."""
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(least // 3, least)
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", port))
            return port


class Anvil:
    """One node. Its blocks are final when `slots` x 2 others are on top of them."""

    def __init__(self, state: Path, *, slots: int = 32) -> None:
        """state: where the node keeps its chain when it is stopped."""
        self._state = state
        self._slots = slots
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, with the chain of the last `stop`, and wait until it answers."""
        command = [str(_binary()), "--port", str(self.port), "--silent", "--state", str(self._state)]
        command += ["--slots-in-an-epoch", str(self._slots), "--hardfork", "cancun", "--accounts", "1"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.ask("eth_chainId")
                return
            except OSError:
                assert self._process.poll() is None, "anvil ended"
                assert time.monotonic() < deadline, "anvil does not answer"
                time.sleep(0.02)  # it has no way to say that it listens

    @property
    def pid(self) -> int:
        """Of the process, while there is one."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Let it write its chain down and end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once: what it had since it was started is lost."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        assert self._process is not None
        stop(self._process.pid)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def ask(self, method: str, *parameters: Any) -> Any:
        """What the node answers; AssertionError where it refuses."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as reply:
            answer = json.load(reply)
        assert "error" not in answer, answer
        return answer["result"]
