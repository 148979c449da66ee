"""The image of cluster/Containerfile, built by podman upon a Python of this machine, and what manifests start in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rios.deploy.runtimes.engine_service import take_storage_away, volatile
from tests.campaigns import ROOT
from tests.cluster.base import make_base
from tests.cluster.test_manifests import COMPOSE, homes, pods
from tests.waiting import until

BUILD_S, RUN_S = 3600.0, 300.0
CERTIFIED = Path("/etc/ssl/certs")
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=2000:2000")
IMAGE = "rios:0.1.0"
# What the manifests ask for, of an engine.
CLOSED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--tmpfs=/tmp", *LIMITS)
ASKED = """
from distributed import Client
with Client("tcp://127.0.0.1:8786", timeout=30) as client:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    print([bool(one["metrics"].get("rios", {}).get("port")) for one in workers])
"""
HEALTH = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8787/health', timeout=5).read().decode())"
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(2 * BUILD_S),
    *(pytest.mark.needs(what) for what in ("podman", "runc", "root", "busybox", "npm")),
]


class Engine:
    """podman with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        run = volatile(folder)
        self._words = (
            *("podman", "--root", str(folder / "root"), "--runroot", str(run / "storage")),
            *("--tmpdir", str(run / "libpod"), "--cgroup-manager", "cgroupfs", "--runtime", shutil.which("runc") or ""),
        )

    def __call__(self, *words: str, timeout_s: float = RUN_S) -> str:
        done = subprocess.run(
            [*self._words, *words], capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def succeeds(self, *words: str) -> bool:
        return subprocess.run([*self._words, *words], capture_output=True, timeout=RUN_S, check=False).returncode == 0

    def run(self, *words: str, options: tuple[str, ...] = ()) -> str:
        """A command in a container of the image that may do no more than the manifests let it."""
        return self("run", "--rm", "--network=none", *CLOSED, *options, IMAGE, *words)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One that has the image. What is installed comes from where this machine's pip finds it, and so does torch."""
    subprocess.run(["make", "-C", str(ROOT), "wheel"], check=True, capture_output=True, timeout=BUILD_S)
    folder = Path(tempfile.mkdtemp(prefix="rios-image-"))
    found = Engine(folder)
    try:
        found("import", "-q", str(make_base(folder / "base.tar")), "localhost/base")
        places = [word for place in _places(folder) for word in ("-v", place)]
        found(
            *("build", "--network", "host", *LIMITS, *places, "--build-arg", "BASE=localhost/base"),
            *("--build-arg", "TORCH_INDEX=", "-f", "cluster/Containerfile", "-t", IMAGE, "."),
            timeout_s=BUILD_S,
        )
        yield found
    finally:
        take_storage_away(folder)


def _places(folder: Path) -> Iterator[str]:
    """What pip is told on this machine, and the folders that it is told of, as it finds them inside."""
    command = ["python3", "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    options = {key.rpartition(".")[2]: value.strip("'") for key, _, value in (line.partition("=") for line in said)}
    kept = {key: value for key, value in options.items() if key in ("cert", "find-links", "index-url", "timeout")}
    settings = folder / "pip.conf"
    settings.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in kept.items())]))
    yield f"{settings}:/etc/pip.conf:ro"
    for place in {str(CERTIFIED), kept.get("find-links", "")}:
        if Path(place).is_absolute() and Path(place).is_dir():
            yield f"{place}:{place}:ro"


def test_each_command_of_the_manifests_is_there(engine: Engine) -> None:
    """As whoever the image is for, on a root that is read-only."""
    assert engine.run("id", "-u").strip() == "10001"
    started = {tuple(words[:2]) for words, _, _ in homes().values()}
    assert started == {("rios", "gateway"), ("dask", "scheduler"), ("dask", "worker")}
    for words in sorted(started):
        assert "Usage: " in engine.run(*words, "--help")
    said = engine.run("python", "-c", "import kubernetes, rios.worker, torch; print(torch.version.cuda)")
    assert said.strip() == "None", "hundreds of megabytes for a GPU that is not there"
    assert "worker-ttl: 30s" in engine.run("cat", "/etc/dask/rios.yaml")


def test_new_volumes_belong_to_it(engine: Engine) -> None:
    places = {place for _, mounted, _ in homes().values() for place in mounted if place.startswith("/var/lib/")}
    assert places == {"/var/lib/rios", "/var/lib/rios-reports"}
    for place in places:
        engine.run("touch", f"{place}/file", options=("-v", f"{Path(place).name}:{place}"))


def test_scheduler_and_worker_start_on_a_root_that_is_read_only(engine: Engine) -> None:
    """With the words of the manifests, preloads and all; the check of the compose file finds the scheduler."""
    (spec,) = pods()["scheduler"]["containers"]
    worker = COMPOSE["services"]["worker"]
    words = [word.replace("//scheduler:", "//127.0.0.1:") for word in worker["command"]]
    told = [option for name, value in worker["environment"].items() for option in ("-e", f"{name}={value}")]
    mounted = [option for volume in worker["volumes"] for option in ("-v", volume)]
    check = COMPOSE["services"]["scheduler"]["healthcheck"]["test"][1:]
    try:
        engine("run", "-d", "--name", "scheduler", "--network=none", *CLOSED, IMAGE, *spec["args"])
        until(lambda: engine.succeeds("exec", "scheduler", *check), "a scheduler", deadline_s=RUN_S, pause_s=2)
        where = ("--name", "worker", "--network=container:scheduler", *told, *mounted)
        engine("run", "-d", *where, *CLOSED, IMAGE, *words)
        ask = ("exec", "scheduler", "python", "-c", ASKED)
        until(lambda: engine(*ask).strip() == "[True]", "a host that serves", deadline_s=RUN_S, pause_s=2)
        assert "ok" in engine("exec", "scheduler", "python", "-c", HEALTH)
        for name in ("scheduler", "worker"):
            assert "Traceback" not in engine("logs", name)
    finally:
        for name in ("worker", "scheduler"):
            engine.succeeds("rm", "-f", name)


def test_keys_are_copied_before_the_gateway(engine: Engine, tmp_path: Path) -> None:
    (first,) = pods()["Deployment gateway"]["initContainers"]
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "secrets.key").write_text("a key")
    for path in (keys, *keys.iterdir()):
        os.chown(path, 10001, 10001)
    options = ("-v", f"{keys}:/keys:ro", "-v", "home:/var/lib/rios")
    engine.run(*first["command"], options=options)
    assert engine.run("cat", "/var/lib/rios/secrets.key", options=options) == "a key"
