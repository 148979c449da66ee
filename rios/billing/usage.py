"""Usage records: the events of one request, folded to one record for each worker, priced thing and hold step.

What is priced is counted by the trunk and the client: rows of experts, tokens, bytes up to a bound per row. What hosts
measured stands beside it and changes no price. Folding is a pure function of the set of events: their order does not
matter, and an event that comes twice counts once.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rios.billing.books import BYTES, EXPERT, MINIMUM, RESOURCE_LINES, TOKENS_IN, TOKENS_OUT
from rios.billing.pricing import Host
from rios.words.errors import InvalidRequest, LedgerConflict
from rios.words.events import UsageEvent
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
_NO_EVENTS = hashlib.sha256(b"[]").hexdigest()


@dataclass(frozen=True, slots=True)
class LayerWork:
    """One mixture-of-experts layer, as far as it costs something."""

    top_k: int
    flops_per_row: int


@dataclass(frozen=True, slots=True)
class Work:
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

    def hold_step(self, position: int) -> int:
        """The hold step in which the first `position` positions had been read.

        New token n is chosen when tokens_in + n - 1 positions have been read, so a step that covers b new tokens ends
        there.
        """
        ends = [self.tokens_in - 1 + covered for covered in self.hold_tokens]
        return min(bisect_left(ends, position), max(len(ends) - 1, 0))


@dataclass(slots=True)
class _Group:
    """The events of one host in one hold step, added up as they come."""

    events: list[UsageEvent] = field(default_factory=list)
    flops: int = 0
    carried: int = 0
    rows: int = 0
    measured_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
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
    """SHA-256 of them in canonical order, in hex."""

    def to_dict(self) -> dict[str, Any]:
        """The record as a canonical document: what may pass 2^53 is decimal text."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**found, "quantity": str(self.quantity), "measured_ns": str(self.measured_ns)}

    @classmethod
    def from_dict(cls, raw: Any) -> UsageRecord:
        """The record that `to_dict` wrote. Raises InvalidRequest for anything else."""
        found = dict(read_object("the usage record", raw, cls.__dataclass_fields__))
        for name, value in found.items():
            read: Callable[[str, Any], Any] = _READERS.get(name, read_text)
            found[name] = read(f"{name} of the usage record", value)
        return cls(**found)


def fold(
    request: Request, events: Iterable[UsageEvent], *, work: Work, hosts: Mapping[str, Host]
) -> tuple[UsageRecord, ...]:
    """The usage records of a request, in the order of their hold step, worker and resource.

    Expert work and bytes go to the host of each event, tokens to the host that ran the trunk. `hosts` says who each of
    them is; a host that is missing there, an event of another request, or a layer that the model does not have is an
    InvalidRequest, and an event id with two payloads a LedgerConflict.
    """
    groups: dict[tuple[int, str], _Group] = {}
    request_id, row_bytes_max = request.request_id, work.row_bytes_max
    flops_per_row = [layer.flops_per_row for layer in work.layers]
    steps: dict[int, int] = {}
    # One loop, because every request pays for it: a request has an event for each step, layer and host.
    for event in _distinct(events):
        position, layer, rows, carried = event.step, event.layer, event.rows, event.wire_bytes
        if not (
            type(position) is type(layer) is type(rows) is type(carried) is type(event.compute_ns) is int
            and min(position, layer, rows, carried, event.compute_ns) >= 0
            and layer < len(flops_per_row)
            and event.request_id == request_id
        ):
            raise _refused(event, request, work)
        step = steps.get(position)
        if step is None:
            step = steps[position] = request.hold_step(position)
        group = groups.get((step, event.host))
        if group is None:
            group = groups[step, event.host] = _Group()
        group.events.append(event)
        group.flops += rows * flops_per_row[layer]
        # A bound per event, so that the bytes of one event do not make room for those of another.
        group.carried += min(carried, rows * row_bytes_max)
        group.rows += rows
        group.measured_ns += event.compute_ns
    records = []
    for (step, name), group in groups.items():
        host = _host(hosts, name)
        summary = (len(group.events), _events_digest(group.events))
        records += [
            _record(request, host, EXPERT, step, group.flops, (group.rows, group.measured_ns), summary),
            _record(request, host, BYTES, step, group.carried, (group.rows, 0), summary),
        ]
    trunk = _host(hosts, request.trunk)
    records += [_record(request, trunk, *tokens, (0, 0), (0, _NO_EVENTS)) for tokens in _tokens(request)]
    return tuple(sorted((r for r in records if r.quantity), key=lambda r: (r.hold_step, r.worker, r.resource)))


def minimum_record(request: Request, host: Host, missing_wei: int) -> UsageRecord:
    """What a request costs beyond its lines, so that it reaches the book's minimum; priced at 1 wei each."""
    last = max(len(request.hold_tokens) - 1, 0)
    return _record(request, host, MINIMUM, last, missing_wei, (0, 0), (0, _NO_EVENTS))


def resource_record(
    source: str, host: Host, resource: str, quantity: int, *, period: int, model: str = "", measured_ns: int = 0
) -> UsageRecord:
    """What a deployment rented of a worker in one accounting period.

    source: the deployment's id. resource: "memory", "cpu", "gpu" or "storage". quantity: in base units
    (`books.BASE_UNITS`), as byte-seconds. period: number of the period, so that each is recorded once.
    """
    if resource not in RESOURCE_LINES:
        raise InvalidRequest(f"{resource!r} is not rented by time; {', '.join(RESOURCE_LINES)} are")
    for name, value in (("quantity", quantity), ("period", period), ("measured_ns", measured_ns)):
        read_count(f"{name} of {source}", value)
    request = Request(request_id=source, model=model, trunk=host.name, tokens_in=0, tokens_out=0)
    return _record(request, host, resource, period, quantity, (0, measured_ns), (0, _NO_EVENTS))


def events_digest(events: Iterable[UsageEvent]) -> str:
    """SHA-256 of the canonical serialisation of `events`, each counted once: JSON rows of their fields, sorted.

    Raises LedgerConflict where one id has two payloads.
    """
    return _events_digest(list(_distinct(events)))


def _events_digest(events: list[UsageEvent]) -> str:
    rows = sorted(
        (e.step, e.layer, e.host, e.event_id, e.request_id, e.model, e.rows, e.compute_ns, e.wire_bytes) for e in events
    )
    return hashlib.sha256(json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def _distinct(events: Iterable[UsageEvent]) -> Iterable[UsageEvent]:
    known: dict[str, UsageEvent] = {}
    for event in events:
        earlier = known.setdefault(event.event_id, event)
        if earlier is not event and earlier != event:
            raise LedgerConflict(f"usage event {event.event_id} came twice with different contents: {earlier}, {event}")
    return known.values()


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


def _refused(event: UsageEvent, request: Request, work: Work) -> InvalidRequest:
    """What is wrong with an event that cannot be folded."""
    if event.request_id != request.request_id:
        return InvalidRequest(f"usage event {event.event_id} is not of request {request.request_id}")
    counts = (event.step, event.layer, event.rows, event.compute_ns, event.wire_bytes)
    try:
        for name, count in zip(("step", "layer", "rows", "compute_ns", "wire_bytes"), counts, strict=True):
            read_count(f"{name} of usage event {event.event_id}", count)
    except InvalidRequest as error:
        return error
    return InvalidRequest(f"usage event {event.event_id}: {work.model} has {len(work.layers)} layers of experts")
