"""`net.wallet` and `net.earnings` of a network behind a gateway: what is in them, and what moves it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from rios.client.http import MONEY_S, Http
from rios.client.reading import balance_of
from rios.services.wallet import Holdings
from rios.words.display import Unknown, answer, html_line
from rios.words.errors import (
    ChainUnavailable,
    DeadlineExceeded,
    GatewayLost,
    LedgerUnavailable,
    NetworkClosed,
    QueueFull,
    RiosError,
    TooManyRequests,
    TransactionFailed,
)
from rios.words.ids import Address
from rios.words.money import Wei, parse_ros

if TYPE_CHECKING:
    import pandas as pd

    from rios.billing.ledger.values import Balance
    from rios.services.wallet import Earned

# After these nobody knows whether it is under way: QueueFull is also the answer while the same key still runs.
_UNCLEAR = (
    GatewayLost,
    ChainUnavailable,
    LedgerUnavailable,
    TransactionFailed,
    QueueFull,
    TooManyRequests,
    DeadlineExceeded,
    NetworkClosed,
)
_WITHDRAWALS = "/v1/wallet/withdrawals"


class RemoteWallet(Holdings):
    """What the user has."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._unanswered: dict[tuple[str, str], str] = {}
        """By path and amount: the key of a call that ended without an answer."""

    @property
    def address(self) -> Address | None:
        """The address on the chain whose deposits are the user's, or None."""
        found = self._http.get("/v1/wallet")["address"]
        return None if found is None else Address(found)

    @property
    def balance(self) -> Balance:
        """What is deposited, given as trial credit, and held."""
        return balance_of(self._http.get("/v1/wallet"))

    @property
    def on_chain(self) -> Wei:
        """Wei of ROS that the address has on the chain, outside the escrow; 0 without an address."""
        return Wei(int(self._http.ask("GET", "/v1/wallet/chain", timeout=MONEY_S)["on_chain_wei"]))

    def deposit(self, amount: str | int, *, key: str | None = None) -> Balance:
        """As `net.wallet.deposit` of a local network, once even where the connection is lost on the way.

        A deposit that had no answer goes on when it is asked for again.

        Raises NotAllowed to all but the network's first admin, whose key the network holds.
        """
        return self._move("/v1/wallet/deposits", amount, "the deposit", key)

    def withdraw(self, amount: str | int, *, key: str | None = None) -> Balance:
        """As `net.wallet.withdraw` of a local network; who may, and how often it happens, as of `deposit`."""
        return self._move(_WITHDRAWALS, amount, "the withdrawal", key)

    def finish_withdrawal(self, *, key: str | None = None) -> Balance:
        """Take what `withdraw` asked for and the escrow's delay has passed for."""
        return self._end(f"{_WITHDRAWALS}/finish", key)

    def cancel_withdrawal(self, *, key: str | None = None) -> Balance:
        """Leave what `withdraw` asked for in the escrow, to be spent."""
        return self._end(f"{_WITHDRAWALS}/cancel", key)

    def link_message(self, address: str) -> str:
        """What the key of an address of yours has to sign, so that its deposits become yours: see `link`.

        It names the escrow that takes the deposits, and its token. Raises LedgerConflict where the address is another
        user's, or this user has one.
        """
        return str(self._http.post("/v1/wallet/address/message", {"address": address}, timeout=MONEY_S)["message"])

    def link(self, message: str, signature: str | bytes) -> Address:
        """Make the address that signed `message` (EIP-191, `personal_sign`) this user's, with all its deposits.

        Raises NotAllowed where another key has signed, InvalidRequest after a quarter of an hour.
        """
        from rios.services.linking import nonce_in

        text = signature.hex() if isinstance(signature, bytes) else signature
        body = {"nonce": nonce_in(message), "signature": text}
        return Address(self._http.post("/v1/wallet/address", body, timeout=MONEY_S)["address"])

    def _move(self, path: str, amount: str | int, name: str, key: str | None) -> Balance:
        body = {"amount": f"{parse_ros(amount, name=name)} wei"}
        # A block takes longer to be final than anybody wants to wait: who asks again asks for the same.
        what = (path, body["amount"])
        if key:
            return balance_of(self._http.post(path, body, key=key, timeout=MONEY_S))
        new = secrets.token_hex(16)
        chosen = self._unanswered.setdefault(what, new)
        try:
            found = balance_of(self._http.post(path, body, key=chosen, timeout=MONEY_S))
        except _UNCLEAR:
            raise
        except RiosError:
            # A new one was refused, and nothing is under way; a repetition may be refused while the first still is.
            if chosen == new:
                self._unanswered.pop(what, None)
            raise
        self._unanswered.pop(what, None)
        return found

    def _end(self, path: str, key: str | None) -> Balance:
        found = balance_of(self._http.post(path, None, key=key or secrets.token_hex(16), timeout=MONEY_S))
        # A withdrawal that had no answer has ended with this: the next one of its amount is another.
        for what in [what for what in self._unanswered if what[0] == _WITHDRAWALS]:
            self._unanswered.pop(what, None)
        return found

    def __repr__(self) -> str:
        return f"<RemoteWallet at {self._http.url}: {answer(lambda: self.balance)}>"


class RemoteEarnings:
    """What the workers of an owner have earned; without an owner, of the user's own address."""

    def __init__(self, http: Http, owner: Address | None = None) -> None:
        self._http = http
        self._owner = owner

    def of(self, owner: Address) -> RemoteEarnings:
        """The earnings of another owner: for admins of the network, else NotFound."""
        return RemoteEarnings(self._http, owner)

    @property
    def owner(self) -> Address:
        """Whose earnings these are."""
        return self._owner or self.now.owner

    @property
    def now(self) -> Earned:
        """The amounts now."""
        from rios.services.wallet import Earned

        said = self._http.get("/v1/earnings", owner=self._owner)
        amounts = (Wei(int(said[name])) for name in ("earned_wei", "claimable_wei", "claimed_wei"))
        return Earned(Address(said["owner"]), *amounts)

    def claim(self) -> Wei:
        """Have the settlement contract pay what the last final root promises; wei that were paid. Of any amount."""
        key = secrets.token_hex(16)
        said = self._http.post("/v1/earnings/claims", {"owner": self._owner}, key=key, timeout=MONEY_S)
        return Wei(int(said["paid_wei"]))

    def to_frame(self) -> pd.DataFrame:
        """What was earned by worker, model and resource: columns worker, model, resource, wei (Python ints), ros."""
        from rios.services.wallet import earnings_frame

        rows = self._http.get("/v1/earnings/lines", owner=self._owner)["data"]
        return earnings_frame({(row["worker"], row["model"], row["resource"]): int(row["wei"]) for row in rows})

    def __repr__(self) -> str:
        return self._line(answer(lambda: self.now))

    def __str__(self) -> str:
        now = answer(lambda: self.now)
        return self._line(now) if isinstance(now, Unknown) else str(now)

    def _repr_html_(self) -> str:
        now = answer(lambda: self.now)
        return html_line(self._line(now)) if isinstance(now, Unknown) else now._repr_html_()

    def _line(self, now: Earned | Unknown) -> str:
        from rios.services.wallet import earnings_line

        owner = (self._owner or "the user") if isinstance(now, Unknown) else now.owner
        return f"<RemoteEarnings at {self._http.url} of {earnings_line(owner, now)}>"
