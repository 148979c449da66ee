"""What signing in needs while a gateway runs: somebody who delivers mail, and the outside provider."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from rios.gateway.settings import GatewaySettings
from rios.services.gate import Gate
from rios.services.mail import Mail, sender_of
from rios.services.openid import OpenId, Provider

log = logging.getLogger(__name__)


def provider_of(settings: GatewaySettings) -> Provider | None:
    """The outside provider that the settings name. Raises InvalidRequest where it cannot be one."""
    if not settings.openid_url:
        return None
    return Provider(
        url=settings.openid_url,
        client_id=settings.openid_client_id,
        client_secret=settings.openid_client_secret.get_secret_value(),
        name=settings.openid_name,
        role=settings.openid_role,
        ca=settings.openid_ca,
    )


def mail_of(gate: Gate, settings: GatewaySettings) -> Mail | None:
    """Who delivers mail: by the settings, else into the home; None without both, and then it waits in the outbox."""
    home: Path | None = gate.network._settings.home
    url = settings.mail.get_secret_value() or ("" if home is None else (home / "mail").absolute().as_uri())
    return Mail(gate.accounts, sender_of(url), sender=settings.mail_from) if url else None


def forget_mail(request: HTTPConnection, address: str | None) -> None:
    """Remove what lies here of mail to who was closed."""
    mail: Mail | None = request.app.state.mail
    if mail is not None and address is not None:
        mail.forget(address)


@contextmanager
def signing_in(app: FastAPI) -> Iterator[None]:
    """Deliver mail and know the outside provider until the block ends."""
    gate, settings = app.state.gate, app.state.settings
    provider, mail = provider_of(settings), mail_of(gate, settings)
    openid = None if provider is None else OpenId(gate.accounts, provider)
    app.state.openid, app.state.mail = openid, mail
    if mail is not None:
        mail.start()
    try:
        yield
    finally:
        if mail is not None:
            mail.close()
        if openid is not None:
            openid.close()
