"""The limits and deadlines of a gateway, each settable by an environment variable `RIOS_GATEWAY_<NAME>`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from rios.words.errors import InvalidRequest


class GatewaySettings(BaseSettings):
    """Limits and deadlines; `RIOS_GATEWAY_BURST=50` sets `burst`. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="RIOS_GATEWAY_", frozen=True)

    body_bytes_max: int = Field(default=1 << 20, gt=0, description="The longest body of a request.")
    deploy_body_bytes_max: int = Field(
        default=20 << 20, gt=0, description="The longest body that says what an application is, of who may deploy."
    )
    deploy_body_timeout_s: float = Field(default=120.0, gt=0, description="Such a long body must have arrived by then.")
    app_body_bytes_max: int = Field(default=1 << 30, gt=0, description="The longest body for an application.")
    app_body_timeout_s: float = Field(default=1800.0, gt=0, description="Such a body must have arrived within this.")
    app_burst: int = Field(
        default=1000, gt=0, description="Requests to applications at once, by key, user and address."
    )
    app_rate_per_s: float = Field(default=200.0, gt=0, description="How fast the room for those comes back.")
    header_bytes_max: int = Field(default=1 << 14, gt=0, description="Request line and headers together.")
    body_timeout_s: float = Field(default=20.0, gt=0, description="A body must have arrived within this.")
    header_timeout_s: float = Field(default=10.0, gt=0, description="A request's headers must have come within this.")
    connections_max: int = Field(default=4096, gt=0, description="Connections, as far as there are file descriptors.")
    address_connections_max: int = Field(default=512, gt=0, description="Connections of an address that is no proxy.")
    drain_s: float = Field(default=30.0, gt=0, description="After a signal to end, streams get this long to end.")
    recent_s: float = Field(default=1800.0, gt=0, description="An admin acts within this after signing in.")
    burst: int = Field(default=100, gt=0, description="Requests at once, by key, user and address each.")
    rate_per_s: float = Field(default=10.0, gt=0, description="How fast the room for requests comes back.")
    running_max: int = Field(default=64, gt=0, description="Generations at a time; as many as a trunk runs.")
    waiting_max: int = Field(default=1024, ge=0, description="Generations that wait for their user's turn.")
    tokens_default: int = Field(default=1024, gt=0, description="New tokens of a chat that names no maximum.")
    job_kept_s: float = Field(default=300.0, gt=0, description="An ended job can be asked for during this.")
    jobs_max: int = Field(default=10_000, gt=0, description="Jobs that are remembered at the same time.")
    proxies: str = Field(default="", description="Addresses whose X-Forwarded-For is believed, by commas.")
    url: str = Field(default="", description="Where clients find the gateway; the address that it listens at without.")
    origins: str = Field(default="", description="Origins whose pages may ask, such as https://lab.example, by commas.")
    mail: SecretStr = Field(
        default=SecretStr(""), description="file:///DIRECTORY, or smtp[s]://USER:PASSWORD@HOST:PORT; files in the home."
    )
    mail_from: str = Field(default="rios@localhost", description="The address that mail comes from.")
    openid_url: str = Field(default="", description="The issuer of an OpenID provider that users may sign in through.")
    openid_client_id: str = Field(default="", description="How the gateway is known there.")
    openid_client_secret: SecretStr = Field(default=SecretStr(""), description="The secret of that.")
    openid_name: str = Field(default="another provider", description="What the provider is called on the page.")
    openid_role: str = Field(
        default="", description="The role of whoever comes from there for the first time; nobody new may without."
    )
    openid_ca: str = Field(default="", description="Certificate of the authority that certified the provider.")
    redis: str | None = Field(
        default=None, description="The Redis that gateways of a network share, such as redis://host:6379/0."
    )
    broker: str | None = Field(
        default=None, description="The RabbitMQ that domain events go through, such as amqp://user@host:5672/."
    )
    broker_password_file: str = Field(default="", description="A file with the password of the user in `broker`.")
    webhook_networks: str = Field(
        default="", description="Private networks that webhooks may reach, such as 10.1.0.0/16, by commas."
    )

    def broker_url(self) -> str | None:
        """`broker`, with the password of its file where there is one. Raises InvalidRequest."""
        if not self.broker or not self.broker_password_file:
            return self.broker
        try:
            password = Path(self.broker_password_file).read_text().rstrip("\n")
        except (OSError, UnicodeError) as error:
            raise InvalidRequest(f"RIOS_GATEWAY_BROKER_PASSWORD_FILE cannot be read: {error}") from error
        parts = urlsplit(self.broker)
        user, at, place = parts.netloc.rpartition("@")
        if not at or ":" in user:
            raise InvalidRequest(
                "RIOS_GATEWAY_BROKER names a user and no password where a file has that: amqp://user@host/"
            )
        return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()
