"""After the answer: receipts and findings become records of the ledger, and the deliveries' next moves.

The order is the promise: the outcome is committed first; only then does a delivery move on.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from leadctl.channelkit.spec import Step
from leadctl.delivery.ending import Endings, Settled
from leadctl.delivery.jobs import Job
from leadctl.delivery.lanes import AccountQueue, Batch
from leadctl.delivery.reconcile import after_finding
from leadctl.delivery.retries import Again, Final, Halve, Look, Park, Pause, backoff, decide, tries_spent
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Split,
    Stopped,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Attempted, Notice, Throttling
from leadctl.domain.model import Absent, CannotTell, Done, Finding, Found, Receipt
from leadctl.domain.outcomes import ErrorCode, Outcome, SettledBy, TargetState
from leadctl.domain.ports import AttemptRecord, Record

#: So many equal refusals at the start of a bulk run are a wrong configuration, not wrong leads.
EQUAL_REFUSALS = 20

#: Clocks are set, and those of two hosts differ: within this many seconds the wall clock proves nothing.
CLOCKS_DIFFER = 3600.0


def snake(kind: type[object]) -> str:
    """``LimitReached`` → ``limit_reached``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _is_end(record: Record) -> bool:
    """Nothing follows that must wait for the commit."""
    return record.item is not None and record.item.outcome is Outcome.DELIVERED


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of one request, beside its receipts. ``seconds``: how long it took."""

    started: datetime
    ended: datetime
    seconds: float
    context: Mapping[str, str]
    http_status: int | None
    digest: str | None
    #: It was sent to see whether an outage is over: that costs the delivery neither tries nor time.
    probe: bool = False
    #: It is one of a window: what became of it may be committed a moment later, with others.
    together: bool = False


class Settler(Endings):
    """Reads receipts and findings. One per engine."""

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
        """One answered request. ``claimed`` False: it never began (``prepare`` failed, or the run was stopped)."""
        records: list[Record] = []
        moves: list[Callable[[], None]] = []
        parking: DeliveryError | None = None
        throttled = False
        for job in jobs:
            receipt = receipts.get(job.key) or Ambiguous("the vendor's answer does not name this delivery")
            if isinstance(receipt, Split):
                receipt = receipt.refused.get(job.key, receipt)
            job.attempts += claimed
            job.spent += 0.0 if answered.probe else answered.seconds
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
        if any(isinstance(receipts.get(job.key), Done) for job in jobs):
            batch.queue.accepted(batch.step)
        if not throttled:
            self._limiter.passed(batch.queue.buckets)
        if answered.together and all(_is_end(record) for record in records):
            await self._commit_soon(records, moves)
        else:
            await self._commit(records, moves)
        if parking is not None:
            await self.park(batch.queue, parking)
        elif self._refuses_all(batch.queue):
            error = Unusable(f"the first {EQUAL_REFUSALS} leads were all refused alike: the configuration is wrong")
            await self.park(batch.queue, error)

    def _done(self, queue: AccountQueue, step: Step, job: Job, done: Done, attempt: AttemptRecord | None) -> Settled:
        if job.in_doubt and job.settled_by is None and not job.main_done:
            job.settled_by = SettledBy.RESEND
        job.accept(step, done)
        if done.open:
            return self._open_parts(queue, step, job, done, attempt)
        return self._next(queue, job, attempt)

    def _open_parts(
        self, queue: AccountQueue, step: Step, job: Job, done: Done, attempt: AttemptRecord | None
    ) -> Settled:
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

    def _next(self, queue: AccountQueue, job: Job, attempt: AttemptRecord | None) -> Settled:
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
    ) -> Settled:
        step, queue = batch.step, batch.queue
        if isinstance(error, Split) and not error.executed_maybe and size == 1:
            error = Rejected(error.message, vendor_code=error.vendor_code, http_status=error.http_status)
        if isinstance(error, (Transient, Ambiguous)) and not isinstance(error, Stopped) and not answered.probe:
            job.tries += 1
        if isinstance(error, Ambiguous) or (isinstance(error, Split) and error.executed_maybe):
            now = self._clock.monotonic()
            job.doubt(answered.context, answered.started, max(now, now - answered.seconds + self._busy(step)))
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
                if outcome is Outcome.REJECTED:
                    job.absent()  # refused under the same key: that answers an earlier attempt as well
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
    ) -> Settled:
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
            record, move = self._after_look(batch, job, finding, self._clock.monotonic() - seconds, attempt)
            records.append(record)
            moves.append(move)
        self._limiter.passed(batch.queue.buckets)
        await self._commit(records, moves)

    def _after_look(self, batch: Batch, job: Job, finding: Finding, asked: float, attempt: AttemptRecord) -> Settled:
        queue, step = batch.queue, batch.step
        if isinstance(finding, Found):
            if finding.duplicates:
                self._notice_duplicates(queue, job, finding)
            if not job.main_done:
                job.settled_by = SettledBy.LOOKUP
            queue.accepted_any = queue.accepted_any or not step.preparatory
            job.accept(step, Done(finding.remote_id, finding.remote_url, finding.parts))
            return self._next(queue, job, attempt)
        job.untold = isinstance(finding, CannotTell) and finding.final
        if isinstance(finding, Absent) or job.untold:
            job.looks_done += self._is_proof(job, step, asked)
        else:
            job.look_failures += 1
        move = after_finding(finding, job.looks_done, job.look_failures, job.facts(step), self._policy)
        match move:
            case Look():
                return self._requeue(queue, job, self._look_due(job, move), attempt)
            case Again() if job.untold:
                job.repeating = True
                return self._requeue(queue, job, 0.0, attempt)
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
            batch.queue.put(job, now)
        if isinstance(error, Throttled):
            self._pause(batch.queue, error.retry_after, error.scope, error)
            await self._limiter.publish()
        else:
            await self.park(batch.queue, error)

    def _look_due(self, job: Job, look: Look) -> float:
        """Seconds from now until the look-up; they count against the delivery's time."""
        delay = look.delay if look.from_now else look.delay - (self._clock.monotonic() - self._sent(job))
        delay = max(0.0, delay)
        job.spent += delay
        return delay

    def _is_proof(self, job: Job, step: Step, asked: float) -> bool:
        """An absence that is seen before its time (after a crash the first look-up comes at once) proves nothing."""
        if job.looks_done >= len(step.looks):
            return True
        return asked - self._sent(job) >= step.looks[job.looks_done] / self._policy.scale - 0.001

    def _busy(self, step: Step | None) -> float:
        return (step.busy if step else 0.0) / self._policy.scale

    def _sent(self, job: Job) -> float:
        """Monotonic time at which the attempt in doubt was over, or later. Of another process's attempt only the wall
        clock tells: where that proves nothing, it counts from the first look-up of this process."""
        now = self._clock.monotonic()
        if job.since is None:
            ago = (self._clock.now() - job.sent_at).total_seconds() if job.sent_at else 0.0
            job.since = now - ago if ago > CLOCKS_DIFFER else now + self._busy(job.step())
        return job.since

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

    # --- shared ---------------------------------------------------------------------------------------------

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
            # A success is proven by its remote id; its answer may repeat the lead's own words (Telegram, Bitrix24).
            answer=f"{error.message} {error.answer}".strip() if error else "",
            request_digest=answered.digest,
        )

    def _pause(self, queue: AccountQueue, seconds: float | None, scope: str | None, error: DeliveryError) -> None:
        if self._limiter.pause_left(queue.buckets) > 0:
            return  # the same answer for each delivery of the batch: one pause
        pause = self._limiter.pause(queue.buckets, seconds, scope)
        account = queue.route.account
        self._observer(Throttling(account.channel, account.credential_id, round(pause, 3), error.message))

    def _count_refusal(self, queue: AccountQueue, error: DeliveryError) -> None:
        if not isinstance(error, Rejected) or queue.accepted_any:
            return
        kind = (error.vendor_code, error.path)
        queue.equal_refusals = queue.equal_refusals + 1 if kind == queue.refusal else 1
        queue.refusal = kind

    def _refuses_all(self, queue: AccountQueue) -> bool:
        return self._bulk and not queue.accepted_any and queue.equal_refusals >= EQUAL_REFUSALS
