"""Dividing an amount so that the parts add up to the whole, always."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rios.words.errors import InvalidAmount
from rios.words.money import Wei, check_wei

BASIS_POINTS = 10_000
"""One basis point is 0.01 %."""


@dataclass(frozen=True, slots=True)
class Split:
    """One charge, divided: the two parts add up to it."""

    worker_wei: Wei
    platform_wei: Wei


def parts(total_wei: int, weights: Sequence[int]) -> tuple[Wei, ...]:
    """Divide `total_wei` in proportion to `weights` (ints of at least 0, not all 0) into parts that add up to it.

    Largest remainder (Hamilton's method): each part is its exact share rounded down, and the wei left over go one
    each to the largest fractions, of equal ones to the earlier. No part is off its exact share by 1 wei or more.
    """
    check_wei(total_wei, name="the amount to divide")
    for place, weight in enumerate(weights):
        check_wei(weight, name=f"weight {place} of the division")
    whole = sum(weights)
    if whole == 0:
        raise InvalidAmount("nobody has a weight in the division; at least one weight must be above 0")
    found = [divmod(total_wei * weight, whole) for weight in weights]
    shares = [quotient for quotient, _ in found]
    left = total_wei - sum(shares)
    for place in sorted(range(len(found)), key=lambda place: -found[place][1])[:left]:
        shares[place] += 1
    return tuple(Wei(share) for share in shares)


def split(amount_wei: int, platform_bp: int) -> Split:
    """Divide a charge between the worker and the platform, which takes `platform_bp` basis points of it.

    Where both fractions are equal, the odd wei is the worker's.
    """
    if not 0 <= platform_bp <= BASIS_POINTS:
        raise InvalidAmount(f"the platform's share is {platform_bp!r} basis points; it is from 0 to {BASIS_POINTS}")
    amount = check_wei(amount_wei, name="the amount to divide")
    # `parts` of two: what is left over of them is nothing or one wei.
    platform, left = divmod(amount * platform_bp, BASIS_POINTS)
    if 2 * left > BASIS_POINTS:
        platform += 1
    return Split(Wei(amount - platform), Wei(platform))
