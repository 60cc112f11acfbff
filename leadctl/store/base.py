"""The ledger's place: where it is, whether it is there, and its transactions."""

import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Executable, insert, inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from leadctl.domain.errors import ConfigError, LeadctlError
from leadctl.settings import Settings
from leadctl.store import schema
from leadctl.store.database import Database
from leadctl.store.engines import (
    describe,
    explain,
    explained,
    is_busy,
    is_race,
    is_read_only,
    parse_url,
    server_engine,
    sqlite_engine,
    sqlite_path,
)

#: Seconds that a write waits for other processes' locks before it gives up.
LOCK_PATIENCE = 60.0
#: No letter or digit that is read as another one.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"

T = TypeVar("T")


class LedgerBase:
    """A connection to the ledger of one source of leads."""

    def __init__(self, url: URL, db: Database) -> None:
        self.source = db.name
        self.url = url
        #: The SQLite file; None on a server.
        self.path: Path | None = sqlite_path(url)
        #: For people: no password.
        self.location = describe(url)
        #: Six random characters that begin every key of this ledger; empty while there is no ledger.
        self.installation = ""
        self._leads_path = db.path
        self._reading: Engine | None = None
        self._writing: Engine | None = None

    @classmethod
    def open(cls, settings: Settings, db: Database, *, create: bool) -> Self:
        """The ledger beside the leads, or where ``[ledger] url`` says.

        With ``create`` its tables are made if they are not there (ConfigError where that is not allowed);
        without it a ledger that is not there knows nothing, and nothing can be written.
        """
        if settings.ledger.url is not None:
            url = parse_url(settings.ledger.url, "ledger.url")
        elif db.path is not None:
            url = URL.create("sqlite", database=f"{db.path}.leadctl.db")
        else:
            url = db.url
        ledger = cls(url, db)
        try:
            ledger._open_for_writing() if create else ledger._open_for_reading()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def exists(self) -> bool:
        """Whether the ledger's tables are there."""
        return bool(self.installation)

    @property
    def writing(self) -> Engine:
        """The engine for transactions. Only a ledger that was opened with ``create`` has one."""
        if self._writing is None:
            raise LeadctlError(f"the ledger {self.location} was opened for reading only")
        return self._writing

    def make(self) -> None:
        """Make the tables where they are missing, and be ready to write. Raises ConfigError where that fails."""
        if self._writing is None:
            self.close()
            self._open_for_writing()

    def close(self) -> None:
        """Close the connections."""
        for engine in (self._reading, self._writing):
            if engine is not None:
                engine.dispose()

    # --- opening ---------------------------------------------------------------------------------------------

    def _open_for_reading(self) -> None:
        if self.path is not None and not self.path.exists():
            return
        reading = sqlite_engine(self.path, "ro") if self.path is not None else server_engine(self.url)
        self._reading = reading
        with explained(f"the ledger {self.location}"):
            if inspect(reading).has_table(schema.meta.name):
                with reading.connect() as connection:
                    self._read_meta(connection)

    def _open_for_writing(self) -> None:
        if self.path is not None:
            self._make_file(self.path)
            wal = self._leads_path is None or not self.path.samefile(self._leads_path)
            self._writing = sqlite_engine(self.path, "rw", immediate=True, wal=wal)
            self._reading = sqlite_engine(self.path, "ro")
        else:
            self._writing = self._reading = server_engine(self.url)
        try:
            self._retried(self._create, lambda error: is_busy(error) or is_race(error), patience=5.0)
        except DBAPIError as error:
            if is_read_only(error):
                raise self._no_rights() from None
            raise explain(error, f"the ledger {self.location}") from None

    def _make_file(self, path: Path) -> None:
        """An empty file that those may read who may read the leads: the ledger tells of the same people.

        Its owner may always write to it, also where nobody may write to the leads.
        """
        mode = 0o600 | (self._leads_path.stat().st_mode & 0o666 if self._leads_path is not None else 0)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode))
        except OSError:
            raise self._no_rights() from None

    def _no_rights(self) -> ConfigError:
        return ConfigError(
            f"the ledger {self.location} cannot be written",
            hint="give this user the right to write there, or set [ledger] url; nothing is sent without a ledger",
        )

    def _create(self, connection: Connection) -> None:
        schema.metadata.create_all(connection)
        if connection.execute(select(schema.meta.c.key).limit(1)).first() is None:
            installation = "".join(secrets.choice(_ALPHABET) for _ in range(6))
            values = {"schema_version": str(schema.SCHEMA_VERSION), "installation": installation}
            connection.execute(insert(schema.meta), [{"key": key, "value": value} for key, value in values.items()])
        self._read_meta(connection)

    def _read_meta(self, connection: Connection) -> None:
        rows = connection.execute(select(schema.meta.c.key, schema.meta.c.value)).all()
        values: dict[str, str] = {row.key: row.value for row in rows}
        version = int(values.get("schema_version", 0))
        if version > schema.SCHEMA_VERSION:
            raise ConfigError(
                f"the ledger {self.location} was made by a newer leadctl (schema {version}, known: "
                f"{schema.SCHEMA_VERSION})",
                hint="upgrade leadctl",
            )
        self.installation = values.get("installation", "")

    # --- transactions ----------------------------------------------------------------------------------------

    def _read(self, statement: Executable) -> Sequence[Any]:
        """All rows of a short read; none where there is no ledger."""
        if self._reading is None or not self.exists:
            return []
        try:
            with self._reading.connect() as connection:
                return connection.execute(statement).all()
        except SQLAlchemyError as error:
            raise explain(error, f"the ledger {self.location}") from None

    def transact(self, work: Callable[[Connection], T]) -> T:
        """``work`` in one short transaction, again where another process holds a lock or was first."""
        try:
            return self._retried(work, lambda error: is_busy(error) or is_race(error), patience=LOCK_PATIENCE)
        except SQLAlchemyError as error:
            raise explain(error, f"the ledger {self.location}") from None

    def _write(self, work: Callable[[Connection], T]) -> T:
        """``work`` in one transaction, again while another process holds a lock."""
        try:
            return self._retried(work, is_busy, patience=LOCK_PATIENCE)
        except SQLAlchemyError as error:
            raise explain(error, f"the ledger {self.location}") from None

    def _retried(self, work: Callable[[Connection], T], again: Callable[[DBAPIError], bool], *, patience: float) -> T:
        end = time.monotonic() + patience
        while True:
            try:
                with self.writing.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not again(error) or time.monotonic() > end:
                    raise
            time.sleep(0.05)
