"""The closed vocabulary, the moves that are allowed, and the errors."""

import pytest

from leadctl.domain import errors
from leadctl.domain.errors import (
    Ambiguous,
    ConfigError,
    DatabaseUnreachable,
    Declined,
    DeliveryError,
    LeadctlError,
    LeadNotFound,
    LimitReached,
    NothingSelected,
    Rejected,
    RunLocked,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.outcomes import (
    ALLOWED_MOVES,
    OPERATOR_MOVES,
    ErrorCode,
    Outcome,
    PlanState,
    RunStatus,
    SettledBy,
    SkipReason,
    TargetState,
    may_move,
)


def test_words_are_those_of_the_contract() -> None:
    assert {*Outcome} == {
        "delivered", "already_delivered", "rejected", "failed", "unknown", "skipped", "unprocessed", "pending",
    }  # fmt: skip
    assert {*SkipReason} == {
        "disabled", "unsupported_channel", "invalid_credential", "invalid_lead", "not_selected",
        "duplicate_destination", "rejected_before",
    }  # fmt: skip
    assert {*PlanState} == {"new", "failed", "rejected", "unknown", "incomplete"}
    assert {*SettledBy} == {"lookup", "resend", "accepted", "operator"}
    assert {*RunStatus} == {"ok", "nothing", "partial", "stopped", "running", "interrupted", "queued"}
    assert {*ErrorCode} == {
        "lead_not_found", "vendor_rejected", "incomplete", "tries_exhausted", "time_exhausted", "maybe_delivered",
        "credential_refused", "address_not_allowed", "limit_reached", "vendor_down", "run_stopped",
        "in_use_elsewhere", "bug",
    }  # fmt: skip


def test_every_state_has_its_moves() -> None:
    assert set(ALLOWED_MOVES) == set(OPERATOR_MOVES) == set(TargetState)


@pytest.mark.parametrize("state", TargetState)
def test_delivered_is_final_for_the_engine(state: TargetState) -> None:
    assert not may_move(TargetState.DELIVERED, state)


@pytest.mark.parametrize("state", TargetState)
def test_a_request_leaves_only_after_its_intent(state: TargetState) -> None:
    """Nothing becomes delivered but from SENDING, from a look-up of UNKNOWN, or by completing."""
    may = may_move(state, TargetState.DELIVERED)
    assert may == (state in {TargetState.SENDING, TargetState.UNKNOWN, TargetState.INCOMPLETE})


#: From (a row) to (a column): by the engine (e), by a person (p), by both (b), by nobody (.).
MOVES = """
            idle  sending  delivered  incomplete  rejected  failed  unknown
idle        .     e        p          .           e         .       .
sending     e     .        b          e           e         b       e
delivered   .     .        .          .           .         p       .
incomplete  .     e        b          e           .         p       .
rejected    .     e        p          .           .         .       .
failed      .     e        p          .           .         .       .
unknown     e     e        b          e           e         b       e
"""


def test_every_move_is_in_the_table() -> None:
    head, *lines = [line.split() for line in MOVES.strip().splitlines()]
    for old, *letters in lines:
        for new, letter in zip(head, letters, strict=True):
            by_engine, by_person = may_move(TargetState(old), TargetState(new)), new in OPERATOR_MOVES[TargetState(old)]
            said = {(True, True): "b", (True, False): "e", (False, True): "p", (False, False): "."}
            assert said[by_engine, by_person] == letter, f"{old} → {new}"
    assert {old for old, *_ in lines} == set(head) == set(TargetState)


def test_an_intent_is_not_taken_twice() -> None:
    assert not may_move(TargetState.SENDING, TargetState.SENDING)


def test_only_what_is_in_doubt_or_sent_becomes_unknown() -> None:
    assert {state for state in TargetState if may_move(state, TargetState.UNKNOWN)} == {
        TargetState.SENDING,
        TargetState.UNKNOWN,
    }


def test_what_is_complete_but_for_a_note_is_never_lost() -> None:
    """An incomplete delivery is there: it cannot become failed or rejected by the engine."""
    assert ALLOWED_MOVES[TargetState.INCOMPLETE] == {
        TargetState.SENDING,
        TargetState.INCOMPLETE,
        TargetState.DELIVERED,
    }


def test_a_person_says_delivered_or_not_delivered_and_nothing_else() -> None:
    for moves in OPERATOR_MOVES.values():
        assert moves <= {TargetState.DELIVERED, TargetState.FAILED}
    assert all(TargetState.DELIVERED in OPERATOR_MOVES[state] for state in TargetState if state != "delivered")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ConfigError, 2), (LeadNotFound, 1), (NothingSelected, 3), (RunLocked, 7), (Declined, 8),
        (DatabaseUnreachable, 5), (LeadctlError, 70),
    ],
)  # fmt: skip
def test_exit_codes(kind: type[LeadctlError], code: int) -> None:
    error = kind("what is wrong", hint="what to do")
    assert error.as_json() == {
        "schema": "leadctl.error/1",
        "code": kind.code,
        "message": "what is wrong",
        "hint": "what to do",
        "exit_code": code,
    }
    assert kind("x", code="other").code == "other"
    assert kind.code != "other"


def test_every_error_stands_in_the_drawing() -> None:
    drawn = errors.__doc__ or ""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, (LeadctlError, DeliveryError)):
            assert name in drawn, f"{name} is missing in the tree of leadctl.domain.errors"


@pytest.mark.parametrize("kind", [Rejected, Unusable, LimitReached, Throttled, Split, Transient, Ambiguous])
def test_a_delivery_error_carries_its_details(kind: type[DeliveryError]) -> None:
    error = kind("no", vendor_code="E1", http_status=400, path="a.b", answer="body")
    assert (str(error), error.message) == ("no", "no")
    assert (error.vendor_code, error.http_status, error.path, error.answer) == ("E1", 400, "a.b", "body")
    assert error.request_digest is None


def test_details_of_their_own() -> None:
    assert Unusable("x", address_not_allowed=True).address_not_allowed
    assert LimitReached("x", until=5.0).until == 5.0
    assert (Throttled("x", retry_after=3.0, scope="s").retry_after, Throttled("x").scope) == (3.0, None)
    assert Transient("x", retry_after=3.0).retry_after == 3.0
    assert Split("x").refused == {}
    assert Split("x", executed_maybe=True).executed_maybe
