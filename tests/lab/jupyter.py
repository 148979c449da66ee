"""A real Jupyter Server with JupyterLab, in a process of its own, and its HTTP API as a user's program sees it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2

from tests.gateway.services import free_port
from tests.waiting import until

DEADLINE_S = 120.0
_OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": False,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}


def without_news(folder: Path) -> list[str]:
    """Options for a Lab that asks nobody for news, says nothing by itself, and has its `app` in the page for tests."""
    settings = folder / "overrides"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "overrides.json").write_text(json.dumps(_OVERRIDES))
    return [
        "--LabApp.news_url=null", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly", f"--LabApp.app_settings_dir={settings}",
        "--ServerApp.terminals_enabled=False", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip


class Jupyter:
    """One server. Close it."""

    def __init__(
        self,
        folder: Path,
        *,
        base_url: str = "/",
        port: int | None = None,
        runtime: Path | None = None,
        python: Path = Path(sys.executable),
        environment: Mapping[str, str] = os.environ,
        quiet: bool = True,
    ) -> None:
        """python, environment: whose JupyterLab, and what it finds around it. quiet: without news and other helpers."""
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.port = port or free_port()
        self.base_url = base_url
        self.url = f"http://127.0.0.1:{self.port}{base_url.rstrip('/')}"
        self.runtime = runtime or folder / "runtime"
        self.work = folder / "work"
        self.log = folder / "jupyter.log"
        for one in (self.runtime, self.work, folder / "config", folder / "data"):
            one.mkdir(parents=True, exist_ok=True)
        self._python, self._environment, self._quiet = python, environment, quiet
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Begin, or begin again after `kill`."""
        environment = {
            **self._environment,
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "HOME": str(self.folder),
        }
        command = [
            str(self._python), "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.work}", f"--ServerApp.base_url={self.base_url}",
        ]  # fmt: skip
        if self._quiet:
            command += without_news(self.folder)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.work, stdout=log, stderr=log, start_new_session=True
            )
        until(self._up, "Jupyter Server", deadline_s=DEADLINE_S, pause_s=0.1)

    def _up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"Jupyter Server ended: {self.log.read_text()[-3000:]}"
        try:
            return httpx2.get(f"{self.url}/api", timeout=5).is_success
        except httpx2.TransportError:
            return False

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """One request with the token, as a program sends it."""
        headers = {"Authorization": f"token {self.token}", **more.pop("headers", {})}
        return httpx2.request(method, f"{self.url}{path}", headers=headers, timeout=DEADLINE_S, **more)

    def kill(self) -> None:
        """As the machine's failure would end it: kernels too."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """End it, with its kernels."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextlib.contextmanager
def jupyter(folder: Path, **options: Any) -> Iterator[Jupyter]:
    """A server for as long as the block runs."""
    made = Jupyter(folder, **options)
    try:
        yield made
    finally:
        made.close()
