"""What a client must know of a checkpoint before any host loads it, found out where torch is at hand.

To read a checkpoint takes torch and what knows architectures, 9 s of a core to import; a client needs them for nothing
else. So it asks a process that has imported them: the template of its embedded network (`rios.dmoe.template`), or one
that is kept warm. A client without one reads the checkpoint itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rios import demo
from rios.dmoe.control import error_of
from rios.dmoe.manifest import Manifest
from rios.dmoe.template import Template
from rios.words.config import settings
from rios.words.errors import DeadlineExceeded, RiosError

log = logging.getLogger(__name__)

_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Examined:
    """A checkpoint, as far as its headers and its config tell.

    dtype: in which it is to run, by torch's name. cache_bytes: what a request's key-value cache takes for each token,
    and whatever its length; None where that is not known before the weights are there.
    """

    manifest: Manifest
    dtype: str
    cache_bytes: tuple[int, int] | None


def examine(path: Path, dtype: str | None, *, timeout_s: float) -> Examined:
    """A checkpoint directory. dtype: None for the one on disk.

    Raises UnsupportedCheckpoint, CheckpointCorrupt as `rios.dmoe.checkpoint.read_manifest`, and DeadlineExceeded.
    """
    template = None
    if "rios.dmoe.checkpoint" not in sys.modules:
        template = Template.alive()
        if template is None and (warm_s := settings().warm_s) > 0:
            template = Template.shared(os.environ, warm_s=warm_s)
    if template is not None:
        try:
            return _by(template, path, dtype, timeout_s)
        except OSError as error:
            log.info("the template reads no checkpoint; reading it here", extra={"reason": repr(error)})
    return _here(path, dtype)


def _here(path: Path, dtype: str | None) -> Examined:
    from rios.dmoe.checkpoint import read_manifest
    from rios.dmoe.probe import cache_bytes

    manifest = read_manifest(path)
    chosen = dtype or manifest.dtype
    return Examined(manifest, chosen, cache_bytes(manifest, chosen))


def rehearse() -> None:
    """Read the demo model's headers, so that no fork of this process is the first to read a checkpoint.

    Half a second goes to the first model that a process builds, whichever it is: transformers makes a table of a
    thousand conversions, torch what it runs models on `meta` with.
    """
    _here(demo.path(), None)


def _by(template: Template, path: Path, dtype: str | None, timeout_s: float) -> Examined:
    """What a fork of the template found. Raises OSError where none came to an end."""
    fork = template.read_checkpoint(str(path), dtype)
    assert fork.stdin is not None
    assert fork.stdout is not None
    deadline, parts = time.monotonic() + timeout_s, []
    looking = select.poll()  # `select.select` takes no descriptor above 1023
    looking.register(fork.stdout, select.POLLIN)
    with fork.stdin, fork.stdout:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not looking.poll(1000 * left):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(fork.pid, signal.SIGKILL)
                fork.wait()
                raise DeadlineExceeded(f"{path} was not read within {timeout_s:g} s (RIOS_CONTROL_TIMEOUT_S)")
            part = os.read(fork.stdout.fileno(), _PART_BYTES)
            if not part:
                break
            parts.append(part)
    fork.wait()
    try:
        found: dict[str, Any] = json.loads(b"".join(parts))
    except ValueError as error:
        raise ChildProcessError("it ended without an answer") from error
    if "error" in found:
        raise error_of(found)
    cache = found["cache_bytes"]
    return Examined(Manifest.from_json(found["manifest"]), found["dtype"], None if cache is None else tuple(cache))


def answer(path: str, dtype: str | None) -> None:
    """In a fork of a template: say what was found, on standard output."""
    try:
        found = _here(Path(path), dtype)
        said = {"manifest": found.manifest.to_json(), "dtype": found.dtype, "cache_bytes": found.cache_bytes}
    except RiosError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    with os.fdopen(os.dup(1), "w") as out:
        json.dump(said, out)
