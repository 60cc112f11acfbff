"""Claims: nothing is sent before its intent is on disk."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from leadctl.channelkit.spec import Retransmit
from leadctl.delivery.breaker import BreakerState
from leadctl.delivery.jobs import Job
from leadctl.delivery.lanes import Batch, Lane
from leadctl.delivery.limits import Limiter
from leadctl.delivery.settling import Settler, snake
from leadctl.domain.errors import Ambiguous
from leadctl.domain.ports import Clock, Granted, Ledger, Record

#: Where a repeat does no harm, a bulk run claims so many deliveries in one commit before their requests begin; at most
#: as many as the limits let through in so many seconds. After a crash they are sent again, under the same keys.
WINDOW = 200
WINDOW_SECONDS = 0.1


class Claims:
    """Writes the intents of one run: of a request at its last moment, or of a window."""

    def __init__(
        self, run_id: str, ledger: Ledger, clock: Clock, limiter: Limiter, settler: Settler, *, bulk: bool
    ) -> None:
        self._run_id = run_id
        self._ledger = ledger
        self._clock = clock
        self._limiter = limiter
        self._settler = settler
        self._bulk = bulk

    async def claim(self, batch: Batch, now: datetime | None, context: Mapping[str, str]) -> list[Job]:
        """Write the intents; those granted. ``now`` None: take over what is in doubt, as it is."""
        intents = [
            job.intent(batch.step, now or job.sent_at or self._clock.now(), job.context if job.in_doubt else context)
            for job in batch.jobs
        ]
        claims = await self._ledger.claim(self._run_id, intents)
        granted: list[Job] = []
        crashed: list[Record] = []
        for job, claim in zip(batch.jobs, claims, strict=True):
            if not isinstance(claim, Granted):
                await self._settler.refused(batch, job, claim)
                continue
            if job.crashed and job.sent_at is not None:
                lost = job.attempt(batch.step, job.trigger, job.sent_at, None, snake(Ambiguous))
                crashed.append(Record(attempt=lost))
            job.granted(claim.target)
            granted.append(job)
        if crashed:
            await self._ledger.record(self._run_id, crashed)
        return granted

    async def claimed(self, lane: Lane, batch: Batch, window: int, context: Mapping[str, str]) -> list[Job]:
        """Claim the batch, with a window of so many behind it; those of the batch that were granted."""
        if window:
            return await self.window(lane, batch, window)
        return await self.claim(batch, self._clock.now(), context)

    def size(self, lane: Lane, batch: Batch) -> int:
        """How many deliveries are claimed together with this one; 0: it is claimed alone, at the last moment."""
        queue, step = batch.queue, batch.step
        # What is in doubt there is for a person: it must not become more than what was really sent.
        repeatable = step.retransmit is Retransmit.IDEMPOTENT and step.batch == 1 and not queue.route.hold
        if not self._bulk or not repeatable or queue.ramping or lane.breaker.state is not BreakerState.CLOSED:
            return 0
        return min(WINDOW, self._limiter.within(queue.buckets, WINDOW_SECONDS))

    async def window(self, lane: Lane, batch: Batch, window: int) -> list[Job]:
        """Claim this delivery, and those behind it: their requests need no claim any more."""
        queue = batch.queue
        jobs = [*batch.jobs, *queue.take_more(batch.step, window)]
        queue.claiming = True
        try:
            granted = await self.claim(replace(batch, jobs=jobs), self._clock.now(), {})
        finally:
            queue.claiming = False
        first = [job for job in granted[:1] if job is batch.jobs[0]]
        for job in granted[len(first) :]:
            job.ahead = True
        queue.put_ahead(granted[len(first) :])
        lane.wake()
        return first
