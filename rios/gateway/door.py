"""The gateway for applications of its own machine: OpenAI's routes at a socket in a closed directory, and nothing else.

An application has no way to the gateway's port, nor to any other of its host (`rios.deploy.runtimes.relay`). What its
sandbox calls `gateway` is led here. Whoever asks shows a key, as at the gateway itself; requests of applications have
bounds of their own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

import rios
from rios.deploy.runtimes import doors
from rios.gateway import errors
from rios.gateway.limits import Limits
from rios.gateway.metrics import Metrics
from rios.gateway.protect import Protect
from rios.gateway.routes import openai
from rios.gateway.runs import Runs
from rios.gateway.serve import configured, server_at
from rios.gateway.settings import GatewaySettings
from rios.services.accounts import Accounts
from rios.services.network import Network
from rios.services.tenancy import Tenancy
from rios.words.errors import DeadlineExceeded

log = logging.getLogger(__name__)

_OPEN_S, _DRAIN_S = 30.0, 1.0
"""It answers within this; at its end streams have so long, for whoever reads them ends as well."""


@dataclass(frozen=True, slots=True)
class Behind:
    """What the routes here need of a gate. It does not hold the network, which ends when nobody does."""

    accounts: Accounts
    tenancy: Tenancy


def create_app(behind: Behind, settings: GatewaySettings) -> FastAPI:
    """The application that answers applications."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.runs.close()
        await limits.close()

    app = FastAPI(
        title="rios", version=rios.__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    metrics, limits = Metrics(), Limits(settings.app_burst, settings.app_rate_per_s)
    app.state.gate, app.state.settings, app.state.limits = behind, settings, limits
    app.state.runs = Runs(settings.running_max, settings.waiting_max, metrics)
    errors.install(app)
    app.include_router(openai.router)
    app.add_middleware(Protect, settings=settings, limits=limits, app_limits=limits, metrics=metrics)
    return app


class Door:
    """It answers until it is closed, in a thread of its own."""

    def __init__(self, behind: Behind, directory: Path) -> None:
        """Raises DeadlineExceeded, OSError."""
        settings = GatewaySettings().model_copy(update={"drain_s": _DRAIN_S, "proxies": ""})  # no proxy comes here
        opened = threading.Event()
        self._socket, self._file = doors.bind(directory)
        self._server: uvicorn.Server = server_at(configured(create_app(behind, settings), settings), opened.set)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="rios-door", daemon=True
        )
        self._thread.start()
        if not opened.wait(_OPEN_S):
            self.close()
            raise DeadlineExceeded(
                f"the gateway for applications does not answer at {self._file} after {_OPEN_S:g} s; the log says more"
            )

    def __repr__(self) -> str:
        return f"<Door {self._file}>"

    def close(self) -> None:
        """Answer nobody any more."""
        self._file.unlink(missing_ok=True)
        self._server.should_exit = True
        self._thread.join(_OPEN_S)
        if self._thread.is_alive():
            log.warning("the gateway for applications did not end", extra={"place": str(self._file)})
        self._socket.close()


def open_door(network: Network, directory: Path) -> Door:
    """Answer for a network at a socket in `directory`, by the models that this process serves."""
    accounts = Accounts(network._purse.books.ledger, home=network._settings.home)
    return Door(Behind(accounts, Tenancy(network, accounts.store, models=None, serves=False)), directory)
