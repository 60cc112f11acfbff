"""What arrived, and the faults that are switched on. Both are read and written from any thread."""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: Faults that every vendor knows. BEFORE: nothing is stored. AFTER: everything is stored first.
BEFORE = ("rate_limit", "server_error", "unauthorized", "bad_gateway", "reset_before", "reject", "error_body")
AFTER = ("timeout", "reset", "broken_answer", "bad_gateway_after")
#: Half of a batch is stored and answered, the other half is left out of the answer (and not stored).
PARTIAL = ("half_batch",)
FAULTS = BEFORE + AFTER + PARTIAL


@dataclass(frozen=True, slots=True)
class Creation:
    """Something that a vendor made: a deal, a message, an accepted event."""

    vendor: str
    lead: str
    #: What travelled: the delivery's key, or its hash.
    key: str
    remote_id: str
    detail: str = ""
    #: True where the receiver recognised its key and made no second one.
    twin: bool = False
    at: float = field(default_factory=time.time)


class Judge:
    """Counts creations by lead, not requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._creations: list[Creation] = []
        self._requests: Counter[str] = Counter()

    def created(self, creation: Creation) -> None:
        with self._lock:
            self._creations.append(creation)

    def request(self, vendor: str) -> None:
        """Count one request (any, look-ups too)."""
        with self._lock:
            self._requests[vendor] += 1

    def creations(self, vendor: str | None = None) -> list[Creation]:
        """All that was made, without recognised twins."""
        with self._lock:
            return [c for c in self._creations if not c.twin and vendor in (None, c.vendor)]

    def twins(self, vendor: str) -> list[Creation]:
        with self._lock:
            return [c for c in self._creations if c.twin and c.vendor == vendor]

    def by_lead(self, vendor: str) -> Counter[str]:
        """How often each lead is there."""
        return Counter(creation.lead for creation in self.creations(vendor))

    def requests(self, vendor: str) -> int:
        with self._lock:
            return self._requests[vendor]


class Faults:
    """Which fault the next request meets. Scripts per lead come first, then the rates."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scripts: dict[tuple[str, str], deque[str]] = {}
        self._rates: list[tuple[str, str, float, random.Random]] = []
        self._always: dict[str, str] = {}

    def script(self, vendor: str, lead: int | str, kinds: Iterable[str]) -> None:
        """The next requests that carry this lead meet these faults, in order; ``ok`` is none."""
        with self._lock:
            self._scripts.setdefault((vendor, str(lead)), deque()).extend(kinds)

    def rate(self, vendor: str, kind: str, probability: float, seed: int = 1) -> None:
        """Each request that creates something meets this fault with that probability."""
        with self._lock:
            self._rates.append((vendor, kind, probability, random.Random(f"{vendor}{kind}{seed}")))

    def always(self, vendor: str, kind: str | None) -> None:
        """Every request of the vendor meets this fault, until it is None again."""
        with self._lock:
            self._always.pop(vendor, None)
            if kind is not None:
                self._always[vendor] = kind

    def standing(self, vendor: str) -> str | None:
        """What ``always`` says of this vendor: for protocols that speak before they know the lead (SMTP)."""
        with self._lock:
            return self._always.get(vendor)

    def clear(self, vendor: str | None = None) -> None:
        with self._lock:
            if vendor is None:
                self._scripts.clear()
                self._rates.clear()
                self._always.clear()
                return
            self._scripts = {k: v for k, v in self._scripts.items() if k[0] != vendor}
            self._rates = [rule for rule in self._rates if rule[0] != vendor]
            self._always.pop(vendor, None)

    def take(self, vendor: str, leads: Sequence[str]) -> str | None:
        """The fault of this request, or None."""
        with self._lock:
            if vendor in self._always:
                return self._always[vendor]
            for lead in leads:
                script = self._scripts.get((vendor, lead))
                if script:
                    kind = script.popleft()
                    return None if kind == "ok" else kind
            for name, kind, probability, dice in self._rates:
                if name == vendor and dice.random() < probability:
                    return kind
        return None


class SlidingWindow:
    """A vendor's own limit: at most ``count`` in any ``seconds``. ``scale`` multiplies the count's speed."""

    def __init__(self, count: int, seconds: float, scale: float = 1.0) -> None:
        self._count = count
        self._seconds = seconds / scale
        self._times: deque[float] = deque()

    def admit(self) -> float:
        """0.0 if the request is inside the limit (it is counted then), else seconds until it would be."""
        now = time.monotonic()
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        if len(self._times) < self._count:
            self._times.append(now)
            return 0.0
        return self._times[0] + self._seconds - now
