"""The engine as a host: a replica of a model deployment is that model on the network's workers, from this process.

It ends with the process; whoever leads next finds its host gone and deploys the model anew.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import SecretBytes

from rios.deploy.runtimes.protocol import Executed, ImageBase, LogLine, Metrics, Status
from rios.deploy.scheduling import Amounts, HostOffer
from rios.services.deployments.hosts import APP, Ended, Order
from rios.words.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from rios.services.generation import Model

ENGINE = "engine"
"""What a model asks for as its runtime, and nothing else has."""
_MODELS_MAX = 1000
Deploy = Callable[..., "Model"]
"""As `net.dmoe.deploy`: path, name, replicas, progress."""


class EngineHost:
    """The models that this process serves for deployments."""

    only: frozenset[str] = frozenset()

    def __init__(self, deploy: Deploy) -> None:
        self.name = f"{ENGINE}-{os.getpid()}-{secrets.token_hex(3)}"
        self._deploy = deploy
        self._lock = threading.Lock()
        # The network holds its models, and this host does not: it is held by threads, and neither would ever end.
        self._models: dict[str, tuple[weakref.ref[Model], str, float]] = {}
        """By replica: the model, the deployment, and since when."""

    def __repr__(self) -> str:
        return f"<EngineHost {self.name} of {len(self._models)} models>"

    def offer(self) -> HostOffer:
        """Room for models: the engine itself knows what fits into the workers' memory, and says so by an error."""
        return HostOffer(name=self.name, total=Amounts(replicas=_MODELS_MAX), runtimes=frozenset({ENGINE}))

    def pulls(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> bool:
        """Workers fetch shards while the model is deployed."""
        return False

    def prepare(self, specification: Mapping[str, Any], image: ImageBase | None = None) -> None:
        """There is nothing to prepare."""

    def model(self, replica_id: str) -> Model:
        """The model that a replica is. Raises NotFound."""
        with self._lock:
            found = self._models.get(replica_id)
        model = None if found is None else found[0]()
        if model is None:
            raise NotFound(f"replica {replica_id} is served by another process, or by none")
        return model

    def instances(self) -> list[Status]:
        """The models that are deployed; one that was closed by hand has exited."""
        with self._lock:
            known = dict(self._models)
        return [
            Status(
                instance=replica_id,
                state="running" if _lives(model) else "exited",
                exit_code=None if _lives(model) else 0,
                labels={APP: app_id},
                started_at=since,
            )
            for replica_id, (model, app_id, since) in known.items()
        ]

    def start(self, order: Order) -> Status:
        """Deploy a model. Raises what `net.dmoe.deploy` raises."""
        with self._lock:
            known = order.replica_id in self._models
        if not known:
            wanted = order.specification
            copies = wanted["replicas"]["max"]
            model = self._deploy(
                wanted["model"], name=wanted["name"], replicas=copies if copies > 1 else None, progress=False
            )
            with self._lock:
                self._models[order.replica_id] = (weakref.ref(model), order.app_id, time.time())
        return next(status for status in self.instances() if status.instance == order.replica_id)

    def give_up(self, replica_id: str) -> None:
        """A model that is deployed is closed then."""

    def end(self, replica_id: str, *, grace_s: float) -> Ended:
        """Close a model; requests under way are cancelled."""
        with self._lock:
            found = self._models.get(replica_id)
        if found is None:
            return Ended(status=None, metrics=None)
        model = found[0]()
        if model is not None:
            model.close()
        return Ended(status=Status(instance=replica_id, state="exited", exit_code=0), metrics=None)

    def clear(self, replica_id: str) -> None:
        """Forget it."""
        self.end(replica_id, grace_s=0.0)
        with self._lock:
            self._models.pop(replica_id, None)

    def forget(self, organisation_id: str, app_id: str, specification: Mapping[str, Any]) -> None:
        """Nothing of a model is kept here."""

    def metrics(self, replica_id: str) -> Metrics:
        """Models are metered by request, and not by replica."""
        raise NotFound(f"replica {replica_id} is a model, which is metered by request: net.billing.usage() has that")

    def logs(self, replica_id: str, *, since: float = 0.0, follow: bool = False) -> Iterator[LogLine]:
        """A model writes no lines."""
        return iter(())

    def exec(self, replica_id: str, command: Sequence[str], *, timeout_s: float) -> Executed:
        """A model runs no commands."""
        raise InvalidRequest(f"replica {replica_id} is a model and runs no commands")

    def put_secrets(self, replica_id: str, secrets: Mapping[str, SecretBytes]) -> None:
        """A model has no secrets."""
        raise InvalidRequest(f"replica {replica_id} is a model and has no secrets")

    def close(self) -> None:
        """Its models end with the network."""


def _lives(model: weakref.ref[Model]) -> bool:
    found = model()
    return found is not None and not found._closed
