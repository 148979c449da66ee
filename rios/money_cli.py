"""The commands of `rios` that have to do with money: at the gateway of RIOS_URL, else on the ledger of RIOS_HOME.

They need no workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.client.remote import RemoteNetwork
    from rios.services.governance import Proposal, Subject
    from rios.services.purse import Purse
    from rios.words.config import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; amounts in it are whole numbers of wei, as text.")]
Key = Annotated[str | None, typer.Option(help="A name of your own: by the same one it is done once.")]
Since = Annotated[str | None, typer.Option(help='From this moment on, such as "2026-11-01".')]
wallet = typer.Typer(help="Show the wallet, deposit and withdraw.", invoke_without_command=True)
govern = typer.Typer(help="Vote over the network's price book and parameters.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add all of them to the command line."""
    app.add_typer(wallet, name="wallet")
    app.add_typer(govern, name="govern")
    for command in (
        usage,
        costs,
        settle,
        reconcile,
        prove,
        export,
        claim,
        refund,
        invoice,
        verify,
        discount,
        discounts,
    ):
        app.command()(command)
    app.command("price-book")(price_book)


def _home() -> tuple[Path, Settings]:
    from rios.words.config import settings

    options = settings()
    if options.home is None:
        raise InvalidRequest("there is no home whose keys this could be about: set RIOS_HOME to a directory")
    return options.home, options


@contextlib.contextmanager
def _network() -> Iterator[Purse | RemoteNetwork]:
    """The gateway that RIOS_URL names; else the ledger of RIOS_HOME; without both, the gateway that was signed in to.

    Whoever names both means the gateway: its money, and not that of the home.
    """
    from rios.client.where import URL_VARIABLE, find
    from rios.services.purse import Purse
    from rios.words.config import settings

    options = settings()
    here = options.home is not None or options.database is not None
    place = None if here and not os.environ.get(URL_VARIABLE) else find()
    if place is not None:
        with place.connect() as network:
            yield network
        return
    if not here:
        raise InvalidRequest(
            "there is no home whose ledger this could be about: set RIOS_HOME to a directory, and use the same one for "
            f"`rios generate` or rios.local(home=...); or name a gateway by {URL_VARIABLE}"
        )
    with Purse(options, background=False) as purse:
        yield purse


def _say(value: object, as_json: bool, shown: object) -> None:
    """Print `value` as JSON, or what a person reads."""
    if as_json:
        sys.stdout.write(json.dumps(value, default=str) + "\n")
    else:
        sys.stdout.write(f"{shown}\n")


@wallet.callback()
def show_wallet(context: typer.Context, as_json: AsJson = False) -> None:
    """Address, ROS on the chain, deposited, available and held."""
    if context.invoked_subcommand is None:
        with _network() as network:
            _say_wallet(network, as_json)


def _say_wallet(network: Purse | RemoteNetwork, as_json: bool) -> None:
    found = network.wallet
    balance = found.balance
    value = {
        "address": found.address,
        "on_chain_wei": str(found.on_chain),
        "deposited_wei": str(balance.deposited_wei),
        "trial_wei": str(balance.trial_wei),
        "available_wei": str(balance.available_wei),
        "held_wei": str(balance.held_wei),
        "withdrawing_wei": str(balance.withdrawing_wei),
    }
    _say(value, as_json, str(found))


@wallet.command()
def deposit(
    amount: Annotated[str, typer.Argument(help='Such as "25 ROS".')], key: Key = None, as_json: AsJson = False
) -> None:
    """Move ROS from the wallet into the escrow."""
    with _network() as network:
        network.wallet.deposit(amount, key=key)
        _say_wallet(network, as_json)


@wallet.command()
def withdraw(
    amount: Annotated[str, typer.Argument(help='Such as "5 ROS".')], key: Key = None, as_json: AsJson = False
) -> None:
    """Take deposited ROS back, after what was used has been settled; `finish` does it where the escrow delays it."""
    with _network() as network:
        network.wallet.withdraw(amount, key=key)
        _say_wallet(network, as_json)


@wallet.command()
def finish(as_json: AsJson = False) -> None:
    """Take the withdrawal that waited for the escrow's delay, once it is due."""
    with _network() as network:
        network.wallet.finish_withdrawal()
        _say_wallet(network, as_json)


@wallet.command()
def cancel(as_json: AsJson = False) -> None:
    """Leave the withdrawal that waits in the escrow, to be spent."""
    with _network() as network:
        network.wallet.cancel_withdrawal()
        _say_wallet(network, as_json)


@wallet.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A keystore file of another wallet (Web3 Secret Storage).")],
    as_json: AsJson = False,
) -> None:
    """Make another wallet's key this home's, before the home has one; asks for the file's passphrase."""
    from rios.services.books import LOCAL_USER, ledger_of
    from rios.services.keys import import_wallet

    home, options = _home()
    with contextlib.closing(ledger_of(options)) as ledger:
        known = ledger.address_of(LOCAL_USER)
    address = import_wallet(home, file, _asked(f"Passphrase of {file.name}"), known=known)
    _say({"address": address}, as_json, f"the wallet of {home} is {address}")


@wallet.command()
def passphrase(
    ask: Annotated[bool, typer.Option(help="Ask for the passphrase so far; it is the one made up without.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put this home's keys under RIOS_WALLET_PASSPHRASE; without it, under one made up that lies beside them."""
    from rios.services.keys import change_passphrase

    home, _ = _home()
    changed = change_passphrase(home, _asked("Passphrase so far") if ask else None)
    _say(changed, as_json, f"{len(changed)} keys are under the new passphrase; back them up")


def _asked(what: str) -> str:
    return str(typer.prompt(what, hide_input=True, err=True))


def usage(
    since: Since = None,
    model: Annotated[str | None, typer.Option(help="Of this model or application alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """List usage records with their prices."""
    from rios.words.display import text_table

    with _network() as network:
        frame = network.billing.usage(since=since, model=model)
    rows = frame.to_dict(orient="records")
    columns = ("usage_id", "time", "model", "worker", "resource", "quantity", "unit", "amount", "epoch")
    shown = [[f"{row[name]:%Y-%m-%d %H:%M}" if name == "time" else row[name] for name in columns] for row in rows]
    value = [{**row, "amount_wei": str(row["amount_wei"]), "quantity": str(row["quantity"])} for row in rows]
    _say(value, as_json, text_table(columns, shown))


def costs(
    by: Annotated[str, typer.Option(help="worker, user, model, deployment, day or resource.")] = "model",
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """What was spent, by one thing: of the local account, and with `--by user` of everybody."""
    with _network() as network:
        found = network.billing.costs(by, since=since)
    _say({key: str(amount) for key, amount in found.wei.items()}, as_json, found)


def settle(as_json: AsJson = False) -> None:
    """Close an epoch over all that was used and post its root."""
    with _network() as network:
        found = network.billing.settle()
    if found is None:
        _say(None, as_json, "nothing was used yet: there is nothing to settle")
        return
    value = {
        "epoch": found.epoch,
        "root": found.root,
        "total_wei": str(found.total_wei),
        "tx": found.tx,
        "final": found.final,
    }
    _say(value, as_json, f"epoch {found.epoch}: {found.total} earned in all\nroot {found.root}\ntx   {found.tx}")


def reconcile(as_json: AsJson = False) -> None:
    """Compare ledger, rebuilt root, contracts and tokens; exit code 1 where they differ."""
    with _network() as network:
        found = network.billing.reconcile()
    value = {
        "sound": found.sound,
        "difference_wei": str(found.difference_wei),
        "checks": [
            {"what": check.what, "here_wei": str(check.here_wei), "there_wei": str(check.there_wei)}
            for check in found.checks
        ],
        "broken": found.broken,
    }
    _say(value, as_json, found)
    raise typer.Exit(0 if found.sound else 1)


def prove(usage_id: str, as_json: AsJson = False) -> None:
    """Follow a usage record to its payout; exit code 1 where a link fails."""
    with _network() as network:
        found = network.billing.prove(usage_id)
    _say_links(found.links, found.verified, as_json)


def _say_links(
    links: Any, good: bool, as_json: bool, *, verdict: str | None = None, code: int = 1, **more: str | None
) -> None:
    from rios.words.display import text_table

    rows = [(link.name, link.state, link.reason) for link in links]
    told = [dict(zip(("name", "state", "reason"), row, strict=True)) for row in rows]
    text = text_table(("link", "state", "why"), rows) + "\n" + (verdict or ("verified" if good else "NOT verified"))
    _say({"verified": good, **more, "links": told}, as_json, text)
    raise typer.Exit(0 if good else code)


def export(usage_id: str, file: Path) -> None:
    """Write what a stranger needs to verify the payout of a usage record."""
    with _network() as network:
        network.billing.export(usage_id, file)
    settlement = json.loads(file.read_text())["settlement"]
    sys.stdout.write(
        f"{file}: give it to whoever wants to check, with\n"
        f"`rios verify {file.name} --chain URL --settlement {settlement}`;\n"
        "that address has to be known from you, and not from the file alone\n"
    )


def verify(
    file: Path,
    chain: Annotated[
        str | None, typer.Option(help="URL of a node that you trust; without it RIOS_HOME's chain.")
    ] = None,
    settlement: Annotated[
        str | None,
        typer.Option(help="Address of the network's settlement contract, from elsewhere than whoever gave the file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an export against the chain, with no trust in whoever wrote it; exit code 1 where a link fails.

    Exit code 3, and not verified, where all holds but nothing except the file says that the contract is the network's:
    compare that address with the one that the network publishes, or give that (--settlement).
    """
    from rios.billing.verify import PENDING, verified
    from rios.services.stranger import check_file

    links = check_file(file, chain, settlement)
    contract = next((link for link in links if link.name == "contract"), None)
    against = None if contract is None else contract.reason
    good, verdict, code = verified(links), None, 1
    if good and contract is not None and contract.state == PENDING:
        good, verdict, code = False, f"NOT verified yet: it agrees with {against}", 3
    _say_links(links, good, as_json, verdict=verdict, code=code, against=against)


def claim(
    address: Annotated[str | None, typer.Argument(help="Of the owner; the wallet's without.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Pay all owners to whom enough is due.")] = False,
    least: Annotated[str | None, typer.Option("--min", help='With --all: from how much on, such as "1 ROS".')] = None,
    as_json: AsJson = False,
) -> None:
    """Have the settlement contract pay what the last root promises an owner, or all of them."""
    from rios.words.display import text_table
    from rios.words.ids import check_address
    from rios.words.money import format_ros

    if everybody and address is not None:
        raise InvalidRequest(f"--all pays every owner, {address} among them: give one of the two")
    if least is not None and not everybody:
        raise InvalidRequest("--min is for --all; a single claim is of any amount")
    with _network() as network:
        if everybody:
            done = network.billing.pay_out(least)
            value = {
                "epoch": done.epoch,
                "total_wei": str(done.total_wei),
                "paid": {owner: str(wei) for owner, wei in done.paid.items()},
                "txs": done.txs,
            }
            rows = [(owner, format_ros(wei)) for owner, wei in done.paid.items()]
            _say(value, as_json, text_table(("owner", "paid"), [*rows, ("total", format_ros(done.total_wei))]))
            return
        owner = network.wallet.address if address is None else check_address(address, name="the owner")
        if owner is None:
            raise InvalidRequest("this account has no address of its own yet: link one, or name the owner's")
        paid = network.earnings.of(owner).claim()
    _say({"address": owner, "paid_wei": str(paid)}, as_json, f"{format_ros(paid)} paid to {owner}")


def refund(
    usage_id: str,
    reason: str,
    amount: Annotated[str | None, typer.Option(help='Such as "0.3 ROS"; what is left of the price without.')] = None,
    key: Annotated[str | None, typer.Option(help="Tells two parts of the same amount apart.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give the price of a usage record back, or a part of it, by credit note; the same again gives nothing twice."""
    from rios.words.money import format_ros

    with _network() as network:
        note = network.billing.refund(usage_id, reason, amount=amount, key=key)
    value = {"number": note.number, "usage_id": note.usage_id, "amount_wei": str(note.amount_wei)}
    _say(value, as_json, f"credit note {note.number}: {format_ros(note.amount_wei)} back for {note.usage_id}")


def invoice(period: Annotated[str, typer.Argument(help='A month such as "2026-11".')], as_json: AsJson = False) -> None:
    """The invoice of a month; a draft without a number while more may come to it."""
    from rios.words.display import text_table
    from rios.words.money import format_ros

    with _network() as network:
        found = network.billing.invoice(period)
    lines = [(line["model"], line["line"], format_ros(int(line["amount_wei"]))) for line in found.document["lines"]]
    lines += [
        ("", f"discount {one['discount']}, in these already", format_ros(-int(one["off_wei"])))
        for one in found.document.get("discounts", ())
    ]
    lines.append(("", "refunded", format_ros(-int(found.document["refunded_wei"]))))
    for one in found.document.get("credits", ()):
        what = f"credit note {one['credit_note']}, {one['line']} of {one['period']}"
        lines.append((one["model"], what, format_ros(-int(one["amount_wei"]))))
    lines.append(("", "total", found.document["total"]))
    name = "draft of an invoice" if found.number is None else f"invoice {found.number}"
    shown = f"{name} for {found.period}\n{text_table(('model', 'line', 'amount'), lines)}"
    _say({"number": found.number, **found.document}, as_json, shown)


def price_book(as_json: AsJson = False) -> None:
    """The price book in force now: its prices in ROS for one unit; and the network's own parameters."""
    from rios.services.prices import book_text

    with _network() as network:
        book, parameters = network.billing.price_book, network.billing.parameters
    _say(book.to_dict(), as_json, book_text(book, parameters))


def discounts(as_json: AsJson = False) -> None:
    """The discounts that users and organisations have, or had."""
    from rios.services.moments import moment_of
    from rios.words.display import text_table

    with _network() as network:
        found = network.billing.discounts
    rows = [
        (
            one.discount,
            f"user {one.user}" if one.user is not None else f"organisation {one.organisation}",
            moment_of(one.since).isoformat(),
            "" if one.until is None else moment_of(one.until).isoformat(),
        )
        for one in found
    ]
    _say([asdict(one) for one in found], as_json, text_table(("discount", "of", "since", "until"), rows))


def discount(
    name: Annotated[str, typer.Argument(help="Of the price book.")],
    user: Annotated[str | None, typer.Option(help="Whose; one's own account without.")] = None,
    organisation: Annotated[str | None, typer.Option(help="All of it.")] = None,
    since: Annotated[str | None, typer.Option(help="Now without.")] = None,
    until: Annotated[str | None, typer.Option(help="Itself excluded; for ever without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a user or an organisation a discount; the same since the same moment with an earlier --until ends it."""
    with _network() as network:
        given = network.billing.grant_discount(name, user=user, organisation=organisation, since=since, until=until)
    whose = f"user {given.user}" if given.user is not None else f"organisation {given.organisation}"
    _say(asdict(given), as_json, f"{whose} has the discount {given.discount}")


What = Annotated[
    str,
    typer.Argument(
        metavar="BOOK|NAME=VALUE",
        help="A price book as JSON, such as `rios price-book --json` prints, or a parameter: `payout_min_wei=2 ROS`.",
    ),
]


@govern.command()
def propose(what: What, as_json: AsJson = False) -> None:
    """Put a price book or a parameter to the vote."""
    with _network() as network:
        _say_proposal(network.governance.propose(_subject(what)), as_json)


@govern.command()
def vote(
    what: What,
    choice: Annotated[str, typer.Option(help="for, against or abstain.")] = "for",
    as_json: AsJson = False,
) -> None:
    """Vote "for", "against" or "abstain"."""
    with _network() as network:
        _say_proposal(network.governance.vote(_subject(what), choice), as_json)


@govern.command()
def execute(what: What, as_json: AsJson = False) -> None:
    """Put in force what has won its vote."""
    with _network() as network:
        _say_proposal(network.governance.execute(_subject(what)), as_json)


@govern.command()
def parameters(as_json: AsJson = False) -> None:
    """What a vote can set besides the price book, and what the contracts fix."""
    from rios.services.prices import parameters_text

    with _network() as network:
        found = network.governance.parameters()
    _say([one.to_dict() for one in found], as_json, parameters_text(found))


def _subject(what: str) -> Subject:
    from rios.billing.books import PriceBook
    from rios.billing.parameters import Change

    file = Path(what)
    if "=" in what and not file.exists():
        return Change.parse(what)
    try:
        return PriceBook.from_json(file.read_text())
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error


def _say_proposal(found: Proposal, as_json: bool) -> None:
    _say(found.to_dict(), as_json, found)
