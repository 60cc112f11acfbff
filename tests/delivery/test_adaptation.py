"""The rate follows the vendor: down at once, up slowly, never above what is configured. On a virtual clock."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import pytest

from leadctl.channelkit.spec import Bucket, Limit
from leadctl.delivery.limits import LEAST, RECOVERY, Limiter
from tests.support.virtual import LoopClock, run_virtual

CONFIGURED = 8.0
BUCKET = Bucket("vendor", Limit(CONFIGURED, documented=CONFIGURED))


@dataclass
class Vendor:
    """At most ``rate`` requests in any second; above it a 429 that names no wait."""

    rate: int
    admitted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    _window: deque[float] = field(default_factory=deque)

    def takes(self, now: float) -> bool:
        while self._window and self._window[0] <= now - 1.0:
            self._window.popleft()
        if len(self._window) >= self.rate:
            self.refused.append(now)
            return False
        self._window.append(now)
        self.admitted.append(now)
        return True

    def speed(self, since: float, until: float) -> float:
        """Requests that were let through a second."""
        return sum(since <= at < until for at in self.admitted) / (until - since)

    def refusals(self, since: float, until: float) -> int:
        return sum(since <= at < until for at in self.refused)


async def send(limiter: Limiter, vendor: Vendor, until: float) -> None:
    """As one lane does: a place, the request, and what the answer says."""
    clock = LoopClock()
    while clock.monotonic() < until:
        wait = max(await limiter.reserve([BUCKET]), limiter.pause_left([BUCKET]))
        await clock.sleep(wait)
        if limiter.pause_left([BUCKET]) > 0:
            continue
        if vendor.takes(clock.monotonic()):
            limiter.passed([BUCKET])
        else:
            limiter.pause([BUCKET], None, None)


def simulate(vendor: Vendor, seconds: float, *, raised_to: int | None = None) -> None:
    async def main() -> None:
        limiter = Limiter(LoopClock())
        await send(limiter, vendor, seconds)
        if raised_to is not None:
            vendor.rate = raised_to
            await send(limiter, vendor, 2 * seconds)

    run_virtual(main())


@pytest.mark.parametrize("rate", [2, 4, 6])
def test_a_vendor_that_allows_less_is_followed(rate: int) -> None:
    """In the steady state: nearly all that it allows, with few refusals."""
    vendor = Vendor(rate)
    simulate(vendor, 1200)
    assert 0.7 * rate <= vendor.speed(300, 1200) <= rate
    assert vendor.refusals(300, 1200) <= 900 * 0.06, "one in sixteen seconds at the most"


def test_the_first_refusal_slows_at_once() -> None:
    vendor = Vendor(4)
    simulate(vendor, 60)
    first = vendor.refused[0]
    assert first <= 1.0
    assert vendor.speed(first + 1, first + 11) <= 0.75 * CONFIGURED


def test_a_vendor_that_allows_more_again_is_followed_slowly_and_up_to_what_is_configured() -> None:
    vendor = Vendor(2)
    simulate(vendor, 600, raised_to=100)
    assert vendor.speed(600, 610) < 0.6 * CONFIGURED, "not at once"
    assert vendor.speed(600 + RECOVERY, 1200) == pytest.approx(CONFIGURED, rel=0.02)
    for start in range(600, 1190):
        assert vendor.speed(start, start + 10) <= CONFIGURED * 1.02


def test_a_vendor_that_refuses_everything_is_still_asked() -> None:
    """But ever more seldom: the back-off doubles, and the rate has a floor."""
    vendor = Vendor(0)
    simulate(vendor, 1200)
    assert 1200 / 60 <= len(vendor.refused) <= 30
    assert LEAST > 0


def test_lanes_in_flight_together_count_as_one_refusal() -> None:
    """Ten answers of one burst must not halve the rate ten times."""

    async def main() -> float:
        limiter, clock = Limiter(LoopClock()), LoopClock()
        for _ in range(10):
            limiter.pause([BUCKET], 1.0, None)
        await clock.sleep(1.1)
        places = [await limiter.reserve([BUCKET]) for _ in range(3)]
        return places[2] - places[1]

    assert run_virtual(main()) == pytest.approx(1 / (CONFIGURED * 0.7), rel=0.01)


@pytest.mark.parametrize(
    ("pause", "expected"),
    [(0.5, 0.0), (1 / CONFIGURED, 0.0), (0.0, 10 / CONFIGURED)],
    ids=["slower than the limit", "as fast as it", "all at once"],
)
def test_requests_without_places_count_from_when_they_were_made(pause: float, expected: float) -> None:
    """The pages of a look-up that paced themselves are not waited for a second time."""

    async def main() -> float:
        limiter, clock = Limiter(LoopClock()), LoopClock()
        began = clock.monotonic()
        await clock.sleep(10 * pause)
        await limiter.count([BUCKET], 10, began)
        return await limiter.reserve([BUCKET])

    assert run_virtual(main()) == pytest.approx(expected, abs=1e-6)


def test_lanes_side_by_side_stay_inside_the_band() -> None:
    vendor = Vendor(4)

    async def main() -> None:
        limiter = Limiter(LoopClock(), ahead=1.0)
        await asyncio.gather(*(send(limiter, vendor, 600) for _ in range(4)))

    run_virtual(main())
    assert 0.6 * 4 <= vendor.speed(200, 600) <= 4
