"""The ends of deliveries: outcomes of the run, parked credentials, and the commit that comes before every move."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from leadctl.delivery.jobs import Job, final_state
from leadctl.delivery.lanes import AccountQueue, Batch, Parking
from leadctl.delivery.limits import Limiter
from leadctl.delivery.retries import Policy
from leadctl.domain.errors import Ambiguous, DeliveryError, LimitReached, Transient, Unusable
from leadctl.domain.events import Finished, Parked
from leadctl.domain.model import CredentialId
from leadctl.domain.outcomes import ErrorCode, Outcome, TargetState
from leadctl.domain.ports import AttemptRecord, Clock, Ledger, Observer, Record, Refusal, TargetWrite

#: Seconds between looks at a delivery that another process holds.
HELD_POLL = 1.0
#: Seconds in which answers are gathered for one commit, where their lanes do not wait for it.
GATHERED = 0.02
#: So many deliveries may be answered for and not committed yet; then their lanes wait.
MOST_UNSAVED = 500
#: A record to be committed, and what the delivery does after that.
Settled = tuple[Record, Callable[[], None]]


class Endings:
    """How deliveries end, and the one way in which anything is committed."""

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
        #: Called when what was answered can't be committed: nothing more may be sent. :meth:`saved` says why.
        self.when_broken: Callable[[], None] = lambda: None
        #: By credential: how many ended unknown although the vendor was asked, and could never tell.
        self.untold: Counter[CredentialId] = Counter()
        self._unsaved: list[Settled] = []
        self._saving: asyncio.Task[None] | None = None

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

    async def hold(self, jobs: Sequence[Job]) -> None:
        """In doubt, and for a person to settle: no request."""
        error = Ambiguous("an earlier attempt may have arrived; look at the vendor, then: leadctl settle")
        ended = [self._finish(job, Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED, error, None) for job in jobs]
        await self._commit([record for record, _ in ended], [move for _, move in ended])

    async def refused(self, batch: Batch, job: Job, claim: Refusal) -> None:
        """The row is not as it was planned: somebody else was faster."""
        now = self._clock.monotonic()
        if claim.target.state is TargetState.DELIVERED:
            job.remote_id, job.remote_url = claim.target.remote_id, claim.target.remote_url
            await self._finish_quietly([job], Outcome.ALREADY_DELIVERED, None, None)
        elif not claim.held:
            job.adopt(claim.target)
            batch.queue.put(job, now)  # as the row says now: to be asked for, sent, or left alone
        else:
            job.held_since = now if job.held_since is None else job.held_since
            waited = self._policy.timeout if self._policy.held is None else self._policy.held
            if now - job.held_since > waited / self._policy.scale:
                error = Transient("another process of leadctl is sending it")
                await self._finish_quietly([job], Outcome.UNPROCESSED, ErrorCode.IN_USE_ELSEWHERE, error)
            else:
                batch.queue.put(job, now + HELD_POLL)

    async def after_bug(self, batch: Batch, bug: DeliveryError) -> None:
        """A bug of ours in the middle: what may have left is unknown."""
        records: list[Record] = []
        moves: list[Callable[[], None]] = []
        for job in batch.jobs:
            if not job.ours:
                batch.queue.put(job, 0.0)
                continue
            job.doubt(job.context, self._clock.now(), self._clock.monotonic())
            record, move = self._finish(job, Outcome.UNKNOWN, ErrorCode.BUG, bug, None)
            records.append(record)
            moves.append(move)
        await self._commit(records, moves)

    def _end_unprocessed(
        self, job: Job, code: ErrorCode, error: DeliveryError, attempt: AttemptRecord | None
    ) -> Settled:
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
    ) -> Settled:
        if outcome is Outcome.DELIVERED and job.missing is not None:
            code, error = ErrorCode.INCOMPLETE, job.missing
        if outcome is Outcome.UNKNOWN and job.untold:
            self.untold[job.route.account.credential_id] += 1
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
    ) -> Settled:
        """Later again. A row in doubt stays ours (``sending``); one that was surely not executed is let go."""
        if wrote is None and not job.in_doubt:
            wrote = job.write(TargetState.INCOMPLETE if job.main_done else TargetState.IDLE)
        if not job.ours:
            wrote = None
        if wrote is not None:
            job.let_go()
        now = self._clock.monotonic()
        return Record(attempt, wrote), lambda: queue.put(job, now + delay)

    async def _commit(self, records: Sequence[Record], moves: Sequence[Callable[[], None]]) -> None:
        if records:
            writing = asyncio.ensure_future(self._ledger.record(self._run_id, records))
            writing.add_done_callback(_heard)
            await asyncio.shield(writing)
        await self._limiter.publish()
        for move in moves:
            move()

    async def _commit_soon(self, records: Sequence[Record], moves: Sequence[Callable[[], None]]) -> None:
        """Commit together with what else is answered meanwhile; the caller goes on. A crash before that leaves these
        deliveries in doubt, so only what can be sent again may come here."""
        self._unsaved.extend(zip(records, moves, strict=True))
        if self._saving is None or self._saving.done():
            await self.saved()
            self._saving = asyncio.create_task(self._save())
            self._saving.add_done_callback(self._end_of_saving)
        elif len(self._unsaved) >= MOST_UNSAVED:
            await self.saved()

    def _end_of_saving(self, saving: asyncio.Task[None]) -> None:
        if not saving.cancelled() and saving.exception() is not None:
            self.when_broken()

    async def _save(self) -> None:
        while self._unsaved:
            if len(self._unsaved) < MOST_UNSAVED:
                await self._clock.sleep(GATHERED)
            some, self._unsaved = self._unsaved, []
            await self._commit([record for record, _ in some], [move for _, move in some])

    async def saved(self) -> None:
        """Until everything that was answered is committed. Raises what a commit raises."""
        if self._saving is not None:
            await asyncio.shield(self._saving)


def _heard(writing: "asyncio.Future[None]") -> None:
    """A worker that is cancelled, since another one met the ledger's failure first, does not hear of its own."""
    if not writing.cancelled():
        writing.exception()


def _park_code(error: DeliveryError) -> ErrorCode:
    if isinstance(error, LimitReached):
        return ErrorCode.LIMIT_REACHED
    if isinstance(error, Unusable) and error.address_not_allowed:
        return ErrorCode.ADDRESS_NOT_ALLOWED
    return ErrorCode.CREDENTIAL_REFUSED
