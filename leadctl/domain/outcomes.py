"""The closed vocabulary of what became of a delivery, and the moves that are allowed."""

from enum import StrEnum


class Outcome(StrEnum):
    """What a run says of one delivery (CONTRACT §1)."""

    DELIVERED = "delivered"
    ALREADY_DELIVERED = "already_delivered"
    REJECTED = "rejected"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    UNPROCESSED = "unprocessed"
    PENDING = "pending"


class TargetState(StrEnum):
    """What the ledger knows of one lead at one destination.

    ``IDLE`` is a row whose send was surely not executed and has no verdict (a parked credential, a stop).
    ``SENDING`` found without a living holder means: the request may have been executed.
    """

    IDLE = "idle"
    SENDING = "sending"
    DELIVERED = "delivered"
    INCOMPLETE = "incomplete"
    REJECTED = "rejected"
    FAILED = "failed"
    UNKNOWN = "unknown"


class SkipReason(StrEnum):
    """Why a linked credential gets nothing (CONTRACT §2.4). A closed list."""

    DISABLED = "disabled"
    UNSUPPORTED_CHANNEL = "unsupported_channel"
    INVALID_CREDENTIAL = "invalid_credential"
    INVALID_LEAD = "invalid_lead"
    NOT_SELECTED = "not_selected"
    DUPLICATE_DESTINATION = "duplicate_destination"
    REJECTED_BEFORE = "rejected_before"


class PlanState(StrEnum):
    """What a planned delivery is to the ledger before it is sent (CONTRACT §4)."""

    NEW = "new"
    FAILED = "failed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    INCOMPLETE = "incomplete"


class SettledBy(StrEnum):
    """How what was in doubt, or only queued, was settled (CONTRACT §4)."""

    LOOKUP = "lookup"
    RESEND = "resend"
    ACCEPTED = "accepted"
    OPERATOR = "operator"


class RunStatus(StrEnum):
    OK = "ok"
    NOTHING = "nothing"
    PARTIAL = "partial"
    STOPPED = "stopped"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    #: Workers carry it, or will (``--queue``).
    QUEUED = "queued"


class ErrorCode(StrEnum):
    """The ``code`` of an error entry (CONTRACT §4). A closed list."""

    LEAD_NOT_FOUND = "lead_not_found"
    VENDOR_REJECTED = "vendor_rejected"
    INCOMPLETE = "incomplete"
    TRIES_EXHAUSTED = "tries_exhausted"
    TIME_EXHAUSTED = "time_exhausted"
    MAYBE_DELIVERED = "maybe_delivered"
    CREDENTIAL_REFUSED = "credential_refused"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    LIMIT_REACHED = "limit_reached"
    VENDOR_DOWN = "vendor_down"
    RUN_STOPPED = "run_stopped"
    IN_USE_ELSEWHERE = "in_use_elsewhere"
    BUG = "bug"


#: What a row of the ledger may become. Delivered is final: nothing leaves it but a person's word (``settle``,
#: ``adopt --undo``), which goes through :data:`OPERATOR_MOVES`.
ALLOWED_MOVES: dict[TargetState, frozenset[TargetState]] = {
    TargetState.IDLE: frozenset({TargetState.SENDING, TargetState.REJECTED}),
    TargetState.FAILED: frozenset({TargetState.SENDING}),
    TargetState.REJECTED: frozenset({TargetState.SENDING}),
    TargetState.UNKNOWN: frozenset(
        {TargetState.SENDING, TargetState.UNKNOWN, TargetState.DELIVERED, TargetState.INCOMPLETE,
         TargetState.IDLE, TargetState.FAILED, TargetState.REJECTED}
    ),
    TargetState.SENDING: frozenset(TargetState) - {TargetState.SENDING},
    TargetState.INCOMPLETE: frozenset({TargetState.SENDING, TargetState.INCOMPLETE, TargetState.DELIVERED}),
    TargetState.DELIVERED: frozenset(),
}  # fmt: skip

OPERATOR_MOVES: dict[TargetState, frozenset[TargetState]] = {
    TargetState.UNKNOWN: frozenset({TargetState.DELIVERED, TargetState.FAILED}),
    TargetState.DELIVERED: frozenset({TargetState.FAILED}),
    TargetState.INCOMPLETE: frozenset({TargetState.DELIVERED, TargetState.FAILED}),
    TargetState.FAILED: frozenset({TargetState.DELIVERED}),
    TargetState.REJECTED: frozenset({TargetState.DELIVERED}),
    TargetState.IDLE: frozenset({TargetState.DELIVERED}),
    TargetState.SENDING: frozenset({TargetState.DELIVERED, TargetState.FAILED}),
}


def may_move(old: TargetState, new: TargetState) -> bool:
    """Whether the engine may write ``new`` over ``old``."""
    return new in ALLOWED_MOVES[old]
