"""The files of cluster/: settings that Dask knows, and a network under TLS made from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import distributed
import jsonschema
import pytest
import yaml

from tests.campaigns import ROOT

CLUSTER = ROOT / "cluster"
SETTINGS = (CLUSTER / "dask" / "rios.yaml", CLUSTER / "tls" / "rios-tls.yaml")
DASK = Path(distributed.__file__).parent
TIMEOUT_S = 120


def _keys(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _keys(value, (*above, key))


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_dask_knows_the_settings(path: Path) -> None:
    ours = yaml.safe_load(path.read_text())
    assert not set(_keys(ours)) - set(_keys(yaml.safe_load((DASK / "distributed.yaml").read_text())))
    jsonschema.validate(ours, yaml.safe_load((DASK / "distributed-schema.yaml").read_text()))


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    subprocess.run([CLUSTER / "tls" / "make-certificates", tmp_path / "tls", "host"], check=True, timeout=TIMEOUT_S)
    return tmp_path / "tls"


@pytest.fixture
def secured(certificates: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that is set up as cluster/README.md says."""
    settings = tmp_path / "dask"
    settings.mkdir()
    for path in SETTINGS:
        text = path.read_text().replace("/etc/rios/tls", str(certificates))
        (settings / path.name).write_text(text)
    return os.environ | {"DASK_CONFIG": str(settings)}


def _connect(address: str, environment: Mapping[str, str], *, timeout_s: float = 5) -> subprocess.CompletedProcess[str]:
    client = f"distributed.Client({address!r}, timeout={timeout_s})"
    program = f"import distributed; print(len({client}.scheduler_info()['workers']))"
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.mark.needs("openssl")
def test_only_members_reach_a_secured_scheduler(secured: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [*command, "--no-dashboard", "--dashboard-address", "127.0.0.1:0"],
        env=secured,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as scheduler:
        try:
            assert scheduler.stderr is not None
            line = next(line for line in scheduler.stderr if "Scheduler at:" in line)
            address = line.split()[-1]
            assert address.startswith("tls://")
            member = _connect(address, secured, timeout_s=TIMEOUT_S / 2)
            assert (member.returncode, member.stdout) == (0, "0\n"), member.stderr
            assert _connect(address, os.environ).returncode != 0
            assert _connect(address.replace("tls://", "tcp://"), os.environ).returncode != 0
        finally:
            scheduler.terminate()
            scheduler.communicate(timeout=TIMEOUT_S)


@pytest.mark.needs("openssl")
def test_keys_are_private(certificates: Path) -> None:
    keys = sorted(certificates.glob("*-key.pem"))
    assert [key.name for key in keys] == ["ca-key.pem", "host-key.pem"]
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)


@pytest.mark.needs("openssl")
def test_the_authority_is_kept(certificates: Path) -> None:
    before = (certificates / "ca.pem").read_bytes()
    subprocess.run([CLUSTER / "tls" / "make-certificates", certificates, "other"], check=True, timeout=TIMEOUT_S)
    assert (certificates / "ca.pem").read_bytes() == before
    assert (certificates / "other.pem").exists()
