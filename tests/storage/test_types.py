"""Whole numbers come back as they went in, on both databases."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Column, Connection, MetaData, Table, insert, select, text
from sqlalchemy.exc import StatementError

from rios.storage.engine import Database
from rios.storage.types import Big, Whole
from rios.words.errors import InvalidAmount

TABLE = Table("numbers", MetaData(), Column("id", Big, primary_key=True), Column("wei", Whole))
# 10^-18 ROS to 10^9 ROS, what a double and 64 bits cannot hold, and the ends.
NUMBERS = [0, 1, -1, 2**53 + 1, 2**63, 10**18 + 1, 10**27 + 1, -(10**27) - 1, 2**256 - 1, 10**78 - 1]


def _write(connection: Connection, value: Any) -> None:
    connection.execute(insert(TABLE), [{"id": 1, "wei": value}])


def test_numbers_come_back(url: str) -> None:
    database = Database(url, timeout_s=10)
    with database.writing() as connection:
        TABLE.create(connection)
        connection.execute(insert(TABLE), [{"id": place, "wei": value} for place, value in enumerate([*NUMBERS, None])])
    with database.reading() as connection:
        found = list(connection.scalars(select(TABLE.c.wei).order_by(TABLE.c.id)))
    assert found == [*NUMBERS, None]
    assert {type(value) for value in found} == {int, type(None)}
    database.close()


@pytest.mark.parametrize("value", [1.0, True, Decimal(1), "1", 10**78, -(10**78)])
def test_all_but_whole_numbers_are_refused(url: str, value: Any) -> None:
    database = Database(url, timeout_s=10)
    with database.writing() as connection:
        TABLE.create(connection)
    with pytest.raises(StatementError) as caught, database.writing() as connection:
        _write(connection, value)
    assert isinstance(caught.value.orig, InvalidAmount)
    database.close()


def test_a_float_that_got_into_the_file_is_noticed() -> None:
    database = Database(None, timeout_s=10)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE numbers (id INTEGER PRIMARY KEY, wei)"))
        connection.execute(text("INSERT INTO numbers VALUES (1, 1e18)"))
    with database.reading() as connection, pytest.raises(InvalidAmount, match="1e\\+18"):
        connection.scalar(select(TABLE.c.wei))
    database.close()
