"""Up to where a chain stays as it is."""

from __future__ import annotations

from rios.billing.chain.protocol import Block, Chain

CONFIRMATIONS = 12
"""Blocks on top after which a block counts, where a chain has no `finalized` tag."""


def final_block(chain: Chain, *, confirmations: int = CONFIRMATIONS, finalized_tag: bool = True) -> Block | None:
    """The latest block that counts; None where none does yet.

    It is what the chain calls finalized. Where it does not tell, or without `finalized_tag`, it is the block that has
    `confirmations` others on top.
    """
    if finalized_tag:
        found = chain.finalized()
        if found is not None:
            return found
    number = chain.block_number() - confirmations
    return chain.block(number) if number >= 0 else None
