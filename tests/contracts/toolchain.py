"""The contracts' own tools: npm's packages as the lock file names them, forge, and slither beside them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.campaigns import ROOT

CONTRACTS = ROOT / "contracts"
MODULES = CONTRACTS / "node_modules"
# slither-analyzer wants an older web3 than rios: it lives in an environment of its own.
SLITHER = "slither-analyzer==0.11.6"
SLITHER_HOME = ROOT / ".make" / "slither"
INSTALL_TIMEOUT_S = 240


def install() -> None:
    """`npm ci`, unless what the lock file names is there already."""
    lock = hashlib.sha256((CONTRACTS / "package-lock.json").read_bytes()).hexdigest()
    stamp = MODULES / ".installed"
    if stamp.exists() and stamp.read_text() == lock:
        return
    _checked(["npm", "ci"], timeout_s=INSTALL_TIMEOUT_S)
    stamp.write_text(lock)


def node(script: str, *arguments: str) -> None:
    """Runs a script of contracts/tool/."""
    install()
    _checked(["node", f"tool/{script}", *arguments], timeout_s=300)


def forge(*arguments: str, timeout_s: float = 540, **environment: str) -> str:
    """Runs forge on the contracts and returns what it printed; AssertionError with all of it when it fails."""
    install()
    return _checked(["tool/forge", *arguments], timeout_s=timeout_s, **environment)


def slither(report: Path, work: Path) -> None:
    """Writes slither's findings in contracts/src as JSON to `report`; forge builds under `work`."""
    install()
    if not (SLITHER_HOME / ".installed").exists():
        shutil.rmtree(SLITHER_HOME, ignore_errors=True)
        _checked([sys.executable, "-m", "venv", str(SLITHER_HOME)], timeout_s=INSTALL_TIMEOUT_S)
        _checked([str(SLITHER_HOME / "bin" / "pip"), "install", "-qq", SLITHER], timeout_s=INSTALL_TIMEOUT_S)
        (SLITHER_HOME / ".installed").touch()
    path = os.pathsep.join((str(SLITHER_HOME / "bin"), str(CONTRACTS / "tool"), os.environ["PATH"]))
    command = ["slither", ".", "--filter-paths", "node_modules|test/", "--json", str(report), "--fail-none"]
    _checked(command, timeout_s=540, PATH=path, FOUNDRY_OUT=str(work / "out"), FOUNDRY_CACHE_PATH=str(work / "cache"))


def _checked(command: list[str], *, timeout_s: float, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=CONTRACTS,
        env={**os.environ, "NO_COLOR": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout
