"""The experts that one host holds: loaded, dropped, and computed in groups of rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from rios.dmoe.conversion import ExpertConverter
from rios.dmoe.device import return_freed
from rios.dmoe.manifest import Manifest
from rios.dmoe.shelves import CpuShelf, Form, GroupedShelf, Shelf
from rios.dmoe.source import ByteSource, shard_sha256
from rios.words.errors import ExpertsUnavailable, ShardMismatch

_STAGED_BYTES_MAX = 64 << 20  # returned after as much; giving it back takes some milliseconds


class ExpertStore:
    """All experts of one deployment on one host. Computing goes on while experts are loaded and dropped."""

    def __init__(self, manifest: Manifest, *, dtype: torch.dtype, device: torch.device) -> None:
        self._manifest = manifest
        self._converter = ExpertConverter(manifest, dtype=dtype)
        self._shelves: list[Shelf] = []
        for layer in manifest.layers:
            form = Form.of(self._converter.module(layer.index), self._converter.shapes(layer.index))
            self._shelves.append(
                CpuShelf(form, dtype=dtype) if device.type == "cpu" else GroupedShelf(form, dtype=dtype, device=device)
            )
        self._lock = threading.Lock()

    def load(
        self,
        layer: int,
        experts: Sequence[int],
        source: ByteSource,
        pinned: Mapping[int, str] = MappingProxyType({}),
    ) -> dict[int, str]:
        """Read `experts` of `layer` from `source`, once each, and return the SHA-256 of each one's bytes.

        `pinned` holds the hashes that some of them must have: ShardMismatch where one differs. After any
        error none of them is held that was not before.
        """
        hashes: dict[int, str] = {}

        def converted() -> Iterator[Mapping[str, Tensor]]:
            staged_bytes = 0
            for expert in experts:
                if staged_bytes > _STAGED_BYTES_MAX:
                    return_freed()
                    staged_bytes = 0
                ranges = self._manifest.layers[layer].experts[expert]
                staged_bytes += self._manifest.layers[layer].expert_bytes(expert)
                buffers = source.read(ranges)
                hashes[expert] = shard_sha256(buffers)
                expected = pinned.get(expert, hashes[expert])
                if hashes[expert] != expected:
                    raise ShardMismatch(
                        f"{ranges[0].file}: expert {expert} of {self._manifest.layers[layer].module} has"
                        f" SHA-256 {hashes[expert]}, its first read had {expected}: the file was changed"
                    )
                yield self._converter.convert(layer, ranges, buffers)

        with self._lock, torch.inference_mode():
            try:
                self._shelves[layer].put(experts, converted())
            finally:
                return_freed()
        return hashes

    def drop(self, layer: int, experts: Sequence[int]) -> None:
        """Give the memory of `experts` back; those not held are passed over."""
        with self._lock, torch.inference_mode():
            self._shelves[layer].drop(experts)

    def held(self, layer: int) -> tuple[int, ...]:
        """The experts of `layer` that can be computed here, in order."""
        return tuple(sorted(self._shelves[layer].held))

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the held experts take."""
        return sum(shelf.nbytes for shelf in self._shelves)

    def compute(
        self,
        layer: int,
        hidden: Tensor,
        slot_rows: Tensor,
        experts: Sequence[int],
        counts: Sequence[int],
    ) -> Tensor:
        """The outputs of experts for groups of rows, unweighted: [n_slots, hidden_size] in the dtype of
        `hidden`.

        hidden: [n_rows, hidden_size] in the store's dtype and on its device. slot_rows: int64 [n_slots], the
        row that each slot takes; slots lie group by group. experts, counts: the expert and the number of
        slots of each group; the counts add up to n_slots.

        Who calls is in inference mode, as what was loaded is: entering it here would cost each call 2 us.

        On a CPU the bits of a group depend on its own rows and its expert's weights only: each group is
        computed alone. Raises ExpertsUnavailable for an expert that is not held.
        """
        try:
            return self._shelves[layer].compute(hidden, slot_rows, experts, counts)
        except ExpertsUnavailable as error:
            raise ExpertsUnavailable(f"layer {layer}: {error}") from None
