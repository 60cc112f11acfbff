"""The exit code of a run from its outcomes (CONTRACT §5), and what a person does about each error."""

import shlex
from collections.abc import Collection, Mapping, Sequence

from leadctl.domain.outcomes import ErrorCode, Outcome

OK = 0
FAILED = 1
REFUSED = 4
GO_ON = 5
IN_DOUBT = 6
BUG = 70
SIGNALS = 128

#: Reasons of an unprocessed delivery that end only when a person changes the credential or the config.
_REFUSALS = frozenset({ErrorCode.CREDENTIAL_REFUSED, ErrorCode.ADDRESS_NOT_ALLOWED})


def run_exit_code(
    outcomes: Mapping[tuple[Outcome, ErrorCode | None], int],
    *,
    not_found: int = 0,
    invalid_credentials: int = 0,
    held_unknown: int = 0,
    parked: Collection[ErrorCode] = (),
    signal: int | None = None,
) -> int:
    """70 > signals > 4 > 5 > 6 > 1 > 0.

    ``outcomes``: how many deliveries ended so; ``invalid_credentials``: enabled, selected, linked ones that are
    invalid; ``held_unknown``: how many of the unknown ones only a person or ``--retry-unknown`` settles;
    ``parked``: why credentials were parked, although nothing of them may be unprocessed (only notes are missing).
    """
    seen = {key for key, number in outcomes.items() if number}
    if any(code == ErrorCode.BUG for _, code in seen):
        return BUG
    if signal is not None:
        return SIGNALS + signal
    unprocessed = {*parked, *(code for outcome, code in seen if outcome == Outcome.UNPROCESSED)}
    if invalid_credentials or unprocessed & _REFUSALS:
        return REFUSED
    unknown = sum(number for (outcome, _), number in outcomes.items() if outcome == Outcome.UNKNOWN)
    if unprocessed or unknown > held_unknown:
        return GO_ON
    if unknown:
        return IN_DOUBT
    return FAILED if not_found or any(_is_failure(*key) for key in seen) else OK


def _is_failure(outcome: Outcome, code: ErrorCode | None) -> bool:
    return outcome in {Outcome.REJECTED, Outcome.FAILED} or (
        outcome == Outcome.DELIVERED and code == ErrorCode.INCOMPLETE
    )  # fmt: skip


_ADVICE: Mapping[str, str] = {
    ErrorCode.LEAD_NOT_FOUND: "check the id, or take it out of the list",
    ErrorCode.VENDOR_REJECTED: "correct the lead or the settings as the message says, then: {resend}",
    ErrorCode.INCOMPLETE: "the lead is there; what is missing is sent, alone, by: {resend}",
    ErrorCode.TRIES_EXHAUSTED: "it is surely not there; try again later with: {resend}",
    ErrorCode.TIME_EXHAUSTED: "it is surely not there; try again later with: {resend}",
    ErrorCode.MAYBE_DELIVERED: "the same command again settles it: {resume}",
    ErrorCode.CREDENTIAL_REFUSED: "correct the credential, see that it works with: {check}, then: {resume}",
    ErrorCode.ADDRESS_NOT_ALLOWED: "if the address is meant, open it with [network] allow_private, then: {resume}",
    ErrorCode.LIMIT_REACHED: "when the vendor's limit is over: {resume}",
    ErrorCode.VENDOR_DOWN: "see whether the vendor answers with: {check}, then: {resume}",
    ErrorCode.RUN_STOPPED: "go on with: {resume}",
    ErrorCode.IN_USE_ELSEWHERE: "another process has it in hand; when it is done: {resume}",
    ErrorCode.BUG: "report it with the log of this run; nothing is sent twice by: {resume}",
}  # fmt: skip

#: Nothing can be asked there: only a person can look.
_LOOK_FIRST = (
    "look there whether it arrived, then: {settle} --delivered (or --not-delivered) --reason TEXT; "
    "or risk a second one: {resend} --retry-unknown"
)


def advice(
    code: str,
    channel: str | None,
    credential_id: int | str | None,
    run_id: str,
    lead_id: int | str,
    *,
    held: bool = False,
    global_options: Sequence[str] = (),
) -> str:
    """What to do about an error, with the command to type. ``held``: only a person settles what is in doubt."""
    text = _LOOK_FIRST if held and code == ErrorCode.MAYBE_DELIVERED else _ADVICE.get(code, "")
    return text.format(
        resend=shlex.join(["leadctl", *global_options, "resend", str(lead_id), "-c", str(channel)]),
        resume=shlex.join(["leadctl", *global_options, "runs", "resume", run_id]),
        check=shlex.join(
            ["leadctl", *global_options, "channels", "check", str(channel), "--credential", str(credential_id)]
        ),
        settle=shlex.join(["leadctl", *global_options, "settle", str(lead_id), "--credential", str(credential_id)]),
    )
