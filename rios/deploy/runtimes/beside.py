"""Starting a process that stands beside a sandbox and outlives its starter."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rios.deploy.runtimes.records import Record
from rios.words.errors import SandboxFailed


def start_beside(
    module: str, record: Record, task: dict[str, Any], *, timeout_s: float, give: Iterable[int] = ()
) -> dict[str, Any]:
    """Run `module` with a task, in a session of its own, holding the record's life; what it says when it has started.

    give: descriptors that it shall have, too. Raises SandboxFailed with its reason, or by the deadline.
    """
    life = record.life()
    try:
        with (record.directory / "watcher.log").open("ab") as errors:
            process = subprocess.Popen(
                standalone(module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=[life, *give],
                start_new_session=True,
                cwd="/",
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
            )
    finally:
        os.close(life)
    message = json.dumps({**task, "life": life, "directory": str(record.directory)}).encode() + b"\n"
    said = _answer(process, message, timeout_s)
    if said is None:
        process.kill()
        process.wait()
        raise SandboxFailed(
            f"the instance {record.instance} did not start within {timeout_s:g} s, or its watcher died: "
            f"{_last_words(record)}"
        )
    if said["said"] != "started":
        process.wait()
        raise SandboxFailed(f"the instance {record.instance} could not be started: {said['why']}")
    # Waited for in a thread, so that it leaves no zombie when its sandbox ends.
    threading.Thread(target=process.wait, name=f"rios-watcher-{record.instance}", daemon=True).start()
    return said


def standalone(module: str) -> list[str]:
    """How `main` of a module that needs the standard library alone is run: without what else an environment loads."""
    root = str(Path(__file__).parents[3])
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.append({root!r}); from {module} import main; main()",
    ]


def _answer(process: subprocess.Popen[bytes], message: bytes, timeout_s: float) -> dict[str, Any] | None:
    """Tell a process its task; the line it answers with, or None where none came by the deadline."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    deadline, text = time.monotonic() + timeout_s, b""
    with stdin, stdout, selectors.DefaultSelector() as selector:
        with contextlib.suppress(BrokenPipeError):
            stdin.write(message)
            stdin.close()
        selector.register(stdout, selectors.EVENT_READ)
        while not text.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(stdout.fileno(), 1 << 16)
            if not data:
                return None
            text += data
    answer: dict[str, Any] | None = json.loads(text) if text.endswith(b"\n") else None
    return answer


def _last_words(record: Record) -> str:
    text = (record.directory / "watcher.log").read_text(errors="replace").strip()
    return text.splitlines()[-1] if text else f"{record.directory / 'watcher.log'} is empty"
