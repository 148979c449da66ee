"""The model without its experts: embeddings, attention, routers, shared experts, norms and the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from rios.dmoe import rotary
from rios.dmoe.architecture import build
from rios.dmoe.forward import Forward
from rios.dmoe.kv import Pool, Slot, own_nbytes
from rios.dmoe.loading import load
from rios.dmoe.manifest import Manifest
from rios.dmoe.norms import quicken
from rios.dmoe.probe import probe
from rios.dmoe.seam import ExpertsFn, Seam, StepContext
from rios.dmoe.source import ByteSource
from rios.words.errors import InvalidRequest

__all__ = ["ExpertsFn", "Slot", "StepContext", "Trunk"]

# What a further forward of a step costs, in rows of padding. Experts are asked once for all, so it is what the trunk
# takes by itself: on a CPU 3.8 ms against 0.10 ms a row in the demo model, 8.5 ms against 0.33 in one of 80 M
# parameters, or 38 and 26 rows.
_ROWS_PER_FORWARD = 32


class Trunk:
    """A trunk in this process. One thread at a time.

    batched              requests share padded forwards; otherwise each has its own
    unbatched_reason     why they do not, in words; None where they do
    whole_prompts_above  a prompt longer than this must be given in one step, or its answer changes; None: any prompt
                         may be given in several steps
    kv_bytes_per_token   cache bytes per token of a request, and
    kv_bytes_fixed       per request whatever its length
    sha256               of the bytes of each tensor, by its name on disk
    """

    def __init__(
        self,
        manifest: Manifest,
        source: ByteSource,
        *,
        dtype: torch.dtype,
        device: torch.device,
        experts: ExpertsFn,
        name: str,
        pinned: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Build the model, load the trunk's weights from `source` and try out whether requests may share a forward.

        pinned: the SHA-256 that tensors must have, by their names on disk. Raises CheckpointCorrupt, of which
        is ShardMismatch, and UnsupportedCheckpoint.
        """
        self.name = name
        self._vocab_size = manifest.vocab_size
        model = build(manifest.config, dtype=dtype)
        self.sha256 = load(model, manifest, source, dtype=dtype, device=device, pinned=pinned)
        quicken(model)
        seam = Seam(experts)
        seam.attach(model, {layer.module: layer.index for layer in manifest.layers})
        self._forward: Forward | None = Forward(model, seam, device)
        found = probe(self._forward, manifest.vocab_size)
        self.unbatched_reason = found.unbatched_reason
        self.batched = found.unbatched_reason is None
        self.kv_bytes_per_token = found.kv_bytes_per_token
        self.kv_bytes_fixed = found.kv_bytes_fixed
        self._splits = found.splits
        self._shared_length = rotary.shared_length(model)
        self.whole_prompts_above = self._shared_length if found.splits else 0
        self._slots: list[Slot] = []
        self._pool = Pool(found.cache_layers, device)

    def __repr__(self) -> str:
        how = "shared forwards" if self.batched else "a forward per request"
        return f"<Trunk {self.name!r}: {how}, {len(self._slots)} requests, {self.kv_bytes} bytes of cache>"

    @property
    def kv_bytes(self) -> int:
        """Bytes of cache held now."""
        return self._pool.nbytes + sum(own_nbytes(slot.cache) for slot in self._slots)

    def bound_cache(self, kv_bytes: int) -> None:
        """Have requests that share a cache hold no more than they need where it would take more than that."""
        if self.kv_bytes_per_token:
            self._pool.cells_max = kv_bytes // self.kv_bytes_per_token

    def open(self, capacity_tokens: int) -> Slot:
        """A place for a request of up to `capacity_tokens` tokens, prompt and answer. It takes memory as it fills."""
        if capacity_tokens < 1:
            raise InvalidRequest(f"capacity_tokens is {capacity_tokens}; it must be at least 1")
        slot = self._pool.open(capacity_tokens) if self.batched else Slot(capacity=capacity_tokens)
        self._slots.append(slot)
        return slot

    def close(self, slot: Slot) -> None:
        """Free the request's cache at once. Closing twice is no error."""
        if slot.state == "closed":
            return
        slot.state = "closed"
        self._slots.remove(slot)
        if slot.row >= 0:
            self._pool.close(slot)
        slot.cache = None

    @torch.inference_mode()
    def step(self, work: Sequence[tuple[Slot, Sequence[int]]]) -> Tensor:
        """Take the next tokens of some requests, one or many for each.

        Returns the logits after each request's last token, float32 [len(work), vocab], on the trunk's device. Where
        it raises, no request has advanced and the step may be repeated; but without `batched`, requests of this step
        that had begun can only be closed.
        """
        forward = self._running()
        self._check(work)
        if not self.batched:
            return self._each_alone(forward, work)
        groups = self._groups(work)
        asked = [([work[i][0] for i in group], [work[i][1] for i in group]) for group in groups]
        plans = self._pool.plan([(slots, [len(part) for part in parts]) for slots, parts in asked])
        logits = self._run(
            [
                partial(forward.padded, self._pool, plan, slots, parts, group)
                for group, plan, (slots, parts) in zip(groups, plans, asked, strict=True)
            ]
        )
        for slot, taken in work:
            slot.length += len(taken)
        if len(groups) == 1:
            return logits[0]
        order = torch.tensor([i for group in groups for i in group])
        return torch.cat(logits)[order.argsort().to(logits[0].device)]

    def release(self) -> None:
        """Free weights and caches. The trunk is of no use after it."""
        for slot in list(self._slots):
            self.close(slot)
        self._forward = None

    def _groups(self, work: Sequence[tuple[Slot, Sequence[int]]]) -> list[list[int]]:
        """Which requests share a forward. Those whose length would change the others' frequencies share none."""
        counts = [len(tokens) for _, tokens in work]
        if self._shared_length is None:
            return partition(counts)
        ends = [slot.length + count for (slot, _), count in zip(work, counts, strict=True)]
        short = [i for i, end in enumerate(ends) if end <= self._shared_length]
        together = [[short[i] for i in group] for group in partition([counts[i] for i in short])]
        return together + [[i] for i, end in enumerate(ends) if end > self._shared_length]

    def _each_alone(self, forward: Forward, work: Sequence[tuple[Slot, Sequence[int]]]) -> Tensor:
        def run(slot: Slot, tokens: Sequence[int], owner: int) -> Tensor:
            # Some architectures drop their state when several tokens follow on it: those take one at a time.
            parts = [tokens] if self._splits or not slot.length else [[token] for token in tokens]
            return [forward.alone(slot, part, owner) for part in parts][-1]

        try:
            return torch.stack(self._run([partial(run, slot, tokens, i) for i, (slot, tokens) in enumerate(work)]))
        except BaseException:
            for slot, _ in work:
                slot.state = "lost"
            raise

    def _run(self, forwards: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """What each of some forwards gives: in step, unless they would change each other's frequencies."""
        running = self._running()
        if self._shared_length is None:
            return running.seam.in_step(forwards)
        found = []
        for one in forwards:
            rotary.forget(running.model)
            found.append(one())
        return found

    def _check(self, work: Sequence[tuple[Slot, Sequence[int]]]) -> None:
        if len({id(slot) for slot, _ in work}) != len(work) or not work:
            raise InvalidRequest("a step takes at least one request, and each request once")
        for slot, tokens in work:
            if slot.state != "open":
                raise InvalidRequest(f"the request's place in the cache is {slot.state}; open another one")
            if not tokens or slot.length + len(tokens) > slot.capacity:
                raise InvalidRequest(
                    f"{len(tokens)} tokens after {slot.length}; a step takes at least one, and this request at most"
                    f" {slot.capacity} in all"
                )
            if min(tokens) < 0 or max(tokens) >= self._vocab_size:  # on a GPU it would take the whole process down
                raise InvalidRequest(
                    f"token ids must be from 0 to {self._vocab_size - 1}; got {min(tokens)} to {max(tokens)}"
                )

    def _running(self) -> Forward:
        if self._forward is None:
            raise InvalidRequest(f"trunk {self.name!r} was released")
        return self._forward


def partition(counts: Sequence[int]) -> list[list[int]]:
    """Divide requests with `counts[i]` new tokens over forwards, whose rows are padded to their longest, at the least
    cost: rows with padding, and `_ROWS_PER_FORWARD` for each forward. Returns indices, in order within a forward.
    """
    if not counts or max(counts) * len(counts) <= sum(counts) + _ROWS_PER_FORWARD:
        return [list(range(len(counts)))] if counts else []
    order = sorted(range(len(counts)), key=lambda i: -counts[i])
    best: list[tuple[int, int]] = [
        (0, 0)
    ]  # for the first n of `order`: the least cost, and where its last forward starts
    for stop in range(1, len(order) + 1):
        best.append(
            min(
                (best[start][0] + _ROWS_PER_FORWARD + counts[order[start]] * (stop - start), start)
                for start in range(stop)
            )
        )
    groups: list[list[int]] = []
    stop = len(order)
    while stop:
        start = best[stop][1]
        groups.append(sorted(order[start:stop]))
        stop = start
    return groups
