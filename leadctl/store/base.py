"""The ledger's place: where it is, whether it is there, and its transactions."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Executable, delete, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError
from leadctl.settings import Settings
from leadctl.store import schema
from leadctl.store.database import Database
from leadctl.store.engines import (
    describe,
    disk_full,
    explain,
    explained,
    is_away,
    is_busy,
    is_race,
    is_read_only,
    parse_url,
    patiently,
    server_engine,
    sqlite_engine,
    sqlite_path,
)
from leadctl.store.rows import from_text, to_text
from leadctl.store.state import Remembered, StateFolder

#: No letter or digit that is read as another one.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
#: Names in ``leadctl_meta``, followed by the source.
_RUNS = "runs"
_RESTORED = "restored_at"

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
        #: Until then more may have been sent than the ledger knows: it was restored from a backup, or began anew
        #: where another one was lost. None: it knows everything.
        self.restored_at: datetime | None = None
        #: How that is known, if this process has noticed it.
        self.restored_why = ""
        #: Another ledger that was here before, while this one has seen no run yet.
        self.lost: Remembered | None = None
        self.state = StateFolder()
        self._leads_path = db.path
        self._inode: int | None = None
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

    def make(self, *, restored: bool = False) -> None:
        """Make the tables where they are missing, and be ready to write. Raises ConfigError where that fails.

        ``restored``: a person says that the ledger has forgotten something; a new one takes up where one was lost.
        """
        if self._writing is None:
            self.close()
            self._open_for_writing(restored=restored)

    def close(self) -> None:
        """Close the connections."""
        for engine in (self._reading, self._writing):
            if engine is not None:
                engine.dispose()

    # --- opening ---------------------------------------------------------------------------------------------

    def _open_for_reading(self) -> None:
        values: Mapping[str, str] = {}
        if self.path is None or self.path.exists():
            reading = sqlite_engine(self.path, "ro") if self.path is not None else server_engine(self.url)
            self._reading = reading
            with explained(f"the ledger {self.location}"):
                values = patiently(lambda: self._look(reading), is_busy)
        self._notice(values)

    def _look(self, reading: Engine) -> Mapping[str, str]:
        if not inspect(reading).has_table(schema.meta.name):
            return {}
        with reading.connect() as connection:
            return self._meta(connection)

    def _open_for_writing(self, *, restored: bool = False) -> None:
        if self.path is not None:
            self._make_file(self.path)
            self._inode = self.path.stat().st_ino
            wal = self._leads_path is None or not self.path.samefile(self._leads_path)
            self._writing = sqlite_engine(self.path, "rw", immediate=True, wal=wal)
            self._reading = sqlite_engine(self.path, "ro")
        else:
            self._writing = self._reading = server_engine(self.url)
        try:
            self._transaction(lambda connection: self._create(connection, restored), race=True, away=False)
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
        except OSError as error:
            raise disk_full(error, f"the ledger {self.location}") or self._no_rights() from None

    def _no_rights(self) -> ConfigError:
        return ConfigError(
            f"the ledger {self.location} cannot be written",
            hint="give this user the right to write there, or set [ledger] url; nothing is sent without a ledger",
        )

    def _create(self, connection: Connection, restored: bool) -> None:
        schema.metadata.create_all(connection)
        values = self._meta(connection)
        if "installation" not in values:
            values = {
                "schema_version": str(schema.SCHEMA_VERSION),
                "installation": "".join(secrets.choice(_ALPHABET) for _ in range(6)),
            }
            connection.execute(insert(schema.meta), [{"key": key, "value": value} for key, value in values.items()])
        lost = self.remembered
        if restored and lost is not None and self._own(_RUNS) not in values:
            # What it had sent is found at the vendors by keys that begin alike.
            values = {**values, "installation": lost.installation}
            set_meta(connection, "installation", lost.installation)
        if known := self._notice(values):
            self._mark(connection, self.restored_at, known.runs)

    def _meta(self, connection: Connection) -> Mapping[str, str]:
        """What the ledger says of itself; empty where its making was never finished. Raises ConfigError."""
        rows = connection.execute(select(schema.meta.c.key, schema.meta.c.value)).all()
        values: dict[str, str] = {row.key: row.value for row in rows}
        if "installation" not in values:
            return {}
        said = values.get("schema_version", "0")
        version = int(said) if said.isdecimal() else -1
        if version != schema.SCHEMA_VERSION:
            newer = version > schema.SCHEMA_VERSION
            raise ConfigError(
                f"the ledger {self.location} was made by {'a newer' if newer else 'an older'} leadctl (schema "
                f"{said[:20]}, known: {schema.SCHEMA_VERSION})",
                hint="upgrade leadctl" if newer else "use the leadctl that made it, or another place: [ledger] url",
            )
        return values

    # --- restored from a backup, or lost ---------------------------------------------------------------------

    def _notice(self, values: Mapping[str, str]) -> Remembered | None:
        """Take over what the ledger says of itself; what is remembered of it, if that is more than it knows."""
        self.installation = values.get("installation", "")
        self.restored_at = from_text(values.get(self._own(_RESTORED)))
        known, runs = self.remembered, int(values.get(self._own(_RUNS), 0))
        self.lost = known if known is not None and not runs and known.installation != self.installation else None
        if known is None or runs >= known.runs or not self._was(known):
            return None
        self.restored_at = SystemClock().now()
        self.restored_why = f"it knows of {runs} runs, and this machine remembers {known.runs}"
        return known

    def _was(self, known: Remembered) -> bool:
        """Whether that is remembered of this very ledger. One that is gone may have been put away on purpose, with
        its leads: whether a new one begins anew is for a person to say (``doctor --ledger-restored``)."""
        return self.exists and known.installation == self.installation

    def mark_restored(self, at: datetime) -> None:
        """A person says that the ledger was restored."""
        self._write(lambda connection: self._mark(connection, at, 0), repeatable=True)
        self.restored_at = at

    @property
    def remembered(self) -> Remembered | None:
        """What this machine remembers of the ledger here; it may have been another one."""
        return self.state.recall(self.location, self.source)

    def forget_restored(self) -> None:
        """A person says that nothing is missing: the ledger knows everything, or is not there since this is a new
        start."""
        if self.exists:
            self.make()
            self.clear_restored()
        else:
            self.state.forget(self.location, self.source)
        self.lost = None

    def clear_restored(self) -> None:
        """Nothing is missing in the ledger any more."""
        gone = delete(schema.meta).where(schema.meta.c.key == self._own(_RESTORED))
        self._write(lambda connection: connection.execute(gone), repeatable=True)
        self.restored_at = None

    def _mark(self, connection: Connection, at: datetime | None, runs: int) -> None:
        """``runs``: how many there were at least; so that the same loss is not noticed again."""
        if at is not None:
            set_meta(connection, self._own(_RESTORED), to_text(at))
        self._count_runs(connection, at_least=runs)

    def _count_runs(self, connection: Connection, more: int = 0, *, at_least: int = 0) -> int:
        """Raise the number of runs that there were of this source; what it is then."""
        key = self._own(_RUNS)
        kept = connection.execute(
            select(schema.meta.c.value).where(schema.meta.c.key == key).with_for_update()
        ).scalar()
        runs = max(int(kept or 0), at_least) + more
        set_meta(connection, key, str(runs))
        return runs

    def _remember(self, runs: int) -> None:
        """Keep the number of runs outside of the ledger too. A machine that cannot does without (see ``doctor``)."""
        with suppress(OSError):
            known = Remembered(self.installation, runs)
            self.state.remember(self.location, self.source, known)

    def _own(self, name: str) -> str:
        """The key of a value of this source."""
        return f"{name}:{self.source}"

    # --- transactions ----------------------------------------------------------------------------------------

    def _read(self, statement: Executable) -> Sequence[Any]:
        """All rows of a short read; none where there is no ledger."""
        reading = self._reading
        if reading is None or not self.exists:
            return []

        def read() -> Sequence[Any]:
            if self._inode is not None:
                self.check_place()
            with reading.connect() as connection:
                return connection.execute(statement).all()

        try:
            return patiently(read)
        except SQLAlchemyError as error:
            raise explain(error, f"the ledger {self.location}") from None

    def transact(self, work: Callable[[Connection], T], *, repeatable: bool = False) -> T:
        """``work`` in one short transaction, again where another process holds a lock or was first.

        ``repeatable``: to do it twice does no harm; so it is done again also where a commit was not answered.
        """
        try:
            return self._transaction(work, race=True, repeatable=repeatable)
        except SQLAlchemyError as error:
            raise explain(error, f"the ledger {self.location}") from None

    def _write(self, work: Callable[[Connection], T], *, repeatable: bool = False) -> T:
        """``work`` in one transaction, again while another process holds a lock. ``repeatable`` as in
        :meth:`transact`."""
        try:
            return self._transaction(work, repeatable=repeatable)
        except SQLAlchemyError as error:
            raise explain(error, f"the ledger {self.location}") from None

    def _transaction(
        self, work: Callable[[Connection], T], *, race: bool = False, away: bool = True, repeatable: bool = False
    ) -> T:
        committing = False

        def once() -> T:
            nonlocal committing
            committing = False
            writing = self.writing
            self.check_place()
            with writing.connect() as connection:
                transaction = connection.begin()
                result = work(connection)
                committing = True
                transaction.commit()
            return result

        def again(error: DBAPIError) -> bool:
            # A commit that was not answered may have arrived: only what may be done twice is tried again.
            lost = away and (repeatable or not committing)
            return is_busy(error) or (race and is_race(error)) or (lost and is_away(error))

        return patiently(once, again)

    def check_place(self) -> None:
        """SQLite goes on writing to a file that was removed or replaced: what it says then is lost."""
        if self.path is None:
            return
        try:
            there = self.path.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise DatabaseUnreachable(
                f"the ledger {self.location} was removed or replaced while it was in use",
                hint="put it back, or see that the right one is there, and type the same command again",
            )


def set_meta(connection: Connection, key: str, value: str) -> None:
    """Write one value of ``leadctl_meta``, in the caller's transaction."""
    changed = connection.execute(update(schema.meta).where(schema.meta.c.key == key).values(value=value))
    if not changed.rowcount:
        connection.execute(insert(schema.meta).values(key=key, value=value))
