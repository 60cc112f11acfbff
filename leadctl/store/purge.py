"""Forgetting: answers first, then attempts and the rows of finished runs. What is delivered is never forgotten.

Small transactions, so that sending goes on beside it. After an interruption the same purge goes on.
"""

import sqlite3
from contextlib import closing, suppress
from datetime import datetime

from sqlalchemy import Column, ColumnElement, Connection, Delete, Update, and_, delete, not_, or_, select, update

from leadctl.store.base import LedgerBase
from leadctl.store.commits import COMMIT
from leadctl.store.leases import Leases
from leadctl.store.rows import to_text
from leadctl.store.runs import is_unfinished
from leadctl.store.schema import attempts, deliveries, meta, run_leads, runs

#: Rows in one transaction.
CHUNK = 1000


class PurgeTables(LedgerBase):
    """Deletes from the tables that only report; ``leadctl_targets``, the proof, is not among them."""

    def purge_answers(self, before: datetime) -> int:
        """Empty what vendors and operators have said in attempts that began before that time; in how many."""
        old = and_(attempts.c.source == self.source, attempts.c.started_at < to_text(before), attempts.c.answer != "")
        return self._in_chunks(update(attempts).values(answer=""), old, attempts.c.id)

    def purge_attempts(self, before: datetime) -> int:
        """Delete the attempts of runs that finished before that time, and what operators said before it."""
        finished = attempts.c.run_id.in_(select(runs.c.id).where(self._is_purgeable(before)))
        said = and_(attempts.c.run_id.is_(None), attempts.c.started_at < to_text(before))
        return self._in_chunks(
            delete(attempts), and_(attempts.c.source == self.source, or_(finished, said)), attempts.c.id
        )

    def purge_runs(self, before: datetime) -> tuple[int, int]:
        """Delete the runs that finished before that time: how many deliveries, and how many runs."""
        items = finished = 0
        for (run_id,) in self._read(select(runs.c.id).where(self._is_purgeable(before)).order_by(runs.c.started_at)):
            items += self._in_chunks(delete(deliveries), deliveries.c.run_id == run_id, deliveries.c.seq)
            self._in_chunks(delete(run_leads), run_leads.c.run_id == run_id, run_leads.c.seq)
            # The run's row last: by it the next purge finds what an interruption has left.
            finished += self._forget(delete(runs).where(runs.c.id == run_id, self._is_purgeable(before)))
        return items, finished

    def sweep(self, leases: Leases) -> None:
        """Remove from a server what killed processes have left in ``leadctl_meta``."""
        for (key,) in self._read(select(meta.c.key).where(meta.c.key.startswith(COMMIT, autoescape=True))):
            holder = key.removeprefix(COMMIT)
            if not leases.is_alive(holder):
                self._forget(delete(meta).where(meta.c.key.in_([key, f"lease:{holder}"])))

    def fold(self) -> None:
        """Take what was overwritten out of SQLite's write-ahead log too, unless somebody is reading just now."""
        if self.path is None:
            return
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.path, timeout=0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _is_purgeable(self, before: datetime) -> ColumnElement[bool]:
        old = and_(runs.c.finished_at.is_not(None), runs.c.finished_at < to_text(before))
        return and_(runs.c.source == self.source, old, not_(is_unfinished()))

    def _in_chunks(self, change: Delete | Update, condition: ColumnElement[bool], place: Column[int]) -> int:
        """Make the change for all rows of that condition, in the order of ``place``; how many rows that were."""
        changed, last = 0, -1
        while rows := self._read(select(place).where(condition, place > last).order_by(place).limit(CHUNK)):
            chunk = and_(condition, place > last, place <= rows[-1][0])
            changed += self._forget(change.where(chunk))
            last = rows[-1][0]
        return changed

    def _forget(self, change: Delete | Update) -> int:
        def work(connection: Connection) -> int:
            if self.path is not None:
                connection.exec_driver_sql("PRAGMA secure_delete=ON")  # overwritten, not only let go
            return connection.execute(change).rowcount

        return self._write(work)
