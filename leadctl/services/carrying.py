"""The engine in a thread of its own: works inside a running event loop too, and leaves signals to the caller."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from leadctl.delivery.engine import Engine, EngineReport
from leadctl.delivery.limits import Limiter
from leadctl.delivery.retries import Policy
from leadctl.domain.masking import mask_personal
from leadctl.domain.outcomes import ErrorCode, Outcome
from leadctl.domain.ports import Observer
from leadctl.services.loops import in_own_loop
from leadctl.services.planning import Planning
from leadctl.services.shapes import check_sums
from leadctl.services.sightings import look_for_accepted
from leadctl.services.stopping import StopSwitch
from leadctl.services.verdicts import run_exit_code
from leadctl.services.work import Workload
from leadctl.store.buckets import BucketRows
from leadctl.store.writer import LedgerWriter

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App


OVERDUE = "the time of --finish-by is over"


def carry(
    app: "App",
    planning: Planning,
    run_id: str,
    *,
    observer: Observer,
    stop: StopSwitch,
    expected: int,
    retry_unknown: bool,
    bulk: bool,
    share: float = 1.0,
    finish_by: datetime | None = None,
) -> int:
    """Send the run's pending deliveries, give every one its outcome, and return the exit code.

    ``expected``: how many deliveries the plan put into the run; their outcomes must add up to it.
    ``share``: the part of every limit that is used. ``finish_by``: when the run stops by itself.
    """
    scale = app.settings.limits.scale * share
    limiter = Limiter(app.clock, scale, BucketRows(app.ledger), ahead=1.0 if bulk else 0.0)
    seconds = None if finish_by is None else max(0.0, (finish_by - app.clock.now()).total_seconds())
    report = _in_thread(
        app, planning, run_id, limiter, observer, stop, retry_unknown=retry_unknown, bulk=bulk, seconds=seconds
    )
    overdue = finish_by is not None and stop.signal is None
    _close(app, run_id, report, OVERDUE if overdue else "the run was stopped")
    check_sums(run_id, expected, app.ledger.outcome_counts(run_id))
    return _exit_code(app, planning, run_id, report, stop)


def _in_thread(
    app: "App",
    planning: Planning,
    run_id: str,
    limiter: Limiter,
    observer: Observer,
    stop: StopSwitch,
    *,
    retry_unknown: bool,
    bulk: bool,
    seconds: float | None,
) -> EngineReport:
    async def main() -> EngineReport:
        writer = LedgerWriter(app.ledger, app.leases, app.leases.open_holder(), secrets=app.secrets, observer=observer)
        settings = app.settings
        try:
            engine = Engine(
                run_id=run_id,
                ledger=writer,
                clock=app.clock,
                limiter=limiter,
                policy=Policy(
                    settings.send.tries, settings.send.timeout, settings.send.patience, settings.limits.scale
                ),
                observer=observer,
                bulk=bulk,
                drain=settings.send.drain,
            )
            loop = asyncio.get_running_loop()
            app.stopping.begin()

            def halt(*why: str) -> None:
                app.stopping.stop()
                engine.stop(*why)

            stop.listen(lambda: _call(loop, halt))
            if seconds is not None:
                loop.call_later(seconds, halt, OVERDUE)
            queues = Workload(app, planning.router, run_id, writer, retry_unknown=retry_unknown).queues()
            try:
                report = await engine.run(queues)
                if bulk:
                    await look_for_accepted(app, run_id, queues, limiter, observer, stop)
                return report
            finally:
                for queue in queues:
                    await queue.route.channel.close()
        finally:
            await asyncio.to_thread(writer.close)

    return in_own_loop(main)


def _call(loop: asyncio.AbstractEventLoop, halt: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(halt)


def _close(app: "App", run_id: str, report: EngineReport, why_stopped: str) -> None:
    """What was never begun: by the credential's parking, or by the stop."""
    for credential_id, parking in report.parked.items():
        # The vendor's words may repeat what it was sent.
        message = mask_personal(app.secrets.hide(parking.error.message))
        app.ledger.close_unsent(run_id, message, code=parking.code, credential_id=credential_id)
    if report.stopped:
        app.ledger.close_unsent(run_id, why_stopped)
    # A credential that vanished between plan and send (switched off, corrected into something invalid).
    message = "the credential was changed or switched off while the run was going on"
    app.ledger.close_unsent(run_id, message, code=ErrorCode.CREDENTIAL_REFUSED)


def _exit_code(app: "App", planning: Planning, run_id: str, report: EngineReport, stop: StopSwitch) -> int:
    counts = app.ledger.verdict_counts(run_id)
    verdicts: dict[tuple[Outcome, ErrorCode | None], int] = {}
    held, untold = 0, dict(report.untold)
    for (credential_id, outcome, code), number in counts.items():
        key = (outcome, ErrorCode(code) if code else None)
        verdicts[key] = verdicts.get(key, 0) + number
        route = planning.router.route(credential_id)
        if outcome is Outcome.UNKNOWN and route is not None and route.held:
            held += number
            untold.pop(credential_id, None)
    if report.bug:
        verdicts[Outcome.UNKNOWN, ErrorCode.BUG] = verdicts.get((Outcome.UNKNOWN, ErrorCode.BUG), 0) or 1
    totals = planning.totals
    return run_exit_code(
        verdicts,
        not_found=totals.not_found,
        invalid_credentials=totals.invalid_credentials,
        held_unknown=held + sum(untold.values()),
        parked=[parking.code for parking in report.parked.values()],
        signal=stop.signal if report.stopped else None,
    )
