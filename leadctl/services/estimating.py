"""How long a bulk run takes at the least: the arithmetic of the vendors' limits."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from leadctl.channelkit.spec import Bucket, Retransmit, Step
from leadctl.delivery.lanes import RAMP
from leadctl.domain.errors import ConfigError
from leadctl.services.planning import Planning
from leadctl.services.requests import SendRequest
from leadctl.services.work import effective_buckets

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App


#: Seconds from which on an estimate is shown without being asked for.
WORTH_SAYING = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """What one credential has to carry: fresh deliveries, and those in doubt, which are asked about first."""

    channel: str
    steps: Sequence[Step]
    buckets: Sequence[Bucket]
    fresh: int
    in_doubt: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one channel. ``seconds`` is a lower bound: the limits alone, without the vendor's own time for a request."""

    channel: str
    deliveries: int
    requests: int
    look_ups: int
    seconds: float


def estimate_plan(app: "App", planning: Planning, share: float) -> list[Estimate]:
    """Of a plan whose pages have been read."""
    totals = planning.totals
    loads = []
    for credential_id, number in totals.by_credential.items():
        route = planning.router.route(credential_id)
        if route is not None:
            in_doubt = totals.in_doubt.get(credential_id, 0)
            buckets = effective_buckets(app, route)
            loads.append(Load(route.account.channel, route.channel.steps, buckets, number - in_doubt, in_doubt))
    return estimate(loads, app.settings.limits.scale * share)


def check_deadline(app: "App", request: SendRequest, estimates: Sequence[Estimate]) -> None:
    """Raises ConfigError if the limits alone make ``finish_by`` impossible."""
    if request.finish_by is None or not estimates:
        return
    slowest = estimates[0]
    possible = app.clock.now() + timedelta(seconds=request.delay + slowest.seconds)
    if possible > request.finish_by:
        raise ConfigError(
            f"it cannot be done by {_clock(app, request.finish_by)}: {slowest.channel} alone takes "
            f"{slowest.seconds / 60:,.0f} minutes at its limit ({slowest.requests:,} requests, "
            f"{slowest.look_ups:,} look-ups); nothing was sent",
            hint=f"it could be done by {_clock(app, possible)} at the earliest; or send less: -c, --since, --ids-file",
        )


def _clock(app: "App", moment: datetime) -> str:
    zone = ZoneInfo(app.settings.timezone) if app.settings.timezone else None
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"


def estimate(loads: Iterable[Load], speed: float) -> list[Estimate]:
    """An estimate per channel, the slowest first. ``speed`` multiplies every rate (``scale`` × ``--share``)."""
    by_channel: defaultdict[str, list[Load]] = defaultdict(list)
    for load in loads:
        by_channel[load.channel].append(load)
    found = [_of_channel(channel, own, speed) for channel, own in by_channel.items()]
    return sorted(found, key=lambda one: (-one.seconds, one.channel))


def _of_channel(channel: str, loads: Sequence[Load], speed: float) -> Estimate:
    in_bucket: defaultdict[str, int] = defaultdict(int)
    limits = {bucket.scope: bucket.limit for load in loads for bucket in load.buckets}
    requests = look_ups = 0
    for load in loads:
        sending = sum(_requests(load.fresh + load.in_doubt, step.batch) for step in load.steps)
        asking = sum(_look_ups(load.in_doubt, step) for step in load.steps)
        requests, look_ups = requests + sending, look_ups + asking
        for bucket in load.buckets:
            in_bucket[bucket.scope] += sending + asking
    seconds = [
        max(0.0, number - limits[scope].burst) * limits[scope].per / limits[scope].rate / speed
        for scope, number in in_bucket.items()
    ]
    number = sum(load.fresh + load.in_doubt for load in loads)
    return Estimate(channel, number, requests, look_ups, max(seconds, default=0.0))


def _requests(deliveries: int, batch: int) -> int:
    """The first ones of a bulk run go in small batches."""
    requests = 0
    for size in RAMP:
        if deliveries > 0:
            requests, deliveries = requests + 1, deliveries - min(size, batch)
    return requests + ceil(max(0, deliveries) / batch)


def _look_ups(in_doubt: int, step: Step) -> int:
    if step.retransmit is not Retransmit.LOOKUP:
        return 0
    return len(step.looks) * ceil(in_doubt / (step.look_batch or step.batch))
