"""After the answer: receipts and findings become records of the ledger, and the deliveries' next moves.

The order is the promise: the outcome is committed first; only then does a delivery move on.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from leadctl.channelkit.spec import Step
from leadctl.delivery.jobs import Job, final_state
from leadctl.delivery.lanes import AccountQueue, Batch, Parking
from leadctl.delivery.limits import Limiter
from leadctl.delivery.reconcile import after_finding
from leadctl.delivery.retries import Again, Final, Halve, Look, Park, Pause, Policy, backoff, decide, tries_spent
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Attempted, Finished, Notice, Parked, Throttling
from leadctl.domain.model import Absent, CannotTell, Done, Finding, Found, Receipt
from leadctl.domain.outcomes import ErrorCode, Outcome, SettledBy, TargetState
from leadctl.domain.ports import AttemptRecord, Clock, Ledger, Observer, Record, Refusal, TargetWrite

#: So many equal refusals at the start of a bulk run are a wrong configuration, not wrong leads.
EQUAL_REFUSALS = 20
#: Seconds between looks at a delivery that another process holds.
HELD_POLL = 1.0


def snake(kind: type[object]) -> str:
    """``LimitReached`` → ``limit_reached``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of one request, beside its receipts. ``seconds``: how long it took."""

    started: datetime
    ended: datetime
    seconds: float
    context: Mapping[str, str]
    http_status: int | None
    answer: str
    digest: str | None


class Settler:
    """Writes what happened and moves the deliveries on. One per engine."""

    def __init__(
        self,
        run_id: str,
        ledger: Ledger,
        clock: Clock,
        limiter: Limiter,
        policy: Policy,
        observer: Observer,
        *,
        bulk: bool,
    ) -> None:
        self._run_id = run_id
        self._ledger = ledger
        self._clock = clock
        self._limiter = limiter
        self._policy = policy
        self._observer = observer
        self._bulk = bulk

    # --- receipts --------------------------------------------------------------------------------------------

    async def settle(
        self,
        batch: Batch,
        jobs: Sequence[Job],
        receipts: Mapping[str, Receipt],
        answered: Answered,
        *,
        claimed: bool = True,
    ) -> None:
        """One answered request. ``claimed`` False: its deliveries were not claimed (``prepare`` failed)."""
        records: list[Record] = []
        moves: list[Callable[[], None]] = []
        parking: DeliveryError | None = None
        throttled = False
        for job in jobs:
            receipt = receipts.get(job.key) or Ambiguous("the vendor's answer does not name this delivery")
            if isinstance(receipt, Split):
                receipt = receipt.refused.get(job.key, receipt)
            job.attempts += claimed
            job.spent += answered.seconds
            attempt = self._attempt(batch.step, job, receipt, answered) if claimed else None
            if isinstance(receipt, Done):
                record, move = self._done(batch.queue, batch.step, job, receipt, attempt)
            else:
                record, move = self._failed(batch, job, receipt, answered, attempt, len(jobs))
                throttled = throttled or isinstance(receipt, Throttled)
                if isinstance(receipt, (Unusable, LimitReached)):
                    parking = receipt
            records.append(record)
            moves.append(move)
        if not throttled:
            self._limiter.passed(batch.queue.buckets)
        await self._commit(records, moves)
        if parking is not None:
            await self.park(batch.queue, parking)
        elif self._refuses_all(batch.queue):
            error = Unusable(f"the first {EQUAL_REFUSALS} leads were all refused alike: the configuration is wrong")
            await self.park(batch.queue, error)

    def _done(
        self, queue: AccountQueue, step: Step, job: Job, done: Done, attempt: AttemptRecord | None
    ) -> tuple[Record, Callable[[], None]]:
        if job.in_doubt and job.settled_by is None and not job.main_done:
            job.settled_by = SettledBy.RESEND
        queue.accepted_any = True
        job.accept(step, done)
        if done.open:
            return self._open_parts(queue, step, job, done, attempt)
        return self._next(queue, job, attempt)

    def _open_parts(
        self, queue: AccountQueue, step: Step, job: Job, done: Done, attempt: AttemptRecord | None
    ) -> tuple[Record, Callable[[], None]]:
        """Some recipients are still missing: those refused for now are tried again alone."""
        error = next(iter(done.open.values()))
        again = [failure for failure in done.open.values() if isinstance(failure, (Transient, Ambiguous))]
        job.tries += bool(again)
        delay = backoff(job.tries, self._policy.scale)
        if again and not tries_spent(job.tries, self._policy) and job.spent + delay <= self._policy.timeout:
            job.spent += delay
            return self._requeue(queue, job, delay, attempt, wrote=job.write(TargetState.INCOMPLETE, error))
        job.closed.add(step.name)
        job.missing = error
        return self._next(queue, job, attempt)

    def _next(self, queue: AccountQueue, job: Job, attempt: AttemptRecord | None) -> tuple[Record, Callable[[], None]]:
        """The next step, or the end."""
        if job.step() is None:
            return self._finish(job, Outcome.DELIVERED, None, None, attempt)
        state = TargetState.INCOMPLETE if job.main_done else TargetState.IDLE
        return self._requeue(queue, job, 0.0, attempt, wrote=job.write(state))

    def _failed(
        self,
        batch: Batch,
        job: Job,
        error: DeliveryError,
        answered: Answered,
        attempt: AttemptRecord | None,
        size: int,
    ) -> tuple[Record, Callable[[], None]]:
        step, queue = batch.step, batch.queue
        if isinstance(error, Split) and not error.executed_maybe and size == 1:
            error = Rejected(error.message, vendor_code=error.vendor_code, http_status=error.http_status)
        if isinstance(error, (Transient, Ambiguous)):
            job.tries += 1
        if isinstance(error, Ambiguous) or (isinstance(error, Split) and error.executed_maybe):
            job.doubt(answered.context, answered.started)
        move = decide(error, job.facts(step), self._policy)
        match move:
            case Again(delay):
                job.spent += delay
                job.trigger = "retry"
                return self._requeue(queue, job, delay, attempt)
            case Look():
                due = self._look_due(job, move)
                return self._requeue(queue, job, due, attempt)
            case Pause(seconds, scope):
                self._pause(queue, seconds, scope, error)
                return self._requeue(queue, job, 0.0, attempt)
            case Halve():
                if isinstance(error, Split) and not error.refused:
                    queue.batch_cap = max(1, size // 2)
                return self._requeue(queue, job, 0.0, attempt)
            case Park(code):
                return self._end_unprocessed(job, code, error, attempt)
            case Final(outcome, code):
                self._count_refusal(queue, error)
                return self._final(job, step, outcome, code, error, attempt)

    def _final(
        self,
        job: Job,
        step: Step,
        outcome: Outcome,
        code: ErrorCode,
        error: DeliveryError,
        attempt: AttemptRecord | None,
    ) -> tuple[Record, Callable[[], None]]:
        """The end by an error; if the main step is done already, only this step is given up."""
        if not job.main_done:
            return self._finish(job, outcome, code, error, attempt)
        job.closed.add(step.name)
        job.missing = error
        return self._finish(job, Outcome.DELIVERED, ErrorCode.INCOMPLETE, error, attempt)

    # --- look-ups --------------------------------------------------------------------------------------------

    async def found(
        self, batch: Batch, jobs: Sequence[Job], findings: Mapping[str, Finding], started: datetime, seconds: float
    ) -> None:
        """One look-up answered."""
        records: list[Record] = []
        moves: list[Callable[[], None]] = []
        ended = self._clock.now()
        for job in jobs:
            finding = findings.get(job.key, CannotTell("the look-up did not answer for it"))
            job.spent += seconds
            attempt = job.attempt(batch.step, "lookup", started, ended, snake(type(finding)))
            record, move = self._after_look(batch, job, finding, attempt)
            records.append(record)
            moves.append(move)
        self._limiter.passed(batch.queue.buckets)
        await self._commit(records, moves)

    def _after_look(
        self, batch: Batch, job: Job, finding: Finding, attempt: AttemptRecord
    ) -> tuple[Record, Callable[[], None]]:
        queue, step = batch.queue, batch.step
        if isinstance(finding, Found):
            if finding.duplicates:
                self._notice_duplicates(queue, job, finding)
            if not job.main_done:
                job.settled_by = SettledBy.LOOKUP
            queue.accepted_any = True
            job.accept(step, Done(finding.remote_id, finding.remote_url, finding.parts))
            return self._next(queue, job, attempt)
        if isinstance(finding, Absent):
            job.looks_done += 1
        else:
            job.look_failures += 1
        move = after_finding(finding, job.looks_done, job.look_failures, job.facts(step), self._policy)
        match move:
            case Look():
                return self._requeue(queue, job, self._look_due(job, move), attempt)
            case Again():
                job.absent()
                job.trigger = "retry"
                state = TargetState.INCOMPLETE if job.main_done else TargetState.IDLE
                return self._requeue(queue, job, 0.0, attempt, wrote=job.write(state))
            case Final(outcome, code):
                if isinstance(finding, Absent):
                    job.absent()
                reason = finding.reason if isinstance(finding, CannotTell) else "the vendor does not have it"
                return self._final(job, step, outcome, code, Transient(reason or "the vendor cannot say"), attempt)

    async def look_refused(self, batch: Batch, jobs: Sequence[Job], error: DeliveryError, started: datetime) -> None:
        """The look-up itself was throttled or refused: nothing is known, nothing is lost."""
        now = self._clock.monotonic()
        ended = self._clock.now()
        attempts = [job.attempt(batch.step, "lookup", started, ended, snake(type(error))) for job in jobs]
        await self._ledger.record(self._run_id, [Record(attempt=attempt) for attempt in attempts])
        for job in jobs:
            batch.queue.put(job, now, now)
        if isinstance(error, Throttled):
            self._pause(batch.queue, error.retry_after, error.scope, error)
        else:
            await self.park(batch.queue, error)

    def _look_due(self, job: Job, look: Look) -> float:
        """Seconds from now until the look-up; they count against the delivery's time."""
        delay = look.delay
        if not look.from_now and job.sent_at is not None:
            delay -= (self._clock.now() - job.sent_at).total_seconds()
        delay = max(0.0, delay)
        job.spent += delay
        return delay

    def _notice_duplicates(self, queue: AccountQueue, job: Job, found: Found) -> None:
        account = queue.route.account
        others = ", ".join(found.duplicates)
        self._observer(
            Notice(
                account.channel,
                account.credential_id,
                "duplicates_at_vendor",
                f"lead {job.lead.id} is there {1 + len(found.duplicates)} times: {found.remote_id}, {others}",
            )
        )

    # --- ends ------------------------------------------------------------------------------------------------

    async def park(self, queue: AccountQueue, error: DeliveryError) -> None:
        """The credential sends nothing more in this run; its owner is told."""
        if queue.parking is None:
            await self.end(queue, Parking(_park_code(error), error))

    async def end(self, queue: AccountQueue, parking: Parking) -> None:
        queue.parking = parking
        account = queue.route.account
        message = parking.error.message
        self._observer(Parked(account.channel, account.credential_id, account.name, parking.code, message))
        await self.release(queue, Outcome.UNPROCESSED, parking.code, parking.error)

    async def release(self, queue: AccountQueue, outcome: Outcome, code: ErrorCode, error: DeliveryError) -> None:
        """What was begun and is still in memory gets its outcome; what was not is pending in the ledger."""
        records: list[Record] = []
        moves: list[Callable[[], None]] = []
        for job in queue.empty():
            if job.attempts == 0 and not job.in_doubt and not job.ours:
                continue
            record, move = self._end_unprocessed(job, code, error, None)
            records.append(record)
            moves.append(move)
        await self._commit(records, moves)

    async def nothing_left(self, batch: Batch) -> None:
        """The row says that something is missing, but the lead has nothing for it any more."""
        await self._finish_quietly(batch.jobs, Outcome.ALREADY_DELIVERED, None, None)

    async def hold(self, batch: Batch) -> None:
        """In doubt, and for a person to settle: no request."""
        error = Ambiguous("an earlier attempt may have arrived; look at the vendor, then: leadctl settle")
        await self._finish_quietly(batch.jobs, Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, error)

    async def refused(self, batch: Batch, job: Job, claim: Refusal) -> None:
        """The row is not as it was planned: somebody else was faster."""
        now = self._clock.monotonic()
        if claim.target.state is TargetState.DELIVERED:
            job.remote_id, job.remote_url = claim.target.remote_id, claim.target.remote_url
            await self._finish_quietly([job], Outcome.ALREADY_DELIVERED, None, None)
        elif not claim.held:
            job.adopt(claim.target)
            batch.queue.put(job, now, now)  # as the row says now: to be asked for, sent, or left alone
        else:
            job.held_since = now if job.held_since is None else job.held_since
            if now - job.held_since > self._policy.timeout / self._policy.scale:
                error = Transient("another process of leadctl is sending it")
                await self._finish_quietly([job], Outcome.UNPROCESSED, ErrorCode.IN_USE_ELSEWHERE, error)
            else:
                batch.queue.put(job, now + HELD_POLL, now)

    async def after_bug(self, batch: Batch, bug: DeliveryError) -> None:
        """A bug of ours in the middle: what may have left is unknown."""
        records: list[Record] = []
        moves: list[Callable[[], None]] = []
        for job in batch.jobs:
            if not job.ours:
                batch.queue.put(job, 0.0, 0.0)
                continue
            job.doubt(job.context, self._clock.now())
            record, move = self._finish(job, Outcome.UNKNOWN, ErrorCode.BUG, bug, None)
            records.append(record)
            moves.append(move)
        await self._commit(records, moves)

    def _end_unprocessed(
        self, job: Job, code: ErrorCode, error: DeliveryError, attempt: AttemptRecord | None
    ) -> tuple[Record, Callable[[], None]]:
        if job.main_done:
            job.missing = error
            return self._finish(job, Outcome.DELIVERED, ErrorCode.INCOMPLETE, error, attempt)
        if job.in_doubt:
            return self._finish(job, Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, error, attempt)
        return self._finish(job, Outcome.UNPROCESSED, code, error, attempt)

    async def _finish_quietly(
        self, jobs: Sequence[Job], outcome: Outcome, code: ErrorCode | None, error: DeliveryError | None
    ) -> None:
        """An outcome of the run only: the row in the ledger is not ours and stays as it is."""
        records = [Record(item=job.item(outcome, error, code)) for job in jobs]
        moves = [self._tell(job, outcome, code, error) for job in jobs]
        await self._commit(records, moves)

    # --- shared ----------------------------------------------------------------------------------------------

    def _finish(
        self,
        job: Job,
        outcome: Outcome,
        code: ErrorCode | None,
        error: DeliveryError | None,
        attempt: AttemptRecord | None,
    ) -> tuple[Record, Callable[[], None]]:
        if outcome is Outcome.DELIVERED and job.missing is not None:
            code, error = ErrorCode.INCOMPLETE, job.missing
        target = job.write(final_state(job, outcome), error, code) if job.ours else None
        return Record(attempt, target, job.item(outcome, error, code)), self._tell(job, outcome, code, error)

    def _tell(
        self, job: Job, outcome: Outcome, code: ErrorCode | None, error: DeliveryError | None
    ) -> Callable[[], None]:
        event = Finished(
            job.lead.id,
            job.route.name,
            job.route.account.credential_id,
            outcome,
            code,
            error.message if error else None,
            job.remote_id,
        )
        return lambda: self._observer(event)

    def _requeue(
        self,
        queue: AccountQueue,
        job: Job,
        delay: float,
        attempt: AttemptRecord | None,
        *,
        wrote: TargetWrite | None = None,
    ) -> tuple[Record, Callable[[], None]]:
        """Later again. A row in doubt stays ours (``sending``); one that was surely not executed is let go."""
        if wrote is None and not job.in_doubt:
            wrote = job.write(TargetState.INCOMPLETE if job.main_done else TargetState.IDLE)
        if not job.ours:
            wrote = None
        if wrote is not None:
            job.let_go()
        now = self._clock.monotonic()
        return Record(attempt, wrote), lambda: queue.put(job, now + delay, self._clock.monotonic())

    async def _commit(self, records: Sequence[Record], moves: Sequence[Callable[[], None]]) -> None:
        if records:
            await asyncio.shield(self._ledger.record(self._run_id, records))
        for move in moves:
            move()

    def _attempt(self, step: Step, job: Job, receipt: Receipt, answered: Answered) -> AttemptRecord:
        error = receipt if isinstance(receipt, DeliveryError) else None
        outcome = "done" if error is None else snake(type(error))
        status = (error.http_status if error else None) or answered.http_status
        code = error.vendor_code if error else None
        account = job.route.account
        self._observer(
            Attempted(
                self._run_id,
                job.lead.id,
                account.channel,
                account.credential_id,
                job.attempts,
                outcome,
                status,
                code,
                round(answered.seconds * 1000),
                job.trigger,
            )
        )
        return job.attempt(
            step,
            job.trigger,
            answered.started,
            answered.ended,
            outcome,
            http_status=status,
            vendor_code=code,
            answer=(f"{error.message} {error.answer}".strip() if error else answered.answer),
            request_digest=answered.digest,
        )

    def _pause(self, queue: AccountQueue, seconds: float | None, scope: str | None, error: DeliveryError) -> None:
        if self._limiter.pause_left(queue.buckets) > 0:
            return  # the same answer for each delivery of the batch: one pause
        pause = self._limiter.pause(queue.buckets, seconds, scope)
        account = queue.route.account
        self._observer(Throttling(account.channel, account.credential_id, pause, error.message))

    def _count_refusal(self, queue: AccountQueue, error: DeliveryError) -> None:
        if not isinstance(error, Rejected) or queue.accepted_any:
            return
        kind = (error.vendor_code, error.path)
        queue.equal_refusals = queue.equal_refusals + 1 if kind == queue.refusal else 1
        queue.refusal = kind

    def _refuses_all(self, queue: AccountQueue) -> bool:
        return self._bulk and not queue.accepted_any and queue.equal_refusals >= EQUAL_REFUSALS


def _park_code(error: DeliveryError) -> ErrorCode:
    if isinstance(error, LimitReached):
        return ErrorCode.LIMIT_REACHED
    if isinstance(error, Unusable) and error.address_not_allowed:
        return ErrorCode.ADDRESS_NOT_ALLOWED
    return ErrorCode.CREDENTIAL_REFUSED
