"""A network that the server half started: a process of its own, which ends with the pipe it was started by.

What to make comes as one line of JSON on standard input, tokens with it, so that no list of processes shows them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import rios
from rios.lab.announce import announce
from rios.words import errors, logs


def _made(wanted: dict[str, Any]) -> tuple[Any, str]:
    """The network, and its kind."""
    if wanted["kind"] == "remote":
        return rios.connect(wanted["url"], token=wanted.get("token"), ca=wanted.get("ca")), "remote"
    return rios.local(workers=wanted["workers"], home=wanted.get("home")), "local"


def _say(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Serve until standard input ends. What goes wrong at the start is one line of JSON on standard output."""
    logs.configure("WARNING")
    wanted = json.loads(sys.stdin.readline())
    try:
        network, kind = _made(wanted)
    except errors.RiosError as error:
        _say({"type": type(error).__name__, "detail": str(error)})
        return 1
    with network:
        end = announce(network, kind=kind, child=wanted["child"])
        try:
            _say({"ready": True})
            sys.stdin.read()
        finally:
            end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
