"""The writer's thread: group commits, locks, full disks, and its death."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event

from leadctl.domain.errors import DatabaseUnreachable, LeadctlError
from leadctl.domain.outcomes import TargetState
from leadctl.domain.ports import Granted, Record
from leadctl.store import engines, settling, writer
from tests.store.helpers import RUN, Process, claim, delivered, execute, granted, intent, on_sqlite, record, row, write


def count_commits(who: Process) -> list[None]:
    commits: list[None] = []
    event.listen(who.store.writing, "commit", lambda connection: commits.append(None))
    return commits


def test_what_waits_is_committed_together(one: Process) -> None:
    commits = count_commits(one)

    async def many() -> None:
        claims = await asyncio.gather(*(one.writer.claim(RUN, [intent(lead_id)]) for lead_id in range(500)))
        assert all(isinstance(answer, Granted) for (answer,) in claims)
        await asyncio.gather(*(one.writer.record(RUN, [delivered(lead_id)]) for lead_id in range(500)))

    asyncio.run(many())
    assert len(commits) < 50
    assert all(row(one, lead_id).state is TargetState.DELIVERED for lead_id in range(500))


def test_a_call_larger_than_a_group(one: Process) -> None:
    many = [intent(lead_id) for lead_id in range(writer.GROUP_ROWS + 1)]
    assert all(isinstance(answer, Granted) for answer in claim(one, *many))


def test_closing_writes_what_is_queued(one: Process) -> None:
    async def leave() -> None:
        calls = [asyncio.ensure_future(one.writer.claim(RUN, [intent(lead_id)])) for lead_id in range(50)]
        await asyncio.sleep(0)
        await asyncio.to_thread(one.writer.close)
        assert len(await asyncio.gather(*calls)) == 50
        with pytest.raises(LeadctlError, match="closed"):
            await one.writer.record(RUN, [delivered(1)])

    asyncio.run(leave())
    assert len(one.store.targets_for(list(range(50)))) == 50
    one.writer.close()


class _Gate:
    """Holds the writer's thread before its next transaction."""

    def __init__(self, who: Process) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        event.listen(who.store.writing, "begin", self._wait)

    def _wait(self, connection: Any) -> None:
        self.entered.set()
        assert self.open.wait(10)


def gated(one: Process, while_held: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it while the thread is in the middle of a first transaction."""

    async def main() -> None:
        gate = _Gate(one)
        first = asyncio.ensure_future(one.writer.claim(RUN, [intent(999)]))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        try:
            await while_held()
        finally:
            gate.open.set()
        await first
        await one.writer.claim(RUN, [intent(998)])

    asyncio.run(main())


def test_a_claim_that_nobody_waits_for_is_not_made(one: Process) -> None:
    async def give_up() -> None:
        task = asyncio.ensure_future(one.writer.claim(RUN, [intent(1)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    gated(one, give_up)
    assert one.store.targets_for([1, 998, 999]).keys() == {998, 999}


def test_an_outcome_that_nobody_waits_for_is_written(one: Process) -> None:
    claim(one, intent(1))

    async def give_up() -> None:
        task = asyncio.ensure_future(one.writer.record(RUN, [delivered(1)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    gated(one, give_up)
    assert row(one).state is TargetState.DELIVERED


def test_if_the_thread_dies_everybody_is_told(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError

    async def main() -> None:
        monkeypatch.setattr(settling.INSERT_TARGETS, "run", broken)
        calls = [one.writer.claim(RUN, [intent(lead_id)]) for lead_id in range(3)]
        async with asyncio.timeout(10):
            errors = await asyncio.gather(*calls, return_exceptions=True)
        for error in errors:
            assert isinstance(error, LeadctlError)
            assert "has stopped (MemoryError)" in error.message
            assert isinstance(error.__cause__, MemoryError)
        with pytest.raises(LeadctlError, match="has stopped"):
            await one.writer.record(RUN, [delivered(1)])

    asyncio.run(main())
    one.writer.close()
    assert one.store.targets_for([0, 1, 2]) == {}


@on_sqlite
def test_a_lock_of_another_process_is_waited_for(one: Process) -> None:
    assert one.store.path is not None
    path = one.store.path

    async def main() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            waiting = asyncio.ensure_future(one.writer.claim(RUN, [intent(1)]))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            locker.execute("COMMIT")
            (answer,) = await waiting
            assert isinstance(answer, Granted)

    impatient(one)
    asyncio.run(main())


def impatient(who: Process) -> None:
    """SQLite itself does not wait: every lock comes back as an error."""
    event.listen(who.store.writing, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=1"))
    who.store.writing.dispose()


@on_sqlite
def test_a_lock_that_never_ends_is_an_outage(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(one)
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.05)
    assert one.store.path is not None
    with closing(sqlite3.connect(one.store.path, isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnreachable, match="locked by another process"):
            claim(one, intent(1))
    assert isinstance(claim(one, intent(1))[0], Granted)


@on_sqlite
def test_a_full_disk_loses_nothing_that_was_answered(one: Process) -> None:
    assert one.store.path is not None
    claim(one, intent(1))
    (pages,) = execute(one.store.path, "PRAGMA page_count")[0]
    limit = f"PRAGMA max_page_count={pages}"
    event.listen(one.store.writing, "begin", lambda connection: connection.exec_driver_sql(limit))
    with pytest.raises(DatabaseUnreachable, match="is full"):
        claim(one, *(intent(lead_id) for lead_id in range(2, 500)))
    assert one.store.targets_for(list(range(1, 500))).keys() == {1}
    record(one, Record(target=write(1)))
    assert row(one).state is TargetState.DELIVERED


@on_sqlite
def test_a_database_that_may_no_longer_be_written(one: Process) -> None:
    event.listen(one.store.writing, "begin", lambda connection: connection.exec_driver_sql("PRAGMA query_only=1"))
    with pytest.raises(DatabaseUnreachable, match="cannot be opened or written") as caught:
        claim(one, intent(1))
    assert "right to write" in caught.value.hint


def test_a_statement_that_the_database_refuses_is_a_bug_at_once(one: Process) -> None:
    nothing: Any = None
    with pytest.raises(LeadctlError, match="refuses a statement") as caught:
        claim(one, intent(1), intent(2, account=nothing))
    assert caught.value.exit_code == 70
    assert one.store.targets_for([1, 2]) == {}
    assert isinstance(claim(one, intent(1))[0], Granted)


def test_loops_come_and_go(one: Process) -> None:
    """LeadResendService runs a loop of its own per call."""

    def work(lead_id: int) -> None:
        claim(one, intent(lead_id))
        record(one, delivered(lead_id))

    threads = [threading.Thread(target=work, args=(lead_id,)) for lead_id in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {row(one, lead_id).state for lead_id in range(8)} == {TargetState.DELIVERED}


def test_the_clock_and_the_process_are_real(one: Process) -> None:
    granted(claim(one, intent(1))[0])
    assert f"holder-{os.getpid()}-" in (row(one).holder or "")
