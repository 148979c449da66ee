"""Gateways of one network as processes of their own, by `rios gateway`."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaigns import ROOT
from tests.gateway.secrets_seen import FILES
from tests.gateway.servers import START_S, Door


@contextmanager
def joined(home: Path, scheduler: str, *arguments: str, log: Path, **variables: str) -> Iterator[Callable[[], Door]]:
    """One more gateway of the network at `scheduler`, on a free port; ended by SIGTERM unless it was killed.

    What is yielded waits until it listens.
    """
    command = [
        sys.executable,
        "-m",
        "rios.cli",
        "gateway",
        "--scheduler",
        scheduler,
        "--port",
        "0",
        "--home",
        str(home),
    ]
    FILES.append(log)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT,
            env=os.environ | {"RIOS_GATEWAY_BURST": "1000000"} | variables,
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        assert process.stdout is not None

        def listens() -> Door:
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(START_S), f"`rios gateway` was silent for {START_S} s: {log.read_text()}"
            url, token = (process.stdout.readline().rpartition(" ")[2].strip() for _ in range(2))
            assert url.startswith("http"), log.read_text()
            return Door(url, token, process=process, log=log)

        try:
            yield listens
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, -signal.SIGKILL), log.read_text()
        finally:
            process.kill()
            process.wait(30)
            process.stdout.close()
