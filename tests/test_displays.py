"""Each object that a user can hold shows itself in a notebook, as text and as HTML; whatever is in a name is text."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import enum
import inspect
import re
import socket
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import rios
from rios.billing.books import PriceBook
from rios.billing.ledger.values import Balance
from rios.billing.pricing import DEFAULT_BOOK, Terms
from rios.billing.verify import Link, Point
from rios.client.apps import RemoteDeployment, RemoteDeployments, RemoteSecrets, RemoteSnapshots, RemoteVolumes
from rios.client.governance import RemoteGovernance
from rios.client.http import Http
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
from rios.services.deployments.kept_volumes import KeptVolume, KeptVolumes
from rios.services.deployments.service import Change, Deployments, Plan
from rios.services.deployments.shared_secrets import SharedSecrets
from rios.services.deployments.snapshots import AppSnapshots
from rios.services.deployments.values import App
from rios.services.gate import Gate
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
from rios.words import display
from rios.words.display import said
from tests import public
from tests.gateway.servers import UNLIMITED, serving
from tests.waiting import PATIENCE

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
    "/v1/volumes": {"data": [dataclasses.asdict(made(KeptVolume))]},
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
    KeptVolumes: lambda: of(KeptVolumes, _organisation_id=HOSTILE, list=lambda: [made(KeptVolume)]),
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
    RemoteVolumes: lambda: RemoteVolumes(HTTP),
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


# --- what is closed, gone or silent ---------------------------------------------------------------------------

VALUE_LIKE = {Cost, Plan, Pieces, Plots, Breaker, TargetTracking, RemoteProof}
"""Handles that have nobody to ask."""
SOON_S = 3 * display.SHOW_S * PATIENCE
Handles = dict[str, Any]


def _handles(net: Any, model: Any, app: Any) -> Handles:
    """All that a user holds of a network, widgets too, by what it is."""
    held: list[Any] = [net, net.dmoe, model, net.jobs, net.billing, net.wallet, net.earnings, net.governance, app]
    held += [app.snapshots, net.deploy, net.deploy.secrets, net.deploy.volumes, net.reports, net.workers]
    widgets = {"panel": net.widget(), "wallet": net.widget("wallet"), "of the model": model.widget()}
    return {type(one).__name__: one for one in held} | widgets | {"of the app": app.widget()}


@dataclasses.dataclass
class Gone:
    """Handles of one network, here and behind its gateway, after the gateway was ended and the network closed."""

    here: Handles
    there: Handles
    closed: Handles
    """Those of another client of the gateway, who closed it himself."""
    deleted: Deployment
    forgotten: str
    """What a deployment showed of which there is no row any more, while its network was open."""
    url: str
    address: str


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gone]:
    home = tmp_path_factory.mktemp("gone")
    with contextlib.ExitStack() as ends:
        patient = ends.enter_context(pytest.MonkeyPatch.context())
        patient.setattr(display, "SHOW_S", 60.0)  # what is there is there, on a busy machine later
        net = ends.enter_context(rios.local(workers=1, threads=1, home=home))
        gate = Gate.open(net, models=home)
        ends.callback(gate.close)
        with serving(gate, UNLIMITED) as url:
            model = net.dmoe.deploy("demo", progress=False)
            job = model.submit("Once", max_new_tokens=2)
            job.result(60)
            here = _handles(net, model, net.deploy.get("demo")) | {"Job": job}
            assert " ready>" in repr(here["Deployment"])
            deleted = net.deploy.get("demo")
            others = []
            for _ in range(2):
                remote = rios.connect(url, token=gate.accounts.first_token())
                its = remote.dmoe.deploy("demo", name="theirs", progress=False)
                found = _handles(remote, its, remote.deploy.get("theirs"))
                found["RemoteJob"] = its.submit("Once", max_new_tokens=2)
                found["RemoteJob"].result(60)
                others.append(found)
            address = net.wallet.address
            assert address in repr(net.wallet)
            others[1]["RemoteNetwork"].close()
            deleted.delete()
            assert repr(deleted) == "<Deployment 'demo' stopped>"
            forgotten = _both(Deployment(deleted._platform, "app-9", "old", by="me", rules=deleted._rules))
        ends.pop_all().close()
        yield Gone(here, others[0], others[1], deleted, forgotten, url, address)
        others[0]["RemoteNetwork"].close()


def _both(one: Any) -> str:
    """What it shows, as text and as HTML, which is there soon."""
    began = time.monotonic()
    text = "\n".join((repr(one), str(one)))
    bundle = getattr(one, "_repr_mimebundle_", None)
    if bundle is None:
        html = one._repr_html_()
    else:
        found = bundle()
        html = (found[0] if isinstance(found, tuple) else found)["text/html"]
    assert time.monotonic() - began < SOON_S
    assert text
    assert html
    return f"{text}\n{html}"


def test_all_handles_are_looked_at_after_their_end(gone: Gone) -> None:
    assert {type(one) for one in (*gone.here.values(), *gone.there.values())} >= set(HANDLES.values()) - VALUE_LIKE


def test_what_a_closed_network_gave_shows_itself(gone: Gone) -> None:
    shown_as = {name: _both(one) for name, one in gone.here.items()}
    for name in ("Billing", "Wallet", "Earnings", "Deployment", "UserReports"):
        assert shown_as[name].count("this network was closed; make another one") == 3, shown_as[name]
    assert shown_as["Wallet"].count(gone.address) == 3
    assert shown_as["Earnings"].count(gone.address) == 3
    assert "<Deployment 'demo' unknown: " in shown_as["Deployment"]
    assert "done, 2 of 2 tokens" in shown_as["Job"]
    assert "2 of 2" in shown_as["Jobs"]
    assert "closed" in shown_as["Network"]
    assert "closed" in shown_as["Model"]


def test_a_deployment_that_nobody_remembers_shows_itself(gone: Gone) -> None:
    assert "closed" in _both(gone.deleted)
    assert gone.forgotten.count("unknown: there is no deployment app-9") == 3


@pytest.mark.parametrize("which", ["there", "closed"])
def test_what_a_gateway_gave_that_has_gone_shows_itself(gone: Gone, which: str) -> None:
    why = "the gateway at" if which == "there" else "this network was closed; connect again"
    shown_as = {name: _both(one) for name, one in getattr(gone, which).items()}
    for name in ("RemoteBilling", "RemoteWallet", "RemoteEarnings", "RemoteJobs", "RemoteReports"):
        assert shown_as[name].count(f"unknown: {why}") == 3, shown_as[name]
    assert gone.url in shown_as["RemoteWallet"]


def test_a_gateway_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SHOW_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        http = Http(f"http://127.0.0.1:{silent.getsockname()[1]}", SECRET)
        held: list[Any] = [RemoteBilling(http), RemoteWallet(http), RemoteEarnings(http), RemoteJobs(http)]
        for one in (*held, RemoteReports(http)):
            assert _both(one).count("unknown: ") == 3
        http.close()


def test_who_shows_something_waits_once_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SHOW_S", 0.0)
    assert display.patience_s() is None
    assert display.answer(lambda: display.answer(display.patience_s)) == "unknown: no answer within 0 s"
    assert display.patience_s() is None
