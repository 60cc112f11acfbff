"""Locks that die with their holder, so that a killed run goes on at once and a frozen one is not robbed."""

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from sqlalchemy import Connection, Engine, delete, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from leadctl.domain.errors import ConfigError, DatabaseUnreachable
from leadctl.store.base import LedgerBase
from leadctl.store.engines import disk_full, explain, explained, patiently, server_engine
from leadctl.store.locks import server_locks
from leadctl.store.schema import meta

#: A look at a lock holds it for microseconds: an acquisition that meets one tries again.
_TRIES = 5
_PAUSE = 0.002


class Lease:
    """A lock that is held until it is released, or its process is gone."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Let it go; a second call does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Leases(Protocol):
    """Where processes of leadctl find out about each other."""

    def acquire(self, name: str, info: Mapping[str, Any]) -> Lease | None:
        """The lease of that name, or None at once if anybody holds it (this process included)."""

    def holder_info(self, name: str) -> dict[str, Any] | None:
        """What its holder said of itself; None if nobody holds it."""

    def is_alive(self, holder: str) -> bool:
        """Whether the process that :meth:`open_holder` gave this name is there (this one included)."""

    def open_holder(self) -> str:
        """The name of this process in the ledger's rows: alive until :meth:`close`, or until it is gone."""

    def renew(self) -> None:
        """Have again what was held before the connection was lost. Raises DatabaseUnreachable where another process
        has taken it since, or may have."""

    def close(self) -> None:
        """Let the holder's lease go."""


def open_leases(ledger: LedgerBase) -> "FileLeases | ServerLeases":
    """The leases beside that ledger: files beside a SQLite file, else the server's own locks."""
    if ledger.path is None:
        return ServerLeases(server_engine(ledger.url), f"the ledger {ledger.location}")
    name = ledger.path.name.removesuffix(".leadctl.db")
    return FileLeases(ledger.path.with_name(f"{name}.leadctl-locks"))


def process_info(**more: Any) -> dict[str, Any]:
    """Who this process is, for a lease's ``info``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        user = str(os.getuid())
    return {"who": user, "host": socket.gethostname(), "pid": os.getpid(), **more}


class _Holder:
    """One holder's lease, taken when it is first asked for."""

    def __init__(self) -> None:
        self._lease: Lease | None = None
        self._name = ""

    def open(self, leases: Leases) -> str:
        if self._lease is None:
            name = f"holder-{os.getpid()}-{secrets.token_hex(6)}"
            self._lease = leases.acquire(name, process_info())
            if self._lease is None or not leases.is_alive(name):
                raise ConfigError(
                    "a lock just taken is not seen from a second connection",
                    hint="connect to the database itself, not through a pooler that changes connections",
                )
            self._name = name
        return self._name

    def close(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None


class FileLeases:
    """``flock`` on files of one directory. The kernel lets a lock go with the last copy of its descriptor.

    A file is removed only by who holds its lock, and a lock counts only on the file that still has the name: so
    nobody ever holds a lock on a file that others do not see. Descriptors are not inherited by other programs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._holder = _Holder()

    def acquire(self, name: str, info: Mapping[str, Any]) -> Lease | None:
        """See :class:`Leases`. Raises ConfigError where the directory cannot be written."""
        path = self._path(name)
        try:
            self.directory.mkdir(exist_ok=True)
            descriptor = self._lock(path)
            if descriptor is None:
                return None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(dict(info)).encode(), 0)
        except OSError as error:
            no_rights = ConfigError(
                f"the lock {path} cannot be written ({error.strerror})",
                hint="give this user the right to write beside the ledger",
            )
            raise disk_full(error, f"the lock {path}") or no_rights from None
        return Lease(lambda: _drop(path, descriptor))

    def holder_info(self, name: str) -> dict[str, Any] | None:
        """See :class:`Leases`. Empty if its holder has said nothing yet."""
        path = self._path(name)
        if not _is_locked(path):
            return None
        try:
            info = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return info if isinstance(info, dict) else {}

    def is_alive(self, holder: str) -> bool:
        """See :class:`Leases`."""
        return _is_locked(self._path(holder))

    def open_holder(self) -> str:
        """See :class:`Leases`."""
        holder = self._holder.open(self)
        self._sweep()
        return holder

    def renew(self) -> None:
        """See :class:`Leases`. A file's lock is lost with its process only."""

    def close(self) -> None:
        """See :class:`Leases`."""
        self._holder.close()

    def _path(self, name: str) -> Path:
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:80]
        if safe != name:
            safe += "-" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]
        return self.directory / f"{safe}.lock"

    def _lock(self, path: Path) -> int | None:
        for _ in range(_TRIES):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                time.sleep(_PAUSE)
                continue
            if _is_named(path, descriptor):
                return descriptor
            os.close(descriptor)  # its last holder removed it in between
        return None

    def _sweep(self) -> None:
        """Remove the files of holders that died without removing theirs."""
        for path in self.directory.glob("holder-*.lock"):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_named(path, descriptor):
                        path.unlink()
                finally:
                    os.close(descriptor)


def _drop(path: Path, descriptor: int) -> None:
    try:
        if _is_named(path, descriptor):
            with contextlib.suppress(OSError):
                path.unlink()
    finally:
        os.close(descriptor)


def _is_named(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that the name leads to."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_locked(path: Path) -> bool:
    """Whether anybody holds it. Looks with a shared lock, so that two who look do not take each other for a holder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:  # it is there and we may not look: a claim that is left alone harms nobody
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class ServerLeases:
    """The server's own locks (``pg_advisory_lock``, ``GET_LOCK``), which end with a connection of our own.

    Who holds one is said in ``leadctl_meta``.
    """

    def __init__(self, engine: Engine, place: str) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._place = place
        self._locks = server_locks(engine.dialect.name)
        self._connection: Connection | None = None
        #: Who we said we are, by lease.
        self._held: dict[str, Mapping[str, Any]] = {}
        #: Leases that went with a connection and are not ours again yet.
        self._lost: set[str] = set()
        self._guard = threading.RLock()
        self._holder = _Holder()

    def acquire(self, name: str, info: Mapping[str, Any]) -> Lease | None:
        """See :class:`Leases`. Raises DatabaseUnreachable."""
        taken = patiently(lambda: self._take(name, info))
        return Lease(lambda: self._release(name)) if taken else None

    def _take(self, name: str, info: Mapping[str, Any]) -> bool:
        with self._guard, explained(self._place):
            if name in self._held:  # the server would let the same connection have it twice
                return False
            self.renew()
            connection = self._connected()
            if not self._locks.take(connection, name):
                return False
            try:
                _say(connection, name, info)
            except SQLAlchemyError:
                self._release(name)
                raise
            self._held[name] = info
        return True

    def _release(self, name: str) -> None:
        with self._guard:
            self._held.pop(name, None)
            self._lost.discard(name)
            if self._connection is None:
                return
            with contextlib.suppress(SQLAlchemyError):  # with the connection the lock is gone too
                self._connection.execute(delete(meta).where(meta.c.key == _said(name)))
                self._locks.give(self._connection, name)

    def holder_info(self, name: str) -> dict[str, Any] | None:
        """See :class:`Leases`."""
        said = patiently(lambda: self._ask(name))
        return None if said is None else dict(json.loads(said or "{}"))

    def _ask(self, name: str) -> str | None:
        """What its holder said; None if nobody holds it."""
        with explained(self._place), self._engine.connect() as connection:
            if not self._locks.is_taken(connection, name):
                return None
            return connection.execute(select(meta.c.value).where(meta.c.key == _said(name))).scalar() or ""

    def is_alive(self, holder: str) -> bool:
        """See :class:`Leases`."""
        try:
            with self._engine.connect() as connection:
                return self._locks.is_taken(connection, holder)
        except SQLAlchemyError as error:
            raise explain(error, self._place) from None

    def open_holder(self) -> str:
        """See :class:`Leases`."""
        return self._holder.open(self)

    def renew(self) -> None:
        """See :class:`Leases`. A server that does not know yet that we were cut off holds our own lock against us."""
        with self._guard, explained(self._place):
            if self._connection is not None and not self._answers(self._connection):
                self._connection.close()
                self._connection = None
                self._lost |= self._held.keys()
            for name in list(self._lost):
                if not self._locks.take(self._connected(), name):
                    raise DatabaseUnreachable(
                        f"{self._place}: the connection that held our lock was cut, and another process has the lock",
                        hint="type the same command again when that process has ended",
                    )
                self._lost.discard(name)
                _say(self._connected(), name, self._held[name])

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect()
            try:
                self._check(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _check(self, connection: Connection) -> None:
        """Behind a pooler that changes connections a lock would be held by whoever comes next, and by nobody's end."""
        ours = self._locks.identify(connection)
        with self._engine.connect() as other, other.execution_options(isolation_level="READ COMMITTED").begin():
            if self._locks.identify(other) == ours or self._locks.identify(connection) != ours:
                raise ConfigError(
                    f"{self._place} is behind a pooler that changes connections; locks need a connection of their own",
                    hint="connect to the database itself, or to a pooler in session mode: [ledger] url",
                )
        self._locks.keep(connection)

    def _answers(self, connection: Connection) -> bool:
        try:
            connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def close(self) -> None:
        """See :class:`Leases`. Closes the connection, and with it every lease."""
        self._holder.close()
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._engine.dispose()


def _say(connection: Connection, name: str, info: Mapping[str, Any]) -> None:
    connection.execute(delete(meta).where(meta.c.key == _said(name)))
    connection.execute(insert(meta).values(key=_said(name), value=json.dumps(dict(info))))


def _said(name: str) -> str:
    """The key in ``leadctl_meta``, which is as long as a server can index."""
    return f"lease:{name}" if len(name) < 160 else f"lease:{hashlib.sha256(name.encode()).hexdigest()}"
