"""Transactions that are made once, also where the server goes away in the middle of one."""

import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import DatabaseUnreachable, LeadctlError
from leadctl.store import engines
from leadctl.store.base import LedgerBase, set_meta
from leadctl.store.engines import explain, is_away, is_busy, is_race
from leadctl.store.leases import Leases
from leadctl.store.schema import meta

#: Begins the keys of these numbers in ``leadctl_meta``; the holder's name follows.
COMMIT = "commit:"
#: Seconds after which the connection that holds our leases is looked at: what it held may be another process's by now.
LEASES_EVERY = 5.0
#: What is waited for longer than this many seconds is said.
SAID_AFTER = 2.0


class Forgetful(DatabaseUnreachable):
    """The server is there again, and does not know what it had confirmed. Waiting does not help."""


class Committer:
    """One thread's connection to the ledger. Locks and outages are waited for, at most ``LOCK_PATIENCE`` seconds.

    After a commit that was not answered nobody knows whether it arrived. So on a server each transaction writes its
    number beside its rows: the next connection reads it, behind the lock that an unfinished commit would still hold.
    A number that is lower than one that was confirmed shows a server that forgets (it crashed without having written to
    its disk, or a replica took over that was behind): then the ledger is marked as restored, and the run ends.
    """

    def __init__(self, store: LedgerBase, leases: Leases, name: str) -> None:
        self._store = store
        self._leases = leases
        self._key = f"{COMMIT}{name}"
        self._place = f"the ledger {store.location}"
        self._connection: Connection | None = None
        self._number = 0
        self._confirmed = 0
        self._committing = False
        self._unanswered = False
        #: Since when our leases are known to be ours, in monotonic seconds.
        self._held_at = time.monotonic()

    def run(self, work: Callable[[Connection], None], say: Callable[[str], None]) -> None:
        """``work`` in one transaction. ``say`` is told what is waited for. Raises LeadctlError."""
        began = time.monotonic()
        said = False
        self._number += 1
        self._unanswered = False
        while True:
            try:
                self._once(work)
            except (SQLAlchemyError, DatabaseUnreachable) as error:
                failure = error if isinstance(error, LeadctlError) else explain(error, self._place)
                self._unanswered = self._unanswered or self._committing
                self.disconnect()
                waited = time.monotonic() - began
                if not _may_pass(error) or waited > engines.LOCK_PATIENCE:
                    raise failure from None
                if waited > SAID_AFTER and not said:
                    say(failure.message)
                    said = True
            else:
                self._confirmed = self._number
                return
            time.sleep(engines.PAUSE)

    def _once(self, work: Callable[[Connection], None]) -> None:
        self._committing = False
        self._store.check_place()
        fresh = self._connection is None
        if self._connection is None:
            self._connection = self._store.writing.connect()
        if fresh or time.monotonic() - self._held_at > LEASES_EVERY:
            self._renew_leases()
        if fresh and self._store.path is None and self._has_arrived(self._connection):
            return
        with self._connection.begin() as transaction:
            if self._store.path is None:
                set_meta(self._connection, self._key, str(self._number))
            work(self._connection)
            self._committing = True
            transaction.commit()

    def hold_leases(self) -> str:
        """While nothing is written: nobody shall take over what waits for its answer, because our connection was cut.
        Where that fails, the next transaction asks again, and fails; why, else nothing."""
        try:
            self._renew_leases()
        except LeadctlError as error:
            return error.message
        return ""

    def _renew_leases(self) -> None:
        self._held_at = -inf
        self._leases.renew()
        self._held_at = time.monotonic()

    def _has_arrived(self, connection: Connection) -> bool:
        """Whether the transaction that was not answered on an earlier connection is there. Raises Forgetful."""
        with connection.begin():
            statement = select(meta.c.value).where(meta.c.key == self._key).with_for_update()
            kept = int(connection.execute(statement).scalar() or 0)
        if kept < self._confirmed:
            self._store.mark_restored(SystemClock().now())
            raise Forgetful(
                f"{self._place} has lost what it had confirmed: its server crashed, or another one took over",
                hint="type the same command again: what may have been sent is looked for first",
            )
        return self._unanswered and kept == self._number

    def disconnect(self) -> None:
        """Let the connection go; the next transaction has a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """The end: nobody asks for our number any more."""
        if self._connection is not None and self._store.path is None:
            with suppress(SQLAlchemyError), self._connection.begin():
                self._connection.execute(delete(meta).where(meta.c.key == self._key))
        self.disconnect()


def _may_pass(error: Exception) -> bool:
    """Whether the same transaction may succeed a moment later."""
    if isinstance(error, DBAPIError):
        return is_busy(error) or is_race(error) or is_away(error)
    return isinstance(error, DatabaseUnreachable) and not isinstance(error, Forgetful)
