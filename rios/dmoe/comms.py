"""Dask's own connections in a secured network: TLS 1.3 between members, and nothing else.

A preload of scheduler, worker and nanny (`--preload rios.dmoe.comms`; `rios.worker` does the same): it ends a process
that was told to be secured and would speak in clear, and keeps certificates and the list of revoked ones as fresh as
`rios.dmoe.trust` does for the data plane.
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
from pathlib import Path
from typing import Any

import dask
from distributed import Security
from tornado.ioloop import PeriodicCallback

from rios.dmoe.trust import LOOK_S, TlsFiles, Trust, files_of, trust_of
from rios.words.config import Settings, settings
from rios.words.errors import InvalidRequest

log = logging.getLogger(__name__)


def security_of(options: Settings, *, address: str = "tls://") -> Security | None:
    """How a client speaks to the scheduler at `address`; None for Dask's own configuration.

    Raises InvalidRequest where the one is in clear and the other is not.
    """
    files = files_of(options)
    if files is None:
        if address.startswith("tls://") and dask.config.get("distributed.comm.tls.ca-file") is None:
            raise InvalidRequest(f"{address} lets in members alone: set RIOS_TLS to what `rios certs worker` made")
        return None
    if not address.startswith("tls://"):
        raise InvalidRequest(f"RIOS_TLS is set, and {address} speaks in clear: its address must be tls://")
    trust_of(options)  # what is wrong with them is said in our words
    pair = {f"tls_{role}_{what}": str(path) for role in _ROLES for what, path in _pair(files)}
    return Security(  # type: ignore[no-untyped-call]
        tls_ca_file=str(files.ca), require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, **pair
    )


def environment(options: Settings) -> dict[str, str]:
    """What Dask's processes read the same from; empty without TLS."""
    files = files_of(options)
    if files is None:
        return {}
    found = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME": "tls",
        "DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION": "1.3",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(files.ca),
    }
    for role in _ROLES:
        for what, path in _pair(files):
            found[f"DASK_DISTRIBUTED__COMM__TLS__{role.upper()}__{what.upper()}"] = str(path)
    return found


_ROLES = ("client", "scheduler", "worker")


def _pair(files: TlsFiles) -> tuple[tuple[str, Path], ...]:
    return (("cert", files.certificate), ("key", files.key))


def keep_fresh(server: Any, options: Settings) -> _Follower | None:
    """Have a Dask server or client, in its own loop, follow the files of its certificate; None without TLS.

    Raises InvalidRequest for one that speaks in clear though it was told to be secured.
    """
    trust = trust_of(options)
    if trust is None:
        return None
    contexts = _contexts(server)
    if not contexts:
        raise InvalidRequest(
            "RIOS_TLS is set, and Dask was told of no certificate: give it the environment that `rios certs env` prints"
        )
    follower = _Follower(server, trust, contexts)
    follower.follow()
    follower.start()
    return follower


class _Follower(PeriodicCallback):
    """Contexts that Dask holds are changed in place, in the loop's thread, where nothing else uses them meanwhile."""

    def __init__(self, server: Any, trust: Trust, contexts: list[ssl.SSLContext]) -> None:
        super().__init__(self.follow, LOOK_S * 1000)
        self._server = server
        self._trust = trust
        self._contexts = contexts
        self._taken: object = None

    def follow(self) -> None:
        """Take what has changed, and end connections of who was revoked."""
        status = self._server.status
        if str(getattr(status, "name", status)) == "closed":
            self.stop()
            return
        identity = self._trust.now()
        if identity is self._taken:
            return
        files = self._trust.files
        for context in self._contexts:
            try:
                context.load_cert_chain(files.certificate, files.key)
                if files.revoked.exists():
                    context.load_verify_locations(files.revoked)
                    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
            except (OSError, ssl.SSLError) as error:  # replaced again this moment: the next look takes it
                log.warning("new certificates are not taken", extra={"reason": str(error)})
                return
        self._taken = identity
        for comm in _comms(self._server):
            serial = (comm.extra_info.get("peercert") or {}).get("serialNumber")
            if serial is not None and int(serial, 16) in identity.revoked:
                log.warning("connection of a revoked certificate ended", extra={"serial": serial})
                comm.abort()


def _contexts(server: Any) -> list[ssl.SSLContext]:
    """Those with which it connects and listens."""
    found = [server.connection_args.get("ssl_context")]
    found += [listener.server_args.get("ssl_options") for listener in getattr(server, "listeners", ())]
    return [one for one in found if isinstance(one, ssl.SSLContext)]


def _comms(server: Any) -> list[Any]:
    """Open connections: those that others opened, and those that it opened and keeps."""
    found = list(getattr(server, "_comms", ()))
    found += [scheduler.comm for scheduler in [getattr(server, "scheduler_comm", None)] if scheduler is not None]
    found += [batched.comm for batched in [getattr(server, "batched_stream", None)] if batched and batched.comm]
    return found


async def dask_setup(server: Any) -> None:
    """Called by Dask when a scheduler, worker or nanny preloads this module."""
    try:
        if not str(server.address).startswith("tls://") and files_of(settings()) is not None:
            raise InvalidRequest(f"RIOS_TLS is set, and {server.address} speaks in clear: its address must be tls://")
        server.rios_fresh = keep_fresh(server, settings())
    except InvalidRequest as error:
        # Dask only logs what this raises, and would go on in clear.
        log.critical("not secured: ending", extra={"reason": str(error)})
        os.kill(os.getpid(), signal.SIGTERM)
        raise
