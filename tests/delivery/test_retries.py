"""The error table of the design, row by row."""

import random

import pytest

from leadctl.channelkit.spec import Retransmit, Step
from leadctl.delivery.retries import (
    Again,
    Facts,
    Final,
    Halve,
    Look,
    Move,
    Park,
    Pause,
    Policy,
    backoff,
    decide,
    ended,
    first_look,
    tries_spent,
)
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.outcomes import ErrorCode, Outcome

POLICY = Policy(tries=3, timeout=100.0, patience=900.0, scale=2.0)
LOOKUP = Step("lead", Retransmit.LOOKUP, looks=(8.0, 45.0))
IDEMPOTENT = Step("event", Retransmit.IDEMPOTENT)
BLIND = Step("message", Retransmit.BLIND)

REJECTED = Final(Outcome.REJECTED, ErrorCode.VENDOR_REJECTED)
UNKNOWN = Final(Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED)
TRIED = Final(Outcome.FAILED, ErrorCode.TRIES_EXHAUSTED)
TIMED = Final(Outcome.FAILED, ErrorCode.TIME_EXHAUSTED)


@pytest.fixture(autouse=True)
def longest_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upper end: 1, 2, 4 … 60 seconds."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


def facts(
    step: Step = IDEMPOTENT, tries: int = 1, spent: float = 0.0, doubt: bool = False, hold: bool = False
) -> Facts:
    return Facts(step, tries, spent, in_doubt=doubt, hold=hold)


def test_nobody_is_supposed_to_want_a_repeat() -> None:
    assert facts().repeat is False


@pytest.mark.parametrize(
    ("error", "known", "move"),
    [
        # Refused, whatever was before; but where no key travels, a refusal says nothing of what was sent before.
        (Rejected("no"), facts(), REJECTED),
        (Rejected("no"), facts(BLIND), REJECTED),
        (Rejected("no"), facts(LOOKUP, tries=9, spent=1e6, doubt=True), UNKNOWN),
        (Rejected("no"), facts(IDEMPOTENT, doubt=True), REJECTED),
        (Rejected("no"), facts(BLIND, doubt=True), UNKNOWN),
        # The credential, not the lead.
        (Unusable("401"), facts(), Park(ErrorCode.CREDENTIAL_REFUSED)),
        (Unusable("inside", address_not_allowed=True), facts(), Park(ErrorCode.ADDRESS_NOT_ALLOWED)),
        (LimitReached("quota"), facts(tries=9), Park(ErrorCode.LIMIT_REACHED)),
        (Throttled("slow", retry_after=30.0, scope="host"), facts(tries=9, spent=1e6), Pause(30.0, "host")),
        (Throttled("slow"), facts(), Pause(None, None)),
        (Split("large"), facts(LOOKUP), Halve()),
        (Split("400", executed_maybe=True), facts(LOOKUP), Look(4.0)),
        # Surely not executed: tries, then time; never failed while an earlier attempt may be there.
        (Transient("x"), facts(tries=1), Again(0.5)),
        (Transient("x"), facts(tries=2), Again(1.0)),
        (Transient("x"), facts(tries=3), TRIED),
        (Transient("x"), facts(tries=4), TRIED),
        (Transient("x"), facts(tries=3, doubt=True), UNKNOWN),
        (Transient("x"), facts(tries=1, spent=99.5), Again(0.5)),
        (Transient("x"), facts(tries=1, spent=99.6), TIMED),
        (Transient("x"), facts(tries=1, spent=99.6, doubt=True), UNKNOWN),
        (Transient("x", retry_after=7.0), facts(tries=1), Again(7.0)),
        (Transient("x", retry_after=0.1), facts(tries=1), Again(0.5)),
        (Transient("x", retry_after=101.0), facts(tries=1), TIMED),
        (Transient("x"), facts(BLIND), Again(0.5)),
        (Transient("x"), facts(tries=1, hold=True), Again(0.5)),
        # Maybe executed.
        (Ambiguous("x"), facts(BLIND, doubt=True), UNKNOWN),
        (Ambiguous("x"), facts(LOOKUP, doubt=True), Look(4.0)),
        (Ambiguous("x"), facts(LOOKUP, tries=9, spent=1e6, doubt=True), Look(4.0)),
        (Ambiguous("x"), facts(LOOKUP, doubt=True, hold=True), UNKNOWN),
        (Ambiguous("x"), facts(IDEMPOTENT, doubt=True, hold=True), UNKNOWN),
        (Ambiguous("x"), facts(IDEMPOTENT, tries=2, doubt=True), Again(1.0)),
        (Ambiguous("x"), facts(IDEMPOTENT, tries=3, doubt=True), UNKNOWN),
        (Ambiguous("x"), facts(IDEMPOTENT, tries=1, spent=99.5, doubt=True), Again(0.5)),
        (Ambiguous("x"), facts(IDEMPOTENT, tries=1, spent=99.6, doubt=True), UNKNOWN),
        # Of no kind that is known: a bug, maybe after sending.
        (DeliveryError("x"), facts(), Final(Outcome.UNKNOWN, ErrorCode.BUG)),
    ],
)
def test_what_follows_an_error(error: DeliveryError, known: Facts, move: Move) -> None:
    assert decide(error, known, POLICY) == move


def test_the_back_off_doubles_up_to_a_minute_and_is_divided_by_scale() -> None:
    assert [backoff(tries, 1.0) for tries in (0, 1, 2, 3, 6, 7, 8, 100)] == [1, 1, 2, 4, 32, 60, 60, 60]
    assert backoff(3, 4.0) == 1.0


def test_the_back_off_has_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: low)
    assert backoff(5, 1.0) == 0.0


@pytest.mark.parametrize(
    ("tries", "allowed", "spent"), [(0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True), (3, 2, True)]
)
def test_tries(tries: int, allowed: int, spent: bool) -> None:
    assert tries_spent(tries, Policy(tries=allowed)) is spent


def test_the_first_look_is_the_sheets() -> None:
    assert first_look(LOOKUP, POLICY) == 4.0
    assert first_look(Step("x", Retransmit.LOOKUP), POLICY) == 0.0


def test_the_end() -> None:
    assert ended(facts(doubt=True), ErrorCode.TIME_EXHAUSTED) == UNKNOWN
    assert ended(facts(), ErrorCode.TIME_EXHAUSTED) == TIMED


def test_defaults_are_those_of_the_config() -> None:
    assert Policy() == Policy(tries=3, timeout=300.0, patience=900.0, scale=1.0)
    assert Facts(LOOKUP, 1, 0.0, in_doubt=True).hold is False
    assert Look(1.0) == Look(1.0, from_now=False)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Policy(), "tries"), (facts(), "tries"), (Again(1.0), "delay"), (Look(1.0), "delay"), (UNKNOWN, "outcome"),
        (Pause(None, None), "scope"), (Park(ErrorCode.BUG), "code"),
    ],
)  # fmt: skip
def test_values_do_not_change_and_hold_nothing_else(value: object, field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, field, 1)
    assert not hasattr(value, "__dict__")
    assert not hasattr(Halve(), "__dict__")
    assert {Halve(), Halve()} == {Halve()}
