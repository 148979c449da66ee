"""A process that this one asks and that answers line by line, in JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

from rios.words.errors import DeadlineExceeded, RiosError

ANSWER_S = 300.0
_END_S = 10.0
_LAST_WORDS = 2000


class Child:
    """A context manager: the process ends with it. Its first line, whatever it says, means that it is ready."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        threads: int = 1,
        environment: Mapping[str, str] | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        """Runs `command` with so many threads for torch. Raises as `ask`.

        environment: variables in addition to this process's. answer_s: each answer, the first line too, must come
        within this.
        """
        counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed at the end
        self._answer_s = answer_s
        self._command = command
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | counts | {"HF_HUB_OFFLINE": "1"} | dict(environment or {}),
            text=True,
            start_new_session=True,
        )
        try:
            self.first_line = self._read()
        except RiosError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, question: object) -> Any:
        """Send an object as JSON and return the answer. Raises `DeadlineExceeded`, and `RiosError` with the last words
        of a process that has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        # A blocked read has no deadline of its own; it ends when the process does.
        late = threading.Event()

        def end() -> None:
            late.set()
            self._kill()

        timer = threading.Timer(self._answer_s, end)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise DeadlineExceeded(f"{self._shown} did not answer within {self._answer_s:g} s")
        if not line:
            raise self._ended()
        return line.strip()

    @property
    def _shown(self) -> str:
        return f"the process measured against ({' '.join(self._command)[:200]})"

    def _ended(self) -> RiosError:
        code = self._process.wait(_END_S)
        self._said.seek(0)
        words = self._said.read().decode(errors="replace")[-_LAST_WORDS:]
        return RiosError(f"{self._shown} ended with code {code}:\n{words}")

    def close(self) -> None:
        """End the process and all that it has started."""
        self._kill()
        self._process.wait(_END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a question half written
                pipe.close()
        self._said.close()

    def _kill(self) -> None:
        # Its children hold its output open: they would keep a reader waiting.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
