"""All that has to do with money on one network, put together: for a network, and for commands that need no workers."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Self

from rios.services.alerts import Alerts
from rios.services.billing import Billing
from rios.services.books import LOCAL_USER, Books
from rios.services.charging import Charging
from rios.services.epochs import EpochSchedule
from rios.services.following import Follower
from rios.services.governance import Governance
from rios.services.settlement import Settlement
from rios.services.wallet import Earnings, Wallet
from rios.words.config import Settings

if TYPE_CHECKING:
    from rios.storage.unchanged import Unchanged

_REMEMBERED = 64


class Purse:
    """The ledger, the wallet and what is done with them. Close it, or use it as a context manager."""

    def __init__(self, options: Settings, *, background: bool = True) -> None:
        """Nothing is waited for: the ledger opens in the background, the chain starts when it is first needed.

        background: alerts are told as they come, the chain is followed every `options.chain_look_s` seconds where there
        is one, and epochs are settled as often as a vote says, else every `options.epoch_interval_s`.
        """
        self.books = books = Books(options)
        self.charging = Charging(
            lambda: books.ledger,
            user=LOCAL_USER,
            home=options.home,
            step_tokens=options.hold_step_tokens,
            grace_s=options.hold_grace_s,
        )
        books.begin(self.charging.opened)
        self.settlement = Settlement(books)
        self.alerts = Alerts(books)
        self.billing = Billing(books, self.charging, self.settlement, self.alerts)
        self.wallet = Wallet(books, self.settlement)
        self.earnings = Earnings(books, self.settlement)
        self.governance = Governance(books, self.settlement)
        self.epochs: EpochSchedule | None = None
        self.follower = Follower(books, self.settlement, self.billing.settle, look_s=options.chain_look_s)
        if background:
            self.alerts.start()
            self.follower.start()
            self.epochs = EpochSchedule(
                books, self.settlement, self.billing.settle, interval_s=options.epoch_interval_s
            )
            self.epochs.start()

    def logins(self, user_ids: Collection[str]) -> Mapping[str, str]:
        """What these users sign in as, as `logins_of`. Raises LedgerUnavailable."""
        return self._logins(" ".join(sorted(user_ids)))

    @functools.cached_property
    def _logins(self) -> Unchanged[Mapping[str, str]]:
        """Whoever looks at a job that runs asks several times a second: a question takes 0.7 ms, else 7 us."""
        from rios.accounts.store import logins_of
        from rios.storage.unchanged import Unchanged

        books = self.books
        return Unchanged(
            books.ledger.database, lambda ids: logins_of(books.ledger.database, ids.split()), most=_REMEMBERED
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is under way; the ledger and the chain stay where they are kept."""
        self.follower.close()
        if self.epochs is not None:
            self.epochs.close()
        self.charging.close()
        self.alerts.close()
        self.books.close()
