"""A host in a thread of the test's own process, and a client of its trunk: no network, no supervisor."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.control import HostControl
from rios.dmoe.host import Host
from rios.dmoe.job import Job
from rios.dmoe.params import SamplingParams
from rios.dmoe.peer import Peer
from rios.dmoe.session import TrunkSession
from rios.dmoe.tokenizer import Tokenizing
from rios.words.config import Settings
from rios.words.errors import HostLost

KEY = "key"
DEADLINE_S = 60.0


class Hosting:
    """A running host. `deploy` gives it a whole checkpoint and a trunk."""

    def __init__(
        self, settings: Settings, *, name: str = "host", host_class: type[Host] = Host, **options: Any
    ) -> None:
        self.settings = settings
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = host_class(self._listener, name=name, key=KEY, settings=settings, **options)
        self.peer = Peer(name, ("127.0.0.1", self._listener.getsockname()[1]), KEY, self.host.machine)
        self._thread = threading.Thread(target=self.host.run, daemon=True)
        self._thread.start()
        self.control = HostControl(self.peer, settings, session="test")

    def deploy(self, path: Path, *, name: str = "model", trunk: bool = True, **options: Any) -> dict[str, Any]:
        """Load every expert and, with `trunk`, start one; returns what the trunk says of itself."""
        manifest = read_manifest(path)
        self.control.call(
            "open", deployment=name, dtype=manifest.dtype, path=str(path), body=manifest.to_json().encode()
        )
        for layer in manifest.layers:
            self.control.call("load", deployment=name, layer=layer.index, experts=list(range(layer.num_experts)))
        return self.control.call("trunk", deployment=name, options=options) if trunk else {}

    def stats(self, name: str = "model") -> dict[str, Any]:
        """What the trunk says of itself now."""
        found: dict[str, Any] = self.control.call("info")["deployments"][name]["trunk"]
        return found

    def close(self) -> None:
        self.control.close()
        self.host.stop()
        self._thread.join(DEADLINE_S)
        for hosted in self.host.deployments.values():
            hosted.close()
        self._listener.close()


@contextlib.contextmanager
def hosting(*, settings: dict[str, Any] | None = None, **options: Any) -> Iterator[Hosting]:
    """A host for as long as the block runs."""
    made = Hosting(Settings(connect_timeout_s=20, **(settings or {})), **options)
    try:
        yield made
    finally:
        made.close()


class Client:
    """One client of a trunk."""

    def __init__(self, made: Hosting, name: str = "model") -> None:
        self.jobs: dict[int, Job] = {}
        self._handles = itertools.count(1)
        self._session = TrunkSession(
            made.peer, name, made.settings, jobs=self.jobs, lost=self._lost, finished=lambda _: None
        )
        self._session.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._session.close()

    def _lost(self, _: object, reason: str) -> None:
        for job in list(self.jobs.values()):
            job.fail(HostLost(reason))

    def job(self, prompt: Sequence[int], *, tokens: int, **params: Any) -> Job:
        """A request that is not sent yet."""
        handle = next(self._handles)
        job = self.jobs[handle] = Job(
            f"request-{handle}",
            handle,
            prompt,
            SamplingParams(max_new_tokens=tokens, ignore_eos=True, **params),
            seed=0,
            model="model",
            tokenizing=Tokenizing(None),
            cancel=self._session.cancel,
        )
        return job

    def submit(self, prompt: Sequence[int], *, tokens: int, **params: Any) -> Job:
        job = self.job(prompt, tokens=tokens, **params)
        self._session.submit([job], [])
        return job
