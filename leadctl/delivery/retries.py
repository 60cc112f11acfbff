"""What follows an attempt that did not end in Done. Pure: the engine carries it out.

tenacity gives the back-off (exponential, full jitter) and the stop rule; waiting itself is the lane's, so that
a delivery that waits keeps nobody else.
"""

from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_random_exponential

from leadctl.channelkit.spec import Retransmit, Step
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

_RETRYING = Retrying()
_BACKOFF = wait_random_exponential(multiplier=1, max=60)


@dataclass(frozen=True, slots=True)
class Policy:
    """``tries`` attempts and ``timeout`` seconds a delivery; ``scale`` divides our own waits. ``held``: seconds that a
    delivery is waited for which another process has in hand; None: as long as for our own."""

    tries: int = 3
    timeout: float = 300.0
    patience: float = 900.0
    scale: float = 1.0
    held: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision needs to know of a delivery. ``tries`` and ``spent`` include the attempt just ended."""

    step: Step
    tries: int
    spent: float
    #: An earlier attempt of this step may have been executed.
    in_doubt: bool
    #: ``on_unknown = "hold"``: what is in doubt is left to a person.
    hold: bool = False
    #: A person asked for it to go again where nobody can tell whether it is there.
    repeat: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """Send again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the vendor first, ``delay`` seconds after the attempt in doubt (or after now, after a failed look-up)."""

    delay: float
    from_now: bool = False


@dataclass(frozen=True, slots=True)
class Final:
    """The delivery ends for this run."""

    outcome: Outcome
    code: ErrorCode


@dataclass(frozen=True, slots=True)
class Pause:
    """The lane (or the bucket ``scope``) waits; the delivery goes again, at no cost. None: our own back-off."""

    seconds: float | None
    scope: str | None


@dataclass(frozen=True, slots=True)
class Park:
    """The credential ends for this run; nothing more of it is sent."""

    code: ErrorCode


@dataclass(frozen=True, slots=True)
class Halve:
    """The batch was too large: the same again in halves."""


_UNKNOWN = Final(Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED)

Move = Again | Look | Final | Pause | Park | Halve


def backoff(tries: int, scale: float) -> float:
    """Seconds before the next attempt: full jitter over 1, 2, 4 … 60 s."""
    return _BACKOFF(_state(tries)) / scale


def _state(tries: int) -> RetryCallState:
    state = RetryCallState(_RETRYING, None, (), {})
    state.attempt_number = max(1, tries)
    return state


def tries_spent(tries: int, policy: Policy) -> bool:
    return bool(stop_after_attempt(policy.tries)(_state(tries))) if tries else False


def decide(error: DeliveryError, facts: Facts, policy: Policy) -> Move:
    """The error table of the design, as one function."""
    match error:
        case Rejected() if facts.in_doubt and facts.step.retransmit is not Retransmit.IDEMPOTENT:
            return _UNKNOWN  # what is refused now may have been taken before: no key tells the vendor that it is one
        case Rejected():
            return Final(Outcome.REJECTED, ErrorCode.VENDOR_REJECTED)
        case Unusable():
            return Park(ErrorCode.ADDRESS_NOT_ALLOWED if error.address_not_allowed else ErrorCode.CREDENTIAL_REFUSED)
        case LimitReached():
            return Park(ErrorCode.LIMIT_REACHED)
        case Throttled():
            return Pause(error.retry_after, error.scope)
        case Split() if error.executed_maybe:
            return Look(first_look(facts.step, policy))
        case Split():
            return Halve()
        case Transient():
            return _after_transient(error, facts, policy)
        case Ambiguous():
            return _after_ambiguous(facts, policy)
    return Final(Outcome.UNKNOWN, ErrorCode.BUG)


def first_look(step: Step, policy: Policy) -> float:
    return (step.looks[0] if step.looks else 0.0) / policy.scale


def ended(facts: Facts, code: ErrorCode) -> Final:
    """The end by tries or time: never failed while it may be there."""
    return _UNKNOWN if facts.in_doubt else Final(Outcome.FAILED, code)


def _after_transient(error: Transient, facts: Facts, policy: Policy) -> Move:
    if tries_spent(facts.tries, policy):
        return ended(facts, ErrorCode.TRIES_EXHAUSTED)
    delay = max(error.retry_after or 0.0, backoff(facts.tries, policy.scale))
    if facts.spent + delay > policy.timeout:
        return ended(facts, ErrorCode.TIME_EXHAUSTED)
    return Again(delay)


def _after_ambiguous(facts: Facts, policy: Policy) -> Move:
    if facts.hold or facts.step.retransmit is Retransmit.BLIND:
        return _UNKNOWN
    if facts.step.retransmit is Retransmit.LOOKUP:
        return Look(first_look(facts.step, policy))  # a look-up that is due is made even when tries are spent
    delay = backoff(facts.tries, policy.scale)
    if tries_spent(facts.tries, policy) or facts.spent + delay > policy.timeout:
        return _UNKNOWN
    return Again(delay)
