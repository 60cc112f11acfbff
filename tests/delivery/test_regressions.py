"""Faults that the state machine found, each reduced to its own case."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from leadctl.delivery.lanes import Lane
from leadctl.domain.buckets import MOST_BACKLOG
from leadctl.domain.errors import Ambiguous, DatabaseUnreachable, Transient
from leadctl.domain.model import Absent, Done, Found
from leadctl.domain.outcomes import Outcome, SettledBy, TargetState
from tests.delivery.harness import IDEMPOTENT, LOOKUP, Scripted, World
from tests.support.memory_ledger import MemoryLedger
from tests.support.virtual import START, LoopClock, run_virtual


def left_in_the_middle(sent: float) -> World:
    """A world whose ledger has lead 1 as ``sending``, by a process that is gone; ``sent``: seconds before the start."""
    before = World(Scripted((LOOKUP,)), ledger=MemoryLedger("dead"))
    before.channel.script[1] = [1e6]
    with pytest.raises(TimeoutError):
        run_virtual(before.run(1), limit=5)
    w = World(Scripted((LOOKUP,)))
    key = (1, "dest", 0)
    w.ledger.targets[key] = replace(before.ledger.targets[key], sent_at=START - timedelta(seconds=sent))
    return w


@pytest.mark.parametrize("sent", [-3000.0, 0.0, 60.0, 3000.0])
def test_a_clock_that_was_set_makes_no_absence_proof(sent: float) -> None:
    """The wall clock says 50 minutes, and the vendor was asked twice within a second of the attempt."""
    w = left_in_the_middle(sent)
    w.channel.findings[1] = [Absent(), Absent(), Found("9")]
    run_virtual(w.run(1))
    assert [round(at) for at, _, _ in w.channel.looked] == [0, 8, 45]
    assert w.channel.sent == []
    assert w.ledger.outcome(1).settled_by is SettledBy.LOOKUP


def test_what_is_in_doubt_since_yesterday_is_settled_at_once() -> None:
    w = left_in_the_middle(86_400.0)
    w.channel.findings[1] = [Absent(), Absent()]
    run_virtual(w.run(1))
    assert [round(at) for at, _, _ in w.channel.looked] == [0, 0]
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED


class SetBack(LoopClock):
    """An hour less after the first second."""

    def now(self) -> datetime:
        return super().now() - timedelta(hours=1.0 if self.monotonic() > 1.0 else 0.0)


def test_a_clock_that_is_set_back_while_a_look_up_is_due_does_not_hold_it_up() -> None:
    """By a minute at most, the backlog of a rate bucket; it was by as much as the clock was set back."""
    w = World(Scripted((LOOKUP,)), clock=SetBack())
    w.channel.script[1] = [Ambiguous("timed out")]
    w.channel.findings[1] = [Absent(), Absent()]
    run_virtual(w.run(1))
    assert w.channel.looked[-1][0] < 45.0 + MOST_BACKLOG
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED


def test_two_workers_of_a_lane_that_find_nothing_do_not_wake_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """They did so, with a whole processor, for as long as a back-off or a look-up was waited for."""
    w = World(Scripted((IDEMPOTENT,)))
    monkeypatch.setattr(Scripted, "spec", replace(Scripted.spec, concurrency=4))
    w.channel.script[1] = [Transient("refused", retry_after=20.0)]
    looks: Counter[str] = Counter()
    next_batch = Lane.next_batch

    async def counted(lane: Lane, *arguments: Any) -> Any:
        looks["asked"] += 1
        assert looks["asked"] < 40
        return await next_batch(lane, *arguments)

    monkeypatch.setattr(Lane, "next_batch", counted)
    run_virtual(w.run(1))
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED


class Hanging(Scripted):
    """Refuses three leads, and does not answer when it is checked."""

    async def check(self) -> str:
        await asyncio.sleep(1e6)
        return ""


def in_an_outage() -> World:
    w = World(Hanging((IDEMPOTENT,)))
    w.channel.whole = [Transient("refused")] * 3
    return w


def test_a_stop_while_the_breaker_probes_is_no_bug() -> None:
    w = in_an_outage()
    report = run_virtual(w.run(*range(10), stop_after=10.0))
    assert (report.bug, report.stopped) == (False, True)


def test_a_ledger_that_fails_while_the_breaker_probes_ends_the_run() -> None:
    """The probe took the end of the engine for a failed check, and its lane went on."""
    w = in_an_outage()
    other = Scripted((IDEMPOTENT,))
    other.scope = "other"
    other.script[100] = [10.0, Done("x")]
    second = World(other, ledger=w.ledger)
    record = w.ledger.record

    async def gone(run_id: str, records: Any) -> None:
        if any(r.target is not None and r.target.state is TargetState.DELIVERED for r in records):
            raise DatabaseUnreachable("the ledger is gone")
        await record(run_id, records)

    w.ledger.record = gone  # type: ignore[method-assign]
    jobs = [w.job(lead_id) for lead_id in range(10)]
    with pytest.raises(DatabaseUnreachable):
        run_virtual(w.run_queues([w.queue(jobs), second.queue([second.job(100)], other)]), limit=60)
    assert len(w.channel.sent) == 3
