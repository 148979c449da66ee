"""Money: from metered use to a claimed payout, exact to the wei."""

from rios.billing import recursion as recursion
