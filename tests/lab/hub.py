"""A real JupyterHub behind its own proxy, under a prefix: users sign in, and each gets a Jupyter Server of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
from playwright.sync_api import Page

from tests.campaigns import ROOT
from tests.gateway.services import free_port
from tests.lab.browser import LOAD_MS
from tests.lab.jupyter import DEADLINE_S, without_news
from tests.waiting import until

PREFIX = "/physics/"
END_S = 10.0
KNOWN_S = 2
"""So many seconds a user's server believes what the hub said of a session; five minutes where nothing else is set."""
PROXY = ROOT / "extension" / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
# What a spawner hands on of its own environment is little: who has set these wants them in users' servers too.
_HANDED_ON = ("PYTHONPATH", "JUPYTER_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RIOS_WARM_S")
_CONFIG = """
c.JupyterHub.bind_url = {url!r}
c.JupyterHub.hub_bind_url = {hub!r}
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.cookie_secret_file = "cookie_secret"
c.ConfigurableHTTPProxy.api_url = {api!r}
c.ConfigurableHTTPProxy.command = ["node", {proxy!r}]
c.ConfigurableHTTPProxy.pid_file = "proxy.pid"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allowed_users = {users!r}
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r}
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = {args!r}
c.Spawner.environment = {environment!r}
c.Spawner.default_url = "/lab"
c.Spawner.start_timeout = c.Spawner.http_timeout = {deadline!r}
"""


class Home:
    """A user's home, which its server shows."""

    def __init__(self, work: Path) -> None:
        self.work = work


class Hub:
    """One hub with its proxy. Close it."""

    def __init__(self, folder: Path, users: tuple[str, ...]) -> None:
        assert PROXY.is_file(), f"{PROXY} is not there: make lab"
        self.password = secrets.token_hex(16)
        self.log = folder / "hub.log"
        self.homes = {user: Home(folder / "homes" / user) for user in users}
        for home in self.homes.values():
            home.work.mkdir(parents=True)
        self.origin = f"http://127.0.0.1:{free_port()}"
        self.url = f"{self.origin}{PREFIX}"
        said = _CONFIG.format(
            url=self.url,
            hub=f"http://127.0.0.1:{free_port()}",
            api=f"http://127.0.0.1:{free_port()}",
            proxy=str(PROXY),
            password=self.password,
            users=set(users),
            homes=str(folder / "homes" / "{username}"),
            python=sys.executable,
            args=["--allow-root", f"--HubOAuth.cache_max_age={KNOWN_S}", *without_news(folder)],
            environment={name: os.environ[name] for name in _HANDED_ON if name in os.environ},
            deadline=int(DEADLINE_S),
        )
        (folder / "hub_config.py").write_text(said)
        command = [sys.executable, "-m", "jupyterhub", "-f", "hub_config.py"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        until(self._up, "JupyterHub", deadline_s=DEADLINE_S, pause_s=0.1)

    def _up(self) -> bool:
        assert self.process.poll() is None, f"JupyterHub ended: {self.log.read_text()[-3000:]}"
        try:
            return httpx2.get(f"{self.url}hub/api/", timeout=5).is_success
        except httpx2.TransportError:
            return False

    def sign_in(self, page: Page, user: str) -> None:
        """As a user does it; the hub then starts the user's server, and shows Lab when that is there."""
        page.goto(f"{self.url}hub/login", timeout=LOAD_MS)
        page.locator("input[name=username]").fill(user)
        page.locator("input[name=password]").fill(self.password)
        page.locator("[type=submit]").click()

    def sign_out(self, page: Page) -> None:
        """As a user does it on the hub's own pages."""
        page.goto(f"{self.url}hub/home", timeout=LOAD_MS)
        page.locator("#logout").click()
        page.wait_for_url(f"{self.url}hub/login**", timeout=LOAD_MS)

    def close(self) -> None:
        """End it, with its proxy and the users' servers, which have sessions of their own."""
        alive = [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        alive += [child for one in alive for child in one.children(recursive=True)]
        if alive:
            self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(alive, END_S)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def hub(folder: Path, *users: str) -> Iterator[Hub]:
    """A hub for as long as the block runs."""
    made = Hub(folder, users)
    try:
        yield made
    finally:
        made.close()
