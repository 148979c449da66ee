"""Checking a payout from a file and the chain alone, with no trust in the ledger that wrote the file.

usage record -> price -> posting -> ledger hash -> leaf -> root -> contract -> payout. The file holds all that one
account earned between two epochs: records, the terms and books they were rated by, the ledger's entries that credit or
debit the account, and the hashes of all other entries in between, which say nothing about them but fix their order.
The contract holds the root of earnings and the ledger's hash of each epoch, so whoever changes one field of the file
contradicts it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rios.billing.books import PriceBook
from rios.billing.merkle import verify_proof
from rios.billing.pricing import Terms
from rios.billing.rating import Charge, rate
from rios.billing.usage import UsageRecord
from rios.words.canonical import canonical, digest
from rios.words.display import Shown
from rios.words.errors import InvalidRequest, RiosError
from rios.words.ids import Address, UsageId, check_address, derived_id
from rios.words.keccak import Hash, keccak256
from rios.words.money import Wei, check_wei, format_ros
from rios.words.reading import read_bytes32, read_count, read_decimal, read_list, read_mapping, read_object, read_text

FORMAT = "rios-billing-export/1"
GENESIS = bytes(32)
"""The ledger's hash before its first entry."""
PAID_OUT = "chain:settlement"
"""The account that receives what a worker claims: no loss of earnings."""
OK, PENDING, FAILED = "ok", "pending", "failed"


def entry_digest(entry: Entry) -> bytes:
    """What the ledger hashes of an entry's contents: SHA-256 of its texts, a line each."""
    texts = (entry.id, entry.debit, entry.credit, str(entry.amount_wei), entry.kind, entry.reference, entry.payload)
    return hashlib.sha256("\n".join(texts).encode()).digest()


def entry_hash(head: bytes, seq: int, at: int, contents: bytes) -> bytes:
    """The ledger's hash after an entry: SHA-256 of the hash before it, its number and time, and its digest."""
    return hashlib.sha256(head + seq.to_bytes(8, "big") + at.to_bytes(8, "big", signed=True) + contents).digest()


def earning_payload(record: UsageRecord, terms: Terms) -> dict[str, Any]:
    """What an entry that credits earnings has to carry, so that the ledger's hash fixes record and terms as well."""
    return {"record": digest(record.to_dict()), "terms": digest(terms.to_dict())}


def earned_account(owner: str) -> str:
    """The ledger account that collects what `owner`'s workers earn."""
    return f"worker:{owner}:earned"


def owed_account(owner: str) -> str:
    """The ledger account that earnings repay first, after a refund of what was claimed already."""
    return f"worker:{owner}:owed"


@dataclass(frozen=True, slots=True)
class PostedRoot:
    """What the settlement contract holds of an epoch."""

    root: bytes
    total_wei: int
    ledger_hash: bytes
    final: bool
    """Whether its challenge window is over."""


class ChainView(Protocol):
    """What is asked of the chain. The caller reads it from a node that it trusts."""

    @property
    def chain_id(self) -> int:
        """Of the node."""

    @property
    def settlement(self) -> str:
        """Address of the settlement contract that was asked."""

    def root_of(self, epoch: int) -> PostedRoot | None:
        """The root posted for `epoch`, or None where none stands."""

    def claimed(self, account: Address) -> int:
        """Wei paid to `account` so far."""


@dataclass(frozen=True, slots=True)
class Link(Shown):
    """One link of the chain from use to payout."""

    name: str
    state: str
    """ok, failed, or pending: nothing is wrong, but a root can be challenged, or a payout was not claimed yet."""
    reason: str


@dataclass(frozen=True, slots=True)
class Point(Shown):
    """What the settlement contract was told at the end of an epoch, and the account's leaf in it."""

    epoch: int
    root: bytes
    total_wei: Wei
    ledger_hash: bytes
    cumulative_wei: Wei
    proof: tuple[bytes, ...]

    def to_dict(self) -> dict[str, Any]:
        """The point as a document."""
        return {
            "epoch": self.epoch,
            "root": self.root.hex(),
            "total_wei": str(self.total_wei),
            "ledger_hash": self.ledger_hash.hex(),
            "cumulative_wei": str(self.cumulative_wei),
            "proof": [sibling.hex() for sibling in self.proof],
        }


@dataclass(frozen=True, slots=True)
class Rated(Shown):
    """A usage record, the digest of the terms it was rated by, and what came out."""

    record: UsageRecord
    terms: str
    line: str
    amount_wei: Wei
    worker_wei: Wei
    platform_wei: Wei

    @classmethod
    def of(cls, charge: Charge, terms: Terms) -> Rated:
        """What an export says of a charge."""
        shares = charge.amount_wei, charge.worker_wei, charge.platform_wei
        return cls(charge.record, digest(terms.to_dict()), charge.line, *shares)

    def to_dict(self) -> dict[str, Any]:
        """The charge as a document."""
        return {
            "record": self.record.to_dict(),
            "terms": self.terms,
            "line": self.line,
            "amount_wei": str(self.amount_wei),
            "worker_wei": str(self.worker_wei),
            "platform_wei": str(self.platform_wei),
        }


@dataclass(frozen=True, slots=True)
class Entry(Shown):
    """An entry of the ledger with the texts that it hashes; which of them an export has, `concerns` says."""

    seq: int
    id: str
    debit: str
    """The account that the money leaves."""
    credit: str
    """The account that it reaches."""
    amount_wei: Wei
    kind: str
    reference: str
    """For earnings the id of the usage record."""
    payload: str
    """Canonical JSON, or empty. For earnings it has at least what `earning_payload` gives."""

    def to_dict(self) -> dict[str, Any]:
        """The entry as a document."""
        found = {name: getattr(self, name) for name in Entry.__dataclass_fields__}
        return {**found, "amount_wei": str(self.amount_wei)}


def less(off: Mapping[str, int]) -> str:
    """What discounts took off, by their names, for people; "" where none did."""
    return "".join(f", {format_ros(wei)} less by discount {name}" for name, wei in sorted(off.items()))


def concerns(entry: Entry, account: str) -> bool:
    """Whether an entry belongs into the account's export: one that changes its earnings, or has them repay a refund.

    Claims change no earnings and are seen on the chain; what a refund takes from the owed account is repaid later.
    """
    earned, owed = earned_account(account), owed_account(account)
    if earned in (entry.debit, entry.credit):
        return entry.debit != entry.credit and entry.credit != PAID_OUT
    return entry.credit == owed != entry.debit


@dataclass(frozen=True, slots=True, kw_only=True)
class Export(Shown):
    """All that shows one account's earnings from `opening` (None: the beginning) to `closing`."""

    chain_id: int
    settlement: Address
    account: Address
    opening: Point | None
    closing: Point
    books: tuple[PriceBook, ...]
    terms: tuple[Terms, ...]
    charges: tuple[Rated, ...]
    entries: tuple[Entry, ...]
    first_seq: int
    """The number of the first entry after the opening; the ledger numbers its entries from 1 without gaps."""
    ledger: tuple[tuple[int, bytes], ...]
    """Time (microseconds since 1970) and digest of every entry of the ledger from there to the closing."""

    def to_dict(self) -> dict[str, Any]:
        """The document, of text, ints, lists and mappings alone."""
        return {
            "format": FORMAT,
            "chain_id": self.chain_id,
            "settlement": self.settlement,
            "account": self.account,
            "opening": None if self.opening is None else self.opening.to_dict(),
            "closing": self.closing.to_dict(),
            "books": [book.to_dict() for book in self.books],
            "terms": [terms.to_dict() for terms in self.terms],
            "charges": [charge.to_dict() for charge in self.charges],
            "entries": [entry.to_dict() for entry in self.entries],
            "first_seq": self.first_seq,
            "ledger": [[at, contents.hex()] for at, contents in self.ledger],
        }

    def __repr__(self) -> str:
        return f"<Export of epoch {self.closing.epoch} for {self.account}, {len(self.charges)} usage records>"

    def to_json(self) -> str:
        """Canonical JSON: what `net.billing.export()` writes."""
        return canonical(self.to_dict()).decode()

    @classmethod
    def from_dict(cls, raw: Any) -> Export:
        """The export that `to_dict` wrote. Raises InvalidRequest or PriceBookError for anything else."""
        found = read_object("the export", raw, set(cls.__dataclass_fields__) | {"format"})
        if found["format"] != FORMAT:
            raise InvalidRequest(f"format is {found['format']!r}; this version of rios reads {FORMAT!r}")
        books = tuple(PriceBook.from_dict(item) for _, item in read_list("books", found["books"]))
        by_digest = {book.digest: book for book in books}
        terms = tuple(Terms.from_dict(item, by_digest) for _, item in read_list("terms", found["terms"]))
        return cls(
            chain_id=read_count("chain_id", found["chain_id"]),
            settlement=check_address(found["settlement"], name="settlement"),
            account=check_address(found["account"], name="account"),
            opening=None if found["opening"] is None else _point("opening", found["opening"]),
            closing=_point("closing", found["closing"]),
            books=books,
            terms=terms,
            charges=tuple(_rated(*item) for item in read_list("charges", found["charges"])),
            entries=tuple(_entry(*item) for item in read_list("entries", found["entries"])),
            first_seq=read_count("first_seq", found["first_seq"]),
            ledger=tuple(_moment(*item) for item in read_list("ledger", found["ledger"])),
        )


def verify(document: str | bytes | Mapping[str, Any], *, chain_view: ChainView, keccak: Hash = keccak256) -> list[Link]:
    """Check an export, link by link, against the chain. Each link says what was checked or what is wrong.

    A link that fails leaves the others checked; only a document that cannot be read ends it.
    """
    try:
        raw = json.loads(document) if isinstance(document, str | bytes) else document
        export = Export.from_dict(raw)
    except (RiosError, ValueError, TypeError, RecursionError) as error:
        return [Link("document", FAILED, f"not an export: {error}")]
    links = [Link("document", OK, f"of {export.account}, {len(export.charges)} charges")]
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("usage", lambda: _check_usage(export)),
        ("price", lambda: _check_prices(export)),
        ("posting", lambda: _check_postings(export)),
        ("ledger", lambda: _check_ledger(export)),
        ("earnings", lambda: _check_earnings(export)),
        ("leaf", lambda: _check_leaves(export, keccak)),
    )
    for name, check in checks:
        try:
            links.append(Link(name, OK, check()))
        except (_Broken, RiosError, ValueError, TypeError, OverflowError) as error:
            links.append(Link(name, FAILED, str(error)))
    return [*links, _root_link(export, chain_view), _payout_link(export, chain_view)]


def verified(links: Iterable[Link]) -> bool:
    """Whether no link failed; a payout, and the end of a challenge window, may be pending."""
    return all(link.state != FAILED for link in links)


class _Broken(Exception):
    """A link does not hold."""


def _need(holds: bool, reason: str) -> None:
    if not holds:
        raise _Broken(reason)


def _check_usage(export: Export) -> str:
    ids = [charge.record.usage_id for charge in export.charges]
    _need(len(set(ids)) == len(ids), "a usage record is there twice")
    for record in (charge.record for charge in export.charges):
        own = derived_id("u", record.source, record.worker, record.resource, record.hold_step)
        _need(record.usage_id == own, f"{record.usage_id} is not the id of its source, worker, resource and hold step")
        _need(record.owner == export.account, f"{record.usage_id} is of {record.owner}, not of {export.account}")
    return f"{len(ids)} usage records, each of its own"


def _check_prices(export: Export) -> str:
    known = {digest(terms.to_dict()): terms for terms in export.terms}
    _need(len(known) == len(export.terms), "the terms of a hold are there twice")
    used = {charge.terms for charge in export.charges}
    _need(used == known.keys(), "the terms of the charges are not those of the export")
    books = {book.digest for book in export.books}
    _need(len(books) == len(export.books), "a price book is there twice")
    _need({terms.book.digest for terms in export.terms} == books, "a price book is there that no charge was rated by")
    off: dict[str, int] = {}
    for rated in export.charges:
        charge = rate(rated.record, known[rated.terms])
        again = Rated.of(charge, known[rated.terms])
        if charge.discount is not None:
            off[charge.discount] = off.get(charge.discount, 0) + charge.discount_wei
        _need(
            again == rated, f"{rated.record.usage_id} costs {again.amount_wei} wei by its terms, not {rated.amount_wei}"
        )
    return f"rated again by {len(books)} price book{'s' * (len(books) != 1)}, equal to the wei{less(off)}"


def _check_postings(export: Export) -> str:
    earned, owed = earned_account(export.account), owed_account(export.account)
    charges = {charge.record.usage_id: charge for charge in export.charges}
    posted = dict.fromkeys(charges, 0)
    ids = [entry.id for entry in export.entries]
    _need(len(set(ids)) == len(ids), "an entry of the ledger is there twice")
    for entry in export.entries:
        _need(concerns(entry, export.account), f"entry {entry.id} changes no earnings of {export.account}")
        if entry.credit not in (earned, owed) or entry.debit in (earned, owed):
            continue
        charge = charges.get(UsageId(entry.reference))
        if charge is None:
            raise _Broken(f"entry {entry.id} credits earnings for a usage record that is not there")
        payload = read_mapping(f"the payload of entry {entry.id}", json.loads(entry.payload or "null"))
        _need(payload.get("record") == digest(charge.record.to_dict()), f"entry {entry.id} is of another record")
        _need(payload.get("terms") == charge.terms, f"entry {entry.id} is by other terms")
        posted[charge.record.usage_id] += entry.amount_wei
    for usage_id, amount in posted.items():
        due = charges[usage_id].worker_wei
        _need(amount == due > 0, f"{amount} wei are posted for {usage_id}, of which {due} are the worker's")
    return f"{len(ids)} entries for {len(export.charges)} charges"


def _check_ledger(export: Export) -> str:
    last = export.first_seq - 1
    for entry in export.entries:
        place = entry.seq - export.first_seq
        _need(last < entry.seq and place < len(export.ledger), f"entry {entry.id} has no place in the ledger")
        _need(entry_digest(entry) == export.ledger[place][1], f"entry {entry.id} has another digest in the ledger")
        last = entry.seq
    if export.opening is None:
        _need(export.first_seq == 1, "the export is from the beginning, and the first entry of a ledger is number 1")
    head = GENESIS if export.opening is None else export.opening.ledger_hash
    for seq, (at, contents) in enumerate(export.ledger, start=export.first_seq):
        head = entry_hash(head, seq, at, contents)
    _need(head == export.closing.ledger_hash, f"the entries lead to the hash {head.hex()}, not to the one posted")
    return f"{len(export.ledger)} entries lead to the hash {head.hex()}"


def _check_earnings(export: Export) -> str:
    total: int = export.opening.cumulative_wei if export.opening else 0
    earned = earned_account(export.account)
    for entry in export.entries:
        total += entry.amount_wei * ((entry.credit == earned) - (entry.debit == earned))
    end = export.closing.cumulative_wei
    _need(total == end, f"the entries add up to {total} wei, the leaf says {end}")
    return f"the entries add up to {format_ros(end)}"


def _check_leaves(export: Export, keccak: Hash) -> str:
    for point in _points(export):
        held = verify_proof(point.root, export.account, point.cumulative_wei, point.proof, keccak=keccak)
        _need(held, f"the leaf of epoch {point.epoch} does not lead to its root")
        _need(point.cumulative_wei <= point.total_wei, f"the leaf of epoch {point.epoch} is above its total")
    if export.opening:
        _need(export.opening.epoch < export.closing.epoch, "the opening is not before the closing")
        _need(export.opening.cumulative_wei <= export.closing.cumulative_wei, "the cumulative sum fell")
    steps = len(export.closing.proof)
    return f"leads to the root of epoch {export.closing.epoch} in {steps} hash{'es' * (steps != 1)}"


def _root_link(export: Export, chain: ChainView) -> Link:
    if chain.chain_id != export.chain_id:
        return Link("root", FAILED, f"the node serves chain {chain.chain_id}; the export is of {export.chain_id}")
    if chain.settlement.lower() != export.settlement.lower():
        return Link("root", FAILED, f"the contract asked is {chain.settlement}; the export names {export.settlement}")
    waiting = ""
    for point in _points(export):
        posted = chain.root_of(point.epoch)
        if posted is None:
            return Link(
                "root",
                FAILED,
                f"no root of epoch {point.epoch} stands in the contract; it was not posted or was challenged",
            )
        if (posted.root, posted.total_wei, posted.ledger_hash) != (point.root, point.total_wei, point.ledger_hash):
            return Link("root", FAILED, f"the contract has another root, total or ledger hash for epoch {point.epoch}")
        if not posted.final:
            waiting = f"the root of epoch {point.epoch} can still be challenged"
    if waiting:
        return Link("root", PENDING, waiting)
    where = f"{chain.settlement} on chain {export.chain_id}"
    return Link("root", OK, f"posted for epoch {export.closing.epoch} in the contract {where}")


def _payout_link(export: Export, chain: ChainView) -> Link:
    due = export.closing.cumulative_wei
    claimed = chain.claimed(export.account)
    if claimed < due:
        return Link("payout", PENDING, f"{format_ros(claimed)} of {format_ros(due)} are claimed")
    return Link("payout", OK, f"{format_ros(due)} are paid")


def _points(export: Export) -> tuple[Point, ...]:
    return (export.closing,) if export.opening is None else (export.opening, export.closing)


def _point(place: str, raw: Any) -> Point:
    found = read_object(place, raw, set(Point.__dataclass_fields__))
    return Point(
        read_count(f"{place}.epoch", found["epoch"]),
        read_bytes32(f"{place}.root", found["root"]),
        _wei(f"{place}.total_wei", found["total_wei"]),
        read_bytes32(f"{place}.ledger_hash", found["ledger_hash"]),
        _wei(f"{place}.cumulative_wei", found["cumulative_wei"]),
        tuple(read_bytes32(*item) for item in read_list(f"{place}.proof", found["proof"])),
    )


def _rated(place: str, raw: Any) -> Rated:
    found = read_object(place, raw, set(Rated.__dataclass_fields__))
    record = UsageRecord.from_dict(
        read_object(f"{place}.record", found["record"], set(UsageRecord.__dataclass_fields__))
    )
    amounts = (_wei(f"{place}.{name}", found[name]) for name in ("amount_wei", "worker_wei", "platform_wei"))
    return Rated(
        record, read_text(f"{place}.terms", found["terms"]), read_text(f"{place}.line", found["line"]), *amounts
    )


def _entry(place: str, raw: Any) -> Entry:
    found = read_object(place, raw, Entry.__dataclass_fields__)
    names = ("id", "debit", "credit", "kind", "reference", "payload")
    texts = {name: read_text(f"{place}.{name}", found[name]) for name in names}
    for name, text in texts.items():
        # The digest is over lines: a text of two could be read as another entry.
        if name != "payload" and "\n" in text:
            raise InvalidRequest(f"{place}.{name} is of more than one line")
    amount = _wei(f"{place}.amount_wei", found["amount_wei"])
    return Entry(seq=read_count(f"{place}.seq", found["seq"]), amount_wei=amount, **texts)


def _moment(place: str, raw: Any) -> tuple[int, bytes]:
    pair = read_list(place, raw)
    if len(pair) != 2:
        raise InvalidRequest(f"{place} has {len(pair)} items; it must have a time and a digest")
    at = read_count(*pair[0])
    if at >= 2**63:
        raise InvalidRequest(f"{place} is after the end of time")
    return at, read_bytes32(*pair[1])


def _wei(place: str, raw: Any) -> Wei:
    return check_wei(read_decimal(place, raw), name=place)
