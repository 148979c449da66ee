"""Transparent accounting: that all books agree to the wei, and how one use of a model became a payout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rios.billing.ledger.accounts import ESCROW, SETTLEMENT
from rios.billing.ledger.values import Epoch
from rios.billing.merkle import MerkleTree
from rios.billing.pricing import Terms
from rios.billing.rating import rate
from rios.billing.verify import (
    FAILED,
    OK,
    PENDING,
    ChainView,
    Entry,
    Export,
    Link,
    Point,
    Rated,
    concerns,
    less,
    verified,
    verify,
)
from rios.words.display import Shown, html_line, html_table, text_table
from rios.words.errors import LedgerUnavailable, NotProvable
from rios.words.ids import Address
from rios.words.keccak import Hash, keccak256
from rios.words.money import Wei, format_ros

if TYPE_CHECKING:
    from rios.billing.books import PriceBook
    from rios.billing.ledger import values
    from rios.billing.ledger.chain import ChainCursor
    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain

_RACES_MAX = 5


class Vault(ChainView, Protocol):
    """What reconciliation asks of the chain beyond roots and claims."""

    def tokens_of(self, contract: str) -> int:
        """Wei of ROS that the contract "escrow" or "settlement" has."""

    def total_claimed(self) -> int:
        """Wei that the settlement contract has paid out."""

    def latest_epoch(self) -> int:
        """The number of the last epoch whose root was posted; 0 before any."""


@dataclass(frozen=True, slots=True)
class Check(Shown):
    """One comparison of two books."""

    what: str
    here_wei: int
    there_wei: int

    @property
    def difference_wei(self) -> int:
        """0 where they agree."""
        return abs(self.here_wei - self.there_wei)


@dataclass(frozen=True, slots=True)
class Reconciliation(Shown):
    """Ledger, rebuilt root, contract and token balances, compared."""

    checks: tuple[Check, ...]
    broken: tuple[str, ...]
    """What is wrong and has no amount: a broken hash chain, a root that differs."""

    @property
    def difference_wei(self) -> int:
        """The sum of all differences; 0 where everything agrees."""
        return sum(check.difference_wei for check in self.checks)

    @property
    def sound(self) -> bool:
        """Whether everything agrees."""
        return not self.broken and self.difference_wei == 0

    def __repr__(self) -> str:
        state = (
            "sound" if self.sound else f"differs by {self.difference_wei} wei; {'; '.join(self.broken) or 'amounts'}"
        )
        return f"<Reconciliation of {len(self.checks)} pairs of books: {state}>"

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, str, str, str]]]:
        rows = [
            (check.what, format_ros(check.here_wei), format_ros(check.there_wei), f"{check.difference_wei} wei")
            for check in self.checks
        ]
        broken = [(text, "", "", "broken") for text in self.broken]
        return ("books", "here", "there", "difference"), [*rows, *broken]

    def __str__(self) -> str:
        return text_table(*self._table())


@dataclass(frozen=True, slots=True)
class Proof:
    """From one usage record to its payout, link by link."""

    usage: values.Usage
    links: tuple[Link, ...]
    export: Export | None
    """What a stranger needs to check it again with `rios verify`; None until its epoch is closed, and where nothing is
    due to an owner."""

    @property
    def verified(self) -> bool:
        """Whether every link that exists holds; a payout may still be pending."""
        return verified(self.links)

    def __repr__(self) -> str:
        states = ", ".join(f"{link.name} {link.state}" for link in self.links)
        return f"<Proof of {self.usage.usage_id}: {states}>"

    def __str__(self) -> str:
        return text_table(*links_table(self.links))

    def _repr_html_(self) -> str:
        about = f"{self.usage.usage_id}: {format_ros(self.usage.amount_wei)} for {self.usage.line}"
        return html_line(about) + html_table(*links_table(self.links))


def links_table(links: Sequence[Link]) -> tuple[tuple[str, ...], list[tuple[str, str, str]]]:
    """Columns and rows of a proof, for people."""
    return ("link", "state", "why"), [(link.name, link.state, link.reason) for link in links]


def reconcile(ledger: Ledger, vault: Vault | None, *, keccak: Hash) -> Reconciliation:
    """Compare the ledger with itself, with its rebuilt roots, and with the chain as far as there is one."""
    totals = ledger.totals()
    checks = [
        Check("sum over all accounts, and nothing", totals.sum_wei, 0),
        Check("balances, and the entries added up", totals.difference_wei, 0),
    ]
    broken = [] if totals.broken_at is None else [f"the hash chain is broken at entry {totals.broken_at}"]
    epochs = ledger.epochs()
    last = epochs[-1] if epochs else None
    if last is not None:
        checks += _roots(ledger, last, broken, keccak=keccak)
    if vault is None:
        return Reconciliation(tuple(checks), tuple(broken))
    stored = totals.stored
    checks += [
        Check("deposits in the ledger, and the escrow's tokens", -stored.get(ESCROW, 0), vault.tokens_of("escrow")),
        Check(
            "payouts funded in the ledger, and the settlement's tokens",
            -stored.get(SETTLEMENT, 0),
            vault.tokens_of("settlement"),
        ),
    ]
    posted = ledger.epoch(vault.latest_epoch())
    if posted is not None:
        root = vault.root_of(posted.number)
        if root is None or (f"0x{root.root.hex()}", root.ledger_hash) != (posted.root, posted.head_hash):
            broken.append(f"the contract has another root or ledger hash for epoch {posted.number}")
        else:
            checks.append(Check("leaves of the last root, and the contract's total", posted.total_wei, root.total_wei))
        promised = sum(ledger.claimable().values())
        if last is not None:
            checks.append(
                Check(
                    "promised and unclaimed, and what the roots leave after claims",
                    promised,
                    last.total_wei - vault.total_claimed(),
                )
            )
    return Reconciliation(tuple(checks), tuple(broken))


def reconcile_followed(ledger: Ledger, chain: NetworkChain | None) -> tuple[Reconciliation, bool]:
    """Compare the ledger with itself, and with the chain as it was after the block up to which the ledger has events.

    Also whether the contracts were asked: they are not where nothing was followed yet. Raises ChainUnavailable, and
    LedgerUnavailable where others change the books faster than they can be compared.
    """
    if chain is None:
        return reconcile(ledger, None, keccak=keccak256), False
    for _ in range(_RACES_MAX):
        before = _books_at(ledger, chain)
        followed = before[0]
        vault = None if followed is None else chain.after(followed.block)
        found = reconcile(ledger, vault, keccak=chain.keccak)
        if _books_at(ledger, chain) == before:
            return found, vault is not None
    raise LedgerUnavailable("another process follows the chain or closes epochs all the time; try again")


def _books_at(ledger: Ledger, chain: NetworkChain) -> tuple[ChainCursor | None, Epoch | None]:
    """What another process that follows and settles changes."""
    epochs = ledger.epochs()
    return chain.followed(ledger), epochs[-1] if epochs else None


def _roots(ledger: Ledger, last: Epoch, broken: list[str], *, keccak: Hash) -> Iterator[Check]:
    leaves = ledger.leaves(last.number)
    tree = MerkleTree.of(leaves, keccak=keccak)
    if f"0x{tree.root.hex()}" != last.root:
        broken.append(f"the leaves of epoch {last.number} make the root 0x{tree.root.hex()}, not {last.root}")
    yield Check(f"leaves of epoch {last.number}, and its total", sum(leaves.values()), last.total_wei)


def prove(ledger: Ledger, usage_id: str, view: ChainView | None, *, keccak: Hash) -> Proof:
    """Follow a usage record to its payout. Raises NotProvable for an id that is not in the ledger."""
    usage = ledger.usage_of(usage_id)
    if usage is None:
        raise NotProvable(f"the ledger has no usage {usage_id!r}; net.billing.usage() lists what it has")
    if usage.epoch is None or view is None:
        why = "its epoch is not closed: net.billing.settle() closes it"
        return Proof(usage, tuple(_without_root(ledger, usage, PENDING, why)), None)
    if not usage.worker_wei:
        why = f"nothing is due: of {format_ros(usage.amount_wei)} the worker's part is 0, so no root has to promise it"
        return Proof(usage, tuple(_without_root(ledger, usage, OK, why)), None)
    if usage.owner not in ledger.leaves(usage.epoch):
        why = "refunds have taken all that its owner had earned by then, so no root has to promise anything"
        return Proof(usage, tuple(_without_root(ledger, usage, OK, why)), None)
    export = export_of(ledger, usage.owner, usage.epoch, view)
    return Proof(usage, tuple(verify(export.to_dict(), chain_view=view, keccak=keccak)), export)


def export_of(ledger: Ledger, account: Address, number: int, view: ChainView) -> Export:
    """All that shows what `account` earned in epoch `number`, for whoever trusts the chain alone."""
    closing = ledger.epoch(number)
    if closing is None:
        raise NotProvable(f"there is no epoch {number}; settle() closes one")
    before = ledger.epoch(number - 1)
    opening = None if before is None or account not in ledger.leaves(before.number) else before
    first = 1 if opening is None else opening.head_seq + 1
    entries = list(ledger.entries(after=first - 1, up_to=closing.head_seq))
    rows = [usage for usage in ledger.usage(owner=account) if usage.worker_wei and _within(usage, opening, closing)]
    terms: dict[str, Terms] = {}
    books: dict[str, PriceBook] = {}
    for usage in rows:
        if usage.hold_id not in terms:
            terms[usage.hold_id] = pinned_terms(ledger, usage.hold_id, books)
    shown = [
        Entry(e.seq, e.id, e.debit, e.credit, Wei(e.amount_wei), e.kind, e.reference, e.document or "") for e in entries
    ]
    return Export(
        chain_id=view.chain_id,
        settlement=Address(view.settlement),
        account=account,
        opening=None if opening is None else _point(ledger, opening, account),
        closing=_point(ledger, closing, account),
        books=tuple({t.book.digest: t.book for t in terms.values()}.values()),
        terms=tuple(_distinct(list(terms.values()))),
        charges=tuple(Rated.of(rate(u.record, terms[u.hold_id]), terms[u.hold_id]) for u in rows),
        entries=tuple(entry for entry in shown if concerns(entry, account)),
        first_seq=first,
        ledger=tuple((entry.at, entry.digest) for entry in entries),
    )


def _within(usage: values.Usage, opening: Epoch | None, closing: Epoch) -> bool:
    if usage.epoch is None:
        return False
    return (0 if opening is None else opening.number) < usage.epoch <= closing.number


def _distinct(found: Sequence[Terms]) -> Iterator[Terms]:
    """Terms that say different things, in the order of their first hold."""
    seen: set[str] = set()
    for terms in found:
        text = json.dumps(terms.to_dict(), sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield terms


def pinned_terms(ledger: Ledger, hold_id: str, books: dict[str, PriceBook] | None = None) -> Terms:
    """The terms that were pinned at a hold. Raises NotProvable where there is no such hold.

    books: price books that are known, by digest; those that are read are added.
    """
    books = {} if books is None else books
    hold = ledger.hold_of(hold_id)
    if hold is None:
        raise NotProvable(f"the ledger has no hold {hold_id}, by whose terms usage was rated")
    if hold.price_book not in books:
        books[hold.price_book] = ledger.price_book(hold.price_book)
    return Terms.from_dict(json.loads(hold.terms), books)


def _point(ledger: Ledger, epoch: Epoch, account: Address) -> Point:
    tree = MerkleTree.of(ledger.leaves(epoch.number))
    return Point(
        epoch.number,
        bytes.fromhex(epoch.root[2:]),
        epoch.total_wei,
        epoch.head_hash,
        tree.amounts[account],
        tree.proof(account),
    )


def _without_root(ledger: Ledger, usage: values.Usage, state: str, why: str) -> Iterator[Link]:
    """The links of a record that no root promises (yet): price and postings are there; `why` there is no more."""
    terms = pinned_terms(ledger, usage.hold_id)
    charge = rate(usage.record, terms)
    same = (charge.amount_wei, charge.worker_wei, charge.platform_wei) == (
        usage.amount_wei,
        usage.worker_wei,
        usage.platform_wei,
    )
    yield Link("usage", OK, f"{usage.events} events, digest {usage.events_digest[:16]}")
    off = less({} if charge.discount is None else {charge.discount: charge.discount_wei})
    yield Link("price", OK if same else FAILED, f"rated again to {format_ros(charge.amount_wei)}{off}")
    posted = sum(entry.amount_wei for entry in ledger.postings(usage.usage_id))
    agrees = posted == usage.amount_wei
    yield Link(
        "posting", OK if agrees else FAILED, f"{format_ros(posted)} are posted of {format_ros(usage.amount_wei)}"
    )
    for name in ("leaf", "root", "payout"):
        yield Link(name, state, why)
