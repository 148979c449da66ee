"""One thread per process, no network, and nothing left out of a run without being named."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

# Before anything imports torch, and inherited by every process that a test starts: the worker processes of a test share
# few cores, and two threads each on two cores run several times slower than one.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Where a shell forbids it, each of a test's processes would compile all of rios again: 0.7 s of a gateway's start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# One import of torch for the hosts of all networks that tests and what they start make.
os.environ["RIOS_WARM_S"] = "120"

import hypothesis
import pytest

from rios.words.importing import uncollected
from tests.campaigns import ROOT, Campaign, sources_digest
from tests.gateway.secrets_seen import searched
from tests.sockets import made_where, remember

sys.dont_write_bytecode = False
remember()
LONG_TIMEOUT_S = 3600
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("rios", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("rios")
# Minutes each, and last by their names, when nobody is left to run anything beside them. All others are run by package,
# whose networks would else be made anew for each file.
FIRST = {"test_notebooks.py", "test_cli.py", "test_money_cli.py", "test_lab_page.py"}
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))

_left_out: dict[str, list[str]] = {}  # reason -> node ids; what -m and -k leave out has the reason "deselected"


@pytest.fixture(scope="session", autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    """Whatever package a test is of, what is logged while it runs is searched; who said it is told at the end."""
    with searched():
        yield


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up rios' logs: the tests after it would hear nothing."""
    logger = logging.getLogger("rios")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _missing(what: str) -> bool:
    if what == "root":
        return os.geteuid() != 0
    return shutil.which(what, path=SYSTEM_PATH) is None


def _why_not(item: pytest.Item, has_cuda: bool) -> str | None:
    """Why this machine cannot run a test, or None."""
    if item.get_closest_marker("gpu") and not has_cuda:
        return "gpu: no CUDA device"
    needs = [mark.args[0] for mark in item.iter_markers("needs")]
    missing = [what for what in needs if _missing(what)]
    return f"needs {', '.join(missing)}" if missing else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tests and what they import make a million objects that stay: the collector does not walk through them while they
    grow, which takes it seven seconds, nor in the tests after that."""
    with uncollected():
        found = yield
    gc.freeze()
    return found


@pytest.hookimpl(trylast=True)  # after -m and -k, so that torch is not asked about tests that nobody wants
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    has_cuda = any(item.get_closest_marker("gpu") for item in items) and _cuda()
    kept, dropped = [], []
    for item in items:
        reason = _why_not(item, has_cuda)
        if reason is None:
            kept.append(item)
        else:
            _left_out.setdefault(reason, []).append(item.nodeid)
            dropped.append(item)
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))
    kept.sort(key=lambda item: item.path.name not in FIRST)
    items[:] = kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def pytest_deselected(items: list[pytest.Item]) -> None:
    named = {nodeid for nodeids in _left_out.values() for nodeid in nodeids}
    for item in items:
        if item.nodeid not in named:
            reason = "long: make test-long" if item.get_closest_marker("long") else "deselected"
            _left_out.setdefault(reason, []).append(item.nodeid)


def _hidden(config: pytest.Config) -> int:
    """How many tests a complete run should have had and did not."""
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    count = sum(len(stats.get(outcome, [])) for outcome in ("skipped", "xfailed"))
    return count + sum(len(ids) for reason, ids in _left_out.items() if not reason.startswith(("gpu:", "long:")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (where := made_where(report.longreprtext)):
        report.sections.append(("where it was made", where))
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes has ended: what it left out is what they all did."""
    for reason, nodeids in getattr(node, "workeroutput", {}).get("left_out", {}).items():
        _left_out.setdefault(reason, nodeids)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:  # one of several processes
        output["left_out"] = _left_out
        return
    if os.environ.get("RIOS_CI") == "1" and session.exitstatus == pytest.ExitCode.OK and _hidden(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason, nodeids in sorted(_left_out.items()):
        terminalreporter.section(f"not run: {len(nodeids)} ({reason})")
        for nodeid in nodeids:
            terminalreporter.line(nodeid)
    hidden = _hidden(config)
    if os.environ.get("RIOS_CI") == "1" and hidden:
        terminalreporter.section("incomplete", red=True)
        terminalreporter.line(f"{hidden} tests were skipped or left out; here every test but gpu and long must run")


@pytest.fixture
def campaign_record(request: pytest.FixtureRequest) -> Campaign:
    """The kept cases of a long test, under `.make/long/`; its parameters share them."""
    nodeid = request.node.nodeid.removeprefix("tests/").partition("[")[0]
    name = re.sub(r"[^\w.-]+", "-", nodeid).strip("-")
    return Campaign(ROOT / ".make" / "long" / f"{name}.json", sources_digest(Path(request.node.path)))
