"""One report executed: a job in, its files out. It needs no database and no network, so any machine may do it."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rios.reporting import execute
from rios.reporting.pdf import to_pdf
from rios.reporting.sandbox import PROCESS, apart, environment, kind
from rios.reporting.shelf import is_alive
from rios.words.errors import InvalidRequest
from rios.words.foreign import opened_folder, read_plain, remove_tree

log = logging.getLogger(__name__)

OK, PARTIAL, FAILED = "ok", "partial", "failed"
LINES_MAX = 200
"""So many of one execution are told; a report has some twenty cells."""
_SAID_MAX = 2_000
_LINE_MAX = 300
_LOOK_S = 0.5
_READ_MAX = 1 << 16
_PREFIX = "rios-report-"
_RESULT_MAX = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is needed to execute a report, anywhere: it asks nobody for more."""

    name: str
    title: str
    source: bytes
    """The notebook."""
    data: bytes
    """What it reads from `data.json`."""
    parameters: Mapping[str, Any]
    cpu_s: int
    memory_bytes: int
    """Of addresses, which are several times what is in use."""
    timeout_s: float
    pdf: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a job."""

    state: str
    """"ok", "partial" (a page with a banner) or "failed"."""
    files: Mapping[str, bytes]
    """By extension: "html", "ipynb", and "pdf" where a browser was there."""
    error: str
    cpu_ns: int
    runtime: str
    """Where and how it was executed: "bubblewrap", "process"."""


Say = Callable[[Sequence[str]], None]
"""Is told lines while a job is executed. What they say is the notebook's, and nothing to rely on."""
Execute = Callable[[Job, Say], Done]


def silent(_: Sequence[str]) -> None:
    """For who does not want to know."""


def run_job(job: Job, say: Say = silent) -> Done:
    """Execute `job` on this machine, kept apart from all else that is on it."""
    with _folder() as folder, opened_folder(folder) as opened:
        _prepare(folder, job)
        command = [sys.executable, "-m", "rios.reporting.execute", str(folder)]
        if kind() == PROCESS:
            command.append(str(os.getpid()))
        said = _run(apart(command, folder), folder, job.timeout_s, say)
        try:
            result = _Result.model_validate_json(read_plain(opened, execute.RESULT, bytes_max=_RESULT_MAX))
            files = {} if result.state == FAILED else _files(opened)
        except FileNotFoundError as error:
            missing = said if error.filename == execute.RESULT else f"it left no {error.filename}"
            return Done(state=FAILED, files={}, error=missing, cpu_ns=0, runtime=kind())
        except (InvalidRequest, ValidationError) as error:
            why = str(error) if isinstance(error, InvalidRequest) else f"{execute.RESULT} is no result of a report"
            return Done(state=FAILED, files={}, error=why, cpu_ns=0, runtime=kind())
    if job.pdf and result.state == OK:
        with _folder() as printing:
            printed = to_pdf(files["html"], printing)
        files |= {} if printed is None else {"pdf": printed}
    return Done(state=result.state, files=files, error=result.error, cpu_ns=result.cpu_ns, runtime=kind())


class _Result(BaseModel):
    """What `execute` wrote down, or the notebook in its place: it could do that."""

    model_config = ConfigDict(extra="forbid", strict=True)

    state: Literal["ok", "partial", "failed"]
    error: str
    cpu_ns: int = Field(ge=0)


def _files(folder: int) -> dict[str, bytes]:
    names = {"html": execute.PAGE, "ipynb": execute.NOTEBOOK}
    return {form: read_plain(folder, name, bytes_max=execute.FILE_MAX) for form, name in names.items()}


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that somebody else will write to, taken away with whatever is in it then."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")).resolve()
    try:
        yield folder
    finally:
        try:
            remove_tree(folder)
        except OSError as error:  # what was made is not lost for it: `sweep` comes by again
            log.warning("a report's folder stays for now", extra={"reason": str(error)})


def sweep() -> None:
    """Remove what jobs of processes that are gone left on this machine."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not pid.isdigit() or is_alive(int(pid)):
            continue
        with suppress(OSError):  # it has gone meanwhile, or cannot be removed now
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                remove_tree(path)


def _prepare(folder: Path, job: Job) -> None:
    (folder / execute.SOURCE).write_bytes(job.source)
    (folder / execute.DATA).write_bytes(job.data)
    wanted = {
        "name": job.name, "title": job.title, "parameters": dict(job.parameters), "cell_timeout_s": job.timeout_s,
        "code": False, "cpu_s": job.cpu_s, "memory_bytes": job.memory_bytes,
    }  # fmt: skip
    (folder / execute.JOB).write_text(json.dumps(wanted))


def _run(command: list[str], folder: Path, timeout_s: float, say: Say) -> str:
    """Run it to its end; what it said last, where it said nothing else."""
    # Files and not pipes: nobody has to read so that it can go on, and their names are gone before it begins.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, env=environment(folder), cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
        )
        try:
            if not _ended(process, timeout_s, Lines(out, say)):
                return f"it took more than {timeout_s:g} s"
        finally:
            process.kill()
            process.wait()
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - 4 * _SAID_MAX))
        last = errors.read().decode("utf-8", "replace").strip()[-_SAID_MAX:]
        return f"its process ended with status {process.returncode}; was memory or time short? {last}"


def _ended(process: subprocess.Popen[bytes], timeout_s: float, lines: Lines) -> bool:
    """Tell what it writes until it ends; False where it has not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            process.wait(min(_LOOK_S, left_s))
        except subprocess.TimeoutExpired:
            lines.look()
        else:
            lines.look()
            return True
    return False


class Lines:
    """Tells the lines that another process appends to a file, as text of one line each, up to LINES_MAX."""

    def __init__(self, file: IO[bytes], say: Say) -> None:
        self._file, self._say = file, say
        self._at, self._told = 0, 0
        self._rest = b""

    def look(self) -> None:
        """Tell those that are new and whole."""
        if self._told == LINES_MAX:
            return
        # Not by the file's position, which the writing process has too.
        found = os.pread(self._file.fileno(), _READ_MAX, self._at)
        self._at += len(found)
        *whole, self._rest = (self._rest + found).split(b"\n")
        self._rest = self._rest[:_READ_MAX]
        texts = [_clean(line) for line in whole if line.strip()][: LINES_MAX - self._told]
        self._told += len(texts)
        if texts:
            self._say(texts)


def _clean(line: bytes) -> str:
    text = line.decode("utf-8", "replace").expandtabs(4)
    return "".join(letter for letter in text if letter.isprintable())[:_LINE_MAX]
