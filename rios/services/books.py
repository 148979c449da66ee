"""What a network keeps its accounts in: the ledger, opened in the background so that nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from rios.billing.parameters import Setting
from rios.storage.breaker import Breaker
from rios.words.config import Settings
from rios.words.errors import LedgerUnavailable, NetworkClosed
from rios.words.ids import Address
from rios.words.money import WEI_PER_ROS, Wei, parse_ros

if TYPE_CHECKING:
    from rios.billing.keystore import Signer
    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain

LOCAL_USER = "local"
"""The account that exists before there are others."""
FIRST_ORGANISATION = "network"
"""The organisation that it is in."""
TRIAL_WEI = 10 * WEI_PER_ROS
_OPEN_TIMEOUT_S = 60.0


def ledger_of(options: Settings) -> Ledger:
    """The ledger at `options.database`, or in `options.home`; without both it ends with the process. Close it.

    Raises LedgerUnavailable.
    """
    from rios.billing.ledger.ledger import Ledger

    home = options.home
    if home is not None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Ledger.open(options.database or (None if home is None else f"sqlite:///{home / 'ledger.sqlite'}"))


class Books:
    """The ledger of one network. Close it."""

    def __init__(self, options: Settings) -> None:
        """The ledger is that of `ledger_of`, once `begin` was called."""
        home = options.home
        self._options = options
        self._home = home
        self._lock = threading.Lock()
        self._chain: NetworkChain | None = None
        self.chain_breaker = Breaker("chain")
        """Of the node, also while it could not be reached yet."""
        self._opened: Future[Ledger] = Future()
        self._closed = False

    def begin(self, first: Callable[[Ledger], None]) -> None:
        """Open the ledger, and have `first` done with it before anybody has it. Nobody waits."""
        # Its libraries take a second to import, which would else be the first request's.
        self._opening = threading.Thread(target=self._open, args=(first,), name="rios-books", daemon=True)
        self._opening.start()

    @property
    def final_timeout_s(self) -> float:
        """How long what was sent to the chain may take to be final."""
        return self._options.chain_final_timeout_s

    @property
    def payout_min_wei(self) -> Wei:
        """From how much on the operator pays an owner: by a vote, else `RIOS_PAYOUT_MIN`. Raises InvalidAmount."""
        voted = self.ledger.parameters().get("payout_min_wei")
        return parse_ros(self._options.payout_min, name="RIOS_PAYOUT_MIN") if voted is None else Wei(voted)

    def parameters(self) -> list[Setting]:
        """The network's own parameters: as a vote has set each, else as this process is set."""
        voted, options = self.ledger.parameters(), self._options
        local = {
            "payout_min_wei": parse_ros(options.payout_min, name="RIOS_PAYOUT_MIN"),
            "epoch_interval_s": options.epoch_interval_s,
            "hold_grace_s": options.hold_grace_s,
        }
        return [
            Setting(name, voted[name], "vote") if name in voted else Setting(name, value, "setting")
            for name, value in local.items()
        ]

    @property
    def ledger(self) -> Ledger:
        """The open ledger. Raises LedgerUnavailable where it cannot be opened, NetworkClosed after `close`."""
        if self._closed:
            raise NetworkClosed("this network was closed; make another one")
        try:
            return self._opened.result(_OPEN_TIMEOUT_S)
        except TimeoutError as error:
            raise LedgerUnavailable(f"the ledger was not open after {_OPEN_TIMEOUT_S:g} s; try again") from error

    def when_open(self, then: Callable[[Ledger], None]) -> None:
        """Call `then` with the ledger once it is open, in another thread; never where it cannot be opened."""

        def opened(ledger: Future[Ledger]) -> None:
            if ledger.exception() is None:
                then(ledger.result())

        self._opened.add_done_callback(opened)

    @property
    def address(self) -> Address:
        """The address of the local wallet, after `close` too where it is known: who owns what is not announced as
        somebody else's. Raises as `ledger`."""
        known: Signer | None = getattr(self, "_wallet", None)
        return self.wallet.address if known is None else known.address

    @property
    def wallet(self) -> Signer:
        """Who signs for the local wallet. Raises as `ledger`."""
        self.ledger  # noqa: B018  the wallet is there when the ledger is
        return self._wallet

    @property
    def chain(self) -> NetworkChain:
        """The chain with the network's contracts; started, and the contracts made, when it is first asked for.

        Raises ChainUnavailable, ChainMismatch, TransactionFailed.
        """
        ledger = self.ledger
        with self._lock:
            if self._chain is None:
                from rios.services.network_chain import NetworkChain

                options = self._options
                self._chain = NetworkChain(
                    ledger,
                    wallet=self._wallet,
                    operator=self._keys.signer("operator"),
                    home=self._home,
                    url=options.chain,
                    chain_id=options.chain_id,
                    contracts=options.contracts,
                    confirmations=options.chain_confirmations,
                    final_timeout_s=self.final_timeout_s,
                    challenge_window_s=options.challenge_window_s,
                    breaker=self.chain_breaker,
                )
            return self._chain

    @property
    def followed_chain(self) -> NetworkChain | None:
        """The chain where it was asked for already, and a node where it has the network's contracts.

        Nothing is made: a chain in this process is not begun, and a network without contracts gets none.
        """
        options = self._options
        if self._chain is not None or options.chain is None:
            return self._chain
        file = options.contracts or (None if self._home is None else self._home / "contracts.json")
        return self.chain if file is not None and file.exists() else None

    @property
    def started_chain(self) -> NetworkChain | None:
        """The chain where it was asked for already; nobody waits, and nothing is started."""
        return self._chain

    def _open(self, first: Callable[[Ledger], None]) -> None:
        try:
            from rios.services.network_keys import NetworkKeys
            from rios.services.wallet_signer import wallet_signer

            ledger = ledger_of(self._options)
            try:
                self._keys = NetworkKeys(ledger, self._home)  # who is refused has changed nothing
                self._wallet = wallet_signer(self._options, self._keys, ledger.address_of(LOCAL_USER))
            except BaseException:
                ledger.close()
                raise
            ledger.grant_trial(LOCAL_USER, TRIAL_WEI)
            ledger.link_address(LOCAL_USER, self._wallet.address)
            first(ledger)
        except BaseException as error:  # noqa: BLE001  whoever asks for the ledger gets it raised
            self._opened.set_exception(error)
        else:
            self._opened.set_result(ledger)

    def close(self) -> None:
        """Finish what is under way and close the ledger."""
        if not self._closed:
            self._closed = True
            if self._chain is not None:
                self._chain.close()
            if self._opened.exception(_OPEN_TIMEOUT_S) is None:
                self._opening.join(_OPEN_TIMEOUT_S)  # who waited until it was open reads it there
                self._opened.result().close()
