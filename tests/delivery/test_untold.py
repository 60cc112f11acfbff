"""Where a look-up can never tell, a person decides: it stays unknown, or goes again once, marked."""

from collections.abc import Sequence
from typing import Any

import pytest

from leadctl.channelkit.spec import Retransmit, Step
from leadctl.delivery.engine import EngineReport
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient
from leadctl.domain.model import Absent, CannotTell, Done, Finding, Found
from leadctl.domain.outcomes import ErrorCode, Outcome, SettledBy, TargetState
from tests.delivery.harness import IDEMPOTENT, LOOKUP, NOTE, Scripted, World
from tests.support.virtual import run_virtual

NEVER = CannotTell("too many newer entries", final=True)
LOST = Ambiguous("timed out")


def world(*steps: Step, hold: bool = False) -> World:
    return World(Scripted(steps, hold=hold))


def run(w: World, *findings: Finding | DeliveryError, script: Sequence[Any] = (), retry: bool = False) -> EngineReport:
    """Lead 1 once more; its look-ups are answered so, and its sends."""
    w.ledger.items.clear()
    w.channel.findings[1] = list(findings)
    w.channel.script[1] = list(script)
    w.channel.deliveries.clear()
    w.channel.looked.clear()
    return run_virtual(w.run(1, retry_unknown=retry), limit=7200)


def in_doubt(step: Step = LOOKUP, *, hold: bool = False) -> World:
    """Lead 1 was sent, and nobody could tell whether it arrived."""
    w = world(step, hold=hold)
    run(w, *([NEVER] * 2), script=[LOST])
    assert w.ledger.outcome(1).outcome is Outcome.UNKNOWN
    return w


def repeats(w: World) -> list[bool]:
    """Of every request of this run: whether it is marked."""
    return [delivery.possible_repeat for delivery in w.channel.deliveries]


def state(w: World) -> tuple[TargetState, bool]:
    row = w.ledger.targets[1, "dest", 0]
    return row.state, row.in_doubt


def test_it_is_asked_for_as_often_as_the_sheet_says_and_then_it_is_for_a_person() -> None:
    w = world(LOOKUP)
    report = run(w, NEVER, NEVER, script=[LOST])
    assert [round(at) for at, _, _ in w.channel.looked] == [8, 45]
    item = w.ledger.outcome(1)
    assert (item.outcome, item.error_code, item.error_message) == (
        Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, "too many newer entries",
    )  # fmt: skip
    assert report.untold == {7: 1}
    assert state(w) == (TargetState.UNKNOWN, True)


@pytest.mark.parametrize(
    ("findings", "outcome", "untold"),
    [
        ([NEVER, Found("9")], Outcome.DELIVERED, {}),
        ([NEVER, Absent()], Outcome.DELIVERED, {}),
        ([Absent(), NEVER], Outcome.UNKNOWN, {7: 1}),
        ([NEVER, *[Transient("down")] * 99], Outcome.UNKNOWN, {}),
        ([Transient("down"), NEVER, NEVER], Outcome.UNKNOWN, {7: 1}),
    ],
)
def test_the_last_look_up_decides(
    findings: list[Finding | DeliveryError], outcome: Outcome, untold: dict[int, int]
) -> None:
    w = world(LOOKUP)
    report = run(w, *findings, script=[LOST])
    assert (w.ledger.outcome(1).outcome, report.untold) == (outcome, untold)
    assert not any(repeats(w))


def test_the_next_run_asks_again_and_sends_nothing() -> None:
    w = in_doubt()
    report = run(w, *[NEVER] * 3)
    assert (w.channel.deliveries, report.untold) == ([], {7: 1})
    run(w, Found("9"))
    assert w.ledger.outcome(1).settled_by is SettledBy.LOOKUP


@pytest.mark.parametrize("hold", [False, True])
def test_a_person_may_send_it_again_marked_after_one_more_look_up(hold: bool) -> None:
    w = in_doubt() if not hold else world(LOOKUP, hold=True)
    if hold:
        run(w, script=[LOST])
    report = run(w, *[NEVER] * 3, script=[Throttled("slow"), Transient("busy")], retry=True)
    assert (w.ledger.outcome(1).outcome, report.untold) == (Outcome.DELIVERED, {})
    assert repeats(w) == [True] * 3
    assert w.channel.looked
    sends = [attempt.trigger for attempt in w.ledger.attempts if attempt.outcome == "done"]
    assert sends == ["retry"], "the one after the busy one"
    assert state(w) == (TargetState.DELIVERED, False)


def test_what_is_found_or_absent_after_all_is_no_repeat() -> None:
    w = in_doubt()
    run(w, NEVER, Absent(), Absent(), retry=True)
    assert (w.ledger.outcome(1).outcome, repeats(w)) == (Outcome.DELIVERED, [False])
    w = in_doubt()
    run(w, Found("9"), retry=True)
    assert (w.ledger.outcome(1).remote_id, repeats(w)) == ("9", [])


def test_a_repeat_goes_once_a_run_and_both_attempts_stay_in_doubt() -> None:
    w = in_doubt()
    before = w.ledger.targets[1, "dest", 0].context
    w.channel.prepared_context = {"mark": "2"}
    report = run(w, *[NEVER] * 5, script=[LOST] * 2, retry=True)
    assert (w.ledger.outcome(1).outcome, repeats(w), report.untold) == (Outcome.UNKNOWN, [True], {7: 1})
    row = w.ledger.targets[1, "dest", 0]
    assert row.context == before == {"mark": "1"}, "a look-up must go back to before the first attempt"
    w = in_doubt()
    run(w, *[NEVER] * 3, Absent(), Absent(), script=[LOST], retry=True)
    assert repeats(w) == [True, False], "neither of the two is there"


def test_a_repeat_that_is_refused_leaves_the_first_attempt_in_doubt() -> None:
    w = in_doubt()
    report = run(w, *[NEVER] * 3, script=[Rejected("no such stage")], retry=True)
    item = w.ledger.outcome(1)
    assert (item.outcome, item.error_message) == (Outcome.UNKNOWN, "no such stage")
    assert state(w) == (TargetState.UNKNOWN, True)
    assert report.untold == {7: 1}


def test_each_step_is_asked_for_before_it_is_repeated() -> None:
    """After a restored ledger the deal may be there as well as its contact."""
    contact = Step("contact", Retransmit.LOOKUP, looks=(8.0,), preparatory=True)
    w = world(contact, Step("deal", Retransmit.LOOKUP, looks=(8.0,)))
    run(w, NEVER, script=[LOST])
    w.ledger.items.clear()
    w.channel.findings[1] = [NEVER] * 3
    run_virtual(w.run(1, retry_unknown=True, forgotten=True))
    assert [name for _, name, _ in w.channel.looked[1:]] == ["contact", "contact", "deal"]
    assert w.ledger.outcome(1).outcome is Outcome.DELIVERED


def test_a_note_that_nobody_can_tell_of_is_incomplete_until_a_person_wants_it_again() -> None:
    w = world(IDEMPOTENT, NOTE)
    report = run(w, NEVER, script=[Done("r1"), LOST])
    assert (w.ledger.outcome(1).error_code, report.untold) == (ErrorCode.INCOMPLETE, {})
    assert state(w) == (TargetState.INCOMPLETE, True)
    run(w, *[NEVER] * 2)
    assert (w.ledger.outcome(1).error_code, w.channel.deliveries) == (ErrorCode.INCOMPLETE, [])
    run(w, *[NEVER] * 2, retry=True)
    assert (w.ledger.outcome(1).error_code, repeats(w)) == (None, [True])
    assert state(w) == (TargetState.DELIVERED, False)
