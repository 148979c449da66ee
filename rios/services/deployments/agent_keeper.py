"""Beside a Dask worker: keeps the agent of its machine running, and says where it is.

A worker offers its machine for applications where `RIOS_HOST_APPS` says so; others offer experts alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rios.words.config import Settings

log = logging.getLogger(__name__)

METRIC = "rios_apps"
"""Under this name the announcement travels with the worker's heartbeats."""
_PAUSE_S = 0.25  # between the end of an agent and the next, doubled up to
_PAUSE_S_MAX = 30.0  # while they end before
_STEADY_S = 60.0


class AgentKeeper:
    """One agent at all times, whatever ends it. Close it."""

    def __init__(self, settings: Settings, directory: Path, *, name: str, address: str, owner: str | None) -> None:
        """directory: where sandboxes lie. address: where others of the network reach this machine."""
        self._name, self._address, self._owner = name, address, owner
        self._orders = {
            "name": name,
            "key": secrets.token_hex(16),
            "bind": address,
            "port": 0,
            "directory": str(directory),
            "region": settings.region,
            "ask_bp": settings.ask_bp,
            "isolation": settings.apps_isolation,
        }
        self._said: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self._keep, name="rios-agent-keeper", daemon=True).start()

    def __repr__(self) -> str:
        return f"<AgentKeeper {self._name}>"

    def announcement(self) -> dict[str, Any]:
        """What others need to reach the agent; empty until it serves."""
        said = self._said
        if not said:
            return {}
        return {
            "name": self._name,
            "address": self._address,
            "port": said["port"],
            "pid": said["pid"],
            "key": self._orders["key"],
            "owner": self._owner,
        }

    def _keep(self) -> None:
        pause_s = _PAUSE_S
        while True:
            born = time.monotonic()
            with self._lock:
                if self._ending.is_set():
                    return
                process = self._process = self._started()
            assert process.stdout is not None
            with process.stdout as said:
                for line in said:
                    self._said = json.loads(line)
            self._said = {}
            code = process.wait()
            self._let_go(process)
            if self._ending.is_set():
                return
            if time.monotonic() - born > _STEADY_S:
                pause_s = _PAUSE_S
            log.error("the agent ended; starting it again", extra={"exit_code": code, "pause_s": pause_s})
            if self._ending.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rios.services.deployments.agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A group of its own: a signal to the worker's group must not end it.
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # ended at once: its exit code says so
            process.stdin.write(json.dumps(self._orders).encode() + b"\n")
            process.stdin.flush()
        return process

    @staticmethod
    def _let_go(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def close(self) -> None:
        """The worker ends: the agent stays while it has replicas, and leaves to the next."""
        with self._lock:
            self._ending.set()
            if self._process is not None:
                self._let_go(self._process)
