"""What follows a look-up, row by row."""

import random

import pytest

from leadctl.channelkit.spec import Retransmit, Step
from leadctl.delivery.reconcile import after_finding
from leadctl.delivery.retries import Again, Facts, Final, Look, Policy
from leadctl.domain.model import Absent, CannotTell, Finding, Found
from leadctl.domain.outcomes import ErrorCode, Outcome

POLICY = Policy(tries=3, timeout=100.0, scale=2.0)
STEP = Step("lead", Retransmit.LOOKUP, looks=(8.0, 45.0, 90.0))
UNKNOWN = Final(Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED)
TRIED = Final(Outcome.FAILED, ErrorCode.TRIES_EXHAUSTED)
TIMED = Final(Outcome.FAILED, ErrorCode.TIME_EXHAUSTED)


@pytest.fixture(autouse=True)
def longest_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


@pytest.mark.parametrize(
    ("finding", "looks_done", "failures", "tries", "spent", "move"),
    [
        # Only the last absence that the sheet asks for is believed; one seen before its time counts as none.
        (Absent(), 0, 0, 1, 0.0, Look(4.0)),
        (Absent(), 1, 0, 1, 0.0, Look(22.5)),
        (Absent(), 2, 0, 1, 0.0, Look(45.0)),
        (Absent(), 2, 5, 9, 1e6, Look(45.0)),
        (Absent(), 3, 0, 1, 0.0, Again(0.0)),
        (Absent(), 4, 0, 1, 0.0, Again(0.0)),
        (Absent(), 3, 0, 2, 100.0, Again(0.0)),
        (Absent(), 3, 0, 3, 0.0, TRIED),
        (Absent(), 3, 0, 2, 100.1, TIMED),
        # A look-up that could not tell is made again, at a pause of its own, for as long as there is time.
        (CannotTell(), 0, 0, 1, 0.0, Look(1.0, from_now=True)),
        (CannotTell(), 0, 1, 9, 0.0, Look(2.0, from_now=True)),
        (CannotTell(), 3, 2, 1, 0.0, Look(4.0, from_now=True)),
        (CannotTell(), 0, 9, 1, 0.0, Look(30.0, from_now=True)),
        (CannotTell(), 0, 1, 1, 98.0, Look(2.0, from_now=True)),
        (CannotTell(), 0, 1, 1, 98.1, UNKNOWN),
        # One that can never tell is asked as often as one that says no, whatever time is left.
        (CannotTell(final=True), 0, 0, 1, 0.0, Look(4.0)),
        (CannotTell(final=True), 2, 9, 9, 1e6, Look(45.0)),
        (CannotTell(final=True), 3, 0, 1, 0.0, UNKNOWN),
        (CannotTell(final=True), 4, 0, 9, 1e6, UNKNOWN),
    ],
)
def test_what_follows_a_finding(
    finding: Finding, looks_done: int, failures: int, tries: int, spent: float, move: object
) -> None:
    known = Facts(STEP, tries, spent, in_doubt=True)
    assert after_finding(finding, looks_done, failures, known, POLICY) == move


@pytest.mark.parametrize(("looks_done", "move"), [(2, Look(45.0)), (3, Again(0.0))])
def test_what_can_never_be_told_goes_again_where_a_person_wants_it(looks_done: int, move: object) -> None:
    known = Facts(STEP, 9, 1e6, in_doubt=True, repeat=True)
    assert after_finding(CannotTell(final=True), looks_done, 0, known, POLICY) == move
    assert after_finding(CannotTell(), looks_done, 0, known, POLICY) == UNKNOWN, "that one may be told later"


def test_without_looks_of_the_sheet_the_first_absence_is_believed() -> None:
    known = Facts(Step("lead", Retransmit.LOOKUP), 1, 0.0, in_doubt=True)
    assert after_finding(Absent(), 1, 0, known, POLICY) == Again(0.0)


def test_what_is_found_needs_no_decision() -> None:
    with pytest.raises(TypeError, match=r"^a found delivery needs no decision$"):
        after_finding(Found("1"), 1, 0, Facts(STEP, 1, 0.0, in_doubt=True), POLICY)
