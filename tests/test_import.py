"""`import rios` is quick because it loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.campaigns import ROOT

HEAVY = {"torch", "dask", "distributed", "transformers", "numpy", "pandas", "web3", "jupyter", "IPython"}


def test_import_loads_nothing_heavy() -> None:
    program = "import json, sys, rios; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "rios" in loaded
    assert not loaded & HEAVY
    assert done.stderr == ""
