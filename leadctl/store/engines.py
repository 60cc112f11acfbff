"""Opening databases: URLs, drivers, SQLite's modes, and what a failure means to a person."""

import errno
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError
from leadctl.domain.masking import clean

T = TypeVar("T")

#: Drivers raise what fails, and log it too: with nobody to listen that would stand between our own lines on stderr.
for _name in ("psycopg", "pymysql"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

#: Seconds that a statement waits for another's lock before it is tried again.
BUSY_TIMEOUT = 5.0
#: Seconds that is waited for other processes' locks, and for a server that went away, before we give up.
LOCK_PATIENCE = 60.0
#: Seconds between two tries.
PAUSE = 0.05
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
#: SQLite's primary result codes (https://www.sqlite.org/rescode.html).
_SQLITE_BUSY = {5, 6}
_SQLITE_FULL = 13
_FREE_SPACE = "free some space and type the command again"
_SQLITE_READONLY = {3, 8, 14}
_SQLITE_BROKEN = {11, 26}
#: Seconds after which a server ends a transaction in which we do nothing: a process that froze, or a machine that was
#: cut off, must not hold for long the locks that all others wait for.
_IDLE_TRANSACTION = 10
#: libpq gives up a server that is silent: after so long at connecting, and as soon at what was sent and not received.
#: Nothing is prepared: a plan that was made when our tables were empty would stay when they are not.
_PG_CONNECT = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
               "tcp_user_timeout": 20_000, "prepare_threshold": None}  # fmt: skip
#: At the beginning of each transaction, and gone with it: a pooler's connections serve others as well.
_PG_BEGIN = (
    "SELECT set_config('lock_timeout', '{:.0f}ms', true), "
    f"set_config('idle_in_transaction_session_timeout', '{_IDLE_TRANSACTION}s', true)"
)
#: What the server would else choose: no silent cutting of texts, no day-long wait behind an ALTER TABLE, no end of the
#: connection that holds our locks. MySQL does not know the last one.
_MYSQL_SESSION = (
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', "
    "innodb_lock_wait_timeout = {0:.0f}, lock_wait_timeout = {0:.0f}, wait_timeout = 31536000"
    f" /*M! , idle_transaction_timeout = {_IDLE_TRANSACTION} */"
)
_MYSQL_CONNECT = {"charset": "utf8mb4", "connect_timeout": 10, "read_timeout": 300, "write_timeout": 30}
#: SQLSTATE of PostgreSQL: deadlock, serialization, lock not available; wrong password, no such database or role.
_PG_RETRY = {"40P01", "40001", "55P03"}
_PG_CONFIG = {"28P01", "28000", "3D000", "42501"}
_PG_EXISTS = {"23505", "42P07", "42710"}
_PG_DENIED = "42501"
#: The server takes no writes just now (a standby, after a failover).
_PG_READONLY = "25006"
#: MySQL's error numbers, alike. 1020: a row has changed since it was read.
_MYSQL_RETRY = {1020, 1205, 1213}
_MYSQL_EXISTS = {1050, 1062}
_MYSQL_DENIED = {1044, 1142, 1143, 1227}
_MYSQL_CONFIG = {1045, 1049, 1130, 1698, *_MYSQL_DENIED}
_MYSQL_READONLY = {1290, 1792, 1836}
#: Too many connections (three kinds), disk full, out of memory, shutting down, killed, taking too long. From 2000 on
#: it is the client that says that the server is not there (2002, 2003, 2006, 2013).
_MYSQL_AWAY = {1021, 1037, 1038, 1040, 1041, 1053, 1114, 1203, 1226, 1317, 1927, 1969, 3024, 4031, *range(2000, 3000)}


def parse_url(text: str, key: str) -> URL:
    """The URL with the driver that leadctl uses. ``key`` is the config key, for messages; passwords are never said."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(f"{key} is not a database URL", hint="write for example sqlite:///leads.db") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise ConfigError(
            f"{key}: {clean(url.drivername, 60)} is not supported", hint="use sqlite://, postgresql:// or mysql://"
        )
    url = url.set(drivername=driver)
    if driver == "sqlite" and (not url.database or url.database == ":memory:" or url.database.startswith("file:")):
        raise ConfigError(f"{key} must name a SQLite file", hint="write sqlite:///FILE, or sqlite:////ABSOLUTE/FILE")
    return url


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite URL; None for a server."""
    return Path(url.database or "").absolute() if url.get_backend_name() == "sqlite" else None


def describe(url: URL) -> str:
    """The database for people: no password, no user."""
    path = sqlite_path(url)
    if path is not None:
        return str(path)
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()} {url.host or 'localhost'}{port}/{url.database or ''}"


def sqlite_engine(
    path: Path,
    mode: Literal["ro", "rw", "rwc"],
    *,
    immediate: bool = False,
    wal: bool = False,
) -> Engine:
    """An engine over a SQLite file. ``immediate``: every transaction takes the write lock at its beginning."""
    url = URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": mode, "uri": "true"})
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT})

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves; a read outside a transaction holds no lock
        if wal:
            connection.execute("PRAGMA journal_mode=WAL")
        if mode != "ro":
            connection.execute("PRAGMA synchronous=FULL")

    if immediate:

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def replace_bad_bytes(connection: Connection) -> None:
    """From now on bytes that are no UTF-8 are replaced in what is read. It makes reading slower."""
    plain: Any = connection.connection.dbapi_connection
    plain.text_factory = partial(str, encoding="utf-8", errors="replace")


def has_bad_bytes(error: BaseException) -> bool:
    """Whether SQLite has met a text that is no UTF-8: one byte in one lead fails the whole page."""
    return isinstance(error, OperationalError) and "Could not decode to UTF-8" in str(error.orig)


def server_engine(url: URL) -> Engine:
    """An engine over a server. Raises ConfigError naming the extra when the driver is missing."""
    backend = url.get_backend_name()
    ours: dict[str, Any] = _PG_CONNECT
    if backend == "mysql":
        ours = {**_MYSQL_CONNECT, "init_command": _MYSQL_SESSION.format(BUSY_TIMEOUT)}
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            # Without gap locks two processes insert side by side; every write is guarded by a lock on its row.
            isolation_level="READ COMMITTED",
            connect_args={name: value for name, value in ours.items() if name not in url.query},
        )
    except ModuleNotFoundError:
        raise ConfigError(
            f"the driver for {backend} is not installed", hint=f'install it with: pip install "leadctl[{backend}]"'
        ) from None
    if backend == "postgresql":

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(_PG_BEGIN.format(BUSY_TIMEOUT * 1000))

    return engine


def is_busy(error: DBAPIError) -> bool:
    """Whether the same transaction may be tried again: another process holds a lock, nothing was committed."""
    number = _sqlite_code(error.orig)
    if number is not None:
        return number in _SQLITE_BUSY
    return _sqlstate(error.orig) in _PG_RETRY or _mysql_code(error.orig) in _MYSQL_RETRY


def is_race(error: DBAPIError) -> bool:
    """Whether another process has just made the same row or table: the next look will see it. Never on SQLite,
    where a transaction has the whole file."""
    return _sqlstate(error.orig) in _PG_EXISTS or _mysql_code(error.orig) in _MYSQL_EXISTS


def is_read_only(error: DBAPIError) -> bool:
    """Whether the SQLite file, its directory or the server cannot be written, or not by this user."""
    denied = _sqlstate(error.orig) == _PG_DENIED or _mysql_code(error.orig) in _MYSQL_DENIED
    return denied or _sqlite_code(error.orig) in _SQLITE_READONLY or _takes_no_writes(error.orig)


def is_away(error: DBAPIError) -> bool:
    """Whether a server does not answer just now: it restarts, or the way to it is cut. It may be back soon."""
    return _sqlite_code(error.orig) is None and isinstance(explain(error, ""), DatabaseUnreachable)


def _is_outage(error: DBAPIError) -> bool:
    """Whether the server, and not the statement, is the reason."""
    number = _mysql_code(error.orig)  # its driver calls every number that it does not know operational
    operational = isinstance(error, OperationalError) and (number is None or number in _MYSQL_AWAY)
    return operational or error.connection_invalidated


def _takes_no_writes(orig: BaseException | None) -> bool:
    return _sqlstate(orig) == _PG_READONLY or _mysql_code(orig) in _MYSQL_READONLY


def may_pass(error: DBAPIError) -> bool:
    """Whether a read may succeed a moment later."""
    return is_busy(error) or is_away(error)


def patiently(work: Callable[[], T], again: Callable[[DBAPIError], bool] = may_pass) -> T:
    """``work``, again and again while it fails in that way or its database is not there, for ``LOCK_PATIENCE``."""
    end = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return work()
        except (DBAPIError, DatabaseUnreachable) as error:
            passing = isinstance(error, DatabaseUnreachable) or again(error)
            if not passing or time.monotonic() > end:
                raise
        time.sleep(PAUSE)


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns the database's failures into errors for people. ``place`` says which database."""
    try:
        yield
    except SQLAlchemyError as error:
        raise explain(error, place) from None


def explain(error: SQLAlchemyError, place: str) -> LeadctlError:
    """What the failure means. SQL and parameters are left out: they hold personal data and secrets."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return DatabaseUnreachable(f"{place}: {type(error).__name__}", hint="type the same command again later")
    orig = error.orig
    if isinstance(orig, sqlite3.OperationalError) or type(orig) is sqlite3.DatabaseError:
        return _explain_sqlite(orig, place)
    said = clean(_first_line(orig), 200)
    if _sqlstate(orig) in _PG_CONFIG or _mysql_code(orig) in _MYSQL_CONFIG or _password_refused(orig):
        return ConfigError(f"{place} refuses us: {said}", hint="check user, password, name and rights of the database")
    if _takes_no_writes(orig):
        return DatabaseUnreachable(
            f"{place} takes no writes: {said}", hint="type the same command again when it does; see [ledger] url"
        )
    if is_busy(error):
        return DatabaseUnreachable(
            f"{place} is locked by another process: {said}", hint="type the same command again when it is free"
        )
    if _is_outage(error):
        return DatabaseUnreachable(f"{place} does not answer: {said}", hint="type the same command again later")
    return LeadctlError(f"{place} refuses a statement of leadctl ({type(orig).__name__}): {said}")


def _explain_sqlite(orig: sqlite3.Error, place: str) -> LeadctlError:
    number = _sqlite_code(orig)
    if number in _SQLITE_BUSY:
        return DatabaseUnreachable(
            f"{place} is locked by another process", hint="type the same command again when it is free"
        )
    if number == _SQLITE_FULL:
        return DatabaseUnreachable(f"the disk of {place} is full", hint=_FREE_SPACE)
    if number in _SQLITE_READONLY:
        return DatabaseUnreachable(
            f"{place} cannot be opened or written ({clean(str(orig), 100)})",
            hint="give this user the right to write to the file and its directory",
        )
    if number in _SQLITE_BROKEN:
        return ConfigError(f"{place} is not a sound SQLite database ({clean(str(orig), 100)})")
    return DatabaseUnreachable(f"{place}: {clean(str(orig), 200)}", hint="type the same command again later")


def disk_full(error: OSError, place: str) -> DatabaseUnreachable | None:
    """Whether a file could not be written for want of space."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return DatabaseUnreachable(f"the disk of {place} is full", hint=_FREE_SPACE)


def _sqlite_code(orig: object) -> int | None:
    code = getattr(orig, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _sqlstate(orig: object) -> str | None:
    return getattr(orig, "sqlstate", None)


def _mysql_code(orig: BaseException | None) -> int | None:
    if orig is None or not type(orig).__module__.startswith("pymysql"):
        return None
    return orig.args[0] if orig.args and isinstance(orig.args[0], int) else None


def _password_refused(orig: BaseException) -> bool:
    """libpq gives no code for a refused login, but it knows whether the server asked for a password."""
    login = getattr(orig, "pgconn", None)
    return bool(getattr(login, "used_password", False) or getattr(login, "needs_password", False))


def _first_line(orig: BaseException) -> str:
    """PostgreSQL's second line (DETAIL) quotes values of the row."""
    text = str(orig.args[-1]) if _mysql_code(orig) is not None else str(orig)
    return text.splitlines()[0] if text else type(orig).__name__
