"""The arithmetic of a rate bucket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.domain.buckets import MOST_BACKLOG, BucketRow, grant, silenced


def test_places_come_one_an_interval_after_the_burst() -> None:
    row, places = grant(BucketRow(), 100.0, 0.5, 0.5, 4)
    assert places == [100.0, 100.0, 100.5, 101.0]
    assert grant(row, 100.0, 0.5, 0.5, 1)[1] == [101.5]


def test_an_idle_bucket_fills_up_to_its_burst_and_no_further() -> None:
    row, _ = grant(BucketRow(), 100.0, 0.5, 0.5, 4)
    assert grant(row, 200.0, 0.5, 0.5, 3)[1] == [200.0, 200.0, 200.5]


def test_silence_makes_everybody_wait() -> None:
    row, _ = grant(BucketRow(), 100.0, 0.5, 0.0, 1)
    row = silenced(row, 130.0)
    assert grant(row, 101.0, 0.5, 0.0, 2)[1] == [130.0, 130.5]
    assert silenced(BucketRow(150.0, 0.0), 130.0) == BucketRow(150.0, 130.0), "what was granted stays granted"
    assert silenced(row, 120.0).paused_until == 130.0, "a shorter pause does not shorten a longer one"


def test_a_clock_that_was_set_back_does_not_stop_the_world() -> None:
    row, _ = grant(BucketRow(), 100_000.0, 0.5, 0.25, 2)
    row, places = grant(row, 1000.0, 0.5, 0.25, 1)
    assert MOST_BACKLOG == 60.0
    assert places == [1060.5], "behind the most that others may have been granted, and not a moment more"
    assert row == BucketRow(1061.25, 0.0)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), min_size=1, max_size=60),
    st.floats(0.05, 2),
    st.integers(1, 5),
)
def test_no_window_holds_more_than_rate_and_burst(asks: list[tuple[float, int]], interval: float, burst: int) -> None:
    """Whoever asks, in whatever portions: in any second there are at most rate + burst places."""
    row, now, places = BucketRow(), 0.0, list[float]()
    for wait, count in asks:
        now += wait
        row, granted = grant(row, now, interval, interval * (burst - 1), count)
        assert granted == sorted(granted)
        assert granted[0] >= now
        places += granted
        if row.full_until > now + MOST_BACKLOG:
            break
    for start in places:
        inside = sum(start <= place < start + 1.0 for place in places)
        assert inside <= 1.0 / interval + burst + 1e-6


def test_a_pause_is_kept_until_it_is_over() -> None:
    row, places = grant(BucketRow(0.0, 130.0), 100.0, 0.5, 0.5, 2)
    assert places == [130.0, 130.0], "whatever was granted before"
    assert row == BucketRow(131.0, 130.0)


def test_a_row_begins_empty_and_does_not_change() -> None:
    row = BucketRow()
    assert row == BucketRow(full_until=0.0, paused_until=0.0)
    assert not hasattr(row, "__dict__")
    with pytest.raises(AttributeError):
        setattr(row, "full_until", 1.0)  # noqa: B010 mypy knows that it is frozen
