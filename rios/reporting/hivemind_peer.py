"""One MoE layer by hivemind: a server of some experts, or the client that asks them. Questions and answers are lines.

Run as a file by an interpreter that has hivemind (hivemind_env.py), which need not have rios:

    python -P hivemind_peer.py server CHECKPOINT LAYER EXPERTS HANDLERS [PEER...]    answers its addresses as JSON
    python -P hivemind_peer.py client CASES NUM_EXPERTS PEER...                      see `client`

Experts are those of the checkpoint: down(silu(gate(x)) * up(x)), without biases.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

# Loopback only, and no router is asked to open a port.
QUIET = {"host_maddrs": ["/ip4/127.0.0.1/tcp/0"], "nat_port_map": False, "auto_nat": False, "use_relay": False}
FIND_S = 60.0
Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Expert(torch.nn.Module):
    """The FFN of one expert."""

    def __init__(self, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        self.gate, self.up, self.down = (torch.nn.Parameter(weight) for weight in (gate, up, down))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, hidden] to [n, hidden]."""
        linear = torch.nn.functional.linear
        return linear(torch.nn.functional.silu(linear(x, self.gate)) * linear(x, self.up), self.down)


def uid(expert: int) -> str:
    """hivemind's name of an expert."""
    return f"ffn.{expert}"


def say(answer: object) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def serve(checkpoint: str, layer: int, experts: list[int], handlers: int, peers: list[str]) -> None:
    """Serve experts of one layer until standard input ends."""
    from hivemind import DHT  # type: ignore[import-not-found]
    from hivemind.moe.server import ModuleBackend, Server  # type: ignore[import-not-found]
    from hivemind.utils.tensor_descr import BatchTensorDescriptor  # type: ignore[import-not-found]
    from safetensors import safe_open

    backends = {}
    with safe_open(checkpoint, "pt") as file:
        for expert in experts:
            name = f"model.layers.{layer}.mlp.experts.{expert}"
            weights = [file.get_tensor(f"{name}.{part}_proj.weight") for part in ("gate", "up", "down")]
            schema = BatchTensorDescriptor(weights[0].shape[1])
            backends[uid(expert)] = ModuleBackend(
                uid(expert), Expert(*weights), args_schema=(schema,), min_batch_size=1, max_batch_size=4096
            )
    dht = DHT(initial_peers=peers, start=True, **QUIET)
    Server(dht, backends, num_connection_handlers=handlers, device=torch.device("cpu"), start=True)
    say([str(address) for address in dht.get_visible_maddrs()])
    sys.stdin.read()


def found(dht: Any, count: int) -> list[Any]:
    """All experts, once the servers have announced them. Raises TimeoutError."""
    from hivemind.moe.server.dht_handler import get_experts  # type: ignore[import-not-found]

    deadline = time.monotonic() + FIND_S
    while not all(experts := get_experts(dht, [uid(expert) for expert in range(count)])):
        if time.monotonic() > deadline:
            raise TimeoutError(f"experts were not announced within {FIND_S:g} s: {experts}")
        time.sleep(0.1)
    return list(experts)


def asked_by(experts: list[Any], run: Callable[..., Any]) -> Layer:
    """One MoE layer: the rows of each expert in one call of its `RemoteExpert`; `run` is `map` or a pool's."""

    def layer(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        places = [(expert, *torch.where(index == expert)) for expert in sorted(set(index.flatten().tolist()))]
        answers = run(lambda place: experts[place[0]](hidden[place[1]]), places)
        out = torch.zeros_like(hidden)
        for (_, rows, slots), answer in zip(places, answers, strict=True):
            out.index_add_(0, rows, answer * weights[rows, slots, None])
        return out

    return layer


def client(cases: str, count: int, peers: list[str]) -> None:
    """Answer questions {tokens, way: "one by one" or "at once", calls, show} with {seconds: [...], output: rows}.

    cases: safetensors with hidden.N, index.N and weights.N for each number of tokens N. "At once" asks all experts
    from as many threads. `calls` calls are timed; the output is told where `show` is true.
    """
    from hivemind import DHT
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    tensors = load_file(cases)
    experts = found(DHT(initial_peers=peers, client_mode=True, start=True, **QUIET), count)
    pool = ThreadPoolExecutor(count)

    def at_once(work: Callable[..., Any], places: list[Any]) -> list[Any]:
        def one(place: Any) -> Any:
            with torch.inference_mode(mode=False), torch.no_grad():  # these modes are a thread's own
                return work(place)

        return list(pool.map(one, places))

    ways = {"one by one": asked_by(experts, map), "at once": asked_by(experts, at_once)}
    say("ready")
    for line in sys.stdin:
        question = json.loads(line)
        given = [tensors[f"{part}.{question['tokens']}"] for part in ("hidden", "index", "weights")]
        layer = ways[question["way"]]
        took, output = [], torch.empty(0)
        with torch.no_grad():
            for _ in range(question["calls"]):
                started = time.perf_counter()
                output = layer(*given)
                took.append(time.perf_counter() - started)
        say({"seconds": took, "output": output.tolist() if question.get("show") else None})


def main(role: str, *arguments: str) -> None:
    """What the command line asks for; run as the leader of a process group."""
    torch.set_num_threads(1)
    if role == "server":
        checkpoint, layer, experts, handlers, *peers = arguments
        serve(checkpoint, int(layer), [int(expert) for expert in experts.split(",")], int(handlers), peers)
    else:
        cases, count, *peers = arguments
        client(cases, int(count), peers)
    # Whoever asked has gone. An orderly end takes seconds, and leaves processes behind when it is interrupted.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
