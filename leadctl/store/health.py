"""How much there is, and what is in it, for ``leadctl doctor``. Only reads, all but the counts bounded."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import column, func, select, table

from leadctl.domain.model import LeadId
from leadctl.store.database import Database, SourceTable, canonical_id
from leadctl.store.inspection import different


def row_counts(db: Database) -> dict[str, int]:
    """Rows that are not deleted, by table."""
    tables = {
        "leads": db.leads,
        "credentials": db.credentials,
        "entity_credentials": db.entity_credentials,
        "project_credentials": db.project_credentials,
    }
    return {
        name: db.rows(select(func.count()).select_from(table.clause).where(*table.there))[0][0]
        for name, table in tables.items()
    }


def newest_leads(db: Database, limit: int) -> list[LeadId]:
    """Ids, the highest first."""
    identity = db.leads["id"]
    rows = db.rows(db.leads.select(("id",)).where(identity.is_not(None)).order_by(identity.desc()).limit(limit))
    return [canonical_id(row[0]) for row in rows]


def different_values(db: Database, name: tuple[str, str | None], of: str) -> list[Any]:
    """What a column of a table (with its schema) holds, without NULL."""
    where = table(name[0], column(of), schema=name[1])
    return [row[0] for row in db.rows(different(select(where.c[of]).where(where.c[of].is_not(None))))]


def raw_values(db: Database, source: SourceTable, names: Sequence[str], limit: int) -> list[tuple[Any, ...]]:
    """The columns behind these values of ours, as the database has them, of the newest rows."""
    columns = dict.fromkeys(part for name in names if name in source for part in source.fields[name].columns)
    if not columns:
        return []
    statement = select(*(source.clause.c[name] for name in columns)).where(*source.there)
    return [tuple(row) for row in db.rows(statement.order_by(source["id"].desc()).limit(limit))]


def links_of(db: Database, name: str, limit: int) -> list[Any]:
    """Which credentials some of the links lead to, as ids of credentials; None for those that name none."""
    links: SourceTable = getattr(db, name)
    rows = db.rows(links.select(("credentials_id",)).limit(limit))
    return [None if row[0] is None else canonical_id(row[0]) for row in rows]
