"""The price book that comes with rios, and what of a book is pinned when a request's highest price is held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from rios.billing.books import EXPERT, DeviceClass, Discount, Line, PriceBook, check_whole, expert_key
from rios.billing.split import BASIS_POINTS
from rios.words.display import Shown
from rios.words.errors import InvalidRequest, PriceBookError
from rios.words.ids import Address
from rios.words.reading import read_decimal, read_list, read_mapping, read_object, read_text

_HOUR_S = 3600
_MILLI_ROS = 10**15
_GB = 10**9

# Expert work. A group of few rows streams an expert's weights from memory once and does 2 FLOP for each weight of 2
# bytes, so a device computes as many FLOP per second as its memory moves bytes: about 10 GB/s for one core of a server,
# 400 GB/s for a common GPU. With a core-hour at 0.036 ROS (10^13 wei a second) and a GPU-hour at 1.44 ROS (4 x 10^14)
# both classes come to 1,000 wei per FLOP. That they agree is on purpose: a host that calls itself another class earns
# nothing by it.
_CPU = Line.flat("expert-second", 10 * 10**9, 36 * _MILLI_ROS // _HOUR_S)
_CUDA = Line.flat("expert-second", 400 * 10**9, 1_440 * _MILLI_ROS // _HOUR_S)

# Tokens pay for the trunk: attention, router, head and cache. One price serves models of all sizes until a network
# publishes its own book, so it lies between: the trunk of the demo model does 3 MFLOP per token (3 x 10^9 wei at the
# price of expert work), that of a model of 7 billion parameters 0.7 GFLOP (7 x 10^11). A new token is read alone and a
# prompt's tokens together, which the ratio of 4 reflects.
_TOKEN_IN_WEI = 10**10
_TOKEN_OUT_WEI = 4 * _TOKEN_IN_WEI

DEFAULT_BOOK = PriceBook(
    version=0,
    effective_from_s=0,
    classes={"cpu": DeviceClass(_CPU), "cuda": DeviceClass(_CUDA)},
    lines={
        "tokens_in": Line.flat("token", 1, _TOKEN_IN_WEI),
        "tokens_out": Line.flat("token", 1, _TOKEN_OUT_WEI),
        # Between machines of one network. A row of the demo model moves about 1.5 kB and costs 147 kFLOP: at 0.0001 ROS
        # per GB the way is worth as much as the work, and for larger experts less.
        "bytes": Line.flat("GB", _GB, _MILLI_ROS // 10),
        "memory": Line.flat("GB-hour", _GB * _HOUR_S, 5 * _MILLI_ROS),
        "cpu": Line.flat("core-hour", _HOUR_S * 10**9, 36 * _MILLI_ROS),
        "gpu": Line.flat("GPU-hour", _HOUR_S * 10**9, 1_440 * _MILLI_ROS),
        # A thousandth of memory for the same time: disks cost about as much less.
        "storage": Line.flat("GB-hour", _GB * _HOUR_S, 5 * _MILLI_ROS // 1000),
    },
    discounts={"research": Discount(2_000)},
    ask_min_bp=5_000,
    ask_max_bp=15_000,
    platform_bp=1_000,
)
"""Holds until a network publishes a book of its own."""


@dataclass(frozen=True, slots=True)
class Host(Shown):
    """A worker as pricing sees it: who is paid for its work, of which class it is, what it asks."""

    name: str
    """As usage events name it."""
    owner: Address
    device_class: str
    ask_bp: int = BASIS_POINTS
    """Its price in basis points of the book's."""


@dataclass(frozen=True, slots=True)
class Terms(Shown):
    """What is pinned at a hold: nothing that is published, joins or asks more afterwards changes the price.

    A host that was not foreseen is paid for its work all the same, but never at more per FLOP than the dearest class in
    `classes`, and never at more than `ask_max_bp`. Hence the highest price is known before the work.
    """

    book: PriceBook
    classes: tuple[str, ...] = ()
    """Device classes that could serve when it was held; empty for all of the book's."""
    ask_max_bp: int = BASIS_POINTS
    """The most that any worker asked then."""
    ask_min_bp: int = BASIS_POINTS
    discount: str | None = None
    before: Mapping[str, int] = field(default_factory=dict)
    """Line key to base units that the account had used in the period: where in the tiers each record starts."""

    def __post_init__(self) -> None:
        for bp in (self.ask_min_bp, self.ask_max_bp):
            self.book.check_ask(bp)
        if self.ask_min_bp > self.ask_max_bp:
            raise PriceBookError(f"the lowest ask {self.ask_min_bp} is above the highest {self.ask_max_bp}")
        self.book.off_bp(self.discount, EXPERT)
        for name in self.classes:
            self.book.line(expert_key(name))
        for key, quantity in self.before.items():
            self.book.line(key)
            check_whole(f"before.{key}", quantity, 0, 2**128)

    @classmethod
    def of(
        cls,
        book: PriceBook,
        hosts: Iterable[Host] = (),
        *,
        discount: str | None = None,
        before: Mapping[str, int] | None = None,
    ) -> Terms:
        """The terms under which `hosts` could serve now; without hosts, under which anybody could."""
        known = list(hosts)
        if not known:
            return cls(book, (), book.ask_max_bp, book.ask_min_bp, discount, before or {})
        asks = [min(max(host.ask_bp, book.ask_min_bp), book.ask_max_bp) for host in known]
        classes = tuple(sorted({_known_class(book, host.device_class) for host in known}))
        return cls(book, classes, max(asks), min(asks), discount, before or {})

    @property
    def served_by(self) -> tuple[str, ...]:
        """The device classes whose prices bound the price."""
        return self.classes or tuple(sorted(self.book.classes))

    def expert_line(self, device_class: str) -> str:
        """The key of the line at which expert work on `device_class` is rated.

        A class without a line in the book is rated as the book's cheapest; one that was not foreseen at the hold and
        costs more per FLOP than all that were, as the dearest of these.
        """
        own = _known_class(self.book, device_class)
        foreseen = self.served_by
        if own not in foreseen:
            dearest = max(foreseen, key=self._wei_per_flop_max)
            if self._wei_per_flop_max(own) > self._wei_per_flop_max(dearest):
                own = dearest
        return expert_key(own)

    def as_held(self, host: Host) -> Host:
        """The only host that was held for, with the most that it could ask then: who is lost is asked no more."""
        return replace(host, ask_bp=self.ask_max_bp)

    def ask(self, ask_bp: int) -> int:
        """What of a worker's `ask_bp` counts: within the book's bounds, and at most what was asked at the hold."""
        return min(max(ask_bp, self.book.ask_min_bp), self.ask_max_bp)

    def off_bp(self, resource: str) -> int:
        """Basis points that the pinned discount takes off `resource`; 0 without one."""
        return self.book.off_bp(self.discount, resource)

    def factor(self, resource: str, ask_bp: int) -> Fraction:
        """What the book's price of `resource` is multiplied by, for a worker's ask and the discount."""
        return Fraction(ask_bp * (BASIS_POINTS - self.off_bp(resource)), BASIS_POINTS**2)

    def to_dict(self) -> dict[str, Any]:
        """All but the book, which its digest stands for."""
        return {
            "book": self.book.digest,
            "classes": list(self.classes),
            "ask_max_bp": self.ask_max_bp,
            "ask_min_bp": self.ask_min_bp,
            "discount": self.discount,
            "before": {key: str(quantity) for key, quantity in self.before.items()},
        }

    @classmethod
    def from_dict(cls, raw: Any, books: Mapping[str, PriceBook]) -> Terms:
        """The terms that `to_dict` wrote; `books` by digest. Raises PriceBookError for anything else."""
        try:
            found = read_object("the terms", raw, cls.__dataclass_fields__)
            classes = tuple(read_text(*item) for item in read_list("classes", found["classes"]))
            before = read_mapping("before", found["before"])
            discount = None if found["discount"] is None else read_text("discount", found["discount"])
            book = books[read_text("book", found["book"])]
            return cls(
                book,
                classes,
                found["ask_max_bp"],
                found["ask_min_bp"],
                discount,
                {key: read_decimal(f"before.{key}", quantity) for key, quantity in before.items()},
            )
        except InvalidRequest as error:
            raise PriceBookError(str(error)) from error
        except KeyError as error:
            raise PriceBookError(f"the terms are of price book {error}, which is not there") from error

    def _wei_per_flop_max(self, device_class: str) -> Fraction:
        key = expert_key(device_class)
        return self.book.line(key).bounds(before=self.before.get(key, 0))[1]


def _known_class(book: PriceBook, device_class: str) -> str:
    if device_class in book.classes:
        return device_class
    return min(book.classes, key=lambda name: (book.classes[name].line.bounds()[1], name))
