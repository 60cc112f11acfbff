"""Rates: places in buckets that all lanes share, and, through the ledger, all processes."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from leadctl.channelkit.spec import Bucket, Limit
from leadctl.domain.buckets import BucketRow, grant, silenced
from leadctl.domain.ports import Buckets, Clock

#: The most places that a process takes ahead, whatever the rate. Each taking is a durable transaction, and where the
#: receiver is slower than its limit, most places are dropped unused.
MOST_AHEAD = 1000
#: Where nothing may leave at once, and places are so many seconds apart, each is taken when it is needed: one that was
#: taken before and is used late comes too near to the next.
ONE_AT_A_TIME = 0.05
#: At the documented rate itself, this part of it is used: requests do not arrive as evenly as they leave.
AT_THE_LIMIT = 0.97
#: After a 429 the rate falls to this part of what it was, never below the least part of what is configured, and is back
#: in so many seconds (divided by ``scale``): the vendor's other clients, or its sheet, leave less room than we thought.
DECREASE = 0.7
LEAST = 0.1
RECOVERY = 300.0


class LocalBuckets:
    """Buckets of this process alone (``leadctl.domain.ports.Buckets``)."""

    def __init__(self) -> None:
        self._rows: dict[str, BucketRow] = {}

    async def take(
        self, scope: str, now: float, interval: float, tolerance: float, count: int
    ) -> tuple[Sequence[float], float]:
        row, places = grant(self._rows.get(scope, BucketRow()), now, interval, tolerance, count)
        self._rows[scope] = row
        return places, row.paused_until

    async def silence(self, scope: str, until: float) -> None:
        self._rows[scope] = silenced(self._rows.get(scope, BucketRow()), until)


@dataclass(slots=True)
class _State:
    """One bucket as this process knows it. Monotonic seconds: a clock that is set moves nothing of it."""

    #: Seconds between places at the configured rate, and now.
    base: float
    interval: float
    tolerance: float
    places: deque[float] = field(default_factory=deque)
    paused_until: float = 0.0
    #: Throttlings in a row, for our own back-off, and when the first of them came.
    throttled: int = 0
    throttled_since: float = 0.0
    #: The part of the configured rate that is used, and when it was last raised.
    part: float = 1.0
    used: bool = False
    raised_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def use(self, part: float, now: float) -> None:
        """Use this part of the configured rate from now on."""
        self.part = min(1.0, max(LEAST, part))
        self.interval, self.raised_at = self.base / self.part, now


class Limiter:
    """``scale`` multiplies every rate; ``ahead``: seconds of places that are taken at once (a bulk run: 1)."""

    def __init__(self, clock: Clock, scale: float = 1.0, buckets: Buckets | None = None, ahead: float = 0.0) -> None:
        self._clock = clock
        self._scale = scale
        self._buckets = buckets or LocalBuckets()
        self._ahead = ahead
        self._states: dict[str, _State] = {}
        self._unsaid: dict[str, float] = {}

    def _now(self) -> float:
        return self._clock.monotonic()

    def _unix(self) -> float:
        """What Unix time, in which processes tell each other, is ahead of ours."""
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _state(self, bucket: Bucket) -> _State:
        state = self._states.get(bucket.scope)
        if state is None:
            interval = bucket.limit.per / bucket.limit.rate / self._scale
            state = _State(interval, interval, interval * max(0.0, bucket.limit.burst - 1))
            self._states[bucket.scope] = state
        return state

    def pause_left(self, buckets: Sequence[Bucket]) -> float:
        """Seconds until none of the buckets is paused by the vendor."""
        now = self._now()
        return max(0.0, *(self._state(bucket).paused_until - now for bucket in buckets))

    def pause_length(self, buckets: Sequence[Bucket], since: float) -> float:
        """Seconds of the longest pause, from its first 429 on: those with no success between them are one.

        What was before the monotonic time ``since`` does not count: somebody else has waited for it.
        """
        now = self._now()
        longest = 0.0
        for bucket in buckets:
            state = self._state(bucket)
            if state.throttled or state.paused_until > now:
                began = max(state.throttled_since, since) if state.throttled else now
                longest = max(longest, state.paused_until - began)
        return longest

    def within(self, buckets: Sequence[Bucket], seconds: float) -> int:
        """How many requests the limits let through in so many seconds."""
        return int(seconds / max(self._state(bucket).interval for bucket in buckets))

    async def reserve(self, buckets: Sequence[Bucket]) -> float:
        """Take one place in every bucket; seconds until it may be used."""
        places = [await self._place(bucket) for bucket in buckets]
        now = self._now()
        return round(max(0.0, *(place - now for place in places)), 6)

    async def count(self, buckets: Sequence[Bucket], requests: int, since: float) -> None:
        """Requests that were made without places, since that monotonic time: they take those from then on."""
        for bucket in buckets if requests else ():
            state = self._state(bucket)
            await self._buckets.take(bucket.scope, since + self._unix(), state.interval, state.tolerance, requests)

    async def _place(self, bucket: Bucket) -> float:
        state = self._state(bucket)
        async with state.lock:
            oldest = self._now() - state.tolerance - state.interval
            while state.places and state.places[0] < oldest:
                state.places.popleft()  # used late, it would make a burst together with those behind it
            if not state.places:
                count = max(1, min(MOST_AHEAD, int(self._ahead / state.interval)))
                one = not state.tolerance and state.interval >= ONE_AT_A_TIME
                count = (1 if state.used else 2) if one else count
                unix = self._unix()
                places, paused = await self._buckets.take(
                    bucket.scope, self._now() + unix, state.interval, state.tolerance, count
                )
                state.places.extend(place - unix for place in places)
                state.paused_until = max(state.paused_until, paused - unix)
                if one and not state.used:
                    state.places.pop()  # the first request must connect before it: it arrives later than it leaves
                state.used = True
            return state.places.popleft()

    def pause(self, buckets: Sequence[Bucket], seconds: float | None, scope: str | None) -> float:
        """After a 429: the bucket ``scope`` (default: the narrowest) stands still. Returns the pause in seconds.

        A wait that the vendor names is kept as it is; our own doubles from 1 s and is divided by ``scale``.
        Other processes hear of it by :meth:`publish`.
        """
        chosen = next((bucket for bucket in buckets if bucket.scope == scope), buckets[-1])
        state = self._state(chosen)
        if not state.throttled:
            state.throttled_since = self._now()
        if state.paused_until <= self._now():  # those in flight together are one refusal
            state.use(state.part * DECREASE, self._now())
        state.throttled += 1
        pause = seconds if seconds is not None else min(60.0, 2.0 ** (state.throttled - 1)) / self._scale
        state.paused_until = max(state.paused_until, self._now() + pause)
        state.places.clear()
        self._unsaid[chosen.scope] = state.paused_until
        return pause

    async def publish(self) -> None:
        """Tell the other processes what was paused."""
        unsaid, self._unsaid = self._unsaid, {}
        for scope, until in unsaid.items():
            await self._buckets.silence(scope, until + self._unix())

    def passed(self, buckets: Sequence[Bucket]) -> None:
        """A request was not throttled: our own back-off begins anew, and a lowered rate rises slowly."""
        now = self._now()
        for state in map(self._state, buckets):
            state.throttled = 0
            if state.part < 1.0:
                state.use(state.part + (now - state.raised_at) * self._scale / RECOVERY, now)


def overridden(buckets: Sequence[Bucket], rate: float, per: float) -> list[Bucket]:
    """The buckets with ``[limits]`` of the config put into the one that is documented.

    What may leave at once shrinks as the rate nears the documented one: both count in the vendor's window.
    """
    return [Bucket(b.scope, _raised(b.limit, rate, per)) if b.limit.documented else b for b in buckets]


def _raised(limit: Limit, rate: float, per: float) -> Limit:
    room = (limit.documented or rate) / limit.per * per - rate
    rate = rate * AT_THE_LIMIT if limit.documented and room <= 0 else rate
    return Limit(rate, per, max(1.0, min(limit.burst, room)), limit.documented)
