"""One MoE layer asked from outside: by rios' own dispatch over the hosts of a network, and by hivemind's calls.

Both have the same experts, rows and routing; the asking process hosts none of the experts in either.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from rios.reporting import hivemind_env, hivemind_peer
from rios.reporting.child import Child
from rios.words.config import settings
from rios.words.errors import DeadlineExceeded

if TYPE_CHECKING:
    from rios.dmoe.dispatch import Dispatcher

Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_AREA_BYTES = 1 << 22
_STARTS = 3
_START_S = 60.0
# Of 1, 2, 4 and 8 handler processes for each of two servers on two cores, the fastest for 1, 8 and 64 tokens.
HANDLERS = 2


def case(tokens: int, *, hidden_size: int, experts: int, top_k: int, seed: int = 0) -> Case:
    """Rows, chosen experts and weights: [tokens, hidden_size], int64 [tokens, top_k], [tokens, top_k]."""
    draw = torch.Generator().manual_seed(seed + tokens)
    hidden = torch.randn((tokens, hidden_size), generator=draw)
    weights, index = torch.randn((tokens, experts), generator=draw).softmax(1).topk(top_k, 1)
    return hidden, index, weights / weights.sum(1, keepdim=True)


class OurLayer:
    """Layers of a deployment, dispatched to its hosts by this process; a context manager."""

    def __init__(self, model: Any) -> None:
        """Connects to every host of `model`. Raises `DeadlineExceeded`."""
        from rios.dmoe.dispatch import Dispatcher
        from rios.dmoe.host import machine_id
        from rios.dmoe.links import Links

        deployment = model._deployment
        counts = [layer.num_experts for layer in deployment.manifest.layers]
        members = deployment.members.values()
        self._links = Links(deployment._id, counts, settings(), machine=machine_id(), area_bytes=_AREA_BYTES)
        self._links.route([member.peer for member in members], {member.peer.name: member.held for member in members})
        deadline = time.monotonic() + settings().connect_timeout_s
        while not all(all(row) for row in self._links.table):
            if time.monotonic() > deadline:
                self._links.close()
                raise DeadlineExceeded(f"no link to every host within {settings().connect_timeout_s:g} s")
            time.sleep(0.01)
        self._dispatcher: Dispatcher = Dispatcher(self._links, None, settings(), name="outside", num_experts=counts)

    def __call__(self, layer: int, given: Case) -> torch.Tensor:
        """The layer's output, [tokens, hidden_size]."""
        from rios.dmoe.seam import StepContext

        tokens = len(given[0])
        context = StepContext(np.zeros(tokens, dtype=np.int32), np.arange(tokens, dtype=np.int32))
        with torch.inference_mode():
            self._dispatcher.begin(1, None)
            return self._dispatcher(layer, *given, context)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._links.close()


@contextmanager
def hivemind_layer(
    folder: Path, checkpoint: Path, cases: dict[int, Case], *, layer: int, experts: int, scratch: Path, servers: int = 2
) -> Iterator[Child]:
    """The client process of hivemind_peer.py, with servers of one thread each that share the experts of one layer.

    folder: of hivemind's environment, made where missing. checkpoint: a safetensors file. scratch: for the cases.
    Raises `RiosError` where hivemind cannot be installed or does not start.
    """
    from safetensors.torch import save_file

    parts = ("hidden", "index", "weights")
    tensors = {f"{part}.{n}": value for n, given in cases.items() for part, value in zip(parts, given, strict=True)}
    save_file(tensors, scratch / "cases.safetensors")
    command = [str(hivemind_env.python(folder)), "-P", str(Path(hivemind_peer.__file__))]
    peers: list[str] = []
    with ExitStack() as stack:
        for server in range(servers):
            mine = ",".join(str(expert) for expert in range(server, experts, servers))
            serve = [*command, "server", str(checkpoint), str(layer), mine, str(HANDLERS), *peers]
            peers += json.loads(stack.enter_context(_started(serve)).first_line)
        ask = [*command, "client", str(scratch / "cases.safetensors"), str(experts), *peers]
        yield stack.enter_context(_started(ask))


def _started(command: list[str]) -> Child:
    """hivemind forks while its threads run, and one start in some twenty never gets ready: it is tried again."""
    for _ in range(_STARTS - 1):
        with contextlib.suppress(DeadlineExceeded):
            return Child(command, answer_s=_START_S)
    return Child(command, answer_s=_START_S)
