"""The engine: lanes side by side, each request claimed before its first byte and recorded after its answer."""

import asyncio
import traceback
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from leadctl.channelkit.spec import Retransmit
from leadctl.delivery.breaker import BreakerState
from leadctl.delivery.claiming import WINDOW, Claims
from leadctl.delivery.jobs import Job, Mode
from leadctl.delivery.lanes import AccountQueue, Batch, Lane, Parking, lanes_of
from leadctl.delivery.limits import Limiter
from leadctl.delivery.retries import Policy
from leadctl.delivery.settling import Answered, Settler
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LeadctlError,
    LimitReached,
    Stopped,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Claimed, RunEvent
from leadctl.domain.model import CannotTell, Finding, Receipt
from leadctl.domain.outcomes import ErrorCode, Outcome
from leadctl.domain.ports import Clock, Ledger, Observer

T = TypeVar("T")


@dataclass(slots=True)
class EngineReport:
    """What the engine leaves to its caller: deliveries still pending in the ledger are closed by these reasons."""

    parked: dict[int | str, Parking] = field(default_factory=dict)
    bug: bool = False
    stopped: bool = False
    #: By credential: how many ended unknown, and no look-up can ever tell (only a person, or ``--retry-unknown``).
    untold: Mapping[int | str, int] = field(default_factory=dict)


class Engine:
    """Carries the deliveries of one run."""

    def __init__(
        self,
        *,
        run_id: str,
        ledger: Ledger,
        clock: Clock,
        limiter: Limiter,
        policy: Policy,
        observer: Observer,
        bulk: bool = False,
        drain: float = 20.0,
    ) -> None:
        self._run_id = run_id
        self._ledger = ledger
        self._clock = clock
        self._limiter = limiter
        self._policy = policy
        self._observer = observer
        self._drain = drain
        self._bulk = bulk
        self._began = clock.monotonic()
        self._stop = asyncio.Event()
        self._why_stopped = ""
        self._sends: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()
        self._report = EngineReport()
        self._settler = Settler(run_id, ledger, clock, limiter, policy, observer, bulk=bulk)
        self._claims = Claims(run_id, ledger, clock, limiter, self._settler, bulk=bulk)

    def stop(self, why: str = "the run was stopped") -> None:
        """Take nothing more, and drain. Call it in the engine's loop."""
        self._why_stopped = why
        self._stop.set()

    async def run(self, queues: Sequence[AccountQueue]) -> EngineReport:
        """Until every queue is done, parked, or the engine is stopped. Raises DatabaseUnreachable."""
        for queue in queues:
            queue.level = 0 if self._bulk else None
        lanes = lanes_of(queues, self._policy.scale)
        workers = [
            asyncio.create_task(self._work(lane), name=lane.scope) for lane in lanes for _ in range(lane.concurrency)
        ]
        self._settler.when_broken = lambda: _cancel(workers)
        drainer = asyncio.create_task(self._drain_when_stopped(lanes))
        try:
            await self._gather(workers)
        finally:
            drainer.cancel()
            await asyncio.gather(drainer, self._settler.saved(), return_exceptions=True)
        await self._settler.saved()
        await self._close(queues)
        self._report.untold = self._settler.untold
        return self._report

    async def _gather(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """All workers; the first failure (the ledger's) ends the others."""
        if not workers:
            return
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            _cancel(workers)
            await asyncio.gather(*workers, return_exceptions=True)
        for task in done:
            if not task.cancelled():
                task.result()

    async def _drain_when_stopped(self, lanes: Sequence[Lane]) -> None:
        await self._stop.wait()
        self._report.stopped = True
        for lane in lanes:
            lane.wake()
        await self._clock.sleep(self._drain)
        self._cut.update(self._sends)
        _cancel(self._cut)

    # --- one lane ------------------------------------------------------------------------------------------

    async def _work(self, lane: Lane) -> None:
        while not self._stop.is_set():
            if not await self._may_go(lane):
                if lane.finished:
                    break
                continue
            half_open = lane.breaker.state is BreakerState.HALF_OPEN
            batch: Batch | None = None
            lane.busy += 1
            try:
                batch = await lane.next_batch(self._clock.monotonic(), 1 if half_open else None)
                if batch is not None:
                    await self._carry(lane, batch)
            finally:
                lane.busy -= 1
                if batch is not None:  # two that find nothing would wake each other for ever
                    lane.wake()
            if batch is None:
                if lane.finished:
                    break
                await self._wait(lane, lane.next_due())
        lane.wake()

    async def _wait(self, lane: Lane, until: float | None) -> None:
        """Until something changes in the lane, the run is stopped, or the time has come."""
        waits: list[asyncio.Future[Any]] = [lane.changed(), asyncio.ensure_future(self._stop.wait())]
        if until is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(max(0.0, until - self._clock.monotonic()))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _may_go(self, lane: Lane) -> bool:
        """The breaker's word: closed, or half open and nobody under way."""
        breaker = lane.breaker
        if breaker.state is BreakerState.CLOSED:
            return True
        now = self._clock.monotonic()
        if breaker.state is BreakerState.HALF_OPEN:
            if lane.busy == 0:
                return True
            await self._wait(lane, None)
            return False
        if lane.finished:
            return False
        if breaker.open_for(now) > self._policy.patience:
            await self._vendor_down(lane)
        elif now < breaker.probe_at or lane.probing or lane.busy:
            await self._wait(lane, breaker.probe_at if now < breaker.probe_at else None)
        else:
            await self._probe(lane)
        return False

    async def _probe(self, lane: Lane) -> None:
        queue = next((queue for queue in lane.queues if not queue.idle and not queue.parking), None)
        if queue is None:
            return
        lane.probing = True
        try:
            if not await self._slot(queue):  # a probe is a request like the others
                return
            await self._cancellable(queue.route.channel.check())
        except (Transient, Ambiguous, Throttled, _Cut):
            lane.breaker.probe_failed(self._clock.monotonic())
        except (Unusable, LimitReached) as error:
            await self._settler.park(queue, error)
            lane.breaker.probe_passed()
        except Exception as error:  # noqa: BLE001 a bug in a check must not end the other lanes
            self._say_bug(queue, error)
            lane.breaker.probe_failed(self._clock.monotonic())
        else:
            lane.breaker.probe_passed()
        finally:
            lane.probing = False
            lane.wake()

    async def _vendor_down(self, lane: Lane) -> None:
        error = Transient("the vendor did not answer for longer than [send] patience")
        for queue in lane.queues:
            if not queue.parking:
                await self._settler.end(queue, Parking(ErrorCode.VENDOR_DOWN, error))
        lane.breaker.succeeded()

    # --- one request -----------------------------------------------------------------------------------------

    async def _carry(self, lane: Lane, batch: Batch) -> None:
        batch.queue.in_flight += 1
        began = self._clock.monotonic()
        try:
            if batch.mode is Mode.HELD:
                await self._hold(batch)
            elif batch.mode is Mode.NOTHING:
                await self._settler.nothing_left(batch)
            elif not await self._slot(batch.queue):
                self._back(batch)
            elif batch.mode is Mode.LOOK:
                await self._look(lane, batch)
            else:
                await self._send(lane, batch)
            await self._limiter.count(batch.queue.buckets, batch.queue.unplaced(), began)
        except LeadctlError:
            raise
        except Exception as error:  # noqa: BLE001 whatever it is, these deliveries get an outcome
            await self._bug(lane, batch, error)
        finally:
            batch.queue.in_flight -= 1

    def _back(self, batch: Batch) -> None:
        now = self._clock.monotonic()
        for job in batch.jobs:
            batch.queue.put(job, now)

    async def _slot(self, queue: AccountQueue) -> bool:
        """A place in every bucket. False: stopped, or the pause is longer than patience."""
        while not self._stop.is_set() and not queue.parking:
            if await self._is_silenced(queue):
                return False
            wait = await self._limiter.reserve(queue.buckets)
            if await self._is_silenced(queue):  # only now it is known what other processes were told
                return False
            if wait > 0:
                await self._sleep(wait)
            if self._limiter.pause_left(queue.buckets) <= 0:
                queue.placed += 1
                return not self._stop.is_set() and not queue.parking
        return False

    async def _is_silenced(self, queue: AccountQueue) -> bool:
        """Whether the vendor's pause is longer than patience; then the credential ends for this run."""
        pause = self._limiter.pause_length(queue.buckets, self._began)
        if pause <= self._policy.patience:
            return False
        error = LimitReached(f"the vendor lets nothing through for {pause:.0f} s, longer than [send] patience")
        await self._settler.park(queue, error)
        return True

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless the run is stopped."""
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([sleep, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleep, stop):
                task.cancel()
            await asyncio.gather(sleep, stop, return_exceptions=True)

    async def _cancellable(self, request: Coroutine[Any, Any, T]) -> T:
        """A request that the end of the drain can cut."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._sends.add(task)
        try:
            return await request
        except asyncio.CancelledError:
            if task not in self._cut:  # the whole engine ends, not only this request
                raise
            task.uncancel()
            raise _Cut from None
        finally:
            self._sends.discard(task)
            self._cut.discard(task)

    async def _send(self, lane: Lane, batch: Batch) -> None:
        queue, step = batch.queue, batch.step
        channel = queue.route.channel
        window = WINDOW if batch.jobs[0].ahead else self._claims.size(lane, batch)
        context: Mapping[str, str] = {}
        if step.retransmit is not Retransmit.IDEMPOTENT:  # nobody looks for what can be sent again
            prepared = await self._prepared(lane, batch)
            if prepared is None:
                return
            context = prepared
        jobs = batch.jobs if batch.jobs[0].ahead else await self._claims.claimed(lane, batch, window, context)
        if not jobs:
            return
        for job in jobs:
            job.ahead = False
        self._observer(Claimed(queue.route.name, queue.route.account.credential_id, len(jobs)))
        started, began = self._clock.now(), self._clock.monotonic()
        receipts: Mapping[str, Receipt]
        status, digest = None, None
        whole: DeliveryError | None = None
        try:
            verdict = await self._cancellable(channel.send(step, [job.delivery() for job in jobs]))
            receipts, status, digest = verdict.receipts, verdict.http_status, verdict.request_digest
        except _Cut:
            whole = Ambiguous("the run was stopped while the vendor had not answered yet")
        except DeliveryError as error:
            whole = error
        if whole is not None:
            receipts = {job.key: whole for job in jobs}
            digest = whole.request_digest
        probe = lane.breaker.state is BreakerState.HALF_OPEN
        self._note_health(lane, jobs, whole)
        await self._settler.settle(
            batch,
            jobs,
            receipts,
            Answered(
                started, self._clock.now(), self._clock.monotonic() - began, context, status, digest, probe,
                together=window > 0,
            ),
            claimed=not isinstance(whole, Stopped),
        )  # fmt: skip

    async def _prepared(self, lane: Lane, batch: Batch) -> Mapping[str, str] | None:
        """What a look-up will need; None: these are not sent now."""
        channel = batch.queue.route.channel
        made = channel.exchanges
        try:
            context = await self._cancellable(channel.prepare(batch.step))
        except _Cut:
            self._back(batch)
        except DeliveryError as error:
            await self._not_sent(lane, batch, error)
        else:
            if channel.exchanges == made or await self._slot(batch.queue):  # its own request has used the place
                return context
            self._back(batch)
        return None

    async def _not_sent(self, lane: Lane, batch: Batch, error: DeliveryError) -> None:
        """``prepare`` failed: nothing was claimed and nothing was sent, whatever became of its own request."""
        if isinstance(error, Ambiguous):
            error = Transient(error.message, http_status=error.http_status, vendor_code=error.vendor_code)
        self._note_health(lane, batch.jobs, error)
        now = self._clock.now()
        answered = Answered(now, now, 0.0, {}, error.http_status, None)
        await self._settler.settle(batch, batch.jobs, {job.key: error for job in batch.jobs}, answered, claimed=False)

    async def _look(self, lane: Lane, batch: Batch) -> None:
        """Ask the vendor which of these it has."""
        foreign = [job for job in batch.jobs if job.foreign]
        ours = [job for job in batch.jobs if not job.foreign]
        taken = (
            await self._claims.claim(Batch(batch.queue, batch.step, batch.mode, foreign), None, {}) if foreign else []
        )
        jobs = ours + taken
        if not jobs:
            return
        started, began = self._clock.now(), self._clock.monotonic()
        findings: Mapping[str, Finding]
        whole: DeliveryError | None = None
        try:
            findings = await self._cancellable(
                batch.queue.route.channel.find(batch.step, [job.delivery() for job in jobs])
            )
        except _Cut:
            findings = {job.key: CannotTell("the run was stopped") for job in jobs}
        except (Transient, Ambiguous) as error:
            whole = error
            findings = {job.key: CannotTell(error.message) for job in jobs}
        except DeliveryError as error:
            await self._settler.look_refused(batch, jobs, error, started)
            return
        # "Cannot tell" is an answer of a vendor that is well; an outage is raised. It proves neither.
        if whole is not None or not all(isinstance(finding, CannotTell) for finding in findings.values()):
            self._note_health(lane, jobs, whole)
        await self._settler.found(batch, jobs, findings, started, self._clock.monotonic() - began)

    async def _hold(self, batch: Batch) -> None:
        """In doubt, and for a person to settle; but a row that says ``sending`` may be in another process's hands."""
        left = [job for job in batch.jobs if not job.crashed]
        sending = [job for job in batch.jobs if job.crashed]
        taken = (
            await self._claims.claim(Batch(batch.queue, batch.step, batch.mode, sending), None, {}) if sending else []
        )
        await self._settler.hold(left + taken)

    def _note_health(self, lane: Lane, jobs: Sequence[Job], error: DeliveryError | None) -> None:
        """Tell the breaker: refused, DNS, time-out and 5xx count."""
        if isinstance(error, Stopped):
            return
        down = isinstance(error, (Transient, Ambiguous)) and (error.http_status is None or error.http_status >= 500)
        if not down:
            lane.breaker.succeeded()
            lane.failed_keys.clear()
            return
        lane.failed_keys |= {job.key for job in jobs}
        if lane.breaker.failed(self._clock.monotonic(), len(lane.failed_keys)):
            queue = lane.queues[0]
            fields = {"channel": queue.route.name, "credential_id": queue.route.account.credential_id,
                      "seconds": round(lane.breaker.probe_at - self._clock.monotonic(), 1),
                      "reason": error.message if error else ""}  # fmt: skip
            self._observer(RunEvent("throttled", "warning", fields))

    async def _bug(self, lane: Lane, batch: Batch, error: Exception) -> None:
        self._say_bug(batch.queue, error)
        bug = Ambiguous(f"leadctl failed ({type(error).__name__}); this is a bug, please report it")
        await self._settler.after_bug(batch, bug)
        for queue in lane.queues:
            if not queue.parking:
                await self._settler.end(queue, Parking(ErrorCode.BUG, bug))

    def _say_bug(self, queue: AccountQueue, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        self._observer(RunEvent("bug", "error", {"channel": queue.route.name, "traceback": text}))
        self._report.bug = True

    async def _close(self, queues: Sequence[AccountQueue]) -> None:
        """Give what was begun and is still in memory its outcome; the rest is pending in the ledger."""
        for queue in queues:
            if queue.parking:
                self._report.parked[queue.route.account.credential_id] = queue.parking
                await self._settler.release(queue, Outcome.UNPROCESSED, queue.parking.code, queue.parking.error)
            elif self._stop.is_set():
                error = Transient(self._why_stopped)
                await self._settler.release(queue, Outcome.UNPROCESSED, ErrorCode.RUN_STOPPED, error)


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


class _Cut(Exception):
    """The drain is over: this request's answer is not waited for any longer."""
