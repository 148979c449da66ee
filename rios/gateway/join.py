"""One more gateway of a network: a process beside its others, on the same database, keys, Redis and scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from rios.gateway.certs import Certificates
from rios.gateway.places import own_names, shown_url, url_of
from rios.gateway.redirect import Redirect
from rios.gateway.reports import reporting
from rios.gateway.serve import bind, serve, server_of
from rios.gateway.settings import GatewaySettings
from rios.services.gate import Gate, first_token
from rios.services.gate_file import read_file, write_file
from rios.services.network import connect


def join(
    *,
    scheduler: str,
    home: Path,
    host: str,
    port: int,
    database: str | None,
    models: Path | None,
    settings: GatewaySettings,
    ready: Callable[[str, str], None],
    certificates: Certificates | None = None,
    redirect: int | None = None,
) -> None:
    """Serve the network of the Dask scheduler at `scheduler` until a signal. `ready` is told where a browser
    finds it, and the token.

    home: the network's, or another one, which needs the network's key of secrets (`rios.services.network_keys`).
    database: the URL of its accounts and ledger, where that is not SQLite in the home. redirect: the port whose plain
    HTTP is sent on to HTTPS.
    Raises InvalidRequest, NoWorkers, LedgerUnavailable.
    """
    with contextlib.ExitStack() as places:
        place = places.enter_context(bind(host, port))
        port = place.getsockname()[1]
        sent_on = None
        if redirect is not None and certificates is not None:
            plain = places.enter_context(bind(host, redirect))
            sent_on = Redirect(plain, names=certificates.certified() or own_names(host), port=port)
        url = url_of(host, port, settings, certificates)
        shown = shown_url(host, port, settings, certificates)
        ca = "" if certificates is None or certificates.ca is None else str(certificates.ca)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = {} if database is None else {"database": database}
        with connect(scheduler, home=home, **options) as network:
            gate = Gate.open(network, models=models)
            try:
                token = first_token(gate.accounts, home)
                is_first = not read_file(home).get("url")

                def listening() -> None:
                    if is_first:
                        write_file(home, url=url, token=token, ca=ca)
                    ready(shown, token)

                server = server_of(gate, settings, ready=listening, certificates=certificates, redirect=sent_on)
                with reporting(gate):
                    serve(server, place)
                if read_file(home).get("url") == url:
                    write_file(home, url="", token=token)
            finally:
                gate.close()
