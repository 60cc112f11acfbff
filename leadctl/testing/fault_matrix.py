"""What a ``resend`` of one lead (3 tries) makes of each fault of the sandbox, by channel: data, tested and shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from leadctl.channelkit.spec import Retransmit
from leadctl.channels import channel_class
from leadctl.domain.outcomes import Outcome, SettledBy
from leadctl.sandbox.judge import AFTER, FAULTS
from leadctl.sandbox.server import vendor_classes


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
ACCEPTED = Ending("accepted", Outcome.DELIVERED, 0, SettledBy.ACCEPTED, Outcome.ALREADY_DELIVERED)
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
    ACCEPTED: "delivered, as far as a vendor tells that only queues",
    REJECTED: "refused as it is; tried again when the lead is named again",
    FAILED: "surely not there; the next run tries again",
    PARKED: "unprocessed, exit 4: the credential is refused, nothing more is sent to it",
    UNKNOWN: "unknown, exit 5: the same command settles it",
    HELD: "unknown, exit 6: a person, or `--retry-unknown`, settles it",
}
_BY_WORD = {ending.word: ending for ending in LEGEND}

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


#: The cells of a channel whose main step is repeated so, but for what its emulated vendor says.
_USUAL: Mapping[Retransmit, Mapping[str, Cell]] = {
    Retransmit.LOOKUP: {
        **dict.fromkeys(("server_error", "bad_gateway", "reset_before", "error_body", "half_batch"), _RETRIED),
        **dict.fromkeys(AFTER, _FOUND),
    },
    Retransmit.IDEMPOTENT: {
        **dict.fromkeys(("server_error", "bad_gateway", "reset_before", *AFTER), _REPEATED),
        **dict.fromkeys(("error_body", "half_batch"), _RETRIED),
    },
    Retransmit.BLIND: {
        **dict.fromkeys(("server_error", "error_body", "half_batch"), _RETRIED),
        **dict.fromkeys(("bad_gateway", "reset_before", *AFTER), _HELD),
    },
}
_EVERYWHERE: Mapping[str, Cell] = {"rate_limit": _PASSES, "unauthorized": _PARKED, "reject": _REJECTED}


@cache
def matrix() -> Mapping[str, Mapping[str, Cell]]:
    """Channel → fault → endings, of every channel that has an emulated vendor."""
    return {name: _column(name, vendor.endings) for name, vendor in vendor_classes().items()}


def _column(name: str, unusual: Mapping[str, tuple[str, str]]) -> Mapping[str, Cell]:
    main = next(step for step in channel_class(name).spec.steps if not step.preparatory)
    named = {fault: (_BY_WORD[once], _BY_WORD[always]) for fault, (once, always) in unusual.items()}
    return {**_EVERYWHERE, **_USUAL[main.retransmit], **named}


def is_there(fault: str, ending: Ending) -> bool:
    """Whether the vendor has the lead at the end of the run: once, then."""
    return fault in AFTER or ending.outcome is Outcome.DELIVERED


def matrix_markdown() -> str:
    """The table for README."""
    columns = matrix()
    lines = [
        f"| the vendor … | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(
            f"| {FAULT_TEXTS[fault]} | {' | '.join(_shown(column[fault]) for column in columns.values())} |"
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
