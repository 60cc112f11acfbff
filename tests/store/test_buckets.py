"""Rate buckets as rows: two processes at one account stay below its limit together."""

import asyncio
from pathlib import Path

from leadctl.channelkit.spec import Bucket, Limit
from leadctl.delivery.limits import Limiter
from leadctl.domain.clock import SystemClock
from leadctl.settings import DatabaseSettings, LedgerSettings, Settings
from leadctl.store.buckets import BucketRows
from leadctl.store.database import Database
from leadctl.store.ledger import LedgerStore
from leadctl.store.sample import create_tables


def _ledger(folder: Path) -> tuple[Database, LedgerStore]:
    path = folder / "leads.db"
    url = f"sqlite:///{path}"
    if not path.exists():
        create_tables(url)
    settings = Settings(database=DatabaseSettings(url=url), ledger=LedgerSettings())
    database = Database.open(settings.database)
    return database, LedgerStore.open(settings, database, create=True)


def test_two_limiters_over_one_ledger_share_the_rate(tmp_path: Path) -> None:
    opened = [_ledger(tmp_path) for _ in range(2)]
    bucket = [Bucket("amocrm:acme", Limit(rate=200, per=1, burst=1, documented=200))]

    async def one(ledger: LedgerStore, count: int) -> list[float]:
        limiter = Limiter(SystemClock(), buckets=BucketRows(ledger), ahead=0.05)
        times = []
        for _ in range(count):
            wait = await limiter.reserve(bucket)
            times.append(SystemClock().now().timestamp() + wait)
            await asyncio.sleep(wait)
        return times

    async def both() -> list[float]:
        lists = await asyncio.gather(*(one(ledger, 60) for _, ledger in opened))
        return sorted(time for times in lists for time in times)

    times = asyncio.run(both())
    for database, ledger in opened:
        ledger.close()
        database.close()
    # 120 places at 200/s; what is dropped as stale only makes it slower.
    assert times[-1] - times[0] >= 118 / 200 - 0.01


def test_a_pause_is_heard_by_the_other_process(tmp_path: Path) -> None:
    opened = [_ledger(tmp_path) for _ in range(2)]
    bucket = [Bucket("amocrm:acme", Limit(rate=10, per=1, burst=1, documented=10))]

    async def main() -> float:
        mine, other = (Limiter(SystemClock(), buckets=BucketRows(ledger)) for _, ledger in opened)
        await mine.reserve(bucket)
        mine.pause(bucket, 30.0, None)
        await mine.publish()
        return await other.reserve(bucket)

    wait = asyncio.run(main())
    for database, ledger in opened:
        ledger.close()
        database.close()
    assert 29 < wait <= 31
