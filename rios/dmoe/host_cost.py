"""What a call to one host costs, learned from calls: for choosing hosts, for noticing slow ones, for hedging.

seconds = factor * (per_call + per_group * groups + per_row * rows). The three rates are a least-squares fit of relative
errors over the last few hundred usual calls. The factor follows the last few calls, so that a host that suddenly slows
down is known within a few calls and forgiven within a few good ones, while the rates remember what is usual for it.
"""

from __future__ import annotations

import math
from collections import deque

from rios.words.errors import InvalidRequest

Rates = tuple[float, float, float]

# A first guess, for a small CPU host on a local network, and how much the rates before a fit count beside the calls.
_GUESS: Rates = (3e-4, 2e-4, 2e-5)
_HOLD = 0.01
_FORGET = 1.0 - 1.0 / 256
_FIT_EVERY = 32
_FIT_ALWAYS_UNTIL = 16
_FIT_SWEEPS = 24
# The factor is averaged in logarithms: one call of 16 times the usual moves it to 1.7, and a host that has become 10
# times slower passes 4 with its fifth call.
_FOLLOW = 0.2
_RATIO_BOUND = 16.0
_SLOW_ABOVE = 4.0
_WELL_BELOW = 2.0
# A call outside this part of what is usual says something about the host's present, not about its rates.
_UNUSUAL_ABOVE = 2.5
# Usually twice as fast as the rates say: the rates were learned in bad times.
_REBASE_BELOW = 0.5
# A trunk's own host that was not chosen this many times in a row looks half as costly, and again after as many: what
# is never asked cannot show that it is better than it was. (Other hosts are probed instead.) One that really is
# four times slower gets a group in every 32 layers, which delays them by less than 5 %.
_PASSED_OVER = 16
_WINDOW = 64
_QUANTILE = 0.95
_HEDGE_FACTOR_BEFORE_DATA = 3.0
_DATA = 16


class HostCost:
    """The cost model of one host. One thread observes; any may read."""

    __slots__ = (
        "_b", "_base", "_hedge_factor", "_largest", "_log_factor", "_m", "_passed_over", "_ratios", "_smallest",
        "observations", "rates", "slow",
    )  # fmt: skip

    def __init__(self, guess: Rates = _GUESS) -> None:
        """guess: seconds per call, per group and per row before anything was measured; each above 0."""
        if not all(math.isfinite(rate) and rate > 0 for rate in guess):
            raise InvalidRequest(f"guess is {guess}: all three rates must be finite and above 0 seconds")
        self.observations = 0
        self.slow = False  # four times slower than usual or more; stays until it is less than twice as slow
        self.rates: Rates = guess  # per call, per group, per row in seconds, as they are now: for `divide`
        self._base: Rates = guess
        self._log_factor = 0.0
        self._passed_over = 0
        self._hedge_factor = _HEDGE_FACTOR_BEFORE_DATA
        self._ratios: deque[float] = deque(maxlen=_WINDOW)
        self._smallest = (math.inf, math.inf)
        self._largest = (0.0, 0.0)
        # Normal equations of the fit: [cc cg cr gg gr rr] of 1, groups, rows, and [c g r] with the times.
        self._m = [0.0] * 6
        self._b = [0.0] * 3

    def __repr__(self) -> str:
        call, group, row = (rate * 1e6 for rate in self._base)
        return (
            f"<HostCost {call:.0f} us a call, {group:.0f} a group, {row:.1f} a row, now {self.factor:.1f} times that, "
            f"{self.observations} observations{', slow' if self.slow else ''}>"
        )

    @property
    def factor(self) -> float:
        """How many times slower the last calls were than is usual for this host."""
        return math.exp(self._log_factor)

    @property
    def usual(self) -> Rates:
        """Seconds per call, per group and per row that are usual for this host."""
        return self._base

    def pass_over(self) -> None:
        """Take in that the host could have been asked and was not: what is known of it grows old."""
        self._passed_over += 1
        if self._passed_over % _PASSED_OVER == 0:
            self._log_factor *= 0.5
            call, group, row = self.rates
            self.rates = (call * 0.5, group * 0.5, row * 0.5)

    def hedge_after_s(self, groups: int, rows: int, *, floor_s: float = 0.002) -> float:
        """Seconds after which a call is later than 95 % of the usual ones: time to ask another host as well.

        At least `floor_s`; at most four times what is usual, also while the host is slow.
        """
        call, group, row = self._base
        return max(floor_s, self._hedge_factor * (call + group * groups + row * rows))

    def observe(self, groups: int, rows: int, seconds: float) -> None:
        """Take in one call that came back: its groups, its rows in all, the seconds from sending to the last byte."""
        if not seconds > 0.0 or seconds == math.inf or groups < 1:
            raise InvalidRequest(f"a call took {seconds} s with {groups} groups: both must be above 0, and finite")
        self.observations += 1
        self._passed_over = 0
        call, group, row = self._base
        expected = call + group * groups + row * rows
        ratio = seconds / expected
        if self._is_new_ground(groups, rows) or self.observations <= 3:
            # The rates were never tried on a call like this: that they are off says nothing about the host. Its time is
            # the best guess there is for such calls.
            self._learn(groups, rows, seconds, seconds)
            self._fit()
        else:
            bounded = min(max(ratio, 1.0 / _RATIO_BOUND), _RATIO_BOUND)
            self._log_factor += _FOLLOW * (math.log(bounded) - self._log_factor)
            self._ratios.append(bounded)
            if ratio < _UNUSUAL_ABOVE:
                self._learn(groups, rows, seconds, expected)
            if self.observations < _FIT_ALWAYS_UNTIL or self.observations % _FIT_EVERY == 0:
                self._fit()
            if len(self._ratios) >= _DATA and self.observations % 8 == 0:
                usual = sorted(self._ratios)[math.ceil(_QUANTILE * len(self._ratios)) - 1]
                self._hedge_factor = min(max(usual, 1.0), _SLOW_ABOVE)
        factor = math.exp(self._log_factor)
        if factor < _REBASE_BELOW:
            self._rebase(factor)
            factor = 1.0
        self.slow = factor > (_WELL_BELOW if self.slow else _SLOW_ABOVE)
        call, group, row = self._base
        self.rates = (call * factor, group * factor, row * factor)

    def _is_new_ground(self, groups: int, rows: int) -> bool:
        """Whether the call is far outside the sizes seen so far, which then grow to include it."""
        few_groups, few_rows = self._smallest
        many_groups, many_rows = self._largest
        if few_groups <= 2 * groups <= 4 * many_groups and few_rows <= 2 * rows <= 4 * many_rows:
            return False
        self._smallest = (min(few_groups, groups), min(few_rows, rows))
        self._largest = (max(many_groups, groups), max(many_rows, rows))
        return True

    def _learn(self, groups: int, rows: int, seconds: float, scale: float) -> None:
        m, b = self._m, self._b
        call, group, row, time = 1.0 / scale, groups / scale, rows / scale, seconds / scale
        m[0] = m[0] * _FORGET + call * call
        m[1] = m[1] * _FORGET + call * group
        m[2] = m[2] * _FORGET + call * row
        m[3] = m[3] * _FORGET + group * group
        m[4] = m[4] * _FORGET + group * row
        m[5] = m[5] * _FORGET + row * row
        b[0] = b[0] * _FORGET + call * time
        b[1] = b[1] * _FORGET + group * time
        b[2] = b[2] * _FORGET + row * time

    def _fit(self) -> None:
        """Non-negative least squares by coordinate descent, held back a little by the rates as they stand.

        That little keeps the rates apart where calls do not tell them apart, as when all have one group of one row.
        """
        call, group, row = self._base
        keep = 1.0 + _HOLD
        cc, cg, cr, gg, gr, rr = self._m
        if cc == 0.0:
            return  # nothing learned since the rates were last scaled
        c, g, r = self._b
        c, g, r = c + _HOLD * cc * call, g + _HOLD * gg * group, r + _HOLD * rr * row
        cc, gg, rr = cc * keep, gg * keep, rr * keep
        for _ in range(_FIT_SWEEPS):
            call = max(1e-9, (c - cg * group - cr * row) / cc)
            group = max(1e-9, (g - cg * call - gr * row) / gg)
            if rr > 0.0:
                row = max(1e-9, (r - cr * call - gr * group) / rr)
        self._base = (call, group, row)

    def _rebase(self, factor: float) -> None:
        call, group, row = self._base
        self._base = (call * factor, group * factor, row * factor)
        self._m = [0.0] * 6
        self._b = [0.0] * 3
        self._ratios.clear()
        self._log_factor = 0.0
