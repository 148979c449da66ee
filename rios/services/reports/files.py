"""The files of published reports, and which hosts keep them, in the tables.

A file is known by its SHA-256, as the history says it, and is one row however many reports have it. A host has a row
before it is given any of it: so what hosts keep without one is nobody's, and whoever leads has it removed. Hosts know
it by an id of that row alone, which is never used again: so what is removed was not placed there anew meanwhile, and
whoever offers a machine has no SHA-256 of a file that would tell whether a guess of its content is right.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, or_, select, update

from rios.services.deployments.snapshots import KEPT, Known, at_once
from rios.storage.report_models import ReportCopyRow, ReportFileRow, ReportPlaceRow

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, ScalarSelect

    from rios.billing.ledger.batch import Batch
    from rios.storage.engine import Database

REPORTS = "reports"
"""Of hosts' stores, where others have the id of a deployment."""
COPIES = 2
"""So many hosts keep a file, where there are as many."""
TAG_BYTES = 16
"""What a sealed file has more than the file (AES-GCM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of published reports."""

    sha256: str
    size_bytes: int
    folder: str
    name: str
    seal_key: str = field(repr=False)
    digest: str
    hosts: Mapping[str, bool]
    """Those that are to keep it, and whether each has all of it."""
    ids: Mapping[str, str]
    """By what id each of them knows it."""
    others: tuple[tuple[str, str], ...]
    """Folder and name where it was published besides."""

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Folder and name wherever it was published: who has a folder of its own may have it in any of these."""
        return ((self.folder, self.name), *self.others)

    def known(self, host: str | None = None) -> Known:
        """As whoever reads from hosts sees it: those that are to keep it. host: one whose id of it is wanted."""
        return Known(
            id=self.name if host is None else self.ids[host], app_id=REPORTS, organisation_id="", path="", state=KEPT,
            reason="", digest=self.digest, size_bytes=self.size_bytes + TAG_BYTES, quota_bytes=0, copies=COPIES,
            created_by="", created_at=0, hosts=tuple(sorted(self.hosts)),
        )  # fmt: skip


def published(connection: Connection, folder: str, files: Mapping[str, Any]) -> None:
    """Have the files of a report kept: in the transaction that ends the attempt. files: as the history has them."""
    row, other = ReportFileRow, ReportPlaceRow
    for name, said in files.items():
        place = {"sha256": said["sha256"], "folder": folder, "name": name}
        known = (select(one.folder, one.name).where(one.sha256 == said["sha256"]) for one in (row, other))
        places = {tuple(one) for wanted in known for one in connection.execute(wanted)}
        if not places:
            new = {"seal_key": secrets.token_hex(32), "digest": "", "uneven": True}
            connection.execute(insert(row), [{**place, "size_bytes": said["bytes"], **new}])
        elif (folder, name) not in places:
            connection.execute(insert(other), [place])


def file_of(database: Database, sha256: str) -> File | None:
    """A file by its SHA-256."""
    with database.reading() as connection:
        return next(iter(_files(connection, ReportFileRow.sha256 == sha256, limit=1)), None)


def uneven(database: Database, hosts: Collection[str], lost: Collection[str], *, after: str, limit: int) -> list[File]:
    """Those that are not known to be kept by as many hosts as are to, and for which something can be done: one of these
    hosts has not all of it, or enough that are not lost do. So many, after a SHA-256.

    Where there are fewer hosts than are to keep a file nothing can be done about any, for as long as that is so.
    """
    row, copy = ReportFileRow, ReportCopyRow

    def whole(*more: ColumnElement[bool]) -> ScalarSelect[int]:
        return select(func.count()).where(copy.sha256 == row.sha256, copy.whole, *more).scalar_subquery()

    helps = or_(whole(copy.host.in_(hosts)) < len(hosts), whole(copy.host.not_in(lost)) >= COPIES)
    with database.reading() as connection:
        return _files(connection, row.uneven, row.sha256 > after, helps, limit=limit)


def keepers(database: Database) -> list[str]:
    """All hosts that are to keep any."""
    with database.reading() as connection:
        return list(connection.scalars(select(ReportCopyRow.host).distinct()))


def kept_on(database: Database, host: str, ids: Collection[str]) -> dict[str, File]:
    """Those of the files that a host is to keep, by their ids there."""
    copy, found = ReportCopyRow, dict[str, File]()
    with database.reading() as connection:
        theirs = connection.execute(select(copy.id, copy.sha256).where(copy.host == host))
        mine = {one.id: one.sha256 for one in theirs}
        for some in at_once(sorted({mine[name] for name in mine.keys() & set(ids)})):
            found |= {one.ids.get(host, ""): one for one in _files(connection, ReportFileRow.sha256.in_(some))}
    return {name: one for name, one in found.items() if name in mine}


def whole_on(database: Database, host: str) -> set[str]:
    """The ids of all that a host is thought to have whole."""
    copy = ReportCopyRow
    with database.reading() as connection:
        return set(connection.scalars(select(copy.id).where(copy.host == host, copy.whole)))


def place(connection: Connection, one: File, host: str, digest: str, lost: Collection[str]) -> str:
    """Write that a host is to keep a file; its id there, or nothing where as many are to by now, lost ones not counted,
    or it is."""
    row, copy = ReportFileRow, ReportCopyRow
    hosts = set(connection.scalars(select(copy.host).where(copy.sha256 == one.sha256)))
    if host in hosts or len(hosts.difference(lost)) >= COPIES:
        return ""
    name = secrets.token_hex(16)
    connection.execute(update(row).where(row.sha256 == one.sha256).values(digest=digest))
    connection.execute(insert(copy), [{"sha256": one.sha256, "host": host, "id": name, "whole": False}])
    return name


def is_whole(connection: Connection, sha256: str, host: str, name: str) -> bool:
    """Write that a host has all of a file, by its id there; False where it is to keep that no longer."""
    mine = _copy(sha256, host, name)
    return connection.execute(update(ReportCopyRow).where(*mine).values(whole=True)).rowcount == 1


def drop(connection: Connection, sha256: str, host: str, name: str) -> None:
    """A host is to keep a file no longer, by its id there. Who leads tells it: what hosts keep without a row goes."""
    row, copy = ReportFileRow, ReportCopyRow
    connection.execute(delete(copy).where(*_copy(sha256, host, name)))
    connection.execute(update(row).where(row.sha256 == sha256).values(uneven=True))


def drop_all(batch: Batch, one: File) -> None:
    """As `drop`, of all hosts that were to keep it then, as far as nothing has been written of them since: none of them
    could read it."""
    row, copy = ReportFileRow, ReportCopyRow
    for host, name in one.ids.items():
        as_then = (*_copy(one.sha256, host, name), copy.whole == one.hosts[host])
        batch.connection.execute(delete(copy).where(*as_then))
    batch.connection.execute(update(row).where(row.sha256 == one.sha256).values(uneven=True))


def doubt(connection: Connection, hosts: Sequence[str], sha256: str | None = None) -> None:
    """Hosts may not have what they are to keep, or one file of it: that is looked after."""
    copy = ReportCopyRow
    _doubt(connection, copy.host.in_(hosts), *(() if sha256 is None else (copy.sha256 == sha256,)))


def lacks(batch: Batch, host: str, ids: Collection[str]) -> None:
    """As `doubt`, of those files that a host knows by these ids."""
    copy = ReportCopyRow
    for some in at_once(sorted(ids)):
        _doubt(batch.connection, copy.host == host, copy.id.in_(some))


def _doubt(connection: Connection, *theirs: ColumnElement[bool]) -> None:
    row, copy = ReportFileRow, ReportCopyRow
    connection.execute(update(row).where(row.sha256.in_(select(copy.sha256).where(*theirs))).values(uneven=True))
    connection.execute(update(copy).where(*theirs).values(whole=False))


def miss(connection: Connection, host: str) -> None:
    """A host is lost: others are to keep what it does."""
    row, copy = ReportFileRow, ReportCopyRow
    theirs = select(copy.sha256).where(copy.host == host)
    connection.execute(update(row).where(row.sha256.in_(theirs)).values(uneven=True))


def even(connection: Connection, sha256: str, lost: Collection[str]) -> bool:
    """Where as many hosts have a file as are to, no others are to keep it any more; False where they have not."""
    row, copy = ReportFileRow, ReportCopyRow
    whole = select(copy.host).where(copy.sha256 == sha256, copy.whole).order_by(copy.host)
    keep = [host for host in connection.scalars(whole) if host not in lost][:COPIES]
    if len(keep) < COPIES:
        return False
    connection.execute(delete(copy).where(copy.sha256 == sha256, copy.host.not_in(keep)))
    connection.execute(update(row).where(row.sha256 == sha256).values(uneven=False))
    return True


def _files(connection: Connection, *wanted: Any, limit: int | None = None) -> list[File]:
    row, copy, other = ReportFileRow, ReportCopyRow, ReportPlaceRow
    columns = [getattr(row, name) for name in File.__slots__ if name not in ("hosts", "ids", "others")]
    found = [dict(one) for one in connection.execute(
        select(*columns).where(*wanted).order_by(row.sha256).limit(limit)
    ).mappings()]  # fmt: skip
    hosts, ids = dict[str, dict[str, bool]](), dict[str, dict[str, str]]()
    others = dict[str, list[tuple[str, str]]]()
    for some in at_once([one["sha256"] for one in found]):
        for sha256, host, name, whole in connection.execute(
            select(copy.sha256, copy.host, copy.id, copy.whole).where(copy.sha256.in_(some))
        ):
            hosts.setdefault(sha256, {})[host] = whole
            ids.setdefault(sha256, {})[host] = name
        wanted_places = select(other.sha256, other.folder, other.name).where(other.sha256.in_(some))
        for sha256, folder, name in connection.execute(wanted_places.order_by(other.folder, other.name)):
            others.setdefault(sha256, []).append((folder, name))
    return [
        File(
            **one, hosts=hosts.get(one["sha256"], {}), ids=ids.get(one["sha256"], {}),
            others=tuple(others.get(one["sha256"], ())),
        )
        for one in found
    ]  # fmt: skip


def _copy(sha256: str, host: str, name: str) -> tuple[ColumnElement[bool], ...]:
    copy = ReportCopyRow
    return copy.sha256 == sha256, copy.host == host, copy.id == name
