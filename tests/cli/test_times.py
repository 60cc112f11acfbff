"""Points in time and durations."""

import contextlib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.cli.times import ago, local_zone, parse_deadline, parse_duration, parse_time
from leadctl.domain.errors import ConfigError
from tests.cli.support import NOW

MOSCOW = ZoneInfo("Europe/Moscow")
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30s", 30),
        ("10m", 600),
        ("3h", 10_800),
        ("2d", 172_800),
        ("1h30m", 5400),
        ("0.5s", 0.5),
        ("1w", 604_800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--delay") == seconds


@pytest.mark.parametrize("text", ["", "30", "-30s", "3 h", "h", "3y", "1e3s", "٣s", "∞", "30s ago"])
def test_what_is_no_duration_names_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--delay: .* is not a duration") as caught:
        parse_duration(text, "--delay")
    assert "30s" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T09:00", datetime(2026, 11, 24, 6, 0, tzinfo=UTC)),
        ("2026-11-24 09:00:30", datetime(2026, 11, 24, 6, 0, 30, tzinfo=UTC)),
        ("2026-11-24", datetime(2026, 11, 23, 21, 0, tzinfo=UTC)),
        ("2026-11-24T09:00Z", datetime(2026, 11, 24, 9, 0, tzinfo=UTC)),
        ("2026-11-24T09:00+05:00", datetime(2026, 11, 24, 4, 0, tzinfo=UTC)),
        ("15:00", datetime(2026, 11, 24, 12, 0, tzinfo=UTC)),
        ("15:01", datetime(2026, 11, 23, 12, 1, tzinfo=UTC)),
        ("9:00", datetime(2026, 11, 24, 6, 0, tzinfo=UTC)),
        ("3h", NOW - timedelta(hours=3)),
        ("2d", NOW - timedelta(days=2)),
    ],
)
def test_times_in_the_zone_of_the_config(text: str, expected: datetime) -> None:
    assert parse_time(text, "--since", now=NOW, zone=MOSCOW) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "25:00", "09:60", "2026-13-01T00:00", "2026-11-24T", "99999999999d", "24.11.2026", "now"]
)
def test_what_is_no_time_names_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--since: .* is not a time"):
        parse_time(text, "--since", now=NOW, zone=None)


def test_yesterday_has_its_own_summer_time() -> None:
    morning_after_the_change = datetime(2026, 10, 25, 5, 0, tzinfo=UTC)
    found = parse_time("09:00", "--since", now=morning_after_the_change, zone=BERLIN)
    assert found == datetime(2026, 10, 24, 7, 0, tzinfo=UTC)


def test_without_a_zone_the_machine_reads_the_time() -> None:
    found = parse_time("2026-07-01T09:00", "--since", now=NOW, zone=None)
    assert found == datetime(2026, 7, 1, 9, 0).astimezone()
    assert local_zone(None) is None
    assert local_zone("Europe/Moscow") == MOSCOW


def test_an_age_beyond_all_calendars_is_said() -> None:
    assert ago(60, "--max-age", NOW) == NOW - timedelta(minutes=1)
    with pytest.raises(ConfigError, match="--max-age reaches too far back"):
        ago(1e14, "--max-age", NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_an_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_time(text, "--since", now=NOW, zone=MOSCOW).tzinfo is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18:00", datetime(2026, 11, 24, 15, 0, tzinfo=UTC)),
        ("15:00", datetime(2026, 11, 25, 12, 0, tzinfo=UTC)),
        ("14:59", datetime(2026, 11, 25, 11, 59, tzinfo=UTC)),
        ("3h", NOW + timedelta(hours=3)),
        ("2026-11-24T18:00", datetime(2026, 11, 24, 15, 0, tzinfo=UTC)),
    ],
)
def test_deadlines_are_ahead(text: str, expected: datetime) -> None:
    assert parse_deadline(text, "--finish-by", now=NOW, zone=MOSCOW) == expected


@pytest.mark.parametrize("text", ["2026-11-24T15:00", "2020-01-01", "0s"])
def test_a_deadline_that_is_over_names_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--finish-by: .* is over"):
        parse_deadline(text, "--finish-by", now=NOW, zone=MOSCOW)
