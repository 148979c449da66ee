"""Every error that rios raises on purpose.

RiosError
 +- InvalidRequest            a value that the caller gave is outside its bounds (also a ValueError)
 +- UnsupportedCheckpoint     the checkpoint's architecture or format is not served; says which and why
 +- CheckpointCorrupt         a file of the checkpoint is missing, truncated or malformed
 |   +- ShardMismatch         bytes differ from the SHA-256 pinned at their first read
 +- InsufficientMemory        what was asked for does not fit; says the numbers
 +- QueueFull                 the bounded queue of a model has no room; try again later
 +- ExpertsUnavailable        no live host holds some experts and none could take them before the deadline
 +- NoWorkers                 the network has no worker (in time)
 +- HostLost                  the connection to a host broke or its deadline passed
 |   +- TrunkLost             the host that ran the trunk is gone and no other could take over before the deadline
 +- ProtocolError             a malformed, truncated, oversized or unexpected frame
 |   +- Unauthorized          a connection without the network's key
 +- Cancelled                 the request was cancelled
 +- DeadlineExceeded          a wait ended by its stated deadline (also a TimeoutError)
 +- NetworkClosed             the network or model handle was closed
 +- GatewayLost               the gateway of a network does not answer, or answers what no gateway of rios does
 +- AccessError               who asks may not have what was asked for
 |   +- NotSignedIn           no token, or one that is unknown, expired or revoked
 |   +- NotAllowed            the role, or the scopes of the token, do not allow it
 |   |   +- SignInAgain       it takes a recent sign-in, and this one is too long ago; or a key that is for automation
 |   +- NotFound              there is no such thing, or it belongs to another organisation
 |   +- AlreadyExists         another thing has that name, or the key came before with another request
 |   +- Elsewhere             it is in the memory, or the folder of reports, of another gateway of the network
 |   +- TooManyRequests       a limit of requests is used up; `retry_after_s` says for how long
 +- SandboxError              something about applications in sandboxes
 |   +- DeploymentFailed      a deployment has failed, or ended, where it was to become something else
 |   +- UnsupportedRuntime    this host cannot run it so; says what is missing
 |   +- SandboxFailed         an instance could not be started, or its engine does not answer
 +- BillingError              something about money
     +- InvalidAmount         not an amount of ROS: a float, a bool, negative, too many decimals (also a ValueError)
     +- InsufficientBalance   the highest price of what was asked for exceeds what is available
     +- BudgetExceeded        a hard budget of the period leaves no room for it
     +- PriceBookError        a price book that contradicts itself, or none is in force
     +- LedgerConflict        an id that is known came again with another payload
     +- LedgerUnavailable     the database did not answer by the deadline, or is of another version
     +- ChainUnavailable      no chain node answers by the deadline
     +- ChainMismatch         the node serves another chain or other contracts than the ledger's
     +- TransactionFailed     a transaction was reverted, or not mined by the deadline
     +- KeystoreError         a key file cannot be read, or the passphrase does not open it
     +- NotProvable           a proof was asked for something that has none (yet)
"""

from __future__ import annotations


class RiosError(Exception):
    """Base of all errors that rios raises on purpose."""


class InvalidRequest(RiosError, ValueError):
    """A value given by the caller is outside its bounds."""


class UnsupportedCheckpoint(RiosError):
    """The checkpoint's architecture or format is not served."""


class CheckpointCorrupt(RiosError):
    """A file of the checkpoint is missing, truncated or malformed."""


class ShardMismatch(CheckpointCorrupt):
    """Bytes differ from the SHA-256 that was pinned at their first read."""


class InsufficientMemory(RiosError):
    """What was asked for does not fit into the memory that is free."""


class QueueFull(RiosError):
    """The bounded queue of a model has no room."""


class ExpertsUnavailable(RiosError):
    """No live host holds some experts, and none could take them before the deadline."""


class NoWorkers(RiosError):
    """The network has no worker, or not enough of them, before the deadline."""


class HostLost(RiosError):
    """The connection to a host broke or its deadline passed."""


class TrunkLost(HostLost):
    """The host that ran the trunk is gone and no other could take over before the deadline."""


class ProtocolError(RiosError):
    """A malformed, truncated, oversized or unexpected frame."""


class Unauthorized(ProtocolError):
    """A connection that did not present the host's key."""


class Cancelled(RiosError):
    """The request was cancelled."""


class DeadlineExceeded(RiosError, TimeoutError):
    """A wait ended by its stated deadline."""


class NetworkClosed(RiosError):
    """The network or the model handle was closed."""


class GatewayLost(RiosError):
    """The gateway of a network does not answer, or answers what no gateway of rios does."""


class AccessError(RiosError):
    """Who asks may not have what was asked for."""


class NotSignedIn(AccessError):
    """No token, or one that is unknown, expired or revoked."""


class NotAllowed(AccessError):
    """The role, or the scopes of the token, do not allow it."""


class SignInAgain(NotAllowed):
    """It takes a sign-in of the last minutes: this one is older, or is a key that stands for none."""


class NotFound(AccessError):
    """There is no such thing, or it belongs to another organisation: nobody learns which."""


class AlreadyExists(AccessError):
    """Another thing has that name, or the idempotency key came before with another request."""


class Elsewhere(AccessError):
    """What was asked for is in the memory, or in the folder of reports, of another gateway of the network alone; or on
    hosts that do not answer."""


class TooManyRequests(AccessError):
    """A limit of requests is used up."""

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, limit: int | None = None, reset_s: float = 0.0
    ) -> None:
        """retry_after_s: there is room again after so many seconds. limit: of requests at once, where it is that which
        is used up; reset_s: until there is room for all of them."""
        super().__init__(message)
        self.retry_after_s, self.limit, self.reset_s = retry_after_s, limit, reset_s


class SandboxError(RiosError):
    """Something about applications in sandboxes."""


class DeploymentFailed(SandboxError):
    """A deployment has failed, or ended, where it was waited for to become something else."""


class UnsupportedRuntime(SandboxError):
    """This host cannot run an application in the way that was asked for."""


class SandboxFailed(SandboxError):
    """An instance could not be started, or the engine that runs it does not answer."""


class BillingError(RiosError):
    """Something about money."""


class InvalidAmount(BillingError, ValueError):
    """Not an amount of ROS: a float, a bool, negative where it must not be, more than 18 decimals, too large."""


class InsufficientBalance(BillingError):
    """The highest price of what was asked for exceeds what is available."""


class BudgetExceeded(BillingError):
    """A hard budget of the period leaves no room for what was asked for."""


class PriceBookError(BillingError):
    """A price book that contradicts itself, or none is in force."""


class LedgerConflict(BillingError):
    """An id that is known came again with another payload."""


class LedgerUnavailable(BillingError):
    """The database did not answer by the deadline, or its schema is of another version."""


class ChainUnavailable(BillingError):
    """No chain node answers by the deadline."""


class ChainMismatch(BillingError):
    """The node serves another chain, or other contracts, than those the ledger was made with."""


class TransactionFailed(BillingError):
    """A transaction was reverted, or was not mined by its deadline."""


class KeystoreError(BillingError):
    """A key file cannot be read, or the passphrase does not open it."""


class NotProvable(BillingError):
    """A proof was asked for something that has none, or not yet."""
