"""Locks by name that a server keeps for a connection, and lets go with it."""

import hashlib
from typing import Protocol

from sqlalchemy import Connection, text

#: Of a session that holds locks. A machine that is cut off or lost its power says nothing at all: after three minutes
#: (60 + 6 × 20 s of silence, or 180,000 ms after words that nobody confirmed) the server lets its locks go; else it
#: would wait for two hours. That is as long as the longest request to a vendor: what such a machine had under way is
#: answered by then, or never will be.
_KEPT = {
    "idle_session_timeout": "0", "tcp_keepalives_idle": "60", "tcp_keepalives_interval": "20",
    "tcp_keepalives_count": "6", "tcp_user_timeout": "180000",
}  # fmt: skip


class ServerLocks(Protocol):
    """One kind of server's locks by name."""

    def identify(self, connection: Connection) -> int:
        """The server's number for this connection."""

    def keep(self, connection: Connection) -> None:
        """The server does not end this connection, however long it is idle, but where its machine is away for good."""

    def take(self, connection: Connection, name: str) -> bool:
        """Without waiting."""

    def give(self, connection: Connection, name: str) -> None: ...

    def is_taken(self, connection: Connection, name: str) -> bool:
        """Without taking it."""


class PostgresLocks:
    """An advisory lock is a number of 64 bits, of which ``pg_locks`` shows the halves."""

    def identify(self, connection: Connection) -> int:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    def keep(self, connection: Connection) -> None:
        for name, value in _KEPT.items():  # old versions do not know the first, and so have no such end
            statement = text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")
            connection.execute(statement, {"name": name, "value": value})

    def take(self, connection: Connection, name: str) -> bool:
        return bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _number(name)}).scalar())

    def give(self, connection: Connection, name: str) -> None:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _number(name)})

    def is_taken(self, connection: Connection, name: str) -> bool:
        number = _number(name) % 2**64
        statement = text(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND CAST(classid AS bigint) = :high AND CAST(objid AS bigint) = :low"
        )
        found = connection.execute(statement, {"high": number >> 32, "low": number % 2**32}).first()
        return found is not None


class MysqlLocks:
    """A lock's name has at most 64 characters and is the server's, not the database's."""

    def identify(self, connection: Connection) -> int:
        return int(connection.execute(text("SELECT CONNECTION_ID()")).scalar_one())

    def keep(self, connection: Connection) -> None:
        """Every connection of ours is kept (see ``server_engine``)."""

    def take(self, connection: Connection, name: str) -> bool:
        return bool(connection.execute(text("SELECT GET_LOCK(:name, 0)"), {"name": _short(connection, name)}).scalar())

    def give(self, connection: Connection, name: str) -> None:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _short(connection, name)})

    def is_taken(self, connection: Connection, name: str) -> bool:
        statement = text("SELECT IS_USED_LOCK(:name)")
        return connection.execute(statement, {"name": _short(connection, name)}).scalar() is not None


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:8], "big", signed=True)


def _short(connection: Connection, name: str) -> str:
    database = connection.engine.url.database or ""
    return "leadctl-" + hashlib.sha256(f"{database}/{name}".encode("utf-8", "replace")).hexdigest()[:40]


def server_locks(dialect: str) -> ServerLocks:
    """Those of PostgreSQL, or of MySQL and MariaDB."""
    return PostgresLocks() if dialect == "postgresql" else MysqlLocks()
