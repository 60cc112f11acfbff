"""Row 12: claim and record of the ledger's writer, each durable, on SQLite and on a PostgreSQL of our own."""

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.measuring import Ratio, Row, Sizes, at_least, in_turn
from benchmarks.world import World, build, every_channel
from tests.support.servers import Server, require_postgresql, running_postgresql

if TYPE_CHECKING:
    from leadctl.domain.ports import Intent, Record
    from leadctl.store.ledger import LedgerStore
    from leadctl.store.writer import LedgerWriter

#: Deliveries under way at once, each claimed and recorded alone; what waits together is committed together.
IN_FLIGHT = 100
#: Of one lane of a channel without batches.
FEW_IN_FLIGHT = 4
_NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
_DESTINATION = "webhooks:0123456789abcdef01234567"
_CREDENTIAL = 1
_DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")


def claims(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 12."""
    world = build(folder / "ledger", 1, every_channel(1))
    growth: list[float] = []

    def many() -> float:
        empty = _size(_emptied(world))
        rate = _measured(world, sizes.ledger, IN_FLIGHT)
        growth.append((_size(world.ledger) - empty) / sizes.ledger)
        return rate

    def some() -> float:
        _emptied(world)
        return _measured(world, max(FEW_IN_FLIGHT, sizes.ledger // 8), FEW_IN_FLIGHT)

    ours, few, bare = in_turn(
        sizes.rounds,
        many,
        some,
        lambda: _plain(folder / "plain.db", sizes.ledger),
    )
    rate, ratio = statistics.median(ours), Ratio.of(ours, bare)
    return [
        Row("12", f"ledger: claim and record, {IN_FLIGHT} in flight, SQLite (WAL, FULL)", "≥ 3,000/s",
            f"{rate:,.0f}/s ({min(ours):,.0f}–{max(ours):,.0f})", at_least(rate, 3000.0),
            f"{ratio} plain sqlite3 with as many rows a commit ({statistics.median(bare):,.0f}/s); "
            f"{FEW_IN_FLIGHT} in flight: {statistics.median(few):,.0f}/s"),
        Row("12", "its growth, run, target and attempt together", "stated",
            f"{statistics.median(growth):,.0f} bytes a delivery", "stated"),
        _on_postgresql(sizes, folder),
    ]  # fmt: skip


def _on_postgresql(sizes: Sizes, folder: Path) -> Row:
    what, target = f"ledger: claim and record, {IN_FLIGHT} in flight, PostgreSQL, which writes to its disk", "≥ 2,000/s"
    try:
        require_postgresql()
    except pytest.skip.Exception as missing:
        return Row("12", what, target, "", "not measured", str(missing))
    rates = []
    with running_postgresql(*_DURABLE) as url:
        server = Server("postgresql", int(url.rpartition(":")[2]))
        for number in range(sizes.rounds):
            world = build(folder / f"postgresql{number}", 1, every_channel(1))
            settings = f'[ledger]\nurl = "{server.new_database()}"\n'
            world.config.write_text(world.config.read_text() + settings)
            _emptied(world)
            rates.append(_measured(world, sizes.ledger, IN_FLIGHT))
    rate = statistics.median(rates)
    return Row(
        "12", what, target, f"{rate:,.0f}/s ({min(rates):,.0f}–{max(rates):,.0f})", at_least(rate, 2000.0),
        "version 15, on this machine",
    )  # fmt: skip


@contextmanager
def _opened(world: World) -> Iterator["tuple[LedgerStore, LedgerWriter]"]:
    from leadctl.services.bootstrap import open_app
    from leadctl.settings import load_settings
    from leadctl.store.writer import LedgerWriter

    with open_app(load_settings(str(world.config), {}), create_ledger=True) as app:
        writer = LedgerWriter(app.ledger, app.leases, app.leases.open_holder(), secrets=app.secrets)
        try:
            yield app.ledger, writer
        finally:
            writer.close()


def _emptied(world: World) -> Path:
    """A ledger in which nothing stands; the file of one that is a file."""
    world.forget()
    with _opened(world):
        return world.ledger


def _measured(world: World, count: int, in_flight: int) -> float:
    """Deliveries a second."""
    from leadctl.domain.outcomes import Outcome

    with _opened(world) as (ledger, writer):
        run_id = _planned(ledger, count)
        pairs = iter([(_intent(number), _record(number)) for number in range(count)])

        async def worker() -> None:
            for intent, record in pairs:
                await writer.claim(run_id, [intent])
                await writer.record(run_id, [record])

        async def main() -> float:
            began = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(in_flight)))
            return time.perf_counter() - began

        seconds = asyncio.run(main())
        outcomes = ledger.outcome_counts(run_id)
    if outcomes != {("webhooks", Outcome.DELIVERED): count}:
        raise RuntimeError(f"{count} deliveries were to be recorded: {outcomes}")
    return count / seconds


def _size(path: Path) -> int:
    """Of the file, with what still stands in its write-ahead log."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def _planned(ledger: "LedgerStore", count: int) -> str:
    """A run with so many pending deliveries, as planning leaves it."""
    from leadctl.store.rows import ItemRow

    run = ledger.new_run("bulk-resend", "digest", now=_NOW, options={}, total_count=count)
    ledger.add_leads(run.id, [(number, number, "planned") for number in range(count)])
    items = [
        ItemRow(
            seq=number, lead_id=number, channel="webhooks", credential_id=_CREDENTIAL, credential_name="webhooks 1",
            destination=_DESTINATION, reason="new", target="crm.example",
        )
        for number in range(count)
    ]  # fmt: skip
    ledger.add_items(run.id, items)
    return run.id


def _intent(number: int) -> "Intent":
    from leadctl.domain.ports import Intent

    return Intent(
        lead_id=number, destination=_DESTINATION, n=0, rev=None, key=f"lc-abc234-{number}-{_CREDENTIAL}",
        credential_id=_CREDENTIAL, channel="webhooks", account="webhooks:aa", step="event", first_at=_NOW,
        sent_at=_NOW,
    )  # fmt: skip


def _record(number: int) -> "Record":
    from leadctl.domain.outcomes import Outcome, TargetState
    from leadctl.domain.ports import AttemptRecord, ItemOutcome, Record, TargetWrite

    remote = f"msg_{number:026d}"
    return Record(
        AttemptRecord(
            lead_id=number, destination=_DESTINATION, n=0, credential_id=_CREDENTIAL, channel="webhooks", step="event",
            trigger="first", started_at=_NOW, ended_at=_NOW, outcome="done", http_status=204,
            request_digest="0" * 64,
        ),
        TargetWrite(
            lead_id=number, destination=_DESTINATION, n=0, state=TargetState.DELIVERED, done={"event": remote},
            remote_id=remote,
        ),
        ItemOutcome(
            lead_id=number, credential_id=_CREDENTIAL, outcome=Outcome.DELIVERED, attempts=1, remote_id=remote
        ),
    )  # fmt: skip


def _plain(path: Path, count: int) -> float:
    """The same two commits with sqlite3 alone: a row per claim; its update and a row per record."""
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE targets (lead_id TEXT PRIMARY KEY, state TEXT, key TEXT, done TEXT)")
        connection.execute("CREATE TABLE attempts (id INTEGER PRIMARY KEY, lead_id TEXT, outcome TEXT, digest TEXT)")
        began = time.perf_counter()
        for start in range(0, count, IN_FLIGHT):
            rows = [(str(number), f"lc-{number}") for number in range(start, min(count, start + IN_FLIGHT))]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO targets VALUES (?, 'sending', ?, '')", rows)
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE targets SET state = 'delivered', done = ?2 WHERE lead_id = ?1", rows)
            connection.executemany("INSERT INTO attempts (lead_id, outcome, digest) VALUES (?, 'done', ?)", rows)
            connection.execute("COMMIT")
        return count / (time.perf_counter() - began)
