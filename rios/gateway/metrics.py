"""What a gateway counts, in Prometheus' text format. No user, key or model that somebody named is in a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The counters of one gateway."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "rios_gateway_requests_total", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "rios_gateway_request_seconds", "Time to the end of an answer.", ["route"], registry=registry
        )
        self._running = Gauge("rios_gateway_generations", "Generations that run now.", registry=registry)
        self._tokens = Counter("rios_gateway_tokens_total", "Tokens read and written.", ["kind"], registry=registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. route: its pattern, not its path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def running(self, change: int) -> None:
        """Generations began (1) or ended (-1)."""
        self._running.inc(change)

    def tokens(self, *, read: int, written: int) -> None:
        """A generation read and wrote so many tokens."""
        self._tokens.labels("read").inc(read)
        self._tokens.labels("written").inc(written)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
