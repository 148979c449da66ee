"""What is asked of engines and of bubblewrap, read without running it: the words that keep a sandbox closed."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from rios.deploy.runtimes import arguments, seccomp
from rios.deploy.runtimes.containers import container_request, state_of
from rios.deploy.runtimes.engine import EngineRuntime
from rios.deploy.runtimes.engine_logs import read_lines, seconds
from rios.deploy.runtimes.engine_service import GVISOR, KATA, KINDS, RUNC
from rios.deploy.runtimes.memory_files import MemoryFiles
from rios.deploy.runtimes.protocol import HostBase, ImageBase, Isolation, Launch, Limits, Mount
from rios.deploy.runtimes.relay import hosts_file, is_public, may_connect
from rios.words.errors import InvalidRequest, SandboxFailed, UnsupportedRuntime


def _request(launch: Launch) -> dict[str, object]:
    return container_request(
        launch, image="sha256:0", runtime="kata", network="none", parent="/rios/x", pids=100, memory_bytes=1 << 28,
        etc=Path("/e"), memory=MemoryFiles("x"), profile=Path("/p.json"), nproc=1000,
    )  # fmt: skip


def test_a_container_has_nothing_that_was_not_asked_for() -> None:
    request = _request(Launch(instance="x", base=ImageBase("sha256:0"), command=("serve", "-v"), env={"A": "b"}))
    host = request["HostConfig"]
    assert isinstance(host, dict)
    assert (host["Privileged"], host["CapDrop"], host["CapAdd"]) == (False, ["ALL"], [])
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert host["IpcMode"] == "private"
    assert host["SecurityOpt"] == ["no-new-privileges", "seccomp=/p.json"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (1 << 28, 1 << 28, 100)
    assert "Devices" not in host
    assert request["User"] == "10001:10001"
    assert (request["Entrypoint"], request["Cmd"]) == (["serve"], ["-v"])
    assert all(bind.split(":")[2].startswith("ro") for bind in host["Binds"])


def test_secrets_are_not_in_a_request() -> None:
    from pydantic import SecretBytes

    launch = Launch(instance="x", base=ImageBase("sha256:0"), secrets={"K": SecretBytes(b"a-very-secret-value")})
    assert "a-very-secret-value" not in str(_request(launch))


def test_kata_is_asked_for_by_its_name(tmp_path: Path) -> None:
    """A host without virtual machines cannot run it; what would be run is read."""
    command = KATA.command("/opt/kata/bin/kata-runtime", tmp_path, "unix:///x.sock")
    assert command[:1] == ["podman"]
    assert command[command.index("--runtime") + 1] == "/opt/kata/bin/kata-runtime"
    assert "--runtime-flag" not in command
    assert command[-4:] == ["service", "--time", "300", "unix:///x.sock"]
    assert KATA.isolation is Isolation.MACHINE
    assert KATA.needs_kvm
    gvisor = GVISOR.command("/usr/bin/runsc", tmp_path, "unix:///x.sock")
    assert gvisor[gvisor.index("--runtime-flag") + 1] == "network=host"
    assert set(KINDS) == {"runc", "gvisor", "kata"}
    assert Isolation.PROCESS < RUNC.isolation < GVISOR.isolation < KATA.isolation


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rios.deploy.runtimes.engine_service.SEARCHED", str(tmp_path))
    runtime = EngineRuntime(KATA, tmp_path)
    able = runtime.capabilities()
    assert not able.usable
    assert "podman is not installed" in able.why_not
    with pytest.raises(UnsupportedRuntime, match="install"):
        runtime.prepare_image("x")


def test_an_engine_that_did_not_come_up_once_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its service may have been killed while it started."""
    monkeypatch.setattr("rios.deploy.runtimes.engine_service.Kind.why_not", lambda _: "")
    monkeypatch.setattr("rios.deploy.runtimes.cgroup.version", lambda: 2)
    runtime, tries = EngineRuntime(RUNC, tmp_path), list[str]()

    def client() -> None:
        tries.append("")
        if len(tries) == 1:
            raise SandboxFailed("it was killed")

    monkeypatch.setattr(runtime._service, "client", client)
    assert [runtime.capabilities().why_not for _ in range(2)] == ["it was killed"] * 2
    assert len(tries) == 1, "not at once: each try may take as long as it is waited for"
    runtime._failed_until = 0.0
    assert [runtime.capabilities().usable for _ in range(2)] == [True, True]
    assert len(tries) == 2


def test_bubblewrap_unshares_all_and_binds_little(tmp_path: Path) -> None:
    launch = Launch(
        instance="x", base=HostBase({"/opt/tool": "/srv/tool"}), command=("serve",), env={"A": "b"},
        mounts=(Mount(source=Path("/v"), path="/data"),), limits=Limits(tmp_bytes=4096),
    )  # fmt: skip
    given = arguments.bubblewrap(launch, tmp_path, MemoryFiles("x"), None)
    for word in ("user", "pid", "ipc", "uts", "net"):
        assert f"--unshare-{word}" in given
    assert "--share-net" not in given
    assert "--clearenv" in given
    assert "--new-session" in given
    assert "--die-with-parent" in given
    assert given[given.index("--cap-drop") + 1] == "ALL"
    writable = [given[index + 2] for index, word in enumerate(given) if word in ("--bind", "--dev-bind")]
    assert writable == ["/data"]
    assert given[-4:] == ["--remount-ro", "/dev", "--chdir", "/"]
    assert " --perms 1777 --size 4096 --tmpfs /tmp " in " ".join(given)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True), ("8.8.8.8", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("100.100.100.200", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("255.255.255.255", False), ("198.18.0.1", False), ("240.0.0.1", False),
        ("::1", False), ("::", False), ("fe80::1", False), ("fc00::1", False), ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::a00:1", False), ("2002:a00:1::", False),
        ("::7f00:1", False), ("2001:db8::1", False),
        ("168.63.129.16", False), ("::ffff:168.63.129.16", False), ("64:ff9b::a83f:8110", False),
        ("192.0.0.192", False), ("192.0.0.9", False), ("192.88.99.1", False), ("100.127.255.255", False),
        ("192.0.2.1", False), ("198.51.100.1", False), ("203.0.113.1", False), ("0.1.2.3", False),
        ("fec0::1", False), ("3fff::1", False), ("3fff:fff::1", False), ("64:ff9b:1::1", False), ("100::1", False),
        ("100:0:0:1::1", False), ("5f00::1", False), ("2001::1", False), ("2001:2::1", False), ("fd20:ce::254", False),
        ("168.63.129.17", True), ("192.0.1.1", True), ("192.88.98.1", True), ("100.128.0.1", True),
        ("2001:4860:4860::8888", True), ("3ffe::1", True),
    ],
)  # fmt: skip
def test_where_a_sandbox_may_be_connected_to(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_an_operator_may_allow_a_network_of_its_own() -> None:
    assert is_public("10.20.3.4", ["10.20.0.0/16", "fd00::/8"])
    assert is_public("fd00::1", ["10.20.0.0/16", "fd00::/8"])
    assert not is_public("10.21.3.4", ["10.20.0.0/16"])


def test_no_address_of_this_machine_is_connected_to() -> None:
    internet = (socket.AF_INET, socket.AF_INET6)
    interfaces = psutil.net_if_addrs().values()
    own = [one.address.partition("%")[0] for of_one in interfaces for one in of_one if one.family in internet]
    assert "127.0.0.1" in own
    everything = ("0.0.0.0/0", "::/0")
    assert not [one for one in own if may_connect(one, everything)]
    assert not [one for one in ("::ffff:127.0.0.1", "0.0.0.0", "::", "255.255.255.255") if may_connect(one, everything)]
    assert not may_connect("127.5.5.5", everything), "no address of an interface, but a route that ends here"
    assert may_connect("127.0.0.1", (*everything, "127.0.0.1/32")), "the operator names that one"


def test_names_inside() -> None:
    text = hosts_file([("a.example.org", 443), ("b.example.org", 80), ("a.example.org", 80)], "x")
    assert text.splitlines()[2:] == ["127.64.0.1 a.example.org", "127.64.0.2 b.example.org"]


def test_the_filter_forbids_what_it_lists() -> None:
    profile = seccomp.profile()
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert not allowed & (seccomp.FORBIDDEN | {"clone3"})
    assert {"read", "write", "execve", "futex", "socket", "clone"} <= allowed
    assert len(seccomp.program()) % 8 == 0


def test_lines_of_both_engines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "2026-11-28T19:51:58.123456789+00:00 stdout P half \n"
        "2026-11-28T19:51:58.2+00:00 stderr F wrong\n"
        "2026-11-28T20:51:58.3+01:00 stdout F a line\n"
        "cut off"
    )
    lines = list(read_lines(path, 0.0, ended=False))
    assert [(line.stream, line.text) for line in lines] == [("stderr", "wrong"), ("stdout", "half a line")]
    assert lines[0].at == pytest.approx(seconds("2026-11-28T19:51:58.200000000Z"))
    assert [line.text for line in read_lines(path, lines[0].at, ended=True)] == ["half a line"]
    path.write_text('{"log":"hello\\n","stream":"stdout","time":"2026-11-28T19:51:58.123456789Z"}\n')
    assert [line.text for line in read_lines(path, 0.0, ended=True)] == ["hello"]
    assert seconds("0001-01-01T00:00:00Z") == 0.0


def test_states_of_engines() -> None:
    said = ["created", "configured", "running", "paused", "exited", "stopped", "removing"]
    found = [state_of({"State": {"Status": status}}) for status in said]
    assert found == ["created", "created", "running", "running", "exited", "exited", "exited"]


def test_a_directory_nobody_may_pass_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(InvalidRequest, match="chmod"):
        arguments.check_passable(closed)
