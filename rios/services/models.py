"""Models on a network: the verb that deploys one, and how this process has its workers serve it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.dmoe.params import check_timeout
from rios.services.books import FIRST_ORGANISATION, LOCAL_USER
from rios.services.generation import Model
from rios.services.prompts import count_of
from rios.words.display import Shown
from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.services.network import Network

DTYPES = ("float32", "bfloat16", "float16")
DEMO = "demo"
"""The checkpoint that comes with rios."""


class Dmoe(Shown):
    """Mixture-of-experts models on a network: `net.dmoe`."""

    def __init__(self, network: Network) -> None:
        self._network = network  # which does not hold this: nothing goes round

    def __repr__(self) -> str:
        return f"<Dmoe of {self._network.address}>"

    def deploy(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        dtype: str | None = None,
        replicas: int | None = None,
        partial: bool = False,
        wire_dtype: str | None = None,
        private: bool = False,
        progress: bool = True,
        timeout: float | None = None,
    ) -> Model:
        """Decompose a checkpoint, place its experts on the workers and start its trunk.

        It is a deployment as others are (`net.deploy.list()` shows it, with its states), and ends with this network,
        by `model.close()`, or when it is deleted.

        path: "demo", or a directory with a Hugging Face mixture-of-experts checkpoint in safetensors.
        dtype: float32, bfloat16 or float16; default is the one on disk.
        replicas: copies of each expert in all, on different workers; default 2 where both fit into half of the free
            memory, else 1, and more of those that the measured load asks for (`RIOS_REPLAN_ABOVE`).
        partial: hosts return one weighted sum per token instead of a row per expert: less traffic, equal to rounding.
        wire_dtype: "bfloat16" halves the traffic of a float32 model, at the price of rounding.
        private: shards that hosts fetch lie on their disks encrypted under their own RIOS_SHARD_KEY, or not at all.
        timeout: seconds in all; by default it ends when nothing was loaded for `RIOS_CONTROL_TIMEOUT_S`.

        Raises UnsupportedCheckpoint, CheckpointCorrupt, InsufficientMemory, InvalidRequest, NoWorkers,
        DeadlineExceeded, LedgerUnavailable.
        """
        network = self._network
        network._open()
        for field, value in (("dtype", dtype), ("wire_dtype", wire_dtype)):
            if value is not None and value not in DTYPES:
                raise InvalidRequest(f"{field} is {value!r}; it must be one of {', '.join(DTYPES)}")
        copies = count_of("replicas", replicas)
        timeout = check_timeout(timeout)
        chosen = str(path) if str(path) == DEMO else str(directory_of(path))
        from rios.deploy.reading import read_app
        from rios.services.deployments.bound import slug

        served = name or Path(chosen).name
        wanted = read_app(
            {
                "name": slug(served), "model": chosen, "served_name": served, "dtype": dtype, "copies": copies,
                "partial": partial, "wire_dtype": wire_dtype, "private": private,
            }
        )  # fmt: skip
        return network._apps().engine.deploy(
            wanted, user_id=LOCAL_USER, organisation_id=FIRST_ORGANISATION, progress=progress, timeout=timeout
        )


def start_model(
    network: Network,
    path: str,
    *,
    name: str,
    dtype: str | None,
    copies: int | None,
    partial: bool,
    wire_dtype: str | None,
    private: bool,
    progress: bool,
    timeout: float | None = None,
    closed: Callable[[Model], None] = lambda _: None,
) -> Model:
    """Have the workers of a network serve a model, from this process. Raises as `Dmoe.deploy`.

    closed: told of the model when it was closed.
    """
    from tqdm.auto import tqdm

    from rios.dmoe.deployment import Deployment
    from rios.dmoe.examined import examine
    from rios.dmoe.generation_config import eos_of
    from rios.dmoe.tokenizer import read_files

    network._open()
    directory = directory_of(path)
    limit_s = network._settings.control_timeout_s if timeout is None else timeout
    examined = examine(directory, dtype, timeout_s=limit_s)
    network.wait_for_workers(1)
    total = sum(layer.num_experts for layer in examined.manifest.layers)
    bar = tqdm(total=total * (copies or 1), desc=f"loading {name}", unit="expert", disable=not progress, leave=False)
    try:
        deployment = Deployment(
            name,
            directory,
            examined,
            network._membership,
            network._settings,
            replicas=copies,
            tokenizer_files=read_files(directory),
            eos=eos_of(directory),
            options={"partial": partial, "wire_dtype": wire_dtype, "private": private},
            sinks=network.sinks,
            progress=bar.update,
        )
        bar.total = total * deployment.replicas
        # Many gigabytes over a network take as long as they take: only who says how long ends what still moves.
        deployment.start(math.inf if timeout is None else timeout, silence_s=limit_s if timeout is None else None)
    finally:
        bar.close()
    network._owners.learn()

    def ended(model: Model) -> None:
        network._forget(model)
        closed(model)

    network._deployments.append(deployment)
    model = Model(
        deployment,
        ended,
        charging=network._purse.charging,
        owners=network._owners,
        jobs=network.jobs,
        network=network,
    )
    network._models.append(model)
    return model


def directory_of(path: str | Path) -> Path:
    """The directory of a checkpoint; "demo" is the one that comes with rios. Raises InvalidRequest."""
    if str(path) == DEMO:
        from rios import demo

        return demo.path()
    directory = Path(path).expanduser().resolve()
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is not a directory; give one with config.json and safetensors, or 'demo'")
    return directory


def starter(network: Callable[[], Network | None]) -> Callable[..., Model]:
    """`start_model` on a network that is not held."""

    def start(path: str, **how: Any) -> Model:
        from rios.words.errors import NetworkClosed

        found = network()
        if found is None:
            raise NetworkClosed("the network of this model has ended")
        return start_model(found, path, **how)

    return start
