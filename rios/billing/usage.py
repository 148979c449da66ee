"""Usage records: the events of one request, folded to one record for each worker, priced thing and hold step.

What is priced is counted by the trunk and the client: rows of experts, tokens, bytes up to a bound per row. What hosts
measured stands beside it and changes no price. Folding is a pure function of the set of events: their order does not
matter, and an event that comes twice counts once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from json.encoder import encode_basestring as quoted
from typing import Any

import numpy as np
import numpy.typing as npt

from rios.billing.books import BYTES, EXPERT, MINIMUM, RESOURCE_LINES, TOKENS_IN, TOKENS_OUT
from rios.billing.pricing import Host
from rios.words.canonical import EXACT_MAX, canonical
from rios.words.display import Shown
from rios.words.errors import InvalidRequest
from rios.words.events import UsageEvent, UsageEvents
from rios.words.ids import Address, UsageId, derived_id
from rios.words.reading import read_count, read_decimal, read_object, read_text

# A row travels to its host and back: hidden_size numbers of at most 4 bytes each way, and its share of a frame's
# header, which is a few hundred bytes and may serve one row alone.
_NUMBER_BYTES = 4
_HEADER_BYTES = 512
_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("ask_bp", "hold_step", "rows", "events"), read_count),
    **dict.fromkeys(("quantity", "measured_ns"), read_decimal),
}
Cells = npt.NDArray[np.int64]
"""(n, 6): `rios.words.events.CELL` of n events."""
Counts = npt.NDArray[np.int64]
_NO_EVENTS = hashlib.sha256(b"[]").hexdigest()
_EXACT_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class LayerWork(Shown):
    """One mixture-of-experts layer, as far as it costs something."""

    top_k: int
    flops_per_row: int


@dataclass(frozen=True, slots=True)
class Work(Shown):
    """What a model asks of hosts for each position that it reads."""

    model: str
    hidden_size: int
    layers: tuple[LayerWork, ...]

    @classmethod
    def of(cls, model: str, hidden_size: int, layers: Iterable[tuple[int, int]]) -> Work:
        """layers: for each (top_k, weights of its largest expert).

        A row costs 2 FLOP per weight, a multiplication and an addition: Kaplan et al. 2020, Scaling Laws for Neural
        Language Models, arXiv:2001.08361, section 2.1. Activation functions and biases are below 1 % and left out.
        """
        return cls(model, hidden_size, tuple(LayerWork(top_k, 2 * weights) for top_k, weights in layers))

    @property
    def rows_per_position(self) -> int:
        """(token, expert) pairs of one position, all layers together."""
        return sum(layer.top_k for layer in self.layers)

    @property
    def flops_per_position(self) -> int:
        """FLOP of one position's expert work, all layers together."""
        return sum(layer.top_k * layer.flops_per_row for layer in self.layers)

    @property
    def row_bytes_max(self) -> int:
        """The most bytes that are priced for one row, whatever was measured: a host may pad its answers."""
        return 2 * _NUMBER_BYTES * self.hidden_size + _HEADER_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as the client saw it, when it had ended or at the end of a hold step."""

    request_id: str
    model: str
    trunk: str
    """The host that ran the trunk: it is paid for tokens."""
    tokens_in: int
    """Prompt tokens, or 0 where nothing was received: a request pays for what it received."""
    tokens_out: int
    """New tokens that were received."""
    hold_tokens: tuple[int, ...] = ()
    """New tokens covered by the end of each hold step; empty for one hold over all."""

    def hold_steps(self, positions: Counts) -> Counts:
        """For each number of positions, the hold step in which these had been read.

        New token n is chosen when tokens_in + n - 1 positions have been read, so a step that covers b new tokens ends
        there.
        """
        ends = self.tokens_in - 1 + np.array(self.hold_tokens, dtype=np.int64)
        return np.minimum(np.searchsorted(ends, positions), max(len(ends) - 1, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord(Shown):
    """What one worker did of one priced thing in one hold step of one request."""

    usage_id: UsageId
    """A pure function of source, worker, resource and hold step."""
    source: str
    """The request's id, or that of a deployment whose resources are rented."""
    model: str
    worker: str
    """The host's name."""
    owner: Address
    """Who is paid."""
    resource: str
    """"expert", "tokens_in" ...: names of lines of a price book."""
    device_class: str
    """The worker's; it chooses the line for expert work."""
    ask_bp: int
    hold_step: int
    quantity: int
    """In base units (`books.BASE_UNITS`)."""
    rows: int
    """(token, expert) pairs of the events."""
    measured_ns: int
    """Nanoseconds that the host measured: recorded, never priced."""
    events: int
    """How many events were folded."""
    events_digest: str
    """SHA-256 of them in canonical order, in hex (`events_digest`)."""

    def to_dict(self) -> dict[str, Any]:
        """The record as a canonical document: what may pass 2^53 is decimal text."""
        found = {name: getattr(self, name) for name in FIELDS}
        return {**found, "quantity": str(self.quantity), "measured_ns": str(self.measured_ns)}

    def to_json(self) -> str:
        """The canonical JSON of `to_dict`, written out: it is made for each record of each request."""
        if max(self.ask_bp, self.events, self.hold_step, self.rows) > EXACT_MAX:
            return canonical(self.to_dict()).decode()  # which says what is wrong with it
        return (
            f'{{"ask_bp":{self.ask_bp},"device_class":{quoted(self.device_class)},"events":{self.events},'
            f'"events_digest":{quoted(self.events_digest)},"hold_step":{self.hold_step},'
            f'"measured_ns":"{self.measured_ns}","model":{quoted(self.model)},"owner":{quoted(self.owner)},'
            f'"quantity":"{self.quantity}","resource":{quoted(self.resource)},"rows":{self.rows},'
            f'"source":{quoted(self.source)},"usage_id":{quoted(self.usage_id)},"worker":{quoted(self.worker)}}}'
        )

    @classmethod
    def from_dict(cls, raw: Any) -> UsageRecord:
        """The record that `to_dict` wrote. Raises InvalidRequest for anything else."""
        found = dict(read_object("the usage record", raw, cls.__dataclass_fields__))
        for name, value in found.items():
            read: Callable[[str, Any], Any] = _READERS.get(name, read_text)
            found[name] = read(f"{name} of the usage record", value)
        return cls(**found)


FIELDS = tuple(each.name for each in fields(UsageRecord))


def fold(
    request: Request, events: Iterable[UsageEvent], *, work: Work, hosts: Mapping[str, Host]
) -> tuple[UsageRecord, ...]:
    """The usage records of a request, in the order of their hold step, worker and resource.

    Expert work and bytes go to the host of each event, tokens to the host that ran the trunk. `hosts` says who each of
    them is; a host that is missing there, an event of another request, or a layer that the model does not have is an
    InvalidRequest, and an event id with two payloads a LedgerConflict.
    """
    known = UsageEvents.of(events)
    cells = np.frombuffer(known.cells, dtype="<i8").reshape(-1, 6)
    _check(request, known, cells, work)
    steps = request.hold_steps(cells[:, 0])
    groups = steps * len(known.hosts) + cells[:, 2]
    records = []
    for group in sorted(set(groups.tolist())):
        step, place = divmod(group, len(known.hosts))
        host, mine = _host(hosts, known.hosts[place]), cells[groups == group]
        summary = (len(mine), events_digest(request, host.name, mine))
        flops, carried, rows, measured_ns = _sums(mine, work)
        records += [
            _record(request, host, EXPERT, step, flops, (rows, measured_ns), summary),
            _record(request, host, BYTES, step, carried, (rows, 0), summary),
        ]
    trunk = _host(hosts, request.trunk)
    records += [_record(request, trunk, *tokens, (0, 0), (0, _NO_EVENTS)) for tokens in _tokens(request)]
    return tuple(sorted((r for r in records if r.quantity), key=lambda r: (r.hold_step, r.worker, r.resource)))


def events_digest(request: Request, host: str, cells: Cells) -> str:
    """SHA-256 of what one host did in one hold step.

    Hashed are the JSON list of request, model and host without blanks, a line feed, and for each event, in the order of
    step and layer, five little-endian integers of 8 bytes: step, layer, rows, compute_ns, wire_bytes.
    """
    head = json.dumps([request.request_id, request.model, host], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(head.encode() + b"\n" + cells[:, [0, 1, 3, 4, 5]].tobytes()).hexdigest()


def minimum_record(request: Request, host: Host, missing_wei: int) -> UsageRecord:
    """What a request costs beyond its lines, so that it reaches the book's minimum; priced at 1 wei each."""
    last = max(len(request.hold_tokens) - 1, 0)
    return _record(request, host, MINIMUM, last, missing_wei, (0, 0), (0, _NO_EVENTS))


def resource_record(
    source: str, host: Host, resource: str, quantity: int, *, period: int, model: str = "", measured_ns: int = 0
) -> UsageRecord:
    """What a deployment rented of a worker in one accounting period.

    source: the id of a deployment, or of one of its replicas. resource: "memory", "cpu", "gpu", "storage", or "bytes"
    sent outside. quantity: in base units (`books.BASE_UNITS`), as byte-seconds. period: number of the period, so that
    each is recorded once.
    """
    if resource not in (*RESOURCE_LINES, BYTES):
        raise InvalidRequest(f"{resource!r} is not what a deployment uses; {', '.join((*RESOURCE_LINES, BYTES))} are")
    for name, value in (("quantity", quantity), ("period", period), ("measured_ns", measured_ns)):
        read_count(f"{name} of {source}", value)
    request = Request(request_id=source, model=model, trunk=host.name, tokens_in=0, tokens_out=0)
    return _record(request, host, resource, period, quantity, (0, measured_ns), (0, _NO_EVENTS))


def _sums(cells: Cells, work: Work) -> tuple[int, int, int, int]:
    """FLOP, bytes that are priced, rows and measured nanoseconds of some events."""
    rows, ns, carried = cells[:, 3], cells[:, 4], cells[:, 5]
    if max(int(rows.max()) * work.row_bytes_max, int(ns.max()), int(carried.max())) * len(cells) > _EXACT_MAX:
        rows, ns, carried = (column.astype(object) for column in (rows, ns, carried))  # Python's own integers
    if rows.dtype != object and int(rows.sum()) <= EXACT_MAX:  # sums of floats are whole numbers as well up to there
        by_layer = [int(count) for count in np.bincount(cells[:, 1], rows, len(work.layers))]
    else:
        by_layer = [int(rows[cells[:, 1] == layer].sum()) for layer in range(len(work.layers))]
    flops = sum(count * layer.flops_per_row for count, layer in zip(by_layer, work.layers, strict=True))
    # A bound per event, so that the bytes of one event do not make room for those of another.
    priced = np.minimum(carried, rows * work.row_bytes_max)
    return flops, int(priced.sum()), sum(by_layer), int(ns.sum())


def _tokens(request: Request) -> Iterable[tuple[str, int, int]]:
    """(resource, hold step, tokens) of the request."""
    yield TOKENS_IN, 0, request.tokens_in
    start = 0
    ends: Sequence[int] = request.hold_tokens or (request.tokens_out,)
    for step, end in enumerate(ends):
        # What came beyond the last hold, if anything, belongs to the last step, as the events there do.
        stop = request.tokens_out if step == len(ends) - 1 else min(end, request.tokens_out)
        yield TOKENS_OUT, step, max(stop - start, 0)
        start = max(start, stop)


def _record(
    request: Request,
    host: Host,
    resource: str,
    hold_step: int,
    quantity: int,
    measured: tuple[int, int],
    summary: tuple[int, str],
) -> UsageRecord:
    return UsageRecord(
        usage_id=UsageId(derived_id("u", request.request_id, host.name, resource, hold_step)),
        source=request.request_id,
        model=request.model,
        worker=host.name,
        owner=host.owner,
        resource=resource,
        device_class=host.device_class,
        ask_bp=host.ask_bp,
        hold_step=hold_step,
        quantity=quantity,
        rows=measured[0],
        measured_ns=measured[1],
        events=summary[0],
        events_digest=summary[1],
    )


def _host(hosts: Mapping[str, Host], name: str) -> Host:
    try:
        return hosts[name]
    except KeyError as error:
        raise InvalidRequest(f"nobody knows who owns host {name}, which worked; announce it and fold again") from error


def _check(request: Request, events: UsageEvents, cells: Cells, work: Work) -> None:
    """Raise InvalidRequest for events of another request or of layers that the model does not have."""
    if events and events.request_id != request.request_id:
        raise InvalidRequest(f"usage events of request {events.request_id} are not of request {request.request_id}")
    if len(cells) and int(cells[:, 1].max()) >= len(work.layers):
        layer = int(cells[:, 1].max())
        raise InvalidRequest(
            f"usage events of request {request.request_id} are of layer {layer}: "
            f"{work.model} has {len(work.layers)} layers of experts"
        )
