"""Every causal architecture with the experts hook, built tiny and run over real hosts: `python -m tests.architectures`.

Prints the table of docs/architectures.md. "exact": in float32 the greedy tokens of ragged prompts, together and alone,
are those of one-process transformers run alone.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import rios
from tests import checkpoints

PROMPTS = ((5, 6, 7, 8, 9, 10, 11, 12, 13), (14,), (15, 16, 17, 18), tuple(range(20, 45)))
NEW_TOKENS = 8


@dataclass(frozen=True)
class Row:
    """One architecture's outcome."""

    name: str
    exact: bool
    batching: str
    note: str


def reference(path: Path, dtype: torch.dtype = torch.float32) -> list[tuple[int, ...]]:
    """Greedy tokens of one-process transformers, each prompt alone."""
    with checkpoints.quiet(), torch.inference_mode():
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        answers = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                use_cache=True,
                eos_token_id=None,
                pad_token_id=0,
            )
            answers.append(tuple(made[0, len(prompt) :].tolist()))
    return answers


def check(net: Any, name: str, folder: Path) -> Row:
    """Build, deploy and compare one architecture."""
    try:
        path = checkpoints.make(name, folder / name)
        expected = reference(path)
        with net.dmoe.deploy(path, replicas=1, progress=False) as model:
            params = {"max_new_tokens": NEW_TOKENS, "ignore_eos": True}
            together = [c.token_ids for c in model.generate([list(p) for p in PROMPTS], timeout=60, **params)]
            alone = [model.generate(list(prompt), timeout=60, **params).token_ids for prompt in PROMPTS]
            stats = model._deployment.trunk_stats()
    except Exception as error:  # noqa: BLE001  whatever goes wrong is this row's note
        first = (str(error).splitlines() or [""])[0]
        return Row(name, False, "", f"{type(error).__name__}: {first[:160]}")
    batching = "shared" if stats["batched"] else "one request at a time"
    if together == expected == alone:
        return Row(name, True, batching, stats["unbatched_reason"] or "")
    where = "together" if together != expected else "alone"
    return Row(name, False, batching, f"tokens differ from transformers when prompts run {where}")


def table(rows: list[Row]) -> str:
    """The page."""
    passed = sum(row.exact for row in rows)
    lines = [
        "# Architectures",
        "",
        f"Every causal architecture of transformers {transformers.__version__} that goes through its experts hook,",
        "built tiny with random weights and run on two hosts. *Exact*: in float32 the greedy tokens of ragged prompts,",
        "together and alone, equal those of one-process transformers run alone. *Batching*: whether requests share a",
        f"padded forward. {passed} of {len(rows)} are exact. `make docs` writes this page.",
        "",
        "| architecture | exact | batching | note |",
        "|---|---|---|---|",
        *(f"| {r.name} | {'yes' if r.exact else 'no'} | {r.batching} | {r.note.replace('|', '/')} |" for r in rows),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all and print the page."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, rios.local(workers=2, threads=1) as net:
        for name in checkpoints.causal_architectures():
            rows.append(check(net, name, Path(folder)))
            sys.stderr.write(f"{rows[-1]}\n")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
