"""A host that answers several times slower when told to: by a flag file, so that it can begin in mid-run.

Workers are given this class by RIOS_HOST_CLASS (`slow_hosts`); a host is slow while the file `<name>.slow` is in the
directory of flags. What it says is how many seconds more a call, a group and a row take.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from rios.dmoe.calls import Exec
from rios.dmoe.host import Host

FLAGS = "RIOS_SLOW_FLAGS"


class SlowHost(Host):
    """Slow for as long as its flag is there; otherwise a host as any other."""

    flags_variable = FLAGS  # names the directory of flags

    def flag(self, fault: str) -> Path:
        """The file that makes this host misbehave in one way."""
        return Path(os.environ[self.flags_variable]) / f"{self.name}.{fault}"

    def reply(self, call: Exec, output: torch.Tensor) -> torch.Tensor:
        """Answer later than could be."""
        flag = self.flag("slow")
        if flag.exists():
            per_call, per_group, per_row = map(float, flag.read_text().split())
            time.sleep(per_call + per_group * len(call.experts) + per_row * len(call.slot_rows))
        return output


@contextmanager
def slow_hosts(flags: Path) -> Iterator[None]:
    """Workers that are started inside can be made slow by flags in this directory."""
    with mock.patch.dict(os.environ, {FLAGS: str(flags), "RIOS_HOST_CLASS": f"{__name__}:{SlowHost.__name__}"}):
        yield


def make_slow(flags: Path, model: Any, name: str, *, times: float = 10.0) -> None:
    """From now on a host takes so many times as long as it usually does on this machine, busy as it is."""
    usual = model._deployment.trunk_stats()["links"][name]["usual_s"]
    waiting = flags / f"{name}.waiting"
    waiting.write_text(" ".join(f"{(times - 1) * seconds:.9f}" for seconds in usual))
    waiting.rename(flags / f"{name}.slow")  # whole or not at all
