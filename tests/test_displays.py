"""Each object that a user can hold shows itself in a notebook, as text and as HTML; whatever is in a name is text."""

from __future__ import annotations

import abc
import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from rios.billing.books import PriceBook
from rios.billing.ledger.values import Balance
from rios.billing.pricing import DEFAULT_BOOK, Terms
from rios.billing.verify import Link, Point
from rios.client.apps import RemoteDeployment, RemoteDeployments, RemoteSecrets, RemoteSnapshots
from rios.client.governance import RemoteGovernance
from rios.client.job import RemoteJob
from rios.client.jobs import RemoteJobs
from rios.client.money import RemoteBilling, RemoteProof
from rios.client.remote import RemoteDmoe, RemoteModel, RemoteNetwork
from rios.client.reports import RemoteReports
from rios.client.wallet import RemoteEarnings, RemoteWallet
from rios.deploy.autoscale import Scaler, Target
from rios.dmoe.adaptive import Change as WorkersChange
from rios.dmoe.adaptive import TargetTracking
from rios.dmoe.job import Job
from rios.dmoe.pieces import Pieces
from rios.services.billing import Billing
from rios.services.deployments.handle import Cost, Deployment
from rios.services.deployments.service import Change, Deployments, Plan
from rios.services.deployments.shared_secrets import SharedSecrets
from rios.services.deployments.snapshots import AppSnapshots
from rios.services.deployments.values import App
from rios.services.generation import Model
from rios.services.governance import Governance
from rios.services.jobs import Jobs, JobView
from rios.services.models import Dmoe
from rios.services.network import Network
from rios.services.plots import Plots
from rios.services.reports.own import UserReports
from rios.services.reports.values import Made
from rios.services.views import WorkerInfo, Workers
from rios.services.wallet import Earnings, Wallet
from rios.storage.breaker import Breaker
from rios.words.display import said
from tests import public

HOSTILE = '</td><script>alert("1")</script>\'&'
SECRET = "rios_sk_of_nobody_else"
TAGS = {"table", "thead", "tbody", "tr", "th", "td", "div", "b"}


class Page(HTMLParser):
    """What a piece of HTML is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.styles: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"style"}, attrs
        self.styles += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(one: Any) -> str:
    """The text of an object's HTML, which has no markup of anybody else and only the theme's own colours."""
    page = Page(one._repr_html_())
    assert page.tags <= TAGS
    colors = [part for style in page.styles for part in style.split(";") if "color" in part or "background" in part]
    assert colors
    assert all(re.fullmatch(r"color:var\(--jp-content-font-color\d\)", part) for part in colors), colors
    assert SECRET not in page.text
    return page.text


def is_held(kind: type) -> bool:
    """Whether a user holds an object of exactly this class: no text, no error, no protocol, nothing abstract."""
    plain = issubclass(kind, enum.Enum | BaseException) or kind.__module__ == "rios.words.display"
    return not (plain or inspect.isabstract(kind) or getattr(kind, "_is_protocol", False) or abc.ABC in kind.__bases__)


HELD = {name: kind for name, kind in public.types().items() if is_held(kind)}
VALUES = {name: kind for name, kind in HELD.items() if dataclasses.is_dataclass(kind)}
HANDLES = {name: kind for name, kind in HELD.items() if name not in VALUES}


def made(kind: Any) -> Any:
    """An object of a type, with hostile text wherever there is text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in SPECIAL:
        return SPECIAL[kind]()
    if isinstance(kind, typing.NewType):
        return made(kind.__supertype__)
    if origin in (types.UnionType, typing.Union):
        return made(next(one for one in arguments if one is not type(None)))
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        return tuple(made(one) for one in arguments if one is not ...)
    if origin is not None and issubclass(origin, Mapping):
        return {made(arguments[0]): made(arguments[1])}
    if origin is not None and issubclass(origin, Sequence):
        return [made(arguments[0])]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, public.names_of(kind))  # type: ignore[arg-type]
        return kind(**{one.name: made(hints[one.name]) for one in dataclasses.fields(kind) if one.init})  # type: ignore[operator]
    raise AssertionError(f"nobody has said how to make {kind}")


def _book() -> PriceBook:
    return dataclasses.replace(DEFAULT_BOOK, classes={HOSTILE: DEFAULT_BOOK.classes["cpu"]})


SPECIAL: dict[Any, Callable[[], Any]] = {
    str: lambda: HOSTILE,
    int: lambda: 7,
    float: lambda: 0.5,
    bool: lambda: True,
    bytes: HOSTILE.encode,
    object: lambda: HOSTILE,
    Any: lambda: HOSTILE,
    Fraction: lambda: Fraction(1, 2),
    datetime: lambda: datetime(2026, 11, 29, tzinfo=UTC),
    PriceBook: _book,
    Terms: lambda: Terms.of(_book()),
}
BALANCE = made(Balance)
ANSWERS: dict[str, Any] = {
    "/v1/wallet": {"user": HOSTILE, "address": HOSTILE}
    | {f"{name}_wei": "7" for name in ("deposited", "trial", "held", "withdrawing", "overdrawn")},
    "/v1/earnings": {"owner": HOSTILE, "earned_wei": "7", "claimable_wei": "1", "claimed_wei": "1"},
    "/v1/jobs": {"data": [made(JobView).to_dict()], "version": 1, "more": False},
    "/v1/reports/runs": {"data": [made(Made).to_dict()]},
}
HTTP: Any = SimpleNamespace(
    url=f"http://{HOSTILE}",
    token=SECRET,
    get=lambda path, **_: ANSWERS[path],
    pages=lambda path, **_: ANSWERS[path]["data"],
    ask=lambda *_, **__: {"on_chain_wei": "7"},
)
STORE = SimpleNamespace(app=lambda _: made(App), made=lambda **_: [made(Made)])
LEDGER = SimpleNamespace(
    balance=lambda _: BALANCE, chain_events=lambda **_: [], accounts=lambda _: {}, claimable=lambda _: {}, epochs=list
)
BOOKS = SimpleNamespace(ledger=LEDGER, address=HOSTILE, started_chain=None, secret=SECRET)
MANIFEST = SimpleNamespace(model_type=HOSTILE, layers=[SimpleNamespace(num_experts=2)], context_length=7)
ENGINE = SimpleNamespace(name=HOSTILE, manifest=MANIFEST, members={HOSTILE: None}, replicas=2)

SCALER = Scaler(Target(minimum=1, maximum=3, per_replica=2.0))


def of(kind: type, **attributes: Any) -> Any:
    """An object that nothing made, of which nothing is there but these attributes."""
    found = kind.__new__(kind)
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


def _jobs() -> Jobs:
    found = Jobs()
    found.put([(made(JobView), HOSTILE)], lambda _: None)
    return found


def _proof() -> RemoteProof:
    link = dataclasses.asdict(made(Link))
    return RemoteProof({"usage": {"usage_id": HOSTILE}, "links": [link], "export": None})


STANDING: dict[type, Callable[[], Any]] = {
    Network: lambda: of(Network, address=HOSTILE, _closed=True),
    Dmoe: lambda: Dmoe(of(Network, address=HOSTILE)),
    Model: lambda: of(Model, _deployment=ENGINE, _closed=False),
    Job: lambda: of(
        Job, request_id=HOSTILE, _error=None, _finish=None, _ids=[7], _no_more=False, allowed=9,
        params=SimpleNamespace(max_new_tokens=9),
    ),
    Jobs: _jobs,
    Workers: lambda: Workers([made(WorkerInfo)]),
    Pieces: lambda: Pieces(SimpleNamespace(present=False), ()),  # type: ignore[arg-type]
    Billing: lambda: of(Billing, _charging=SimpleNamespace(user=HOSTILE), _books=BOOKS),
    Wallet: lambda: of(Wallet, _books=BOOKS, _settlement=SimpleNamespace(chain=SimpleNamespace(tokens_of=lambda _: 7))),
    Earnings: lambda: of(Earnings, _books=BOOKS, _owner=HOSTILE),
    Governance: lambda: of(Governance),
    Plots: lambda: Plots(pd.DataFrame({HOSTILE: [7]})),
    Breaker: lambda: Breaker(HOSTILE),
    Deployments: lambda: of(Deployments, _organisation_id=HOSTILE),
    Deployment: lambda: of(Deployment, id=HOSTILE, name=HOSTILE, _platform=lambda: SimpleNamespace(store=STORE)),
    AppSnapshots: lambda: AppSnapshots(of(Deployment, name=HOSTILE, _platform=SECRET)),
    SharedSecrets: lambda: of(SharedSecrets, _organisation_id=HOSTILE, _platform=SECRET),
    Plan: lambda: Plan([made(Change), Change(HOSTILE, "create")]),
    Cost: lambda: Cost(7),
    TargetTracking: lambda: of(TargetTracking, state="inactive", _scaler=SCALER, changes=[made(WorkersChange)]),
    UserReports: lambda: of(UserReports, _reports=lambda: SimpleNamespace(store=STORE), _user="x", _everybodys=True),
    RemoteNetwork: lambda: of(
        RemoteNetwork, address=HOSTILE, _closed=False, _http=HTTP, _me={"login": HOSTILE, "role": HOSTILE}
    ),
    RemoteDmoe: lambda: RemoteDmoe(HTTP),
    RemoteModel: lambda: RemoteModel(HTTP, HOSTILE),
    RemoteJob: lambda: RemoteJob(HTTP, HOSTILE),
    RemoteJobs: lambda: RemoteJobs(HTTP),
    RemoteBilling: lambda: RemoteBilling(HTTP),
    RemoteProof: _proof,
    RemoteWallet: lambda: RemoteWallet(HTTP),
    RemoteEarnings: lambda: RemoteEarnings(HTTP),
    RemoteGovernance: lambda: RemoteGovernance(HTTP),
    RemoteDeployments: lambda: RemoteDeployments(HTTP),
    RemoteDeployment: lambda: RemoteDeployment(HTTP, HOSTILE),
    RemoteSecrets: lambda: RemoteSecrets(HTTP),
    RemoteSnapshots: lambda: RemoteSnapshots(HTTP, HOSTILE),
    RemoteReports: lambda: RemoteReports(HTTP),
}  # fmt: skip


AMOUNTS = (Balance, Point, Terms)
"""Of which HTML says how much, and not of whom."""


def test_nothing_that_users_hold_is_forgotten() -> None:
    """The walk finds what everybody knows, and every handle that it finds is looked at below."""
    assert {"Network", "RemoteNetwork", "Wallet", "Billing", "Balance", "Completion", "Placement"} <= {
        one.__name__ for one in HELD.values()
    }
    assert len(VALUES) > 40
    assert set(STANDING) == set(HANDLES.values())


@pytest.mark.parametrize("kind", HELD.values(), ids=list(HELD))
def test_it_has_a_text_and_escaped_html(kind: type) -> None:
    one = STANDING[kind]() if kind in STANDING else made(kind)
    assert kind.__repr__ is not object.__repr__
    text = repr(one)
    assert text
    assert " object at 0x" not in text
    assert SECRET not in text + str(one)
    assert len(text) < 3000
    html = shown(one)
    named = "script" in text or (kind in VALUES.values() and "script" in str(dataclasses.asdict(one)))
    if named and kind not in AMOUNTS:
        assert "script" in html, "what it is called is not shown"


def test_a_field_is_one_line_for_people() -> None:
    assert [said(one) for one in (None, True, b"abc", {"a": 1}, ("a", 2), [object()], list(range(13)))] == [
        "", "yes", "3 bytes", "a", "a, 2", "1 entries", "13 entries",
    ]  # fmt: skip
    assert said("x" * 300) == "x" * 200 + "…"
