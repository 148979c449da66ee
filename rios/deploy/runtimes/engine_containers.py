"""The containers of an engine, one for each instance by its name: made, looked at, signalled, taken away."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError
from docker.errors import NotFound as DockerNotFound

from rios.deploy.runtimes.engine_service import EngineService, translated
from rios.words.errors import SandboxFailed

log = logging.getLogger(__name__)

_CREATED_WITHIN_S = _REMOVED_WITHIN_S = _LISTED_WITHIN_S = 15.0
_GOES_WITHIN_S = 1.0
_HALF = re.compile(r'getting container from store "([0-9a-f]{64})": container not known')
_GONE = re.compile(r"/proc/\d+/\S+: no such (process|file or directory)")
_BUSY = re.compile(r"unlinkat (\S+): device or resource busy")


def container_name(instance: str) -> str:
    """What the engine calls the container of an instance."""
    return f"rios-{instance}"


def inspected(client: docker.APIClient, container: str) -> dict[str, Any]:
    """What the engine says of a container. One that ends at that very moment podman is asked about again."""
    deadline = time.monotonic() + _GOES_WITHIN_S
    while True:
        try:
            return dict(client.inspect_container(container))
        except APIError as error:
            if not _GONE.search(str(error.explanation)) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


class Containers:
    """Those of one kind of runtime."""

    def __init__(self, service: EngineService, client: Callable[[], docker.APIClient], runtime: str) -> None:
        """client: of the running service; raises where the runtime does not work here."""
        self._service, self._client, self._runtime = service, client, runtime

    def create(self, client: docker.APIClient, request: dict[str, Any], instance: str) -> dict[str, Any]:
        """A new container. One that a starter asked for before it was killed may just be coming: it is taken away."""
        deadline, name = time.monotonic() + _CREATED_WITHIN_S, container_name(instance)
        while True:
            try:
                return dict(client.create_container_from_config(request, name=name))
            except APIError as error:
                if time.monotonic() > deadline:
                    raise
                if "unlinkat" in str(error.explanation):
                    self._service.heal()
                elif error.status_code in (409, 500) and "in use" in str(error.explanation):
                    with contextlib.suppress(APIError):
                        client.remove_container(name, force=True, v=True)
                else:
                    raise
            time.sleep(0.05)

    def details(self, instance: str) -> dict[str, Any] | None:
        """What the engine says of a container, or None where it has none."""
        client = self._client()
        try:
            with translated(f"the instance {instance}"):
                return inspected(client, container_name(instance))
        except SandboxFailed as error:
            if isinstance(error.__cause__, DockerNotFound):
                return None
            raise

    def send(self, instance: str, number: signal.Signals) -> None:
        """Send a signal to its first process, which may have ended meanwhile."""
        client = self._client()
        with contextlib.suppress(SandboxFailed), translated(instance):
            client.kill(container_name(instance), number)

    def remove(self, instance: str) -> None:
        """Kill it and take it away. Removing what is not there is fine.

        What is still mounted in it, for its monitor was killed before it could clean up, is let go of first.
        """
        deadline = time.monotonic() + _REMOVED_WITHIN_S
        while True:
            try:
                with translated(f"the container of {instance} cannot be removed"):
                    self._client().remove_container(container_name(instance), force=True, v=True)
                return
            except SandboxFailed as error:
                if isinstance(error.__cause__, DockerNotFound):
                    return
                busy = _BUSY.search(str(error))
                if busy is None or time.monotonic() > deadline:
                    raise
                self._service.unmount(Path(busy[1]))
            time.sleep(0.05)

    def sweep(self, known: Callable[[str], bool]) -> None:
        """Take away containers whose instances are not known: their starter was killed, and their record removed."""
        with translated("containers that nobody knows cannot be removed"):
            for container in self.listed():
                if not known(container["Labels"]["rios.instance"]):
                    with contextlib.suppress(DockerNotFound):
                        self._client().remove_container(container["Id"], force=True, v=True)

    def listed(self) -> list[dict[str, Any]]:
        """All containers of this kind, as the engine describes them.

        It describes none while there is one without a file system: one that just goes, or one whose starter was killed
        in the middle, which stays so. The latter is taken away.
        """
        deadline, client, since = time.monotonic() + _LISTED_WITHIN_S, self._client(), dict[str, float]()
        while True:
            try:
                return list(client.containers(all=True, filters={"label": f"rios.runtime={self._runtime}"}))
            except APIError as error:
                half, now = _HALF.search(str(error.explanation)), time.monotonic()
                if half is None or now > deadline:
                    raise
                if now > since.setdefault(half[1], now) + _GOES_WITHIN_S:
                    log.info("a container without a file system is taken away", extra={"container": half[1]})
                    with contextlib.suppress(APIError):
                        client.remove_container(half[1], force=True, v=True)
            time.sleep(0.05)
