"""Two losses at the same time."""

from __future__ import annotations

import os
import signal
from typing import Any

import rios

PROMPT = "It was a fine morning,"
PARAMS: dict[str, Any] = {"max_new_tokens": 100, "ignore_eos": True, "timeout": 60}


def test_the_scheduler_and_a_host_may_go_together() -> None:
    """The scheduler and the host of the trunk in one moment: nobody is left who could say where the others are."""
    with rios.local(workers=3, threads=1) as net:
        assert net.cluster is not None
        model = net.dmoe.deploy("demo", dtype="float32", replicas=2, progress=False)
        expected = model.generate(PROMPT, **PARAMS)
        trunk = model.placement.trunk_pid
        assert trunk is not None
        pieces = model.stream(PROMPT, **PARAMS)
        tokens = list(next(pieces).token_ids)
        net.cluster.processes["scheduler"].kill()
        os.kill(trunk, signal.SIGKILL)
        tokens += [token for piece in pieces for token in piece.token_ids]
        assert tuple(tokens) == expected.token_ids
        assert model.generate(PROMPT, **PARAMS).token_ids == expected.token_ids
        net.cluster.processes["scheduler"].wait()
