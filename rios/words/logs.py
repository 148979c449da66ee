"""Structured logs: one JSON object a line on standard error, with the request id where there is one."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECRET = ("key", "token", "secret", "password", "authorization")


class JsonFormatter(logging.Formatter):
    """A record as one JSON line; fields whose name smells of a secret are masked."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                line[name] = _masked(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _masked(name: str, value: Any) -> Any:
    if _is_secret(name):
        return "***"
    if isinstance(value, Mapping):
        return {str(inner): _masked(str(inner), of_it) for inner, of_it in value.items()}
    return value


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return any(lowered == word or lowered.endswith("_" + word) for word in _SECRET)


def configure(level: str = "INFO", *, context: Mapping[str, Any] | None = None) -> None:
    """Send the logs of rios to standard error as JSON lines; `context` is added to each. For processes of our own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    if context:
        fixed = dict(context)

        def add(record: logging.LogRecord) -> bool:
            record.__dict__.update(fixed)
            return True

        handler.addFilter(add)
    logger = logging.getLogger("rios")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
