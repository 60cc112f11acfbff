"""The engine in a thread of its own: works inside a running event loop too, and leaves signals to the caller."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from leadctl.delivery.engine import Engine, EngineReport
from leadctl.delivery.lanes import AccountQueue, Parking
from leadctl.delivery.limits import Limiter
from leadctl.delivery.retries import Policy
from leadctl.domain.masking import mask_personal
from leadctl.domain.model import CredentialId
from leadctl.domain.outcomes import ErrorCode, Outcome
from leadctl.domain.ports import Ledger, Observer
from leadctl.services.loops import call_in, in_own_loop
from leadctl.services.planning import Planning
from leadctl.services.routing import Router
from leadctl.services.shapes import check_sums
from leadctl.services.sightings import look_for_accepted
from leadctl.services.stopping import StopSwitch
from leadctl.services.verdicts import run_exit_code
from leadctl.services.work import CHANGED, Workload
from leadctl.services.written import Written
from leadctl.store.buckets import BucketRows
from leadctl.store.writer import LedgerWriter

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App


@dataclass(frozen=True, slots=True)
class Rest:
    """The part of a plan that is written while what is written already is sent."""

    #: Those that probably have something to send; others are taken when all is written.
    credential_ids: Sequence[CredentialId]
    #: Writes it page by page, in a thread of its own.
    write: Callable[[Written], None]


OVERDUE = "the time of --finish-by is over"


def carry(
    app: "App",
    planning: Planning,
    run_id: str,
    *,
    observer: Observer,
    stop: StopSwitch,
    expected: Callable[[], int],
    retry_unknown: bool,
    bulk: bool,
    share: float = 1.0,
    finish_by: datetime | None = None,
    rest: Rest | None = None,
) -> int:
    """Send the run's pending deliveries, give every one its outcome, and return the exit code.

    ``expected``: how many deliveries the plan put into the run; their outcomes must add up to it.
    ``rest``: what of the plan is not in the ledger yet; it is written meanwhile.
    ``share``: the part of every limit that is used. ``finish_by``: when the run stops by itself.
    """
    scale = app.settings.limits.scale * share
    limiter = Limiter(app.clock, scale, BucketRows(app.ledger), ahead=1.0 if bulk else 0.0)
    seconds = None if finish_by is None else max(0.0, (finish_by - app.clock.now()).total_seconds())
    report = _in_thread(
        app, planning, run_id, limiter, observer, stop,
        retry_unknown=retry_unknown, bulk=bulk, seconds=seconds, rest=rest,
    )  # fmt: skip
    overdue = finish_by is not None and stop.signal is None
    _close(app, run_id, report, OVERDUE if overdue else "the run was stopped")
    check_sums(run_id, expected(), app.ledger.outcome_counts(run_id))
    totals = planning.totals
    return exit_code_of(
        app,
        planning.router,
        run_id,
        report,
        not_found=totals.not_found,
        invalid_credentials=totals.invalid_credentials,
        signal=stop.signal if report.stopped else None,
    )


def open_engine(
    app: "App",
    run_id: str,
    ledger: Ledger,
    limiter: Limiter,
    observer: Observer,
    *,
    bulk: bool,
    patience: float | None = None,
    held: float | None = None,
) -> Engine:
    """The engine as ``[send]`` wants it. ``patience`` replaces that of ``[send]``; ``held`` as in
    :class:`~leadctl.delivery.retries.Policy`. Call it in the engine's loop."""
    send, scale = app.settings.send, app.settings.limits.scale
    return Engine(
        run_id=run_id,
        ledger=ledger,
        clock=app.clock,
        limiter=limiter,
        policy=Policy(send.tries, send.timeout, send.patience if patience is None else patience, scale, held),
        observer=observer,
        bulk=bulk,
        drain=send.drain,
    )


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
    rest: Rest | None,
) -> EngineReport:
    async def main() -> EngineReport:
        writer = LedgerWriter(app.ledger, app.leases, app.leases.open_holder(), secrets=app.secrets, observer=observer)
        try:
            engine = open_engine(app, run_id, writer, limiter, observer, bulk=bulk)
            loop = asyncio.get_running_loop()
            app.stopping.begin()

            def halt(*why: str) -> None:
                app.stopping.stop()
                engine.stop(*why)

            stop.listen(lambda: call_in(loop, halt))
            if seconds is not None:
                loop.call_later(seconds, halt, OVERDUE)
            work = Workload(app, planning.router, run_id, writer, retry_unknown=retry_unknown)
            queues: list[AccountQueue] = []
            try:
                if rest is not None:
                    await _send_ahead(engine, work, rest, queues, stop)
                late = work.queues(besides=queues)
                queues += late
                report = await engine.run(late)
                if bulk:
                    await look_for_accepted(app, run_id, queues, limiter, observer, stop)
                return report
            finally:
                for queue in queues:
                    await queue.route.channel.close()
        finally:
            await asyncio.to_thread(writer.close)

    return in_own_loop(main)


async def _send_ahead(engine: Engine, work: Workload, rest: Rest, queues: list[AccountQueue], stop: StopSwitch) -> None:
    """Send what is written while the rest is. All of it is written in the end, whatever stops the sending, for every
    lead of the run must have its outcome; unless the ledger fails."""
    written = Written()
    loop = asyncio.get_running_loop()
    stop.listen(lambda: call_in(loop, written.release))
    queues += work.queues_ahead(rest.credential_ids, written)
    writing = asyncio.create_task(asyncio.to_thread(rest.write, written))
    try:
        await engine.run(queues)
    except BaseException:
        written.abandon()
        await asyncio.gather(writing, return_exceptions=True)
        raise
    await writing


def _close(app: "App", run_id: str, report: EngineReport, why_stopped: str) -> None:
    """What was never begun: by the credential's parking, or by the stop."""
    close_parked(app, run_id, report.parked)
    if report.stopped:
        app.ledger.close_unsent(run_id, why_stopped)
    close_vanished(app, run_id)


def close_parked(app: "App", run_id: str, parked: Mapping[CredentialId, Parking]) -> None:
    """What a parked credential has left."""
    for credential_id, parking in parked.items():
        # The vendor's words may repeat what it was sent.
        message = mask_personal(app.secrets.hide(parking.error.message))
        app.ledger.close_unsent(run_id, message, code=parking.code, credential_id=credential_id)


def close_vanished(app: "App", run_id: str) -> None:
    """What is left of a credential that vanished between plan and send (switched off, corrected into something
    invalid)."""
    app.ledger.close_unsent(run_id, CHANGED, code=ErrorCode.CREDENTIAL_REFUSED)


def exit_code_of(
    app: "App",
    router: Router,
    run_id: str,
    report: EngineReport,
    *,
    not_found: int,
    invalid_credentials: int,
    signal: int | None,
) -> int:
    """The exit code of a run whose deliveries have their outcomes. ``signal``: what stopped it."""
    counts = app.ledger.verdict_counts(run_id)
    verdicts: dict[tuple[Outcome, ErrorCode | None], int] = {}
    held, untold = 0, dict(report.untold)
    for (credential_id, outcome, code), number in counts.items():
        key = (outcome, ErrorCode(code) if code else None)
        verdicts[key] = verdicts.get(key, 0) + number
        route = router.route(credential_id)
        if outcome is Outcome.UNKNOWN and route is not None and route.held:
            held += number
            untold.pop(credential_id, None)
    if report.bug:
        verdicts[Outcome.UNKNOWN, ErrorCode.BUG] = verdicts.get((Outcome.UNKNOWN, ErrorCode.BUG), 0) or 1
    return run_exit_code(
        verdicts,
        not_found=not_found,
        invalid_credentials=invalid_credentials,
        held_unknown=held + sum(untold.values()),
        parked=[parking.code for parking in report.parked.values()],
        signal=signal,
    )
