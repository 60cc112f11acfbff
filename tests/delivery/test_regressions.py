"""Faults that the state machine found, each reduced to its own case."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from leadctl.channelkit.spec import Step
from leadctl.delivery.engine import Engine
from leadctl.delivery.lanes import Lane
from leadctl.delivery.limits import Limiter, LocalBuckets
from leadctl.delivery.retries import Policy
from leadctl.domain.buckets import MOST_BACKLOG
from leadctl.domain.errors import Ambiguous, DatabaseUnreachable, Rejected, Stopped, Throttled, Transient
from leadctl.domain.model import Absent, Done, Found
from leadctl.domain.outcomes import ErrorCode, Outcome, SettledBy, TargetState
from tests.delivery.harness import BLIND, IDEMPOTENT, LOOKUP, Scripted, World
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


class SetBack(LoopClock):
    """An hour less after the first second."""

    def now(self) -> datetime:
        return super().now() - timedelta(hours=1.0 if self.monotonic() > 1.0 else 0.0)


def test_a_clock_that_is_set_back_does_not_stretch_a_vendors_pause() -> None:
    """By as much as it was set back."""
    w = World(Scripted((LOOKUP,)), clock=SetBack())
    w.channel.script[1] = [Throttled("slow", retry_after=40.0)]
    run_virtual(w.run(1))
    assert w.channel.sent[-1][0] < 40.0 + 2 * MOST_BACKLOG
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED


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


def test_a_pause_that_another_process_was_told_of_is_not_slept_through() -> None:
    """Whatever patience says: what other processes know is known only with a place in the bucket."""
    w = World(Scripted((LOOKUP,)))
    silent = LocalBuckets()
    begin = START.timestamp()

    async def main() -> None:
        await silent.silence("scripted", begin + 5000.0)
        engine = Engine(
            run_id="run", ledger=w.ledger, clock=w.clock, limiter=Limiter(w.clock, buckets=silent), policy=w.policy,
            observer=w.events.append,
        )  # fmt: skip
        report = await engine.run([w.queue([w.job(1)])])
        assert report.parked[7].code is ErrorCode.LIMIT_REACHED
        assert w.clock.monotonic() < 1.0

    run_virtual(main())
    assert w.channel.sent == []


@pytest.mark.parametrize("step", [IDEMPOTENT, LOOKUP])
def test_a_request_that_a_stop_kept_from_beginning_is_no_attempt(step: Step) -> None:
    """It waited for another process's refresh until the drain was over, and was unknown."""
    w = World(Scripted((step,)), policy=Policy(tries=1))
    w.channel.script[1] = [5.0, Stopped("whole")]
    report = run_virtual(w.run(1, stop_after=1.0))
    assert report.stopped
    assert w.ledger.attempts == []
    assert (1, 7) not in w.ledger.items, "pending: closed as unprocessed, like what was never taken"
    assert w.ledger.targets[1, "dest", 0].state is TargetState.IDLE
    run_virtual(w.run(1))
    assert (w.ledger.outcome(1).outcome, w.ledger.outcome(1).attempts) == (Outcome.DELIVERED, 1)


def refused_when_repeated(step: Step, *, retry: bool) -> World:
    w = World(Scripted((step,)))
    w.channel.script[1] = [Ambiguous("timed out")] * 3
    run_virtual(w.run(1))
    assert w.ledger.outcome(1).outcome is Outcome.UNKNOWN
    w.ledger.items.clear()
    w.channel.script[1] = [Rejected("no such format")]
    run_virtual(w.run(1, retry_unknown=retry))
    return w


def test_a_repeat_under_the_same_key_that_is_refused_leaves_nothing_in_doubt() -> None:
    """The row said rejected and in doubt."""
    w = refused_when_repeated(IDEMPOTENT, retry=False)
    row = w.ledger.targets[1, "dest", 0]
    assert (row.state, row.in_doubt) == (TargetState.REJECTED, False)


def test_a_blind_repeat_that_is_refused_is_still_in_doubt() -> None:
    """The row said rejected and in doubt: no run sent it, and neither ``--retry-unknown`` nor ``settle`` freed it."""
    w = refused_when_repeated(BLIND, retry=True)
    item, row = w.ledger.outcome(1), w.ledger.targets[1, "dest", 0]
    assert (item.outcome, item.error_code) == (Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED)
    assert item.error_message == "no such format"
    assert (row.state, row.in_doubt) == (TargetState.UNKNOWN, True)
    w.ledger.items.clear()
    run_virtual(w.run(1, retry_unknown=True))
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED


def test_a_row_that_another_process_let_go_meanwhile_was_not_lost_in_a_crash() -> None:
    """The history told of an attempt that never was."""
    w = World(Scripted((LOOKUP,)))
    w.ledger.targets.update(left_in_the_middle(0.0).ledger.targets)
    job = w.job(1)
    key = (1, "dest", 0)
    w.ledger.targets[key] = replace(w.ledger.targets[key], state=TargetState.IDLE, rev=w.ledger.targets[key].rev + 1)
    run_virtual(w.run_queues([w.queue([job])]))
    assert [attempt.outcome for attempt in w.ledger.attempts] == ["done"]
