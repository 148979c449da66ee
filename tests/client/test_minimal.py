"""The distribution rios-client: what its pyproject requires is enough to use a network behind a gateway."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.campaigns import ROOT
from tests.client.conftest import Both

CLIENT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
RIOS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEADLINE_S = 300
# Runs with every other module forbidden; the names of the forbidden ones come by the first argument.
USE = """
import json, os, sys
before = set(sys.modules)  # what an environment loads into every interpreter of it
forbidden, url, token = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
class Gate:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is not installed with rios-client", name=name)
sys.meta_path.insert(0, Gate())
import rios
with rios.connect(url, token=token) as net:
    model = net.dmoe.deploy("demo", progress=False)
    answer = model.generate("It was a fine morning,", max_new_tokens=4)
    streamed = "".join(piece.text or "" for piece in model.stream("It was a fine morning,", max_new_tokens=4))
    assert streamed == answer.text, (streamed, answer.text)
    assert answer.request_id in [one.id for one in net.jobs]
    assert net.wallet.available > 0
    assert [one.name for one in net.workers] == ["worker-0"]
    assert "cost" in [one.name for one in net.reports.kinds]
    net.deploy.list(), net.billing.budgets, net.reports.list(), repr(net)
os.environ |= {"RIOS_URL": url, "RIOS_TOKEN": token}
from typer.testing import CliRunner
from rios.cli import app
for words in (["roles"], ["token", "list"], ["users"], ["apps"], ["report", "list"], ["workers"],
              ["generate", "It was", "--max-new-tokens", "3"]):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.output, repr(result.exception))
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def _closure(names: list[str]) -> set[str]:
    """The distributions that these requirements bring, by their canonical names."""
    found: set[str] = set()
    wanted = list(names)
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and name not in found:
            found.add(name)
            wanted += distribution(name).requires or []
    return found


def test_a_client_needs_nothing_but_what_it_requires(both: Both, tmp_path: Path) -> None:
    there = _closure(CLIENT["dependencies"])
    owners = packages_distributions()
    forbidden = sorted(
        module
        for module, owned in owners.items()
        if module != "rios" and not {canonicalize_name(one) for one in owned} & there
    )
    assert {"torch", "dask", "distributed", "transformers", "pandas", "web3", "jupyterlab", "ipywidgets"} <= set(
        forbidden
    )
    done = subprocess.run(
        [sys.executable, "-c", USE, json.dumps(forbidden), both.url, both.token],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not set(json.loads(done.stdout.splitlines()[-1])) & set(forbidden)


def test_it_is_the_same_package_with_fewer_requirements() -> None:
    assert (ROOT / "client" / "rios").resolve() == ROOT / "rios"
    whole = {canonicalize_name(Requirement(one).name): one for one in RIOS["dependencies"]}
    for one in CLIENT["dependencies"]:
        assert whole[canonicalize_name(Requirement(one).name)] == one, "the same floors as rios"
    assert CLIENT["scripts"] == RIOS["scripts"]
