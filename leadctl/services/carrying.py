"""The engine in a thread of its own: works inside a running event loop too, and leaves signals to the caller."""

import asyncio
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
) -> int:
    """Send the run's pending deliveries, give every one its outcome, and return the exit code.

    ``expected``: how many deliveries the plan put into the run; their outcomes must add up to it.
    """
    report = _in_thread(app, planning, run_id, observer, stop, retry_unknown=retry_unknown, bulk=bulk)
    _close(app, run_id, report)
    check_sums(run_id, expected, app.ledger.outcome_counts(run_id))
    return _exit_code(app, planning, run_id, report, stop)


def _in_thread(
    app: "App",
    planning: Planning,
    run_id: str,
    observer: Observer,
    stop: StopSwitch,
    *,
    retry_unknown: bool,
    bulk: bool,
) -> EngineReport:
    async def main() -> EngineReport:
        writer = LedgerWriter(app.ledger, app.leases, app.leases.open_holder(), secrets=app.secrets, observer=observer)
        settings = app.settings
        try:
            limiter = Limiter(app.clock, settings.limits.scale, BucketRows(app.ledger), ahead=1.0 if bulk else 0.0)
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
            stop.listen(lambda: _call(loop, engine))
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


def _call(loop: asyncio.AbstractEventLoop, engine: Engine) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(engine.stop)


def _close(app: "App", run_id: str, report: EngineReport) -> None:
    """What was never begun: by the credential's parking, or by the stop."""
    for credential_id, parking in report.parked.items():
        # The vendor's words may repeat what it was sent.
        message = mask_personal(app.secrets.hide(parking.error.message))
        app.ledger.close_unsent(run_id, message, code=parking.code, credential_id=credential_id)
    if report.stopped:
        app.ledger.close_unsent(run_id, "the run was stopped")
    # A credential that vanished between plan and send (switched off, corrected into something invalid).
    message = "the credential was changed or switched off while the run was going on"
    app.ledger.close_unsent(run_id, message, code=ErrorCode.CREDENTIAL_REFUSED)


def _exit_code(app: "App", planning: Planning, run_id: str, report: EngineReport, stop: StopSwitch) -> int:
    counts = app.ledger.verdict_counts(run_id)
    verdicts: dict[tuple[Outcome, ErrorCode | None], int] = {}
    held = 0
    for (credential_id, outcome, code), number in counts.items():
        key = (outcome, ErrorCode(code) if code else None)
        verdicts[key] = verdicts.get(key, 0) + number
        route = planning.router.route(credential_id)
        if outcome is Outcome.UNKNOWN and route is not None and route.held:
            held += number
    if report.bug:
        verdicts[Outcome.UNKNOWN, ErrorCode.BUG] = verdicts.get((Outcome.UNKNOWN, ErrorCode.BUG), 0) or 1
    totals = planning.totals
    return run_exit_code(
        verdicts,
        not_found=totals.not_found,
        invalid_credentials=totals.invalid_credentials,
        held_unknown=held,
        parked=[parking.code for parking in report.parked.values()],
        signal=stop.signal if report.stopped else None,
    )
