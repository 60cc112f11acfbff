"""Rate buckets as rows: processes at one account stay below its limit together."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from leadctl.domain.buckets import BucketRow, grant, silenced
from leadctl.store.ledger import LedgerStore
from leadctl.store.schema import buckets


class BucketRows:
    """Implements :class:`leadctl.domain.ports.Buckets` over ``leadctl_buckets``. Times are Unix seconds."""

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger

    async def take(
        self, scope: str, now: float, interval: float, tolerance: float, count: int
    ) -> tuple[Sequence[float], float]:
        """The next ``count`` places, and until when the bucket is paused. One short transaction."""

        def work(connection: Connection) -> tuple[Sequence[float], float]:
            row, places = grant(_locked(connection, scope), now, interval, tolerance, count)
            _write(connection, scope, row)
            return places, row.paused_until

        # Done twice, it wastes places.
        return await asyncio.to_thread(self._ledger.transact, work, repeatable=True)

    async def silence(self, scope: str, until: float) -> None:
        """Nobody takes a place before ``until``."""

        def work(connection: Connection) -> None:
            _write(connection, scope, silenced(_locked(connection, scope), until))

        await asyncio.to_thread(self._ledger.transact, work, repeatable=True)


def _locked(connection: Connection, scope: str) -> BucketRow:
    """The row, locked until the end of the transaction; made if it is not there."""
    statement = select(buckets.c.full_until, buckets.c.paused_until).where(buckets.c.scope == scope).with_for_update()
    row = connection.execute(statement).first()
    if row is None:
        connection.execute(insert(buckets).values(scope=scope, full_until=0.0, paused_until=0.0))
        return BucketRow()
    return BucketRow(row.full_until, row.paused_until)


def _write(connection: Connection, scope: str, row: BucketRow) -> None:
    values = {"full_until": row.full_until, "paused_until": row.paused_until}
    connection.execute(update(buckets).where(buckets.c.scope == scope).values(**values))
