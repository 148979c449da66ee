"""A step's logits are equal to the bit whoever hosts what: 1, 2, 3 and 5 hosts, one copy or two, requests in one batch.

The steps are driven from here, so that the same requests share each of them; the hosts are threads of this process.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rios.dmoe.checkpoint import read_manifest
from rios.dmoe.dispatch import Dispatcher
from rios.dmoe.link import State
from rios.dmoe.links import Links
from rios.dmoe.manifest import Manifest
from rios.dmoe.source import FileSource
from rios.dmoe.tensors import NAMES
from rios.dmoe.trunk import Trunk
from tests import checkpoints
from tests.architectures import PROMPTS
from tests.hosting import DEADLINE_S, Hosting, hosting

CPU = torch.device("cpu")
SPREADS = ((1, 1), (2, 1), (3, 1), (5, 1), (2, 2), (3, 2), (5, 2))  # hosts, copies
STEPS = 6
# Half precision is another kernel, not another way: some of the architectures will do.
CASES = [(name, "float32") for name in checkpoints.NAMED]
CASES += [(name, dtype) for dtype in ("bfloat16", "float16") for name in ("olmoe", "deepseek_v3", "gpt_oss")]

_names = (f"m{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Hosting]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(hosting(name=f"h{number}", device=CPU)) for number in range(5)]


@contextlib.contextmanager
def spread(hosts: list[Hosting], path: Path, manifest: Manifest, copies: int) -> Iterator[tuple[Trunk, Dispatcher]]:
    """A trunk on the first host, whose experts are on all of them, each on `copies`."""
    name = next(_names)
    counts = [layer.num_experts for layer in manifest.layers]
    for number, made in enumerate(hosts):
        made.control.call(
            "open", deployment=name, dtype=manifest.dtype, path=str(path), body=manifest.to_json().encode()
        )
        for layer in manifest.layers:
            mine = [
                expert
                for expert in range(layer.num_experts)
                if number in {(expert + layer.index + copy) % len(hosts) for copy in range(copies)}
            ]
            made.control.call("load", deployment=name, layer=layer.index, experts=mine)
    first = hosts[0]
    links = Links(name, counts, first.settings, machine=first.host.machine, area_bytes=1 << 20)
    links.route([made.peer for made in hosts[1:]], {})
    try:
        deadline = time.monotonic() + DEADLINE_S
        while any(link.state is State.DOWN for link in links.links):
            assert time.monotonic() < deadline, "not connected"
            time.sleep(0.001)
        store = first.host.deployments[name].store
        dispatcher = Dispatcher(links, store, first.settings, name="h0", num_experts=counts)
        source = FileSource(path, manifest.files)
        trunk = Trunk(manifest, source, dtype=NAMES[manifest.dtype], device=CPU, experts=dispatcher, name=name)
        yield trunk, dispatcher
        trunk.release()
    finally:
        links.close()
        for made in hosts:
            made.control.call("close", deployment=name)


def logits_of(trunk: Trunk, dispatcher: Dispatcher) -> list[torch.Tensor]:
    """Prompts of unlike lengths begin together, one comes later and one leaves; greedy, all in one batch."""
    texts = [list(prompt) for prompt in PROMPTS]
    slots = {number: trunk.open(64) for number in range(len(texts))}
    waiting = {number: list(text) for number, text in enumerate(texts) if number != 1}
    found = []
    for step in range(STEPS):
        if step == 2:
            waiting[1] = texts[1]
        if step == 4:
            del waiting[0]
        order = sorted(waiting)
        dispatcher.begin(len(order), None)
        logits = trunk.step([(slots[number], waiting[number]) for number in order])
        found.append(logits)
        waiting = {number: [int(row.argmax())] for number, row in zip(order, logits, strict=True)}
    for slot in slots.values():
        trunk.close(slot)
    return found


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_bits_do_not_depend_on_hosts(hosts: list[Hosting], tmp_path: Path, name: str, dtype: str) -> None:
    path = checkpoints.make(name, tmp_path, dtype=dtype)
    manifest = read_manifest(path)
    assert manifest.dtype == dtype
    expected: list[torch.Tensor] = []
    for count, copies in SPREADS:
        with spread(hosts[:count], path, manifest, copies) as (trunk, dispatcher):
            found = logits_of(trunk, dispatcher)
            assert trunk.batched == (name not in ("mixtral", "phimoe", "gpt_oss", "jamba"))
            used = dispatcher.hosts  # those whose replies were accepted, the trunk's own first
        assert all(torch.isfinite(logits).all() for logits in found)
        expected = expected or found
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)), (count, copies)
        assert copies > 1 or len(used) == count, f"only {used} computed"
