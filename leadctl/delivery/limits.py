"""Rates: one next-free time per bucket (the generic cell rate algorithm), shared by all lanes of the process."""

from collections.abc import Sequence
from dataclasses import dataclass

from leadctl.channelkit.spec import Bucket, Limit
from leadctl.domain.ports import Clock


@dataclass(slots=True)
class _State:
    interval: float
    tolerance: float
    #: When the bucket would be empty again (theoretical arrival time).
    full_until: float = 0.0
    paused_until: float = 0.0
    #: Throttlings in a row, for our own back-off.
    throttled: int = 0


class Limiter:
    """``scale`` multiplies every rate."""

    def __init__(self, clock: Clock, scale: float = 1.0) -> None:
        self._clock = clock
        self._scale = scale
        self._states: dict[str, _State] = {}

    def _state(self, bucket: Bucket) -> _State:
        state = self._states.get(bucket.scope)
        if state is None:
            interval = bucket.limit.per / bucket.limit.rate / self._scale
            state = _State(interval, interval * max(0.0, bucket.limit.burst - 1))
            self._states[bucket.scope] = state
        return state

    def pause_left(self, buckets: Sequence[Bucket]) -> float:
        """Seconds until none of the buckets is paused by the vendor."""
        now = self._clock.monotonic()
        return max(0.0, *(self._state(bucket).paused_until - now for bucket in buckets))

    def reserve(self, buckets: Sequence[Bucket]) -> float:
        """Take one place in every bucket; seconds until it may be used."""
        now = self._clock.monotonic()
        states = [self._state(bucket) for bucket in buckets]
        start = max([now, *(max(s.full_until - s.tolerance, s.paused_until) for s in states)])
        for state in states:
            state.full_until = max(state.full_until, start) + state.interval
        return start - now

    def pause(self, buckets: Sequence[Bucket], seconds: float | None, scope: str | None) -> float:
        """After a 429: the bucket ``scope`` (default: the narrowest) stands still. Returns the pause in seconds.

        A wait that the vendor names is kept as it is; our own doubles from 1 s and is divided by ``scale``.
        """
        chosen = next((bucket for bucket in buckets if bucket.scope == scope), buckets[-1])
        state = self._state(chosen)
        state.throttled += 1
        pause = seconds if seconds is not None else min(60.0, 2.0 ** (state.throttled - 1)) / self._scale
        until = self._clock.monotonic() + pause
        state.paused_until = max(state.paused_until, until)
        # What was reserved before the pause is void: everybody queues again behind it.
        state.full_until = max(until, min(state.full_until, until + state.tolerance))
        return pause

    def passed(self, buckets: Sequence[Bucket]) -> None:
        """A request was not throttled: our own back-off begins anew."""
        for bucket in buckets:
            self._state(bucket).throttled = 0


def overridden(buckets: Sequence[Bucket], rate: float, per: float) -> list[Bucket]:
    """The buckets with ``[limits]`` of the config put into the one that is documented.

    What may leave at once shrinks as the rate nears the documented one: both count in the vendor's window.
    """
    return [Bucket(b.scope, _raised(b.limit, rate, per)) if b.limit.documented else b for b in buckets]


def _raised(limit: Limit, rate: float, per: float) -> Limit:
    room = (limit.documented or rate) / limit.per * per - rate
    return Limit(rate, per, max(1.0, min(limit.burst, room)), limit.documented)
