"""Hosts that misbehave when told to: a flag file in the directory that RIOS_TEST_FLAGS names."""

from __future__ import annotations

import torch

from rios.dmoe import wire
from rios.dmoe.calls import Exec
from rios.reporting.slow import SlowHost

_encode_header = wire.encode_header


class FaultyHost(SlowHost):
    """Slow, out of memory, of the wrong shape or corrupt, for as long as the flag `<name>.<fault>` is there."""

    flags_variable = "RIOS_TEST_FLAGS"

    def _has(self, fault: str) -> bool:
        return self.flag(fault).exists()

    def reply(self, call: Exec, output: torch.Tensor) -> torch.Tensor:
        output = super().reply(call, output)
        if self._has("memory"):
            raise torch.OutOfMemoryError("a test says so")
        wire.encode_header = _corrupt_header if self._has("corrupt") else _encode_header
        return output[:-1] if self._has("shape") else output


def _corrupt_header(kind, *args, **more):  # type: ignore[no-untyped-def]
    header = bytearray(_encode_header(kind, *args, **more))
    if kind is wire.Kind.RESULT:
        header[-1] ^= 0xFF  # the checksum: as if a byte of the body had changed on its way
    return bytes(header)
