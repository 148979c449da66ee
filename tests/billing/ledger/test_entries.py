"""Entries: what can be posted, and the two hashes as a stranger computes them."""

from __future__ import annotations

from typing import Any

import pytest

from rios.billing import verify
from rios.billing.ledger import Ledger, Transfer
from rios.words.errors import InvalidAmount, InvalidRequest, RiosError

FIELDS: dict[str, Any] = {"id": "t1", "debit": "treasury", "credit": "user:ann:trial", "amount_wei": 7, "kind": "trial"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"amount_wei": 0}, InvalidAmount),
        ({"amount_wei": -1}, InvalidAmount),
        ({"amount_wei": 1.0}, InvalidAmount),
        ({"amount_wei": True}, InvalidAmount),
        ({"amount_wei": 2**256}, InvalidAmount),
        ({"id": ""}, InvalidRequest),
        ({"id": "a\nb"}, InvalidRequest),
        ({"id": "x" * 256}, InvalidRequest),
        ({"kind": "a\nb"}, InvalidRequest),
        ({"reference": "a\x00"}, InvalidRequest),
        ({"debit": "user:ann:trial"}, InvalidRequest),
        ({"credit": "user:ann:pocket"}, InvalidRequest),
        ({"credit": "user::held"}, InvalidRequest),
        ({"credit": "user:a\nb:held"}, InvalidRequest),
        ({"credit": "worker:0x12:earned"}, InvalidRequest),
        ({"payload": {"n": 1.5}}, TypeError),
    ],
)
def test_what_cannot_be_posted_is_no_transfer(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Transfer(**{**FIELDS, **change})


def test_a_stranger_computes_the_same_hashes(ledger: Ledger) -> None:
    ledger.post(
        [
            Transfer(**FIELDS, at=5),
            Transfer(**{**FIELDS, "id": "t2", "amount_wei": 2**256 - 15}, payload={"b": "ö\n", "a": [1, None]}, at=-1),
        ]
    )
    ledger.post([Transfer(**{**FIELDS, "id": "t3", "reference": "ref"})])
    head = verify.GENESIS
    for number, entry in enumerate(ledger.entries(), start=1):
        told = verify.Entry(
            entry.seq,
            entry.id,
            entry.debit,
            entry.credit,
            entry.amount_wei,
            entry.kind,
            entry.reference,
            entry.document or "",
        )
        assert entry.seq == number
        assert verify.entry_digest(told) == entry.digest
        head = verify.entry_hash(head, entry.seq, entry.at, entry.digest)
        assert head == entry.hash
    assert ledger.head() == (3, head)


def test_the_moment_is_not_part_of_the_contents() -> None:
    assert Transfer(**FIELDS, at=1).digest == Transfer(**FIELDS, at=2).digest
    for name, value in (("amount_wei", 8), ("reference", "r"), ("kind", "k"), ("payload", {"a": 1}), ("id", "t2")):
        assert Transfer(**{**FIELDS, name: value}).digest != Transfer(**FIELDS).digest, name


def test_errors_are_of_rios() -> None:
    assert issubclass(InvalidAmount, RiosError)
