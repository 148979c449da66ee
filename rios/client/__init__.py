"""Connecting to a network: to its gateway by http(s), or to its Dask scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.client.remote import RemoteNetwork
    from rios.services.network import Network


def connect(
    address: str,
    *,
    token: str | None = None,
    home: str | Path | None = None,
    ca: str | Path | None = None,
    **options: Any,
) -> Network | RemoteNetwork:
    """The network behind an address.

    address: "https://rios.lab.example", a gateway: then `token` is an API key or access token, by default RIOS_TOKEN or
    that of the gateway of `home`, and `ca` the certificate file of the authority that certified it, by default RIOS_CA
    or what this machine trusts. Or "tcp://head:8786", a Dask scheduler: then `home` and settings are as of
    `rios.local`.

    Raises InvalidRequest, NotSignedIn, GatewayLost, NoWorkers.
    """
    if address.startswith(("http://", "https://")):
        if options:
            raise InvalidRequest(
                f"a gateway takes no settings from its clients: leave out {', '.join(sorted(options))}"
            )
        from rios.client.remote import RemoteNetwork

        return RemoteNetwork(address, token=token, home=None if home is None else Path(home), ca=ca)
    if token is not None or ca is not None:
        raise InvalidRequest(
            f"{address!r} is no gateway: a token goes with an address such as https://rios.lab.example"
        )
    from rios.services import network

    return network.connect(address, home=home, **options)
