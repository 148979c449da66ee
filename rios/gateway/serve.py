"""Runs a gateway until a signal ends it: streams that run get time to end."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from rios.gateway.app import create_app
from rios.gateway.certs import Certificates
from rios.gateway.connections import bounded, look
from rios.gateway.places import own_names, shown_url, url_of
from rios.gateway.redirect import Redirect
from rios.gateway.reports import reporting
from rios.gateway.settings import GatewaySettings
from rios.services.deployments.sockets import MESSAGE_BYTES
from rios.services.gate import Gate, first_token
from rios.services.gate_file import write_file
from rios.services.network import local
from rios.words.errors import InvalidRequest

log = logging.getLogger(__name__)

_LOOK_TICKS = 20  # of a tenth of a second each
_CONNECTION_TICKS = 5
_RENEW_TICKS = 36_000


class _Server(uvicorn.Server):
    """Says when it listens, and takes new certificates as they come."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        certificates: Certificates | None = None,
        redirect: Redirect | None = None,
    ) -> None:
        super().__init__(config)
        self._redirect = redirect
        self._ready = ready
        self._certificates = certificates
        self._stamp = () if certificates is None else certificates.stamp()

    async def on_tick(self, counter: int) -> bool:
        """Looks at connections that say nothing, and at the files of the certificates every few seconds."""
        if counter % _CONNECTION_TICKS == 0:
            look(self.server_state.connections, _CONNECTION_TICKS / 10)
        if self._certificates is not None and counter % _LOOK_TICKS == 0:
            if counter % _RENEW_TICKS == 0:
                self._renew(self._certificates)
            stamp = self._certificates.stamp()
            if stamp != self._stamp and self.config.ssl is not None:
                try:
                    self._certificates.load_into(self.config.ssl)
                except InvalidRequest as error:  # half of them is written: the old ones serve until both are
                    log.warning("new certificates are not taken", extra={"reason": str(error)})
                else:
                    log.info("new certificates are taken", extra={"certificate": str(self._certificates.certificate)})
                    self._stamp = stamp
        return await super().on_tick(counter)

    def _renew(self, certificates: Certificates) -> None:
        try:
            certificates.renew()
        except (InvalidRequest, OSError) as error:
            log.warning("the gateway's certificate is not renewed", extra={"reason": str(error)})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._redirect is not None:
            await self._redirect.close()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._redirect is not None:
            await self._redirect.start()
        if self.started:
            self._ready()


def config_of(gate: Gate, settings: GatewaySettings, certificates: Certificates | None = None) -> uvicorn.Config:
    """How uvicorn serves `gate`; by TLS 1.3 alone with certificates."""
    config = configured(create_app(gate, settings), settings)
    if certificates is not None:
        config.load()
        config.ssl = certificates.context()
    return config


def configured(app: FastAPI, settings: GatewaySettings) -> uvicorn.Config:
    """How uvicorn serves an application within the bounds of a gateway."""
    return uvicorn.Config(
        app,
        http=bounded(settings),
        loop="rios.gateway.connections:Loop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=settings.header_bytes_max,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
        # Without a list of proxies uvicorn believes those on this machine.
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies or None,
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,
    )


def server_of(
    gate: Gate,
    settings: GatewaySettings,
    *,
    ready: Callable[[], None] = lambda: None,
    certificates: Certificates | None = None,
    redirect: Redirect | None = None,
) -> uvicorn.Server:
    """What serves `gate` when it is run."""
    return _Server(config_of(gate, settings, certificates), ready, certificates, redirect)


def server_at(config: uvicorn.Config, ready: Callable[[], None]) -> uvicorn.Server:
    """What serves as `config` says when it is run. ready: called when it listens."""
    return _Server(config, ready)


def bind(host: str, port: int) -> socket.socket:
    """The place to listen at, taken before anything is started. Raises InvalidRequest where it cannot be had."""
    # With the protocol by its number: asyncio sets TCP_NODELAY on no other socket, and each answer takes 40 ms without.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidRequest(f"{host!r} is no address of this machine: {error}") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise InvalidRequest(
            f"the gateway cannot listen at {host}:{port}: {error.strerror}; choose another port"
        ) from error
    return found


def serve(server: uvicorn.Server, place: socket.socket) -> None:
    """Serve at `place` until SIGINT or SIGTERM."""
    # What is there by now stays: half a million objects of libraries, through which a full collection would walk for
    # 0.2 s and more, while every stream and every request waits.
    gc.collect()
    gc.freeze()

    def heard(number: int, _: FrameType | None) -> None:
        log.info("the gateway ends", extra={"signal": number})
        server.should_exit = True  # where it comes before uvicorn hears signals itself

    # When it has ended, uvicorn raises the signal that ended it once more; what ends after it has to be done first.
    before = {one: signal.signal(one, heard) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[place])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def up(
    *,
    home: Path,
    host: str,
    port: int,
    workers: int,
    models: Path | None,
    ready: Callable[[str, str, str], None],
    certificates: Certificates | None = None,
    secured: bool = False,
    redirect: int | None = None,
) -> None:
    """A network of processes on this machine with its gateway. `ready` is told where a browser finds it, the first
    admin's token, and the address of the scheduler, which more workers may join.

    secured: TLS between the processes, too. redirect: the port whose plain HTTP is sent on to HTTPS.
    """
    with contextlib.ExitStack() as places:
        place = places.enter_context(bind(host, port))
        plain = None if redirect is None else places.enter_context(bind(host, redirect))
        settings = GatewaySettings()
        port = place.getsockname()[1]
        url = url_of(host, port, settings, certificates)
        shown = shown_url(host, port, settings, certificates)
        ca = "" if certificates is None or certificates.ca is None else str(certificates.ca)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        sent_on = None
        if plain is not None and certificates is not None:
            sent_on = Redirect(plain, names=certificates.certified() or own_names(host), port=port)
        with local(workers=workers, home=home, tls=secured) as network:
            gate = Gate.open(network, models=models)
            try:
                token = first_token(gate.accounts, home)

                def listening() -> None:
                    write_file(home, url=url, token=token, ca=ca)
                    ready(shown, token, network.address)

                server = server_of(gate, settings, ready=listening, certificates=certificates, redirect=sent_on)
                with reporting(gate):
                    serve(server, place)
                write_file(home, url="", token=token)
            finally:
                gate.close()
