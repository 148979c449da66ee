"""May requests share a padded forward? Tried out on the model at hand, as no table of architectures stays true.

Some tokens are run for several requests together and for each alone, with experts that answer zeros, and with cache
cells that hold no token set to junk that would drown any logits it leaked into.
"""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from rios.dmoe.architecture import build, experts_modules
from rios.dmoe.forward import Forward
from rios.dmoe.kv import Pool, Slot, own_nbytes
from rios.dmoe.manifest import Manifest
from rios.dmoe.seam import Seam, StepContext
from rios.dmoe.tensors import NAMES
from rios.words.errors import RiosError, UnsupportedCheckpoint

log = logging.getLogger(__name__)

# Relative (Euclidean) difference of logits that rounding explains. A leak of junk or a wrong position is beyond 0.1.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.08}
_JUNK = {
    torch.float32: 1e3,
    torch.float16: 10.0,
    torch.bfloat16: 1e3,
}  # float16 scores would overflow on their own

# New tokens of three requests in each forward: prompts of unlike lengths, decoding, chunks of prompts beside
# decoding, and decoding of two requests that are equally long, which takes the path without a mask.
_STEPS = ((4, 1, 2), (1, 1, 1), (1, 3, 2), (0, 1, 1))

_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the probe found.

    unbatched_reason     why each request needs a forward of its own; None: they may share one
    splits               whether a prompt may be given in several steps
    kv_bytes_per_token   cache bytes that each further token of a request takes
    kv_bytes_fixed       cache bytes of a request whatever its length (convolution and recurrent states)
    cache_layers         layers of the cache
    """

    unbatched_reason: str | None
    splits: bool
    kv_bytes_per_token: int
    kv_bytes_fixed: int
    cache_layers: int


def cache_bytes(manifest: Manifest, dtype: str) -> tuple[int, int] | None:
    """Cache bytes of a request for each of its tokens, and whatever its length; found out without weights.

    None where the model looks at values, which do not exist on `meta`.
    """
    return _cache_bytes(json.dumps(manifest.config), NAMES[dtype])


@functools.lru_cache(maxsize=32)
def _cache_bytes(config_json: str, dtype: torch.dtype) -> tuple[int, int] | None:
    """`cache_bytes` of the model of a config.json."""
    model = build(json.loads(config_json), dtype=dtype)
    seam = Seam(_zeros)
    seam.attach(model, {name: index for index, (name, _) in enumerate(experts_modules(model))})
    try:
        with torch.inference_mode():
            _, _, per_token, fixed = _measure(Forward(model, seam, torch.device("meta")), [0, 0, 0, 0])
    except _FAILURES as error:
        log.info("cache not known before it is there", extra={"model": model.config.model_type, "reason": str(error)})
        return None
    return per_token, fixed


@torch.inference_mode()
def probe(forward: Forward, vocab_size: int) -> Findings:
    """Try the model out. Raises UnsupportedCheckpoint where it cannot run with a cache at all."""
    experts, forward.seam.experts = forward.seam.experts, _zeros
    try:
        return _probe(forward, [[3 + 7 * i + 5 * j for j in range(12)] for i in range(3)], vocab_size)
    finally:
        forward.seam.experts = experts


def _zeros(layer: int, hidden: Tensor, index: Tensor, weights: Tensor, context: StepContext) -> Tensor:
    assert hidden.ndim == 2
    assert index.shape == weights.shape
    assert index.dtype == torch.int64
    return torch.zeros_like(hidden)


def _probe(forward: Forward, texts: list[list[int]], vocab_size: int) -> Findings:
    texts = [[token % vocab_size for token in text] for text in texts]
    dtype = forward.model.dtype
    try:
        whole, cache, per_token, fixed = _measure(forward, texts[0][:6])
    except _FAILURES as error:
        name = forward.model.config.model_type
        raise UnsupportedCheckpoint(f"{name}: its forward with a cache fails: {error}") from error
    splits = _difference(_split(forward, texts[0][:6]), whole) <= _ROUNDING[dtype]
    reason = _structure(cache)
    if reason is None and not splits:
        reason = "a prompt given in several steps gets other logits than in one"
    if reason is None:
        pool = Pool(len(cache.layers), whole.device, fill=_JUNK[dtype])
        reason = _share(forward, pool, texts, _ROUNDING[dtype])
        if reason is None:
            per_token, fixed = pool.bytes_per_token, 0
    return Findings(reason, splits, per_token, fixed, len(cache.layers))


def _measure(forward: Forward, text: list[int]) -> tuple[Tensor, Cache, int, int]:
    """Logits after `text` at once; and the cache after decoding it, its bytes per token and beside them."""
    whole = forward.alone(Slot(capacity=len(text)), text, 0)
    slot = Slot(capacity=len(text))
    sizes = []
    for part in (text[:2], *([token] for token in text[2:])):
        forward.alone(slot, part, 0)
        sizes.append(own_nbytes(slot.cache))
    assert slot.cache is not None
    per_token = -(-(sizes[-1] - sizes[0]) // (len(text) - 2))
    return whole, slot.cache, per_token, max(0, sizes[0] - 2 * per_token)


def _split(forward: Forward, text: list[int]) -> Tensor:
    slot = Slot(capacity=len(text))
    try:
        forward.alone(slot, text[:2], 0)
        return forward.alone(slot, text[2:], 0)
    except _FAILURES:
        return torch.tensor(torch.nan)  # differs from anything


def _structure(cache: Cache) -> str | None:
    parts = [cache, *cache.layers]
    others = sorted({type(part).__name__ for part in parts if type(part) not in (DynamicCache, DynamicLayer)})
    return f"its cache is not one of full attention alone ({', '.join(others)})" if others else None


def _share(forward: Forward, pool: Pool, texts: list[list[int]], allowed: float) -> str | None:
    """Why the model may not share a forward; None where it may."""
    together = [pool.open(len(text)) for text in texts]
    alone = [Slot(capacity=len(text)) for text in texts]
    for counts in _STEPS:
        taking = [i for i, count in enumerate(counts) if count]
        parts = [texts[i][alone[i].length :][: counts[i]] for i in taking]
        expected = torch.stack([forward.alone(alone[i], part, 0) for i, part in zip(taking, parts, strict=True)])
        try:
            slots = [together[i] for i in taking]
            [plan] = pool.plan([(slots, [len(part) for part in parts])])
            found = forward.padded(pool, plan, slots, parts, taking)
        except (*_FAILURES, RiosError) as error:
            return f"its forward fails for requests of unlike lengths: {error}"
        for i, part in zip(taking, parts, strict=True):
            together[i].length += len(part)
        if (difference := _difference(found, expected)) > allowed:
            return f"requests of unlike lengths change each other's logits (by {difference:.0%})"
    return None


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    difference = float((found - expected).norm() / expected.norm())
    return difference if difference >= 0 else float("inf")
