"""What the owners of jobs sign in as: asked for once, until somebody writes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from rios.accounts import store
from rios.services.purse import Purse
from rios.storage.engine import Database
from rios.storage.models import OrganisationRow, PersonRow
from rios.words.config import settings
from rios.words.errors import NetworkClosed


def test_the_database_is_asked_again_when_somebody_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], store.logins_of

    def logins_of(database: Database, user_ids: Collection[str]) -> dict[str, str]:
        asked.append(list(user_ids))
        return real(database, user_ids)

    monkeypatch.setattr(store, "logins_of", logins_of)
    with Purse(settings().model_copy(update={"home": tmp_path, "database": None}), background=False) as purse:
        database = purse.books.ledger.database
        purse.charging.close()  # it goes on for a moment after the ledger is open, and writes
        with database.writing() as connection:
            connection.execute(insert(OrganisationRow).values(id="lab", name="lab", operator=False, created_at=0))
            person = {"id": "ann", "organisation_id": "lab", "login": "ann@lab", "name": "", "role": "viewer"}
            connection.execute(insert(PersonRow).values(**person, created_at=0))
        assert [purse.logins({"ann"}) for _ in range(3)] == [{"ann": "ann@lab"}] * 3
        assert asked == [["ann"]]
        assert purse.logins({"nobody"}) == purse.logins({"nobody"}) == {}
        with database.writing() as connection:
            connection.execute(update(PersonRow).where(PersonRow.id == "ann").values(login="closed:ann"))
        assert purse.logins({"ann"}) == {"ann": "closed:ann"}
    with pytest.raises(NetworkClosed):
        purse.logins({"ann"})
