"""What the engine does after each answer, on a virtual clock."""

from typing import Any

import pytest

from leadctl.channelkit.spec import Limit, Retransmit, Step
from leadctl.delivery.lanes import AccountQueue
from leadctl.delivery.retries import Policy
from leadctl.domain.errors import (
    Ambiguous,
    LimitReached,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Finished, Parked, RunEvent, Throttling
from leadctl.domain.model import Absent, CannotTell, Done, Found
from leadctl.domain.outcomes import ErrorCode, Outcome, SettledBy, TargetState
from tests.delivery.harness import BLIND, IDEMPOTENT, LOOKUP, NOTE, Scripted, World
from tests.support.memory_ledger import MemoryLedger
from tests.support.virtual import run_virtual


def world(*steps: Step, **options: Any) -> World:
    return World(Scripted(steps, **options))


def test_a_delivery_is_claimed_before_it_is_sent_and_recorded_after() -> None:
    w = world(LOOKUP)
    run_virtual(w.run(1, 2, 3))
    assert w.ledger.log == ["claim", "record"]
    assert w.channel.sent == [(0.0, "lead", [1, 2, 3])]
    assert [w.ledger.outcome(i).outcome for i in (1, 2, 3)] == [Outcome.DELIVERED] * 3
    assert w.ledger.outcome(2).remote_id == "r2"
    assert w.ledger.targets[2, "dest", 0].state is TargetState.DELIVERED


@pytest.mark.parametrize(
    ("step", "script", "findings", "outcome", "code", "settled_by", "attempts"),
    [
        (IDEMPOTENT, [Transient("x")], [], Outcome.DELIVERED, None, None, 2),
        (IDEMPOTENT, [Transient("x")] * 3, [], Outcome.FAILED, ErrorCode.TRIES_EXHAUSTED, None, 3),
        (IDEMPOTENT, [Ambiguous("x")], [], Outcome.DELIVERED, None, SettledBy.RESEND, 2),
        (IDEMPOTENT, [Ambiguous("x")] * 3, [], Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, None, 3),
        (IDEMPOTENT, [Ambiguous("x"), Transient("x"), Transient("x")], [], Outcome.UNKNOWN,
         ErrorCode.MAYBE_DELIVERED, None, 3),
        (IDEMPOTENT, [Rejected("no")], [], Outcome.REJECTED, ErrorCode.VENDOR_REJECTED, None, 1),
        (BLIND, [Ambiguous("x")], [], Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, None, 1),
        (BLIND, [Transient("x")], [], Outcome.DELIVERED, None, None, 2),
        (LOOKUP, [Ambiguous("x")], [Found("9")], Outcome.DELIVERED, None, SettledBy.LOOKUP, 1),
        (LOOKUP, [Ambiguous("x")], [Absent(), Found("9")], Outcome.DELIVERED, None, SettledBy.LOOKUP, 1),
        (LOOKUP, [Ambiguous("x")], [Absent(), Absent()], Outcome.DELIVERED, None, None, 2),
        (LOOKUP, [Ambiguous("x")] * 3, [Absent()] * 6, Outcome.FAILED, ErrorCode.TRIES_EXHAUSTED, None, 3),
        (LOOKUP, [Ambiguous("x")], [CannotTell()] * 100, Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, None, 1),
        (LOOKUP, [Ambiguous("x")], [CannotTell(), Transient("x"), Found("9")], Outcome.DELIVERED, None,
         SettledBy.LOOKUP, 1),
        (LOOKUP, [Throttled("slow", retry_after=30)], [], Outcome.DELIVERED, None, None, 2),
        (LOOKUP, [Unusable("bad token")], [], Outcome.UNPROCESSED, ErrorCode.CREDENTIAL_REFUSED, None, 1),
        (LOOKUP, [Unusable("inside", address_not_allowed=True)], [], Outcome.UNPROCESSED,
         ErrorCode.ADDRESS_NOT_ALLOWED, None, 1),
        (LOOKUP, [LimitReached("quota")], [], Outcome.UNPROCESSED, ErrorCode.LIMIT_REACHED, None, 1),
        (LOOKUP, [Throttled("slow", retry_after=1000)], [], Outcome.UNPROCESSED, ErrorCode.LIMIT_REACHED, None, 1),
        (LOOKUP, [Throttled("slow", retry_after=400)] * 9, [], Outcome.UNPROCESSED, ErrorCode.LIMIT_REACHED, None, 3),
        (LOOKUP, [*[Throttled("slow", retry_after=400)] * 2, Transient("x")] * 2, [], Outcome.DELIVERED, None, None, 7),
        (LOOKUP, [Ambiguous("x")], [Unusable("gone")], Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, None, 1),
    ],
)  # fmt: skip
def test_what_follows_an_answer(
    step: Step,
    script: list[Any],
    findings: list[Any],
    outcome: Outcome,
    code: ErrorCode | None,
    settled_by: SettledBy | None,
    attempts: int,
) -> None:
    w = world(step)
    w.channel.script[1] = list(script)
    w.channel.findings[1] = list(findings)
    run_virtual(w.run(1))
    item = w.ledger.outcome(1)
    assert (item.outcome, item.error_code, item.settled_by, item.attempts) == (outcome, code, settled_by, attempts)
    assert len([a for a in w.ledger.attempts if a.trigger != "lookup"]) == attempts
    state = w.ledger.targets[1, "dest", 0].state
    expected = {
        Outcome.DELIVERED: TargetState.DELIVERED, Outcome.FAILED: TargetState.FAILED,
        Outcome.UNKNOWN: TargetState.UNKNOWN, Outcome.REJECTED: TargetState.REJECTED,
        Outcome.UNPROCESSED: TargetState.IDLE,
    }  # fmt: skip
    assert state is expected[outcome]
    assert w.ledger.targets[1, "dest", 0].in_doubt is (outcome is Outcome.UNKNOWN)


def test_look_ups_come_when_the_sheet_says_and_in_sets() -> None:
    w = world(LOOKUP)
    w.channel.whole = [Ambiguous("timed out")]
    w.channel.findings = {1: [Absent(), Absent()], 2: [Absent(), Found("9")], 3: [Found("8")]}
    run_virtual(w.run(1, 2, 3))
    assert [(round(at), ids) for at, _, ids in w.channel.looked] == [(8, [1, 2, 3]), (45, [1, 2])]
    assert [ids for _, _, ids in w.channel.sent] == [[1, 2, 3], [1]]
    assert {i: w.ledger.outcome(i).remote_id for i in (1, 2, 3)} == {1: "r1", 2: "9", 3: "8"}


def test_a_key_that_the_answer_leaves_out_is_in_doubt() -> None:
    w = world(LOOKUP)
    w.channel.findings[2] = [Found("9")]

    class Forgetful(Scripted):
        async def send(self, step: Step, batch: Any) -> Any:
            verdict = await super().send(step, batch)
            return type(verdict)({k: v for k, v in verdict.receipts.items() if k != "k2"}, 200)

    w.channel.__class__ = Forgetful
    run_virtual(w.run(1, 2))
    assert w.ledger.outcome(2).settled_by is SettledBy.LOOKUP
    assert len(w.channel.sent) == 1


def test_a_time_out_on_the_note_makes_no_second_deal() -> None:
    w = world(LOOKUP, NOTE)
    w.channel.script[1] = [Done("deal"), Ambiguous("x")]
    w.channel.findings[1] = [Absent()]
    run_virtual(w.run(1))
    assert [name for _, name, _ in w.channel.sent] == ["lead", "note", "note"]
    item = w.ledger.outcome(1)
    assert (item.outcome, item.remote_id, item.error_code) == (Outcome.DELIVERED, "deal", None)
    assert w.ledger.targets[1, "dest", 0].done == {"lead": "deal", "note": "r1"}


def test_a_refused_note_leaves_the_delivery_incomplete() -> None:
    w = world(LOOKUP, NOTE)
    w.channel.script[1] = [Done("deal"), Rejected("note too long")]
    run_virtual(w.run(1))
    item = w.ledger.outcome(1)
    assert (item.outcome, item.error_code, item.error_message) == (
        Outcome.DELIVERED,
        ErrorCode.INCOMPLETE,
        "note too long",
    )
    assert w.ledger.targets[1, "dest", 0].state is TargetState.INCOMPLETE


def test_the_next_run_completes_what_is_incomplete_alone() -> None:
    w = world(LOOKUP, NOTE)
    w.channel.script[1] = [Done("deal"), Rejected("note too long")]
    run_virtual(w.run(1))
    w.ledger.items.clear()
    w.channel.sent.clear()
    run_virtual(w.run(1))
    assert [name for _, name, _ in w.channel.sent] == ["note"]
    assert w.ledger.outcome(1).error_code is None
    assert w.ledger.targets[1, "dest", 0].state is TargetState.DELIVERED


def test_recipients_refused_for_now_are_tried_again_alone() -> None:
    w = world(IDEMPOTENT)
    w.channel.script[1] = [
        Done("m", parts={"rcpt:a": "250"}, open={"rcpt:b": Transient("450")}),
        Done("m", parts={"rcpt:b": "250"}),
    ]
    run_virtual(w.run(1))
    assert [dict(d.done) for d in w.channel.deliveries] == [{}, {"rcpt:a": "250"}]
    assert w.ledger.outcome(1).error_code is None


def test_recipients_refused_for_good_are_said() -> None:
    w = world(IDEMPOTENT)
    w.channel.script[1] = [Done("m", parts={"rcpt:a": "250"}, open={"rcpt:b": Rejected("no such user")})]
    run_virtual(w.run(1))
    item = w.ledger.outcome(1)
    assert (item.outcome, item.error_code, item.error_message) == (
        Outcome.DELIVERED,
        ErrorCode.INCOMPLETE,
        "no such user",
    )


def test_split_takes_the_named_ones_out_and_looks_the_rest_up_where_nothing_is_proven() -> None:
    w = world(LOOKUP)
    w.channel.whole = [Split("400", refused={"k2": Rejected("bad field")}, executed_maybe=True)]
    w.channel.findings = {i: [Absent(), Absent()] for i in (1, 3)}
    run_virtual(w.run(1, 2, 3))
    assert w.ledger.outcome(2).outcome is Outcome.REJECTED
    assert [ids for _, _, ids in w.channel.sent] == [[1, 2, 3], [1, 3]]
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED


def test_split_without_names_halves_the_batch() -> None:
    w = world(LOOKUP)
    w.channel.whole = [Split("too many")]
    run_virtual(w.run(1, 2, 3, 4))
    assert [ids for _, _, ids in w.channel.sent] == [[1, 2, 3, 4], [1, 2], [3, 4]]


def test_split_of_one_is_a_refusal() -> None:
    w = world(LOOKUP)
    w.channel.whole = [Split("too many")]
    run_virtual(w.run(1))
    assert w.ledger.outcome(1).outcome is Outcome.REJECTED


def test_a_vendors_wait_costs_no_try_and_no_time() -> None:
    w = world(IDEMPOTENT)
    w.policy = Policy(tries=1, timeout=10)
    w.channel.script[1] = [Throttled("slow", retry_after=60)] * 5
    run_virtual(w.run(1))
    assert [round(at) for at, _, _ in w.channel.sent] == [0, 60, 120, 180, 240, 300]
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED
    assert any(isinstance(event, Throttling) and event.seconds == 60 for event in w.events)


def test_a_refused_credential_is_parked_and_keeps_the_others_going() -> None:
    w = world(IDEMPOTENT)
    other = Scripted((IDEMPOTENT,))
    other.scope = "other"
    w.channel.script[1] = [Unusable("401")]
    second = World(other, ledger=w.ledger)
    jobs = [second.job(100 + i) for i in range(5)]
    report = run_virtual(w.run_queues([w.queue([w.job(i) for i in (1, 2, 3)]), second.queue(jobs, other)]))
    assert report.parked[7].code is ErrorCode.CREDENTIAL_REFUSED
    assert [ids for _, _, ids in w.channel.sent] == [[1]]
    assert (2, 7) not in w.ledger.items, "what was not begun is closed by the caller, in the ledger"
    assert all(w.ledger.outcome(100 + i).outcome is Outcome.DELIVERED for i in range(5))
    assert [e.message for e in w.events if isinstance(e, Parked)] == ["401"]


def test_twenty_equal_refusals_at_the_start_of_a_bulk_run_park_the_credential() -> None:
    w = world(IDEMPOTENT)
    w.bulk = True
    for i in range(30):
        w.channel.script[i] = [Rejected("no", vendor_code="NotSupportedChoice", path="status_id")]
    report = run_virtual(w.run(*range(30)))
    assert len(w.channel.sent) == 20
    assert report.parked[7].code is ErrorCode.CREDENTIAL_REFUSED


def test_a_bulk_run_begins_with_one_then_a_few() -> None:
    w = world(LOOKUP)
    w.bulk = True
    run_virtual(w.run(*range(60)))
    assert [len(ids) for _, _, ids in w.channel.sent] == [1, 5, 50, 4]


def test_a_wrong_configuration_costs_one_delivery() -> None:
    w = world(LOOKUP)
    w.bulk = True
    w.channel.whole = [Unusable("no such pipeline")]
    run_virtual(w.run(*range(60)))
    assert [len(ids) for _, _, ids in w.channel.sent] == [1]


def two_steps() -> World:
    """A contact, and then the deal that counts; 50 in a request."""
    contact = Step("contact", Retransmit.LOOKUP, batch=50, looks=(8.0,), preparatory=True)
    w = World(Scripted((contact, Step("deal", Retransmit.LOOKUP, batch=50, looks=(8.0,)))))
    w.bulk = True
    return w


def test_the_first_delivery_is_taken_to_its_end_before_others_begin() -> None:
    """A contact that was made says nothing of the pipeline that its deal goes to."""
    w = two_steps()
    run_virtual(w.run(*range(60)))
    assert [(name, len(ids)) for _, name, ids in w.channel.sent] == [
        ("contact", 1), ("deal", 1), ("contact", 5), ("deal", 5), ("contact", 50), ("deal", 50), ("contact", 4),
        ("deal", 4),
    ]  # fmt: skip


def test_a_wrong_configuration_of_the_second_step_costs_one_contact() -> None:
    w = two_steps()
    w.channel.script[0] = [Done("c0"), Unusable("no such pipeline")]
    report = run_virtual(w.run(*range(60)))
    assert [(name, ids) for _, name, ids in w.channel.sent] == [("contact", [0]), ("deal", [0])]
    assert report.parked[7].code is ErrorCode.CREDENTIAL_REFUSED


def test_twenty_equal_refusals_of_the_second_step_park_too() -> None:
    w = two_steps()
    for i in range(60):
        w.channel.script[i] = [Done(f"c{i}"), Rejected("no", vendor_code="NotSupportedChoice", path="status_id")]
    report = run_virtual(w.run(*range(60)))
    refused = [ids for _, name, ids in w.channel.sent if name == "deal"]
    assert [len(ids) for ids in refused] == [1] * 20, "the ramp begins when one is through"
    assert report.parked[7].code is ErrorCode.CREDENTIAL_REFUSED


def test_refusals_that_differ_do_not_park() -> None:
    w = world(IDEMPOTENT)
    w.bulk = True
    for i in range(30):
        w.channel.script[i] = [Rejected("no", vendor_code="x", path=str(i % 2))]
    assert not run_virtual(w.run(*range(30))).parked


@pytest.mark.parametrize("error", [Transient("refused"), Ambiguous("timed out"), Ambiguous("html", http_status=502)])
def test_an_outage_opens_the_breaker_and_costs_those_behind_nothing(error: Any) -> None:
    w = world(IDEMPOTENT)
    w.channel.whole = [error] * 3
    w.channel.checks = [Transient("still down"), Transient("still down"), None]
    run_virtual(w.run(*range(10)))
    assert all(w.ledger.outcome(i).outcome is Outcome.DELIVERED for i in range(10))
    assert sum(w.ledger.outcome(i).attempts for i in range(10)) == 13
    assert any(at >= 5 + 10 + 20 for at, _, _ in w.channel.sent[3:4]), "nothing is sent until the check passes"


def test_a_probe_after_an_outage_costs_no_tries() -> None:
    w = world(IDEMPOTENT)
    w.channel.whole = [Ambiguous("html", http_status=502)] * 8
    run_virtual(w.run(*range(5)))
    assert {item.outcome for item in w.ledger.items.values()} == {Outcome.DELIVERED}
    assert len(w.channel.sent) == 13


def test_an_answer_that_cannot_tell_is_no_outage() -> None:
    w = world(LOOKUP)
    w.channel.whole = [Ambiguous("reset")]
    w.channel.findings = {i: [CannotTell("no right to read"), CannotTell("no right"), Found("9")] for i in range(5)}
    run_virtual(w.run(*range(5)))
    assert {item.outcome for item in w.ledger.items.values()} == {Outcome.DELIVERED}
    assert not any(isinstance(event, RunEvent) and event.name == "throttled" for event in w.events)


def test_look_ups_that_fail_keep_the_breaker_counting() -> None:
    w = World(Scripted((LOOKUP,)), policy=Policy(timeout=10_000))
    w.channel.batch_size = lambda step: 1  # type: ignore[method-assign]
    w.channel.whole = [Ambiguous("html", http_status=502)] * 1000
    w.channel.findings = {i: [Transient("html", http_status=502)] * 1000 for i in range(10)}
    w.channel.checks = [Transient("down")] * 1000
    report = run_virtual(w.run(*range(10)))
    assert report.parked[7].code is ErrorCode.VENDOR_DOWN
    assert len(w.channel.sent) == 3
    assert {item.outcome for item in w.ledger.items.values()} == {Outcome.UNKNOWN}


def test_an_outage_longer_than_patience_leaves_the_rest_unprocessed() -> None:
    w = world(IDEMPOTENT)
    w.channel.whole = [Transient("refused")] * 100
    w.channel.checks = [Transient("down")] * 1000
    report = run_virtual(w.run(*range(10)))
    assert report.parked[7].code is ErrorCode.VENDOR_DOWN
    assert len(w.channel.sent) == 3
    begun = list(w.ledger.items.values())
    assert {(item.outcome, item.error_code) for item in begun} == {(Outcome.UNPROCESSED, ErrorCode.VENDOR_DOWN)}


def test_a_single_lead_does_not_wait_for_an_outage_to_end() -> None:
    w = world(IDEMPOTENT)
    w.channel.whole = [Transient("refused")] * 100
    report = run_virtual(w.run(1))
    assert w.ledger.outcome(1).outcome is Outcome.FAILED
    assert not report.parked


def test_a_row_that_another_process_left_in_the_middle_is_settled_first() -> None:
    w = world(LOOKUP)
    w.channel.script[1] = [60.0, Done("x")]
    crashed = World(Scripted((LOOKUP,)), ledger=MemoryLedgerOf(w, "dead"))
    crashed.channel.script[1] = [1e6]
    with pytest.raises(TimeoutError):
        run_virtual(crashed.run(1), limit=5)
    w.ledger.targets.update(crashed.ledger.targets)
    w.channel.findings[1] = [Found("there")]
    run_virtual(w.run(1))
    assert w.channel.sent == []
    item = w.ledger.outcome(1)
    assert (item.outcome, item.remote_id, item.settled_by) == (Outcome.DELIVERED, "there", SettledBy.LOOKUP)
    lost = w.ledger.attempts[0]
    assert (lost.outcome, lost.ended_at) == ("ambiguous", None)


def MemoryLedgerOf(w: World, holder: str) -> Any:  # noqa: N802 reads as the class
    return type(w.ledger)(holder)


@pytest.mark.parametrize("step", [IDEMPOTENT, BLIND, LOOKUP])
def test_a_row_that_a_living_process_holds_is_waited_for_and_never_sent(step: Step) -> None:
    w = world(step)
    other = World(Scripted((step,)), ledger=MemoryLedgerOf(w, "other"))
    other.channel.script[1] = [1e6]
    with pytest.raises(TimeoutError):
        run_virtual(other.run(1), limit=5)
    w.ledger.targets.update(other.ledger.targets)
    w.ledger.alive.add("other")
    run_virtual(w.run(1))
    assert w.channel.sent == []
    assert (w.ledger.outcome(1).outcome, w.ledger.outcome(1).error_code) == (
        Outcome.UNPROCESSED,
        ErrorCode.IN_USE_ELSEWHERE,
    )
    assert w.ledger.targets[1, "dest", 0].holder == "other"


def test_a_blind_row_that_a_dead_process_left_is_unknown_for_good() -> None:
    w = world(BLIND)
    other = World(Scripted((BLIND,)), ledger=MemoryLedgerOf(w, "other"))
    other.channel.script[1] = [1e6]
    with pytest.raises(TimeoutError):
        run_virtual(other.run(1), limit=5)
    w.ledger.targets.update(other.ledger.targets)
    run_virtual(w.run(1))
    assert w.channel.sent == []
    assert (w.ledger.outcome(1).outcome, w.ledger.targets[1, "dest", 0].state) == (
        Outcome.UNKNOWN,
        TargetState.UNKNOWN,
    )
    assert [attempt.outcome for attempt in w.ledger.attempts] == ["ambiguous"]


def test_a_row_that_somebody_else_delivered_meanwhile_is_already_delivered() -> None:
    w = world(IDEMPOTENT)
    job = w.job(1)
    other = World(Scripted((IDEMPOTENT,)), ledger=w.ledger)
    run_virtual(other.run(1))
    w.ledger.items.clear()
    run_virtual(w.run_queues([w.queue([job])]))
    assert w.channel.sent == []
    assert (w.ledger.outcome(1).outcome, w.ledger.outcome(1).remote_id) == (Outcome.ALREADY_DELIVERED, "r1")


@pytest.mark.parametrize(("retry", "outcome"), [(False, Outcome.UNKNOWN), (True, Outcome.DELIVERED)])
def test_a_blind_unknown_goes_again_only_when_a_person_says_so(retry: bool, outcome: Outcome) -> None:
    w = world(BLIND)
    w.channel.script[1] = [Ambiguous("x")]
    run_virtual(w.run(1))
    w.ledger.items.clear()
    w.channel.sent.clear()
    run_virtual(w.run(1, retry_unknown=retry))
    assert w.ledger.outcome(1).outcome is outcome
    assert len(w.channel.sent) == (1 if retry else 0)
    assert w.channel.deliveries[-1].possible_repeat is retry


def test_hold_leaves_what_is_in_doubt_to_a_person() -> None:
    w = world(LOOKUP, hold=True)
    w.channel.script[1] = [Ambiguous("x")]
    run_virtual(w.run(1))
    assert w.ledger.outcome(1).outcome is Outcome.UNKNOWN
    assert w.channel.looked == []


def test_stop_drains_what_is_under_way_and_leaves_the_rest_pending() -> None:
    w = world(IDEMPOTENT)
    w.channel.script[1] = [10.0, Done("slow")]
    report = run_virtual(w.run(1, 2, 3, stop_after=1.0))
    assert report.stopped
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED
    assert set(w.ledger.items) == {(1, 7)}


def test_what_does_not_drain_in_time_is_unknown() -> None:
    w = world(IDEMPOTENT)
    w.channel.script[1] = [1000.0, Done("slow")]
    run_virtual(w.run(1, 2, 3, stop_after=1.0))
    assert w.ledger.outcome(1).outcome is Outcome.UNKNOWN
    assert w.ledger.targets[1, "dest", 0].state is TargetState.UNKNOWN


def test_stop_while_a_look_up_is_due_leaves_it_unknown() -> None:
    w = world(LOOKUP)
    w.channel.script[1] = [Ambiguous("x")]
    run_virtual(w.run(1, stop_after=2.0))
    assert w.ledger.outcome(1).outcome is Outcome.UNKNOWN


def test_a_bug_in_a_channel_ends_in_an_outcome_and_spares_other_lanes() -> None:
    w = world(IDEMPOTENT)

    class Broken(Scripted):
        async def send(self, step: Step, batch: Any) -> Any:
            raise KeyError("oops")

    w.channel.__class__ = Broken
    other = Scripted((IDEMPOTENT,))
    other.scope = "other"
    second = World(other, ledger=w.ledger)
    report = run_virtual(w.run_queues([w.queue([w.job(1), w.job(2)]), second.queue([second.job(100)], other)]))
    assert report.bug
    assert (w.ledger.outcome(1).outcome, w.ledger.outcome(1).error_code) == (Outcome.UNKNOWN, ErrorCode.BUG)
    assert w.ledger.outcome(100).outcome is Outcome.DELIVERED


def test_a_failed_prepare_sends_nothing_and_is_tried_again() -> None:
    w = world(LOOKUP)
    w.channel.prepared = [Ambiguous("timed out")]
    run_virtual(w.run(1))
    assert w.ledger.log == ["record", "claim", "record"]
    assert w.ledger.outcome(1).attempts == 1


def test_a_rate_is_kept() -> None:
    w = World(Scripted((IDEMPOTENT,), limit=Limit(2, 1, 2, 7)))
    run_virtual(w.run(*range(6)))
    assert [round(at, 2) for at, _, _ in w.channel.sent] == [0, 0, 0.5, 1.0, 1.5, 2.0]


def test_every_delivery_is_told_once() -> None:
    w = world(LOOKUP)
    run_virtual(w.run(*range(120)))
    told = [event.lead_id for event in w.events if isinstance(event, Finished)]
    assert sorted(told) == list(range(120))
    assert [len(ids) for _, _, ids in w.channel.sent] == [50, 50, 20]


def test_lesson_23_one_dead_destination_does_not_slow_the_others() -> None:
    def elapsed(*, with_dead: bool) -> float:
        ledger = MemoryLedger()
        lanes: list[AccountQueue] = []
        healthy: list[Scripted] = []
        for place in range(5):
            channel = Scripted((IDEMPOTENT,), limit=Limit(10, 1, 1, 10))
            channel.scope = f"scope-{place}"
            w = World(channel, ledger=ledger)
            leads = [1000 * place + i for i in range(50)]
            if place == 0 and with_dead:
                for lead in leads:
                    channel.script[lead] = [3600.0, Ambiguous("timed out")]
            else:
                healthy.append(channel)
            lanes.append(w.queue([w.job(lead) for lead in leads], channel))
        run_virtual(World(Scripted((IDEMPOTENT,)), ledger=ledger).run_queues(lanes, stop_after=100.0))
        assert all(len(channel.sent) == 50 for channel in healthy)
        return max(channel.sent[-1][0] for channel in healthy)

    assert elapsed(with_dead=True) <= elapsed(with_dead=False) / 0.95
