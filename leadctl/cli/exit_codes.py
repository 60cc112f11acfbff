"""Exit codes (CONTRACT §5)."""

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with; ``meaning`` is what README and the help print."""

    meaning: str

    OK = 0, "everything is delivered, was already, or nothing was to be sent"
    FAILED = 1, "finished; at least one lead not found, rejected, failed, or incomplete"
    USAGE = 2, "usage: flags, ids file, config, database, or a confirmation that cannot be asked; nothing was sent"
    EMPTY = 3, "no lead is selected, with --fail-on-empty"
    REFUSED = 4, "a credential was refused (its leads are unprocessed), or a linked one is invalid"
    GO_ON = 5, "stopped by an outage, a limit or a deadline, or in doubt: type the same command again"
    IN_DOUBT = 6, "some outcomes are unknown, and only a person or --retry-unknown settles them"
    LOCKED = 7, "another process holds the run's lease"
    DECLINED = 8, "the operator said no; nothing was sent"
    TO_SEND = 10, "plan --detailed-exitcode: there is something to send"
    BUG = 70, "a bug"
    HANGUP = 129, "SIGHUP: drained, saved"
    INTERRUPTED = 130, "SIGINT: drained, saved"
    TERMINATED = 143, "SIGTERM: drained, saved"

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


#: The first of these that occurs is what the process says; 2, 3, 7 and 8 come only before anything is sent.
PRECEDENCE = (70, 143, 130, 129, 2, 7, 8, 3, 4, 5, 6, 1, 10, 0)  # fmt: skip


def worst(codes: Iterable[int]) -> int:
    """The one code of several that the process ends with; an unknown one counts as a bug, none as 0."""
    ranks = {code: rank for rank, code in enumerate(PRECEDENCE)}
    return min(codes, key=lambda code: ranks.get(code, -1), default=int(ExitCode.OK))
