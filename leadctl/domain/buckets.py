"""The arithmetic of a rate bucket (the generic cell rate algorithm). Times are seconds on one clock."""

from dataclasses import dataclass

#: Seconds of places that may be granted ahead of the clock, by all processes together.
MOST_BACKLOG = 60.0


@dataclass(frozen=True, slots=True)
class BucketRow:
    """When the bucket would be empty again, and until when the vendor wants silence."""

    full_until: float = 0.0
    paused_until: float = 0.0


def grant(row: BucketRow, now: float, interval: float, tolerance: float, count: int) -> tuple[BucketRow, list[float]]:
    """The next ``count`` places: one every ``interval`` seconds, as many at once as ``tolerance`` allows."""
    # A clock that was set back must not make everybody wait for it to catch up.
    full_until = min(row.full_until, now + tolerance + interval + MOST_BACKLOG)
    places: list[float] = []
    for _ in range(count):
        place = max(now, full_until - tolerance, row.paused_until)
        full_until = max(full_until, place) + interval
        places.append(place)
    return BucketRow(full_until, row.paused_until), places


def silenced(row: BucketRow, until: float) -> BucketRow:
    """After a 429: what was granted before is void, everybody queues again behind the pause."""
    return BucketRow(max(row.full_until, until), max(row.paused_until, until))
