"""What a ``resend`` of one lead (3 tries) makes of each fault of the sandbox, by channel: data, tested and shown."""

from collections.abc import Mapping
from dataclasses import dataclass

from leadctl.domain.outcomes import Outcome, SettledBy
from leadctl.sandbox.judge import AFTER, FAULTS


@dataclass(frozen=True, slots=True)
class Ending:
    """How the run ends for the lead. ``word`` is what the table says."""

    word: str
    outcome: Outcome
    exit_code: int
    settled_by: SettledBy | None = None
    #: What the same command makes of it when the fault is over.
    next_outcome: Outcome = Outcome.DELIVERED


DELIVERED = Ending("delivered", Outcome.DELIVERED, 0, next_outcome=Outcome.ALREADY_DELIVERED)
FOUND = Ending("found", Outcome.DELIVERED, 0, SettledBy.LOOKUP, Outcome.ALREADY_DELIVERED)
REPEATED = Ending("repeated", Outcome.DELIVERED, 0, SettledBy.RESEND, Outcome.ALREADY_DELIVERED)
REJECTED = Ending("rejected", Outcome.REJECTED, 1)
FAILED = Ending("failed", Outcome.FAILED, 1)
PARKED = Ending("parked", Outcome.UNPROCESSED, 4)
UNKNOWN = Ending("unknown", Outcome.UNKNOWN, 5)
HELD = Ending("held", Outcome.UNKNOWN, 6, next_outcome=Outcome.UNKNOWN)

#: The words of the table, explained.
LEGEND: Mapping[Ending, str] = {
    DELIVERED: "delivered, after a retry where one was needed",
    FOUND: "delivered: found by asking the vendor, not sent again",
    REPEATED: "delivered by a repeat under the same key",
    REJECTED: "refused as it is; tried again when the lead is named again",
    FAILED: "surely not there; the next run tries again",
    PARKED: "unprocessed, exit 4: the credential is refused, nothing more is sent to it",
    UNKNOWN: "unknown, exit 5: the same command settles it",
    HELD: "unknown, exit 6: a person, or `--retry-unknown`, settles it",
}

CHANNELS = ("amocrm", "bitrix24", "email", "telegram", "webhooks")

#: What the vendor does, in words.
FAULT_TEXTS: Mapping[str, str] = {
    "rate_limit": "too many requests",
    "server_error": "its own error 5xx",
    "unauthorized": "refuses the credential",
    "bad_gateway": "a front end's 502, not executed",
    "reset_before": "cuts the connection, not executed",
    "reject": "refuses this lead",
    "error_body": "an error in a body or a status of its own",
    "timeout": "executed, and never answered",
    "reset": "executed, and the connection cut",
    "broken_answer": "executed, and half an answer",
    "bad_gateway_after": "executed, and a front end's 502",
    "half_batch": "half of a batch left out",
}

#: The ending where only the first try meets the fault, and where every try does.
Cell = tuple[Ending, Ending]

_PASSES: Cell = (DELIVERED, DELIVERED)
_RETRIED: Cell = (DELIVERED, FAILED)
_REJECTED: Cell = (REJECTED, REJECTED)
_PARKED: Cell = (PARKED, PARKED)
_FOUND: Cell = (FOUND, FOUND)
_REPEATED: Cell = (REPEATED, UNKNOWN)
_HELD: Cell = (HELD, HELD)


def _row(amocrm: Cell, bitrix24: Cell, email: Cell, telegram: Cell, webhooks: Cell) -> Mapping[str, Cell]:
    return dict(zip(CHANNELS, (amocrm, bitrix24, email, telegram, webhooks), strict=True))


#: Fault → channel → endings.
MATRIX: Mapping[str, Mapping[str, Cell]] = {
    "rate_limit": _row(_PASSES, _PASSES, _PASSES, _PASSES, _PASSES),
    "server_error": _row(_RETRIED, _RETRIED, _RETRIED, _RETRIED, _REPEATED),
    "unauthorized": _row(_PARKED, _PARKED, _PARKED, _PARKED, _PARKED),
    "bad_gateway": _row(_RETRIED, _RETRIED, _REPEATED, _HELD, _REPEATED),
    "reset_before": _row(_RETRIED, _RETRIED, _REPEATED, _HELD, _REPEATED),
    "reject": _row(_REJECTED, _REJECTED, _REJECTED, _REJECTED, _REJECTED),
    "error_body": _row(_RETRIED, _REJECTED, _RETRIED, _REJECTED, _REJECTED),
    "timeout": _row(_FOUND, _FOUND, _REPEATED, _HELD, _REPEATED),
    "reset": _row(_FOUND, _FOUND, _REPEATED, _HELD, _REPEATED),
    # Of these two a 200 is a whole answer: the status says that it is there.
    "broken_answer": _row(_FOUND, _FOUND, _REPEATED, _PASSES, _PASSES),
    "bad_gateway_after": _row(_FOUND, _FOUND, _REPEATED, _HELD, _REPEATED),
    # Telegram and webhooks have no batches, and an e-mail is one message.
    "half_batch": _row(_RETRIED, _RETRIED, _RETRIED, _PASSES, _PASSES),
}


def is_there(fault: str, ending: Ending) -> bool:
    """Whether the vendor has the lead at the end of the run: once, then."""
    return fault in AFTER or ending.outcome is Outcome.DELIVERED


def matrix_markdown() -> str:
    """The table for README."""
    lines = [
        f"| the vendor … | {' | '.join(CHANNELS)} |",
        f"| --- |{' --- |' * len(CHANNELS)}",
        *(
            f"| {FAULT_TEXTS[fault]} | {' | '.join(_shown(MATRIX[fault][name]) for name in CHANNELS)} |"
            for fault in FAULTS
        ),
        "",
        "One word: however often the fault is met. Two: met once, and met by each of the three tries.",
        "",
        *(f"- *{ending.word}*: {text}." for ending, text in LEGEND.items()),
    ]
    return "\n".join(lines) + "\n"


def _shown(cell: Cell) -> str:
    return " / ".join(dict.fromkeys(ending.word for ending in cell))
