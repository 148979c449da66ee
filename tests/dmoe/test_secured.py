"""A whole network of processes over TLS: it answers as one in clear, and lets in members alone, while they are some."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest
from cryptography import x509
from typer.testing import CliRunner

import rios
from rios.cli import app
from rios.dmoe.authority import Authority, ends_soon, member_files
from rios.dmoe.comms import security_of
from rios.dmoe.control import HostControl
from rios.dmoe.greeting import connect
from rios.dmoe.peer import Peer
from rios.dmoe.trust import TlsFiles, Trust
from rios.gateway.certs import init
from rios.words.config import Settings
from rios.words.errors import HostLost, InvalidRequest, NoWorkers, ProtocolError, RiosError, Unauthorized
from tests.campaigns import ROOT
from tests.hosting import Client, hosting
from tests.waiting import PATIENCE

DEADLINE_S = 60.0
DEMO = Path(rios.__file__).parent / "demo" / "model"
PROMPT = list(range(40, 60))
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secured") / "home"


@pytest.fixture(scope="module")
def net(home: Path) -> Iterator[rios.Network]:
    """Two workers; frames by sockets, so that all of them are encrypted."""
    with rios.local(workers=2, threads=1, tls=True, home=home, shared_memory=False) as found:
        yield found


@pytest.fixture(scope="module")
def authority(net: rios.Network, home: Path) -> Authority:
    return Authority(home / "certs")


@pytest.fixture
def peer(net: rios.Network) -> Peer:
    found: Peer = net._membership.hosts["worker-0"][0]
    return found


def ended(authority: Authority, folder: Path) -> TlsFiles:
    """A member's certificate that has ended, where nobody looks after it: beside the authority it would be renewed."""
    shutil.copytree(authority.folder, folder / "certs")
    return Authority(folder / "certs").host("late", days=-1)


def wait_for(what: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + DEADLINE_S * PATIENCE
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def greet(peer: Peer, trust: Trust | None) -> None:
    hello = {"role": "control", "key": peer.key, "session": "test"}
    connect(peer.address, hello, timeout_s=60, max_bytes=1 << 20, trust=trust)[0].close()


def test_it_answers_as_a_network_in_clear(net: rios.Network) -> None:
    assert net.address.startswith("tls://")
    with hosting() as made:
        made.deploy(DEMO, options={"kv_bytes": 1 << 26})
        with Client(made) as client:
            expected = client.submit(PROMPT, tokens=NEW_TOKENS).result(DEADLINE_S).token_ids
    with net.dmoe.deploy("demo", replicas=1, progress=False) as model:
        answers = model.generate([PROMPT, PROMPT], max_new_tokens=NEW_TOKENS, ignore_eos=True)
        assert [answer.token_ids for answer in answers] == [expected, expected]


def test_only_members_are_let_in(net: rios.Network, peer: Peer, authority: Authority, tmp_path: Path) -> None:
    greet(peer, Trust(authority.host("guest")))
    with pytest.raises(RiosError):
        greet(peer, None)
    with pytest.raises(Unauthorized, match="of another authority"):
        greet(peer, Trust(Authority.made(tmp_path / "other").host("guest")))
    foreign = Authority.made(tmp_path / "foreign").host("guest")
    shutil.copy(authority.ca_file, foreign.ca)  # it trusts this network, which does not trust it
    shutil.copy(authority.folder / "crl.pem", foreign.revoked)
    with pytest.raises(Unauthorized, match="this member's certificate is of another authority"):
        greet(peer, Trust(foreign))
    with pytest.raises(Unauthorized, match="this member's certificate has ended"):
        greet(peer, Trust(ended(authority, tmp_path)))
    door = init(authority.folder.parent)
    server_only = member_files(tmp_path / "door")
    server_only.ca.parent.mkdir()
    for source, target in (
        (authority.ca_file, server_only.ca),
        (door.certificate, server_only.certificate),
        (door.key, server_only.key),
    ):
        shutil.copy(source, target)
    with pytest.raises(Unauthorized):  # the gateway's certificate is for servers
        greet(peer, Trust(server_only))


def _handshake(address: tuple[str, int], context: ssl.SSLContext) -> bytes:
    context.check_hostname = False
    with socket.create_connection(address, timeout=60) as plain, context.wrap_socket(plain) as wrapped:
        wrapped.sendall(bytes(40))
        return wrapped.recv(1)


def test_nothing_but_tls_of_this_version(net: rios.Network, peer: Peer, authority: Authority) -> None:
    files = authority.host("guest")
    context = ssl.create_default_context(cafile=files.ca)
    with pytest.raises((ssl.SSLError, ConnectionError)):  # no certificate
        assert _handshake(peer.address, context)
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for address in (peer.address, _place(net.address)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _handshake(address, context)
        assert _said(address, b"RIOS" + bytes(60))[:1] in (b"", b"\x15")  # nothing, or an alert of TLS


def _said(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(data)
        try:
            return sock.recv(1 << 16)
        except ConnectionResetError:
            return b""


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tls://").rpartition(":")
    return host, int(port)


def _dask(net: rios.Network, security: Any, address: str | None = None, *, timeout_s: float = 5) -> int:
    options: dict[str, Any] = {"timeout": timeout_s, "set_as_default": False}
    with distributed.Client(address or net.address, security=security, **options) as client:  # type: ignore[no-untyped-call]
        return len(client.scheduler_info()["workers"])


def test_the_scheduler_lets_in_members_alone(net: rios.Network, authority: Authority, tmp_path: Path) -> None:
    def told(folder: Path) -> Any:
        return security_of(Settings(tls=folder))

    assert _dask(net, told(authority.host("guest").ca.parent), timeout_s=60) == 2
    for folder in (
        Authority.made(tmp_path / "other").host("guest").ca.parent,
        ended(authority, tmp_path).ca.parent,
    ):
        with pytest.raises((OSError, TimeoutError)):
            _dask(net, told(folder))
    plain = net.address.replace("tls://", "tcp://")
    with pytest.raises(OSError):
        _dask(net, None, plain)
    with pytest.raises(NoWorkers):
        rios.connect(plain)
    with pytest.raises(InvalidRequest, match="lets in members alone"):
        rios.connect(net.address)
    with pytest.raises(InvalidRequest, match="speaks in clear"):
        rios.connect(plain, tls=authority.host("guest").ca.parent)
    with rios.connect(net.address, tls=authority.host("guest").ca.parent) as network:
        assert len(network.workers) == 2


def test_who_is_revoked_is_out_within_seconds(net: rios.Network, peer: Peer, authority: Authority) -> None:
    files = authority.host("mallory")
    options = Settings(tls=files.ca.parent)
    client: Any = distributed.Client(  # type: ignore[no-untyped-call]
        net.address, security=security_of(options), timeout=60, set_as_default=False
    )
    control = HostControl(peer, options, session="test")
    assert control.call("info")["name"] == peer.name
    output = CliRunner().invoke(app, ["certs", "revoke", "mallory", "--home", str(authority.folder.parent)]).output
    assert output == "1 certificates of mallory are revoked now\n"
    wait_for(lambda: _refused(control), "the open connection goes on")
    with pytest.raises(Unauthorized, match="this member's certificate was revoked"):
        greet(peer, Trust(files))
    wait_for(lambda: client.status != "running", "Dask's connection goes on")
    with pytest.raises((OSError, TimeoutError)):
        _dask(net, security_of(options))
    client.close()
    greet(peer, Trust(authority.host("guest")))


def _refused(control: HostControl) -> bool:
    try:
        control.call("info", timeout_s=60.0)
    except (HostLost, ProtocolError):
        return True
    return False


@pytest.fixture
def elsewhere(net: rios.Network, authority: Authority, tmp_path: Path) -> Iterator[Path]:
    """A worker as on another machine, set up as the documents say; its certificate ends in ten days."""
    folder = tmp_path / "copied"
    shutil.copytree(authority.host("elsewhere", days=10).ca.parent, folder)
    shutil.rmtree(authority.folder / "hosts" / "elsewhere")
    said = CliRunner().invoke(app, ["certs", "env", str(folder)]).output
    environment = os.environ | dict(line.split("=", 1) for line in said.splitlines())
    command = [sys.executable, "-m", "distributed.cli.dask_worker", net.address, "--name", "elsewhere", "--no-nanny"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", "--preload", "rios.worker"],
            env=environment, stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
    with process:
        try:
            net.wait_for_workers(3, timeout=DEADLINE_S)
            yield folder
        finally:
            process.terminate()


def _certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(member_files(folder).certificate.read_bytes())


def test_a_host_renews_its_certificate_and_can_be_revoked(
    net: rios.Network, elsewhere: Path, authority: Authority
) -> None:
    before = {one.serial for one in authority.issued() if one.name == "elsewhere"}
    assert len(before) >= 1
    wait_for(lambda: not ends_soon(member_files(elsewhere).certificate, days=80), "it was not renewed")
    assert _certificate(elsewhere).serial_number not in before
    # Without a restart: the process that runs shows the new one.
    peer = net._membership.hosts["elsewhere"][0]
    trust = Trust(authority.host("guest"))

    def shown() -> int | None:
        hello = {"role": "control", "key": peer.key, "session": "test"}
        connection, _ = connect(peer.address, hello, timeout_s=60, max_bytes=1 << 20, trust=trust)
        connection.close()
        return connection.sock.serial if hasattr(connection.sock, "serial") else None

    wait_for(lambda: shown() == _certificate(elsewhere).serial_number, "the host shows the old one")
    authority.revoke("elsewhere")
    trust.look()
    wait_for(lambda: "elsewhere" not in net._membership.hosts, "the scheduler keeps a revoked worker")
    with pytest.raises(RiosError):
        shown()
