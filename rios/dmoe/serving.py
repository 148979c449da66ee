"""A trunk on a host and the clients that send it requests.

SUBMIT  meta {handle, prompt_tokens, params, seed, eos, metered_from, allowed}, and request_id for the log where there
        is one; body i32[...] prompt + tokens so far. With `allowed` new tokens it waits for an ALLOW. With `more` it
        waits for the SUBMIT without, and they begin together
ALLOW   seq = handle, meta {allowed}: how many new tokens it may have in all
CANCEL  seq = handle
TOKENS  meta {finished, failed, logprobs, hosts} where there is any; seq = tokens n; body n x (handle u32, token u32),
        then SHARE records
ALIVE   seq = steps done; sent every `heartbeat_s`, so that silence means a frozen process
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rios.dmoe.batching import Batch, Emission, Request
from rios.dmoe.dispatch import Dispatcher
from rios.dmoe.hosted import Hosted
from rios.dmoe.links import Links
from rios.dmoe.params import SEED_MAX, SamplingParams
from rios.dmoe.peer import Peer
from rios.dmoe.stopping import StopText
from rios.dmoe.tensors import NAMES
from rios.dmoe.tokenizer import Tokenizing
from rios.dmoe.trunk import Trunk
from rios.dmoe.wire import HEADER, Connection, Frame, Kind, dump
from rios.words.config import Settings
from rios.words.errors import HostLost, InvalidRequest, ProtocolError, RiosError

if TYPE_CHECKING:
    from rios.dmoe.host import Host

log = logging.getLogger(__name__)

# A client that does not read for this long while its socket's buffer is full is treated as gone.
_CLIENT_STUCK_S = 0.5
_REQUEST_ID_MAX = 64


class TrunkService:
    """One trunk with its links, its batch and its clients."""

    def __init__(self, host: Host, hosted: Hosted, options: dict[str, Any], pinned: Mapping[str, str]) -> None:
        """pinned: as of `Trunk`."""
        manifest, settings = hosted.manifest, host.settings
        self.settings = settings
        self.vocab_size = manifest.vocab_size
        self.context_length = manifest.context_length
        self.tokenizing = Tokenizing(options.get("tokenizer_files"))
        self.clients: set[Connection] = set()
        counts = [layer.num_experts for layer in manifest.layers]
        top_k = max(layer.top_k for layer in manifest.layers)
        rows = max(settings.prefill_tokens, settings.max_running)
        # The largest frame of a step: an answer row for each slot, in the widest dtype, plus meta.
        area = HEADER.size + rows * top_k * (manifest.hidden_size * hosted.dtype.itemsize + 4) + 8 * max(counts) + 4096
        self.links = Links(hosted.name, counts, settings, machine=host.machine, area_bytes=area)
        wire = options.get("wire_dtype")
        self.dispatcher = Dispatcher(
            self.links,
            hosted.store,
            settings,
            name=host.name,
            num_experts=counts,
            partial=bool(options.get("partial", False)),
            wire_dtype=NAMES[wire] if wire else None,
        )
        try:
            self.trunk = Trunk(
                manifest,
                hosted.source,
                dtype=hosted.dtype,
                device=host.device,
                experts=self.dispatcher,
                name=hosted.name,
                pinned=pinned,
            )
        except BaseException:
            self.links.close()
            raise
        try:
            self.kv_bytes = self._reserve(hosted, options.get("kv_bytes"))
        except BaseException:
            self.trunk.release()
            self.links.close()
            raise
        self._named = (0, b"")
        self.batch = Batch(self.trunk, self.dispatcher, settings, kv_bytes=self.kv_bytes, emit=self._emit)
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="rios-heartbeat", daemon=True).start()

    def _reserve(self, hosted: Hosted, wanted_bytes: int | None) -> int:
        """Take the memory of the key-value cache out of the host's budget; whoever closes this service gives it back.

        As much as was asked for, else a share of what is left, and no more than can ever be used.
        """
        trunk, settings, budget = self.trunk, self.settings, hosted.budget
        what = f"the key-value cache of {hosted.name}"
        if wanted_bytes:
            budget.reserve(int(wanted_bytes), what)
            return int(wanted_bytes)
        most = settings.max_running * (trunk.kv_bytes_fixed + trunk.kv_bytes_per_token * self.context_length)
        # Of what there was before the experts came: the plan left so much.
        return budget.reserve_share(settings.kv_fraction, most, what, beside_bytes=hosted.store.nbytes)

    def route(self, peers: Sequence[Peer], held: dict[str, dict[int, frozenset[int]]]) -> None:
        """New knowledge about hosts."""
        self.links.route(peers, held)

    def load(self) -> list[list[int]]:
        """Rows per expert, [layer][expert], since the trunk started."""
        return [row.tolist() for row in self.dispatcher.load]

    def stats(self) -> dict[str, Any]:
        """Figures for metrics."""
        links = {
            link.name: {
                "state": link.state.value,
                "shared_memory": link.shares_memory,
                "last_error": link.last_error,
                "slow": link.cost.slow,
                "usual_s": link.cost.usual,  # per call, per group and per row
            }
            for link in self.links.links
        }
        return {**self.batch.stats(), "links": links}

    def close(self) -> None:
        """End everything; the memory returns."""
        self._closed.set()
        for client in list(self.clients):
            client.close()
        self.batch.close()
        self.links.close()
        self.trunk.release()

    def _emit(self, client: object, emission: Emission) -> None:
        """Send one step's news to one client, from the trunk's thread."""
        assert isinstance(client, Connection)
        meta = b""
        if emission.extras:
            meta = dump({**emission.extras, **({"hosts": self.dispatcher.hosts} if emission.shares else {})})
        elif emission.shares:
            meta = self._names()
        tokens = np.array(emission.tokens, dtype="<u4").tobytes()
        try:
            client.send(
                Kind.TOKENS,
                len(emission.tokens),
                meta,
                [tokens, emission.shares],
                timeout_s=_CLIENT_STUCK_S,
            )
        except HostLost as error:
            log.info("client gone", extra={"reason": str(error)})
            self.batch.cancel(client)

    def _names(self) -> bytes:
        """What most frames say: the hosts, whom a dispatcher learns of and never forgets."""
        count = len(self.dispatcher.hosts)
        if self._named[0] != count:
            self._named = (count, dump({"hosts": self.dispatcher.hosts}))
        return self._named[1]

    def _beat(self) -> None:
        while not self._closed.wait(self.settings.heartbeat_s):
            for client in list(self.clients):
                try:
                    client.send(Kind.ALIVE, self.batch.steps, timeout_s=_CLIENT_STUCK_S)
                except HostLost as error:
                    log.info("client gone", extra={"reason": str(error)})
                    self.clients.discard(client)
                    self.batch.cancel(client)

    def request(self, client: Connection, frame: Frame) -> Request:
        """A SUBMIT frame as a request, checked."""
        said = frame.json()
        body = frame.body
        if len(body) % 4 or not len(body):
            raise ProtocolError("a SUBMIT frame carries at least one token id of 4 bytes")
        if len(body) // 4 > self.context_length:  # before they become a list
            raise InvalidRequest(f"{len(body) // 4} tokens, the model's context has {self.context_length}")
        tokens = np.frombuffer(body, dtype="<i4").tolist()
        try:
            fields = dict(said["params"])
            fields["stop"] = tuple(fields.get("stop", ()))
            fields["stop_token_ids"] = tuple(fields.get("stop_token_ids", ()))
            params = SamplingParams(**fields)
            prompt_tokens = int(said["prompt_tokens"])
            request = Request(
                client,
                int(said["handle"]),
                tokens,
                prompt_tokens,
                params,
                int(said["seed"]),
                frozenset(int(token) for token in said["eos"]),
                metered_from=int(said.get("metered_from", 0)),
                allowed=int(said.get("allowed", params.max_new_tokens)),
                request_id=str(said.get("request_id", ""))[:_REQUEST_ID_MAX],
            )
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a SUBMIT frame that cannot be read: {error!r}") from error
        # The trunk's arrays hold these in so many bits: one that does not fit would fail the step of everybody.
        bounds = ((request.handle, 1 << 32), (request.seed, SEED_MAX + 1), (request.metered_from, 1 << 31))
        if not all(0 <= value < bound for value, bound in bounds):
            raise ProtocolError("a SUBMIT frame whose handle, seed or metered_from is out of range")
        vocab = self.vocab_size
        params.validate(vocab)
        if not 1 <= prompt_tokens <= len(tokens) or min(tokens) < 0 or max(tokens) >= vocab:
            raise InvalidRequest(f"token ids must be from 0 to {vocab - 1} and the prompt not empty")
        if request.capacity > self.context_length:
            raise InvalidRequest(
                f"{prompt_tokens} prompt tokens and max_new_tokens {params.max_new_tokens} go beyond the context "
                f"of {self.context_length}; shorten one of them"
            )
        if request.generated >= params.max_new_tokens:
            raise InvalidRequest(f"{request.generated} of {params.max_new_tokens} new tokens are there already")
        if params.stop:
            request.stop = StopText(self.tokenizing.prepare(), params.stop, tokens[prompt_tokens:])
        return request


def serve_client(connection: Connection, hosted: Hosted, settings: Settings) -> None:
    """Serve one client of a trunk until it hangs up; then its requests end."""
    service = hosted.trunk
    if service is None:
        message = f"{hosted.name} has no trunk on this host"
        connection.send(Kind.ERROR, 0, dump({"error": "NotDeployed", "message": message}), timeout_s=1.0)
        return
    connection.send(Kind.WELCOME, 0, dump(service.stats()), timeout_s=settings.connect_timeout_s)
    service.clients.add(connection)
    try:
        while True:
            frame = connection.receive()
            if frame.kind is Kind.SUBMIT:
                _submit(service, connection, frame)
            elif frame.kind is Kind.ALLOW:
                service.batch.allow(connection, frame.seq, _allowed(frame))
            elif frame.kind is Kind.CANCEL:
                service.batch.cancel(connection, frame.seq)
            else:
                raise ProtocolError(f"a client connection carries SUBMIT, ALLOW and CANCEL, not {frame.kind.name}")
    finally:
        service.clients.discard(connection)
        service.batch.cancel(connection)


def _allowed(frame: Frame) -> int:
    found = frame.json().get("allowed")
    if type(found) is not int:
        raise ProtocolError(f"an ALLOW frame allows a number of tokens, not {found!r}")
    return found


def _submit(service: TrunkService, connection: Connection, frame: Frame) -> None:
    said = frame.json()
    try:
        service.batch.submit(service.request(connection, frame))
    except ProtocolError:
        raise
    except RiosError as error:
        request_id = str(said.get("request_id", ""))[:_REQUEST_ID_MAX]
        log.info("request refused", extra={"request_id": request_id, "reason": str(error)})
        failed = {str(said.get("handle")): {"error": type(error).__name__, "message": str(error)}}
        connection.send(Kind.TOKENS, 0, dump({"failed": failed}), timeout_s=_CLIENT_STUCK_S)
    if not said.get("more"):
        service.batch.begin(connection)
