"""Points in time and durations as a person types them."""

import re
from datetime import datetime, time, timedelta, tzinfo

from leadctl.domain.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")


def parse_duration(text: str, option: str) -> float:
    """Seconds of ``30s``, ``10m``, ``3h``, ``2d``, ``1h30m`` or ``0``. Raises ConfigError naming the option."""
    plain = text.strip().lower()
    if plain == "0":
        return 0.0
    if not plain.isascii() or not _DURATION.fullmatch(plain):
        raise ConfigError(f"{option}: {text!r} is not a duration", hint="write it like 30s, 10m, 3h, 2d or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(plain))


def parse_time(text: str, option: str, *, now: datetime, zone: tzinfo | None) -> datetime:
    """``2026-11-24T09:00``, ``09:00`` (its latest past occurrence), or ``3h`` and ``2d`` (so long ago).

    ``now`` is aware; ``zone`` None means the machine's. Raises ConfigError naming the option.
    """
    return _parse(text, option, now, zone, -1)


def parse_deadline(text: str, option: str, *, now: datetime, zone: tzinfo | None) -> datetime:
    """As :func:`parse_time`, but ahead: ``18:00`` is the next one, ``3h`` is in three hours. Raises ConfigError."""
    deadline = _parse(text, option, now, zone, 1)
    if deadline <= now:
        raise ConfigError(f"{option}: {text!r} is over", hint="write it like 18:00, 2026-11-24T18:00 or 3h")
    return deadline


def _parse(text: str, option: str, now: datetime, zone: tzinfo | None, direction: int) -> datetime:
    plain = text.strip()
    try:
        if _DURATION.fullmatch(plain.lower()):
            return now + direction * timedelta(seconds=parse_duration(plain, option))
        if clock := _CLOCK.fullmatch(plain):
            hour, minute, second = (int(part or 0) for part in clock.groups())
            return _nearest(time(hour, minute, second), now, zone, direction)
        moment = datetime.fromisoformat(plain)
        return moment if moment.tzinfo else _localized(moment, zone)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option}: {text!r} is not a time", hint="write it like 2026-11-24T09:00, 09:00, 3h or 2d"
        ) from None


def ago(seconds: float, option: str, now: datetime) -> datetime:
    """``now`` less a duration. Raises ConfigError if that is before all calendars."""
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        raise ConfigError(f"{option} reaches too far back", hint="write it like 7d") from None


def local_zone(name: str | None) -> tzinfo | None:
    """The zone of the config; None is the machine's."""
    if not name:
        return None
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _nearest(clock: time, now: datetime, zone: tzinfo | None, direction: int) -> datetime:
    """The last such time of day, this moment's included, or the next one."""
    today = now.astimezone(zone).date()
    moment = _localized(datetime.combine(today, clock), zone)
    if (moment == now and direction < 0) or (moment - now).total_seconds() * direction > 0:
        return moment
    return _localized(datetime.combine(today + direction * timedelta(days=1), clock), zone)


def _localized(naive: datetime, zone: tzinfo | None) -> datetime:
    """``astimezone`` on a naive value reads it with the machine's rules of that day, summer time included."""
    return naive.replace(tzinfo=zone) if zone else naive.astimezone()
