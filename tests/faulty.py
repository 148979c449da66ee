"""Hosts that misbehave when told to: a flag file in the directory that RIOS_TEST_FLAGS names."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from rios.dmoe import wire
from rios.dmoe.calls import Exec
from rios.dmoe.host import Host

_encode_header = wire.encode_header


class FaultyHost(Host):
    """Slow, out of memory, of the wrong shape or corrupt, for as long as the flag `<name>.<fault>` is there."""

    def _flag(self, fault: str) -> Path:
        return Path(os.environ["RIOS_TEST_FLAGS"]) / f"{self.name}.{fault}"

    def _has(self, fault: str) -> bool:
        return self._flag(fault).exists()

    def reply(self, call: Exec, output: torch.Tensor) -> torch.Tensor:
        if self._has("slow"):
            # The flag says how many seconds more a call, a group and a row take.
            per_call, per_group, per_row = map(float, self._flag("slow").read_text().split())
            time.sleep(per_call + per_group * len(call.experts) + per_row * len(call.slot_rows))
        if self._has("memory"):
            raise torch.OutOfMemoryError("a test says so")
        wire.encode_header = _corrupt_header if self._has("corrupt") else _encode_header
        return output[:-1] if self._has("shape") else output


def _corrupt_header(kind, seq, meta, bodies, flags=0):  # type: ignore[no-untyped-def]
    header = bytearray(_encode_header(kind, seq, meta, bodies, flags))
    if kind is wire.Kind.RESULT:
        header[-1] ^= 0xFF  # the checksum: as if a byte of the body had changed on its way
    return bytes(header)
