"""A network on a GPU: the tokens of one-process transformers on the same one, host and trunk both there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

import rios
from tests import checkpoints
from tests.architectures import PROMPTS

pytestmark = pytest.mark.gpu
FORCED = 6
# Explicit significand bits. A token is compared where the reference's two highest logits differ by more than two units
# in the last place; those of float32 by 1e-4 at least, for sums of other kernels are rounded in other orders.
BITS = {"float32": 23, "bfloat16": 7, "float16": 10}


@pytest.fixture(scope="module")
def two() -> Iterator[rios.Network]:
    with rios.local(workers=2, threads=1) as net:
        assert all(worker.device.startswith("cuda") for worker in net.workers)
        yield net


@pytest.mark.parametrize("dtype", list(BITS))
def test_teacher_forced(dtype: str, two: rios.Network, tmp_path: Path) -> None:
    compared = 0
    for name in ("mixtral", "olmoe", "qwen2_moe", "gpt_oss"):
        path = checkpoints.make(name, tmp_path / name, dtype=dtype)
        with checkpoints.quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
            reference = model.eval().to("cuda")
        prefixes, rows = [], []
        with torch.inference_mode():
            for prompt in PROMPTS[::2]:
                tokens = list(prompt)
                for _ in range(FORCED):
                    row = reference(torch.tensor([tokens], device="cuda"), use_cache=False).logits[0, -1].float().cpu()
                    prefixes.append(list(tokens))
                    rows.append(row)
                    tokens.append(int(row.argmax()))
        with two.dmoe.deploy(path, replicas=1, progress=False) as deployed:
            answers = deployed.generate(prefixes, max_new_tokens=1, ignore_eos=True, timeout=60)
        for answer, row in zip(answers, rows, strict=True):
            high, second = row.topk(2).values.tolist()
            unit = 2.0 ** (math.floor(math.log2(abs(high))) - BITS[dtype]) if high else 0.0
            if high - second > max(2 * unit, 1e-4):
                compared += 1
                assert answer.token_ids == (int(row.argmax()),), name
    assert compared > 40


@pytest.mark.parametrize("dtype", list(BITS))
def test_a_stream_is_the_same_alone_and_with_others(dtype: str, two: rios.Network, tmp_path: Path) -> None:
    """Requests that come and go beside it, with experts computed on both hosts' streams."""
    path = checkpoints.make("olmoe", tmp_path / "olmoe", dtype=dtype)
    with two.dmoe.deploy(path, replicas=2, progress=False) as deployed:
        alone = [deployed.generate(list(prompt), max_new_tokens=4, ignore_eos=True) for prompt in PROMPTS]
        again = [deployed.generate(list(prompt), max_new_tokens=4, ignore_eos=True) for prompt in PROMPTS]
        together = deployed.generate([list(prompt) for prompt in PROMPTS], max_new_tokens=4, ignore_eos=True)
    assert [answer.token_ids for answer in again] == [answer.token_ids for answer in alone]
    if dtype == "float32":
        assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
