"""The limits and deadlines of a gateway, each settable by an environment variable `RIOS_GATEWAY_<NAME>`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Limits and deadlines; `RIOS_GATEWAY_BURST=50` sets `burst`. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="RIOS_GATEWAY_", frozen=True)

    body_bytes_max: int = Field(default=1 << 20, gt=0, description="The longest body of a request.")
    header_bytes_max: int = Field(default=1 << 14, gt=0, description="Request line and headers together.")
    body_timeout_s: float = Field(default=20.0, gt=0, description="A body must have arrived within this.")
    drain_s: float = Field(default=30.0, gt=0, description="After a signal to end, streams get this long to end.")
    burst: int = Field(default=100, gt=0, description="Requests at once, by key, user and address each.")
    rate_per_s: float = Field(default=10.0, gt=0, description="How fast the room for requests comes back.")
    running_max: int = Field(default=64, gt=0, description="Generations at a time; as many as a trunk runs.")
    waiting_max: int = Field(default=1024, ge=0, description="Generations that wait for their user's turn.")
    tokens_default: int = Field(default=1024, gt=0, description="New tokens of a chat that names no maximum.")
    job_kept_s: float = Field(default=300.0, gt=0, description="An ended job can be asked for during this.")
    jobs_max: int = Field(default=10_000, gt=0, description="Jobs that are remembered at the same time.")
    proxies: str = Field(default="", description="Addresses whose X-Forwarded-For is believed, by commas.")
