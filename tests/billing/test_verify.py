"""An export proves a payout to a stranger, and no field of it can be changed without being noticed."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.merkle import MerkleTree
from rios.billing.pricing import DEFAULT_BOOK, Host, Terms
from rios.billing.rating import Charge, rate_request
from rios.billing.usage import Request
from rios.billing.verify import (
    GENESIS,
    Entry,
    Export,
    Link,
    Point,
    PostedRoot,
    Rated,
    concerns,
    earned_account,
    earning_payload,
    entry_digest,
    entry_hash,
    owed_account,
    verified,
    verify,
)
from rios.words.canonical import canonical
from rios.words.errors import InvalidRequest, PriceBookError
from rios.words.ids import Address, check_address
from rios.words.money import Wei
from tests.billing import make

SETTLEMENT = check_address("0x" + "5e" * 20)
MINE, OTHERS = make.OWNERS[0], make.OWNERS[1]
HOSTS = {"a": Host("a", MINE, "cpu"), "b": Host("b", OTHERS, "cuda", 12_000)}
# Lists of an export whose order says nothing.
UNORDERED = {("books",), ("terms",), ("charges",)}
# A second book, so that an export carries more than one.
DEARER = make.book(version=1, effective_from_s=5, minimum_wei=Wei(10**13), platform_bp=1_500)


@dataclass
class Chain:
    """A chain as the settlement contract would show it."""

    chain_id: int = 31337
    settlement: str = SETTLEMENT
    roots: dict[int, PostedRoot] = field(default_factory=dict)
    paid: dict[Address, int] = field(default_factory=dict)

    def root_of(self, epoch: int) -> PostedRoot | None:
        return self.roots.get(epoch)

    def claimed(self, account: Address) -> int:
        return self.paid.get(account, 0)


class World:
    """A ledger in memory, as plain as its rules: entries, a hash over them, earnings, epochs."""

    def __init__(self) -> None:
        self.chain = Chain()
        self.entries: list[Entry] = []
        self.times: list[int] = []
        self.heads = [GENESIS]
        self.earned: dict[Address, int] = {}
        self.charges: list[tuple[int, Charge, Terms]] = []
        self.points: dict[int, tuple[int, MerkleTree]] = {}

    def post(self, debit: str, credit: str, amount: int, kind: str, reference: str = "", payload: str = "") -> None:
        seq = len(self.entries) + 1
        entry = Entry(seq, f"{kind}-{seq}", debit, credit, Wei(amount), kind, reference, payload)
        self.entries.append(entry)
        self.times.append(1_790_000_000_000_000 + 7 * seq)
        self.heads.append(entry_hash(self.heads[-1], seq, self.times[-1], entry_digest(entry)))
        for account, sign in ((debit, -1), (credit, 1)):
            if account.endswith(":earned") and credit != "chain:settlement":
                owner = Address(account.split(":")[1])
                self.earned[owner] = self.earned.get(owner, 0) + sign * amount

    def generate(self, number: int, terms: Terms) -> None:
        """One request, from its deposit to its postings."""
        request = Request(request_id=f"r{number}", model="demo", trunk="ab"[number % 2], tokens_in=5, tokens_out=2)
        events = [make.event(request.request_id, s, la, h, 3) for s in (5, 6) for la in range(4) for h in "ab"]
        self.post("chain:escrow", "user:local:available", 10**18, "deposit")
        for charge in rate_request(request, events, work=make.DEMO, hosts=HOSTS, terms=terms):
            record = charge.record
            payload = canonical(earning_payload(record, terms)).decode()
            # Part of what is earned repays a refund of earlier earnings.
            repaid = charge.worker_wei // 4 if number == 3 else 0
            parts = ((owed_account(record.owner), repaid), (earned_account(record.owner), charge.worker_wei - repaid))
            for account, amount in parts:
                if amount:
                    self.post("user:local:held", account, amount, "usage", record.usage_id, payload)
            self.post("user:local:held", "platform:revenue", charge.platform_wei, "usage", record.usage_id)
            self.charges.append((len(self.entries), charge, terms))

    def close(self, epoch: int, *, final: bool = True) -> None:
        """End an epoch: the tree of what was earned so far, posted."""
        tree = MerkleTree.of({owner: Wei(wei) for owner, wei in self.earned.items()}, keccak=keccak)
        self.points[epoch] = (len(self.entries), tree)
        self.chain.roots[epoch] = PostedRoot(tree.root, tree.total_wei, self.heads[-1], final)

    def point(self, epoch: int) -> Point:
        seq, tree = self.points[epoch]
        return Point(epoch, tree.root, tree.total_wei, self.heads[seq], tree.amounts[MINE], tree.proof(MINE))

    def export(self, *, opening: int | None, closing: int) -> Export:
        first = 0 if opening is None else self.points[opening][0]
        last = self.points[closing][0]
        mine = [(c, t) for seq, c, t in self.charges if first < seq <= last and c.record.owner == MINE]
        terms = {t.book.digest: t for _, t in mine}
        return Export(
            chain_id=self.chain.chain_id,
            settlement=SETTLEMENT,
            account=MINE,
            opening=None if opening is None else self.point(opening),
            closing=self.point(closing),
            books=tuple(t.book for t in terms.values()),
            terms=tuple(terms.values()),
            charges=tuple(Rated.of(c, t) for c, t in mine),
            entries=tuple(e for e in self.entries[first:last] if concerns(e, MINE)),
            first_seq=first + 1,
            ledger=tuple(zip(self.times[first:last], map(entry_digest, self.entries[first:last]), strict=True)),
        )


@pytest.fixture(scope="module")
def world() -> World:
    """Two epochs: earnings under two books, a claim, a refund before the epoch ended and one after it."""
    world = World()
    cheap, dear = Terms.of(DEFAULT_BOOK, discount="research"), Terms.of(DEARER, HOSTS.values(), before={"bytes": 7})
    world.generate(0, cheap)
    world.generate(1, dear)
    world.close(1)
    world.post(earned_account(MINE), "chain:settlement", world.earned[MINE], "claim")
    world.post(owed_account(MINE), "user:local:available", 1000, "refund")
    world.generate(2, cheap)
    world.post(earned_account(MINE), "user:local:available", 500, "refund")
    world.generate(3, dear)
    world.post(earned_account(MINE), owed_account(MINE), 9, "repayment")
    world.close(2)
    world.chain.paid = dict(world.earned)
    return world


@pytest.fixture(params=[None, 1], ids=["from the beginning", "from epoch 1"])
def export(world: World, request: pytest.FixtureRequest) -> Export:
    return world.export(opening=request.param, closing=2)


def _states(links: list[Link]) -> dict[str, str]:
    return {link.name: link.state for link in links}


def test_every_link_holds(world: World, export: Export) -> None:
    links = verify(export.to_json(), chain_view=world.chain)
    assert [link.name for link in links] == [
        "document", "usage", "price", "posting", "ledger", "earnings", "leaf", "root", "payout"
    ]  # fmt: skip
    assert {link.state for link in links} == {"ok"}, links
    assert verified(links)
    assert Export.from_dict(json.loads(export.to_json())) == export
    assert verify(json.loads(export.to_json()), chain_view=world.chain) == links


def test_what_is_not_there_yet_is_pending(world: World, export: Export) -> None:
    posted = world.chain.roots[2]
    for chain, pending in (
        (dataclasses.replace(world.chain, paid={}), {"payout"}),
        (dataclasses.replace(world.chain, paid={MINE: export.closing.cumulative_wei - 1}), {"payout"}),
        (
            dataclasses.replace(world.chain, roots={**world.chain.roots, 2: dataclasses.replace(posted, final=False)}),
            {"root"},
        ),
    ):
        links = verify(export.to_dict(), chain_view=chain, keccak=keccak)
        assert {name for name, state in _states(links).items() if state == "pending"} == pending
        assert verified(links)


def test_another_chain_or_contract_is_found(world: World, export: Export) -> None:
    posted = world.chain.roots[2]
    changed = [
        {"chain_id": 1},
        {"settlement": make.OWNERS[3]},
        {"roots": {1: world.chain.roots[1]}},
        *(
            {"roots": {**world.chain.roots, 2: dataclasses.replace(posted, **change)}}
            for change in ({"root": bytes(32)}, {"total_wei": posted.total_wei + 1}, {"ledger_hash": bytes(32)})
        ),
    ]
    for change in changed:
        links = verify(export.to_dict(), chain_view=dataclasses.replace(world.chain, **change), keccak=keccak)
        assert _states(links)["root"] == "failed"
        assert not verified(links)


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place of a document and what is there, containers included."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _leaves(child, (*path, key))


def _changed(value: Any) -> list[Any]:
    """Other values of a like kind, which a reader may well take."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(value - 1, 0) if value else 2]
    if isinstance(value, str):
        if value.isdigit():
            return [str(int(value) + 1), "0" if value != "0" else "7"]
        if not value:
            return ["x"]
        last = value[-1]
        return [value[:-1] + ("1" if last != "1" else "2"), value + "x", ""]
    if isinstance(value, list):
        shorter = [value[:place] + value[place + 1 :] for place in range(len(value))]
        turned = [value[::-1]] if value != value[::-1] else []
        return [*shorter, *turned, [*value, value[-1] if value else "x"]]
    if value is None:
        return ["x", 1]
    return [{key: child for key, child in value.items() if key != gone} for gone in list(value)[:1]] + [None]


def test_every_changed_field_is_noticed(world: World, export: Export) -> None:
    """Exhaustive: each value of the document is replaced, shortened, lengthened or left out."""
    document = json.loads(export.to_json())
    unnoticed, tried = [], 0
    for path, value in _leaves(document):
        if not path:
            continue
        for other in _changed(value):
            if path in UNORDERED and sorted(map(json.dumps, other)) == sorted(map(json.dumps, value)):
                continue
            here = tampered = copy.copy(document)
            for key in path[:-1]:
                here[key] = copy.copy(here[key])
                here = here[key]
            here[path[-1]] = other
            tried += 1
            if verified(verify(tampered, chain_view=world.chain, keccak=keccak)):
                unnoticed.append((path, value, other))
    assert tried > 1000
    assert not unnoticed, unnoticed[:5]


def test_a_consistent_lie_is_noticed(world: World, export: Export) -> None:
    """Records, amounts, entries and digests changed together still do not lead to the hash in the contract."""
    first = export.charges[0]
    record = dataclasses.replace(first.record, measured_ns=1)
    terms = {t.book.digest: t for t in export.terms}[next(t.book.digest for t in export.terms)]
    entry = next(e for e in export.entries if e.reference == record.usage_id)
    forged = dataclasses.replace(entry, payload=canonical(earning_payload(record, terms)).decode())
    place = forged.seq - export.first_seq
    ledger = list(export.ledger)
    ledger[place] = (ledger[place][0], entry_digest(forged))
    lie = dataclasses.replace(
        export,
        charges=(dataclasses.replace(first, record=record), *export.charges[1:]),
        entries=tuple(forged if e is entry else e for e in export.entries),
        ledger=tuple(ledger),
    )
    states = _states(verify(lie.to_dict(), chain_view=world.chain, keccak=keccak))
    assert {name for name, state in states.items() if state == "failed"} == {"ledger"}


def test_a_record_of_somebody_else_and_a_posting_without_record_are_noticed(world: World, export: Export) -> None:
    theirs = next(Rated.of(c, t) for _, c, t in world.charges if c.record.owner == OTHERS)
    for charges, failing in (((*export.charges, theirs), {"usage", "posting"}), (export.charges[1:], {"posting"})):
        states = _states(verify(dataclasses.replace(export, charges=charges).to_dict(), chain_view=world.chain))
        assert failing <= {name for name, state in states.items() if state == "failed"}


def test_an_opening_after_the_closing_proves_nothing(world: World) -> None:
    backwards = dataclasses.replace(world.export(opening=1, closing=2), opening=world.point(2), closing=world.point(1))
    states = _states(verify(backwards.to_dict(), chain_view=world.chain, keccak=keccak))
    assert states["leaf"] == "failed"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.one_of(JUNK, st.text(), st.binary()), st.data())
def test_junk_is_an_answer_and_no_crash(junk: Any, data: st.DataObject) -> None:
    world = World()
    world.generate(0, Terms.of(DEFAULT_BOOK))
    world.close(1)
    document = world.export(opening=None, closing=1).to_dict()
    places = [path for path, _ in _leaves(document) if path]
    path = data.draw(st.sampled_from(places))
    here = document
    for key in path[:-1]:
        here = here[key]
    unchanged = here[path[-1]] == junk and type(here[path[-1]]) is type(junk)
    here[path[-1]] = junk
    assert verified(verify(document, chain_view=world.chain, keccak=keccak)) is unchanged
    assert [link.state for link in verify(junk, chain_view=world.chain)] == ["failed"]


@pytest.mark.parametrize("text", ["", "null", "[" * 100_000, b"\xff\xfe", '{"format":"rios-billing-export/2"}'])
def test_what_is_no_export_is_said_to_be_none(text: str | bytes) -> None:
    (link,) = verify(text, chain_view=Chain())
    assert (link.name, link.state) == ("document", "failed")


def test_another_format_is_refused_by_name(world: World) -> None:
    document = world.export(opening=None, closing=1).to_dict()
    with pytest.raises(InvalidRequest, match="rios-billing-export/1"):
        Export.from_dict({**document, "format": "rios-billing-export/2"})
    with pytest.raises(PriceBookError, match="which is not there"):
        Export.from_dict({**document, "books": []})
    with pytest.raises(InvalidRequest, match=r"entries\[0\]\.kind is of more than one line"):
        Export.from_dict({**document, "entries": [{**document["entries"][0], "kind": "a\nb"}]})
