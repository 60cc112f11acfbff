"""The circuit breaker of a lane: after three failed requests in a row all behind wait, and cost no tries."""

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    #: The check passed: one delivery goes; what becomes of it decides.
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class Breaker:
    """Times are monotonic seconds. ``scale`` divides the waits between probes."""

    threshold: int = 3
    scale: float = 1.0
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    opened_at: float = 0.0
    probe_at: float = 0.0
    probes: int = 0

    def failed(self, now: float, deliveries: int) -> bool:
        """A request failed by refusal, DNS, time-out or 5xx. True if this opens the breaker.

        ``deliveries``: how many different ones the failed requests in a row carried; one lead alone tries on.
        """
        self.failures += 1
        if self.state is BreakerState.CLOSED and min(self.failures, deliveries) < self.threshold:
            return False
        newly = self.state is BreakerState.CLOSED
        if newly:
            self.opened_at = now
            self.probes = 0
        self.state = BreakerState.OPEN
        self._next_probe(now)
        return newly

    def probe_failed(self, now: float) -> None:
        self._next_probe(now)

    def _next_probe(self, now: float) -> None:
        self.probe_at = now + min(60.0, 5.0 * 2.0**self.probes) / self.scale
        self.probes += 1

    def probe_passed(self) -> None:
        self.state = BreakerState.HALF_OPEN

    def succeeded(self) -> None:
        """Any answer of a working vendor closes it."""
        self.state = BreakerState.CLOSED
        self.failures = 0

    def open_for(self, now: float) -> float:
        return 0.0 if self.state is BreakerState.CLOSED else now - self.opened_at
