"""A client's control connection to one host: JSON calls with deadlines."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from rios.dmoe.greeting import connect
from rios.dmoe.peer import Peer
from rios.dmoe.trust import trust_of
from rios.dmoe.wire import Buffer, Connection, Kind, dump
from rios.words import errors
from rios.words.config import Settings
from rios.words.errors import HostLost, ProtocolError, RiosError

log = logging.getLogger(__name__)

_AT_ONCE = 32


class HostControl:
    """One control connection. Calls of several threads follow one another."""

    def __init__(self, peer: Peer, settings: Settings, *, session: str, role: str = "control") -> None:
        self.peer = peer
        self._settings = settings
        self._seq = itertools.count(1)
        self._lock = threading.Lock()
        self._connection: Connection
        self._connection, self.welcome = connect(
            peer.address,
            {"role": role, "key": peer.key, "session": session},
            timeout_s=settings.connect_timeout_s,
            max_bytes=settings.max_frame_bytes,
            trust=trust_of(settings),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<HostControl {self.peer.name}{' closed' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.closed

    @property
    def local_address(self) -> str:
        """This machine's address on the way to the host."""
        return str(self._connection.sock.getsockname()[0])

    @property
    def certified_name(self) -> str | None:
        """Whom the host's certificate names; None without TLS."""
        return self._connection.peer_name

    def call(self, op: str, *, body: Buffer = b"", timeout_s: float | None = None, **args: Any) -> dict[str, Any]:
        """Ask and wait. Raises the error that the host raised, `HostLost` or `DeadlineExceeded`."""
        return self.ask(op, body=body, timeout_s=timeout_s, **args)[0]

    def ask(
        self, op: str, *, body: Buffer = b"", timeout_s: float | None = None, **args: Any
    ) -> tuple[dict[str, Any], memoryview]:
        """As `call`; what is answered, and the bytes beside it."""
        timeout = self._settings.control_timeout_s if timeout_s is None else timeout_s
        with self._lock:
            if self._connection.closed:
                raise HostLost(f"host {self.peer.name}: the control connection has ended")
            seq = next(self._seq)
            self._connection.send(Kind.CALL, seq, dump({"op": op, **args}), [body], timeout_s=timeout)
            frame = self._connection.receive(timeout)
        if frame.kind is not Kind.ANSWER or frame.seq != seq:
            self._connection.close()
            raise ProtocolError(f"host {self.peer.name}: {frame.kind.name} {frame.seq} is not the answer to {op}")
        answer = frame.json()
        if "error" in answer:
            raise error_of(answer)
        return answer, frame.body

    def close(self) -> None:
        """Hang up; the host starts the lease of what this session deployed."""
        self._connection.close()


def model_name(deployment: str) -> str:
    """The name that a model was deployed under, of the id by which hosts tell deployments of one name apart."""
    return deployment.rpartition("-")[0]


def error_of(answer: dict[str, Any]) -> RiosError:
    """The error that the other side raised, as an object of the same class."""
    found = getattr(errors, str(answer.get("error")), None)
    kind = found if isinstance(found, type) and issubclass(found, RiosError) else RiosError
    return kind(str(answer.get("message")))


def welcomes(peers: Mapping[str, Peer], settings: Settings, *, session: str) -> dict[str, dict[str, Any]]:
    """What hosts say of themselves now, by name in order; those that do not answer are left out.

    All are asked at the same time, so that ten frozen ones take as long as one: `connect_timeout_s`.
    """

    def ask(peer: Peer) -> dict[str, Any] | None:
        try:
            with HostControl(peer, settings, session=session) as control:
                return control.welcome
        except RiosError as error:
            log.info("host does not answer", extra={"host": peer.name, "reason": str(error)})
            return None

    names = sorted(peers)
    if len(names) < 2:
        answers = [ask(peers[name]) for name in names]
    else:
        with ThreadPoolExecutor(min(len(names), _AT_ONCE), thread_name_prefix="rios-ask") as threads:
            answers = list(threads.map(ask, [peers[name] for name in names]))
    return {name: said for name, said in zip(names, answers, strict=True) if said is not None}
