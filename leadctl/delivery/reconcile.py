"""What follows a look-up at the vendor. Pure."""

from leadctl.delivery.retries import Again, Facts, Final, Look, Policy, backoff, tries_spent
from leadctl.domain.model import Absent, CannotTell, Finding, Found
from leadctl.domain.outcomes import ErrorCode, Outcome


def after_finding(
    finding: Finding, looks_done: int, failures: int, facts: Facts, policy: Policy
) -> Again | Look | Final:
    """``looks_done`` look-ups did not show it, this one included; ``failures`` look-ups failed.

    Only the last Absent that the sheet asks for is believed. A vendor that can never tell is asked as often: it goes
    again where a person wants that. ``Found`` is the caller's.
    """
    if isinstance(finding, Found):
        raise TypeError("a found delivery needs no decision")
    if isinstance(finding, Absent) or finding.final:
        if looks_done < len(facts.step.looks):
            return Look(facts.step.looks[looks_done] / policy.scale)
        if isinstance(finding, CannotTell):
            return Again(0.0) if facts.repeat else Final(Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED)
        if tries_spent(facts.tries, policy):
            return Final(Outcome.FAILED, ErrorCode.TRIES_EXHAUSTED)  # nothing is in doubt any more
        if facts.spent > policy.timeout:
            return Final(Outcome.FAILED, ErrorCode.TIME_EXHAUSTED)
        return Again(0.0)
    delay = backoff(failures + 2, policy.scale)
    if facts.spent + delay > policy.timeout:
        return Final(Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED)
    return Look(delay, from_now=True)
