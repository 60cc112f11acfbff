"""How much there is, for ``leadctl doctor``."""

from sqlalchemy import func, select

from leadctl.store.database import Database


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
