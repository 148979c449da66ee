"""Execute a notebook and leave its HTML: `python -m rios.reporting.run quickstart [-p key value]`.

The kernel is this very interpreter, with settings of its own: nothing has to be installed in the user's home, and
nothing there is read. Files appear whole or not at all.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rios.reporting.telling import Say, hooks
from rios.words.errors import InvalidRequest, RiosError

KERNEL = "rios"
# The longest cell of the performance report takes five minutes, and on a machine that others use five times as long.
CELL_TIMEOUT_S = 1800
# Importing the kernel takes a second; on a machine whose cores are all taken it has taken forty.
START_TIMEOUT_S = 180
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def find(name: str, root: Path) -> Path:
    """The notebook of this name: notebooks/NN_name.ipynb or reports/name.ipynb. Raises InvalidRequest."""
    known = {path.stem[3:]: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    known |= {path.stem: path for path in sorted((root / "reports").glob("*.ipynb"))}
    if name not in known:
        there = ", ".join(known) or f"none under {root}: run this where rios was cloned"
        raise InvalidRequest(f"no notebook {name!r}; there are {there}")
    return known[name]


def parameters_of(source: Path) -> tuple[str, ...]:
    """The names that the `parameters` cell of a notebook assigns."""
    cells = json.loads(source.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    targets = [node.targets for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    return tuple(target.id for group in targets for target in group if isinstance(target, ast.Name))


def run(name: str, *, root: Path, out: Path, parameters: dict[str, Any] | None = None) -> Path:
    """Execute the notebook and write `out`/NAME.ipynb and `out`/NAME.html; returns the HTML's path.

    Raises InvalidRequest for a name or parameter that is not there, and RiosError with the failing cell's message or
    deadline; NAME.failed.ipynb then shows how far it came.
    """
    import nbformat

    from rios.reporting.html import to_html

    source = find(name, root)
    known = parameters_of(source)
    for key in parameters or {}:
        if key not in known:
            raise InvalidRequest(f"{source.name} has no parameter {key!r}; it has {', '.join(known)}")
    out.mkdir(parents=True, exist_ok=True)
    failed = out / f"{name}.failed.ipynb"
    with tempfile.TemporaryDirectory(prefix="rios-report-") as folder, jupyter_in(Path(folder)):
        executed = Path(folder) / "executed.ipynb"
        try:
            execute(source, executed, parameters or {})
        except RiosError:
            if executed.exists():
                publish(failed, executed.read_text())
            raise
        notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    without_traces(notebook)
    failed.unlink(missing_ok=True)
    page = out / f"{name}.html"
    publish(out / f"{name}.ipynb", nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]
    publish(page, to_html(notebook, name))
    return page


def execute(
    source: Path,
    executed: Path,
    parameters: dict[str, Any],
    *,
    cell_timeout_s: float | None = None,
    say: Say | None = None,
) -> None:
    """Papermill, with its and the kernel's failures as errors of ours. say: called with what it is at, line by line."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    timeout_s = CELL_TIMEOUT_S if cell_timeout_s is None else cell_timeout_s
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters=parameters,
            kernel_name=KERNEL,
            language="python",
            cwd=str(source.parent),
            progress_bar=False,
            log_output=False,
            start_timeout=START_TIMEOUT_S,
            execution_timeout=timeout_s,
            **({} if say is None else hooks(say)),
        )
    except PapermillExecutionError as error:
        raise RiosError(f"{source.name}, cell [{error.exec_count}]: {error.ename}: {error.evalue}") from error
    except CellTimeoutError as error:
        raise RiosError(f"{source.name}: a cell took more than {timeout_s:g} s") from error
    except DeadKernelError as error:
        raise RiosError(f"{source.name}: its Python process ended; was memory short?") from error


@contextmanager
def jupyter_in(folder: Path) -> Iterator[None]:
    """Settings, histories, connection files and a kernel specification that starts this interpreter, in `folder`.

    HOME may be unset or read-only, and what somebody keeps there must not change a report.
    """
    spec = folder / "data" / "kernels" / KERNEL
    spec.mkdir(parents=True)
    command = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    environment = {
        "PLOTLY_RENDERER": "plotly_mimetype",
        "TQDM_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")))),
    }
    # From ERROR on: at start it warns that connections of this machine to itself are not encrypted.
    values = {"argv": [*command, "--log-level=40"], "display_name": KERNEL, "language": "python", "env": environment}
    (spec / "kernel.json").write_text(json.dumps(values))
    changed = {
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def without_traces(notebook: Any) -> None:
    """Remove when and where it ran, and names drawn by chance: paths of this machine are nobody's business."""
    notebook.metadata.pop("papermill", None)
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place:02d}"
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)


def publish(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rios.reporting.run", description=__doc__)
    parser.add_argument("name", help="such as quickstart")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("--out", type=Path, default=None, help="default: reports/out")
    given = parser.parse_args()
    root = Path.cwd() if (Path.cwd() / "notebooks").is_dir() else PACKAGE_ROOT
    parameters = {key: _value(text) for key, text in given.parameters}
    try:
        page = run(given.name, root=root, out=given.out or root / "reports" / "out", parameters=parameters)
    except RiosError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from error
    sys.stdout.write(f"{page}\n")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
