"""Train the demo model: ``python -m rios.demo.train --out DIR``.

A mixture-of-experts model in OLMoE's architecture (Muennighoff et al., 2024,
"OLMoE: Open Mixture-of-Experts Language Models"), small enough to ship in a wheel
and to train on two cores in half an hour. The text comes from
:mod:`rios.demo.corpus`; the held-out measure from :mod:`rios.demo.evaluate`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import functional
from transformers import (
    GenerationConfig,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from rios.demo import corpus, tokens
from rios.demo.evaluate import measure, measure_voices
from rios.demo.muon import Muon

SEED = 0

CONTEXT = 512
# 4,096 tokens a step. Three fifths of the run read windows of half the context, where
# attention costs half as much; the rest reads whole ones, so that every position the
# model claims to handle was trained.
TOKENS_PER_STEP = 4096
SHORT_WINDOW = 256
LONG_FROM = 0.6
# 6.1 M tokens, three passes over the text. More was not tried with Muon; with AdamW
# alone, 18 M tokens began to overfit.
STEPS = 1500

# Matrices learn by Muon: at step 100 the loss was 4.8 where AdamW alone had 5.4 (one batch
# each, and AdamW's run read whole windows from the start). The embedding, the routers and
# the norms learn by AdamW, with the high rate and short memory that small transformers
# like. Muon's rate is the first one tried.
MUON_RATE = 5e-3
ADAMW_RATE = 2e-3
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1  # norms are left alone
CLIP_NORM = 1.0
# Linear warm-up keeps Adam's first, badly estimated steps small; cosine to 5 % lets
# the last passes settle without stopping them.
WARM_UP = 0.02
FINAL_RATE = 0.05

# Switch Transformer's load-balancing loss (Fedus et al., 2021, eq. 4-6), summed over
# the layers. It is taken layer by layer because one loss over pooled layers can hide
# an expert that collapsed in one of them. 0.01 is the weight of both papers.
BALANCE_WEIGHT = 0.01

SAVE_EVERY_S = 180.0
LOG_EVERY = 25
GLANCE_EVERY = 12  # on the way, 5 held-out chapters are measured, not all 57
LOSS_ROWS = 512  # 8 MB of float32 logits at a time


def new_model(vocabulary: int) -> Any:
    """Return a fresh OLMoE model of 3.7 M parameters, float32."""
    config = OlmoeConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokens.END_ID,
        eos_token_id=tokens.END_ID,
        pad_token_id=tokens.PAD_ID,
        router_aux_loss_coef=BALANCE_WEIGHT,
    )
    model: Any = OlmoeForCausalLM(config)
    # GPT-2's scaling: each of the 2 * layers residual additions starts at a variance
    # that leaves their sum at one.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj")):
                weight.mul_(1 / math.sqrt(2 * config.num_hidden_layers))
    return model


def every_expert(experts: Any, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Run all experts on all tokens as two products, and weigh the unchosen by zero.

    ``hidden`` is [token, hidden], ``chosen`` and ``weights`` are [token, k]. With
    eight narrow experts on a CPU, four times the arithmetic costs no more than
    sorting and gathering each expert's tokens: 5.2-6.2 thousand tokens/s of training
    either way, within the noise of two busy cores.
    """
    count, inner = experts.num_experts, experts.intermediate_dim
    gates = torch.zeros(len(hidden), count, dtype=weights.dtype).scatter(1, chosen, weights)
    gate, up = functional.linear(hidden, experts.gate_up_proj.flatten(0, 1)).view(-1, count, 2 * inner).chunk(2, dim=-1)
    active: torch.Tensor = experts.act_fn(gate) * up * gates.unsqueeze(-1).to(gate.dtype)
    down: torch.Tensor = experts.down_proj.transpose(1, 2).reshape(count * inner, -1)
    return (active.flatten(1) @ down).to(hidden.dtype)


def balance_loss(router_logits: Sequence[torch.Tensor], top_k: int) -> torch.Tensor:
    """Return the load-balancing loss summed over layers; each layer's least is 1.

    ``router_logits`` holds, per layer, [token, expert].
    """
    total = torch.zeros(())
    for logits in router_logits:
        chance = logits.float().softmax(-1)
        chosen = chance.topk(top_k).indices
        share = functional.one_hot(chosen, logits.shape[-1]).float().mean((0, 1))
        total = total + logits.shape[-1] * (share * chance.mean(0)).sum()
    return total


def batches(documents: Sequence[Sequence[int]], window: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches [TOKENS_PER_STEP / window, window + 1] for ever.

    Every pass shuffles the chapters, joins them and cuts the windows at a new
    offset, so that no window is seen twice.
    """
    rows = TOKENS_PER_STEP // window
    while True:
        order = torch.randperm(len(documents), generator=generator).tolist()
        stream = torch.tensor([token for index in order for token in documents[index]])
        offset = int(torch.randint(window, (), generator=generator))
        cut = stream[offset:].unfold(0, window + 1, window)
        cut = cut[torch.randperm(len(cut), generator=generator)]
        yield from torch.split(cut[: len(cut) // rows * rows], rows)


def rate_at(progress: float) -> float:
    """Return the part of the full learning rate in force when ``progress`` (0-1) is done."""
    if progress < WARM_UP:
        return progress / WARM_UP
    part = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * part))


def optimizers_for(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon for attention and experts, AdamW for everything else."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if "_proj" in name]
    tables = [p for name, p in named if "_proj" not in name and p.ndim > 1]
    norms = [p for name, p in named if p.ndim < 2]
    return [
        Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(
            [{"params": tables, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}],
            lr=ADAMW_RATE,
            betas=BETAS,
            fused=True,
        ),
    ]


def step_loss(model: Any, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean cross-entropy of a batch in nats, and its balance loss."""
    total = torch.zeros(())
    with torch.autocast("cpu", torch.bfloat16):
        out = model.model(batch[:, :-1], output_router_logits=True, use_cache=False)
        hidden, targets = out.last_hidden_state.flatten(0, 1), batch[:, 1:].flatten()
        # In parts, so that the float32 logits stay in the processor's cache.
        parts = zip(torch.split(hidden, LOSS_ROWS), torch.split(targets, LOSS_ROWS), strict=True)
        for part, wanted in parts:
            logits = model.lm_head(part).float()
            total = total + functional.cross_entropy(logits, wanted, reduction="sum")
    balance = balance_loss(out.router_logits, model.config.num_experts_per_tok)
    return total / len(targets), balance


def save(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in bfloat16, with its tokenizer, as transformers loads it."""
    half: Any = OlmoeForCausalLM(model.config).to(torch.bfloat16)  # type: ignore[arg-type]
    half.load_state_dict(model.state_dict())
    # Sampling is the default because a model this small loops when it is greedy.
    half.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=0.7,
        bos_token_id=tokens.END_ID,
        eos_token_id=tokens.END_ID,
        pad_token_id=tokens.PAD_ID,
    )
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)


def train(out: Path, split: corpus.Split, *, steps: int, minutes: float) -> None:
    """Train for ``steps`` steps or ``minutes``, whichever ends first, and save to ``out``.

    The learning rate follows whichever of the two is further on, so that a run on a
    busy machine still ends cooled down. Every three minutes the model so far is
    saved to ``out/checkpoint``.
    """
    torch.manual_seed(SEED)
    tokenizer = tokens.train_tokenizer([chapter.text for chapter in split.train], CONTEXT)
    model = new_model(len(tokenizer))
    ALL_EXPERTS_FUNCTIONS.register("every_expert", every_expert)
    model.set_experts_implementation("every_expert")
    optimizers = optimizers_for(model)
    full_rates = [[group["lr"] for group in each.param_groups] for each in optimizers]
    documents = [tokens.document(tokenizer, chapter.text) for chapter in split.train]
    generator = torch.Generator().manual_seed(SEED)
    short_feed = batches(documents, SHORT_WINDOW, generator)
    long_feed = batches(documents, CONTEXT, generator)
    began = saved = time.monotonic()
    done = 0
    for step in range(1, steps + 1):
        elapsed = time.monotonic() - began
        progress = max(step / steps, elapsed / (60 * minutes))
        if progress > 1:
            break
        for optimizer, rates in zip(optimizers, full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * rate_at(progress)
        loss, balance = step_loss(model, next(short_feed if progress < LONG_FROM else long_feed))
        cast(Any, loss + BALANCE_WEIGHT * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % LOG_EVERY == 0:
            speed = step * TOKENS_PER_STEP / (time.monotonic() - began)
            print(
                f"step {step} minute {elapsed / 60:.1f} progress {progress:.3f} "
                f"loss {loss.item():.3f} balance {balance.item():.3f} tokens/s {speed:.0f}",
                flush=True,
            )
        if time.monotonic() - saved > SAVE_EVERY_S:
            save(model, tokenizer, out / "checkpoint")
            found = measure(model, tokenizer, [c.text for c in split.held_out[::GLANCE_EVERY]])
            print(f"step {step} saved, bits per byte {found.bits_per_byte:.4f}", flush=True)
            saved = time.monotonic()
        done = step
    save(model, tokenizer, out)
    write_metrics(out, split, steps=done)


def write_metrics(out: Path, split: corpus.Split, *, steps: int) -> None:
    """Measure the model saved in ``out`` and record the figures beside it."""
    found = measure_voices(out, split.held_out) | {
        "steps": steps,
        "tokens": steps * TOKENS_PER_STEP,
        "date": f"{datetime.now(UTC):%Y-%m}",
    }
    (out / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--corpus", type=Path, default=Path("/"), help="root of the text packages")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps at most")
    parser.add_argument("--minutes", type=float, default=math.inf, help="minutes at most")
    asked = parser.parse_args()
    train(asked.out, corpus.load(asked.corpus), steps=asked.steps, minutes=asked.minutes)


if __name__ == "__main__":
    main()
