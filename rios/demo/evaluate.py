"""Measure a demo model on held-out text: ``python -m rios.demo.evaluate DIR``.

Prints JSON: bits per byte, and which share of the work each expert does, for all
of the held-out text and for each voice. The same figures, with the run that led to
them, ship as ``model/metrics.json``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rios.demo import corpus, tokens

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one pass over some text found; measurements of two texts can be added."""

    nats: float
    text_bytes: int
    expert_slots: torch.Tensor  # [layer, expert], int64: how often each was chosen

    def __add__(self, other: Measurement) -> Measurement:
        return Measurement(
            self.nats + other.nats,
            self.text_bytes + other.text_bytes,
            self.expert_slots + other.expert_slots,
        )

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode a byte of UTF-8 text: unlike perplexity, free of the tokenizer."""
        return self.nats / math.log(2) / self.text_bytes

    @property
    def expert_share(self) -> list[list[float]]:
        """[layer][expert]: the part of a layer's work an expert does; a layer sums to 1."""
        shares = self.expert_slots / self.expert_slots.sum(1, keepdim=True)
        return [[round(share, 4) for share in layer] for layer in shares.tolist()]


def windows(length: int, context: int) -> Iterator[tuple[slice, int]]:
    """Cut a document of ``length`` tokens into windows half a context apart.

    Yields each window's place and how many of its last tokens are to be scored.
    Every token but the first is scored once, and from the second window on it sees
    at least half a context before it.
    """
    scored = 1  # the token that opens the document is given, not predicted
    start = 0
    while scored < length:
        stop = min(start + context, length)
        yield slice(start, stop), stop - scored
        scored, start = stop, start + context // 2


def measure(model: Any, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Measurement:
    """Run ``model`` over ``texts``, each as a document of its own, in the model's dtype."""
    config = model.config
    slots = torch.zeros(config.num_hidden_layers, config.num_experts, dtype=torch.int64)
    nats, text_bytes = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for text in texts:
            text_bytes += len(text.encode())
            ids = torch.tensor(tokens.document(tokenizer, text))
            for place, count in windows(len(ids), config.max_position_embeddings):
                window = ids[place]
                out = model(window[None, :-1], output_router_logits=True, use_cache=False)
                logits = out.logits[0, -count:].float()
                nats += functional.cross_entropy(logits, window[-count:], reduction="sum").item()
                for layer, router in enumerate(out.router_logits):
                    chosen = router[-count:].topk(config.num_experts_per_tok).indices
                    slots[layer] += chosen.flatten().bincount(minlength=config.num_experts)
    model.train(was_training)
    return Measurement(nats, text_bytes, slots)


def measure_voices(directory: Path, chapters: Sequence[corpus.Chapter]) -> JSON:
    """Measure the model saved in ``directory``: its bfloat16 weights, run in float32.

    Returns ``bits_per_byte``, ``by_voice`` (bits per byte of each) and
    ``expert_share`` (tables [layer][expert] for each voice and for ``"all"``).
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    voices = {
        voice: measure(model, tokenizer, [c.text for c in chapters if c.voice == voice]) for voice in corpus.VOICES
    }
    everything = voices["austen"] + voices["bible"]
    return {
        "bits_per_byte": round(everything.bits_per_byte, 4),
        "by_voice": {voice: round(found.bits_per_byte, 4) for voice, found in voices.items()},
        "held_out_bytes": {voice: found.text_bytes for voice, found in voices.items()},
        "expert_share": {
            "all": everything.expert_share,
            **{voice: found.expert_share for voice, found in voices.items()},
        },
    }


def main() -> None:
    """Parse the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description="Measure a demo model on held-out text.")
    parser.add_argument("model", type=Path, metavar="DIR", help="folder of the saved model")
    parser.add_argument("--corpus", type=Path, default=Path("/"), help="root of the text packages")
    asked = parser.parse_args()
    found = measure_voices(asked.model, corpus.load(asked.corpus).held_out)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
