"""Queues: one per credential, and the lane that credentials with one narrowest limit share."""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from leadctl.channelkit.channel import Channel
from leadctl.channelkit.spec import Bucket, Step
from leadctl.delivery.breaker import Breaker
from leadctl.delivery.jobs import Job, Mode, Route
from leadctl.domain.errors import DeliveryError
from leadctl.domain.outcomes import ErrorCode

#: The next pending deliveries of one credential, in order; an empty list: no more.
Source = Callable[[int], Awaitable[list[Job]]]

#: In a bulk run the first delivery of a credential goes alone, then a few: what is wrong shows on them.
RAMP = (1, 5)

#: So few are left of a window when the next one is claimed.
WINDOW_LOW = 100

#: How many deliveries are fetched at once: bounds memory, whatever the size of the run.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliveries of one credential that are at the same step, for one request."""

    queue: "AccountQueue"
    step: Step
    mode: Mode
    jobs: list[Job]


@dataclass(frozen=True, slots=True)
class Parking:
    """Why a credential sends nothing more in this run."""

    code: ErrorCode
    error: DeliveryError


@dataclass(slots=True)
class AccountQueue:
    """What waits for one credential. Times are monotonic seconds."""

    route: Route
    source: Source
    buckets: Sequence[Bucket]
    parking: Parking | None = None
    #: How many requests of the main step were accepted, up to the end of :data:`RAMP`; None: no ramp.
    level: int | None = None
    in_flight: int = 0
    #: Requests that had a place in the limiter.
    placed: int = 0
    #: A smaller batch than the channel's, after a refusal of its size.
    batch_cap: int | None = None
    #: The first refusals in a row with one code and path: a wrong configuration refuses everything alike.
    equal_refusals: int = 0
    accepted_any: bool = False
    refusal: tuple[str | None, str | None] | None = None
    #: A window of deliveries is being claimed just now.
    claiming: bool = False
    _ready: deque[Job] = field(default_factory=deque)
    #: Claimed already: they go first, whatever else is ready.
    _ahead: deque[Job] = field(default_factory=deque)
    _later: list[tuple[float, int, Job]] = field(default_factory=list)
    _exhausted: bool = False
    _order: Iterator[int] = field(default_factory=itertools.count)
    _filling: asyncio.Lock = field(default_factory=asyncio.Lock)

    def put(self, job: Job, due: float) -> None:
        """Again at that time, before what is fresh: a lead is taken to its end before the next one is begun."""
        job.due = due
        heapq.heappush(self._later, (due, next(self._order), job))

    def wake(self, now: float) -> None:
        """What is due becomes ready, before what is fresh."""
        due: list[Job] = []
        while self._later and self._later[0][0] <= now:
            due.append(heapq.heappop(self._later)[2])
        self._ready.extendleft(reversed(due))

    async def fill(self) -> None:
        """Fetch more, if what is ready would not fill a request."""
        if self.parking or self._exhausted or len(self._ahead) > WINDOW_LOW:
            return
        if self._ahead and self._filling.locked():
            return  # one who fetches is enough, while the others have something to send
        async with self._filling:
            while not self._exhausted and len(self._ready) < self._wanted():
                fresh = await self.source(PAGE)
                self._exhausted = not fresh
                self._ready.extend(fresh)

    def _wanted(self) -> int:
        return max(step.batch for step in self.route.channel.steps)

    def take(self, at_most: int | None = None) -> Batch | None:
        """The next request's deliveries: the first ready one, and others at the same step."""
        if self.parking or (self._ramp() and self.in_flight):
            return None
        if self._ahead and (self.claiming or not self._ready or len(self._ahead) > WINDOW_LOW):
            first = self._ahead.popleft()
            return Batch(self, first.step() or self.route.channel.steps[0], Mode.SEND, [first])
        if not self._ready:
            return None
        first = self._ready[0]
        step = first.step()
        if step is None:
            return Batch(self, self.route.channel.steps[0], Mode.NOTHING, [self._ready.popleft()])
        mode = first.mode(step)
        size = min(step.batch, self.route.channel.batch_size(step), self.batch_cap or step.batch)
        if mode is not Mode.LOOK:  # a look-up makes nothing: after a crash or a restored ledger all are asked for
            size = min(size, self._ramp() or size)
        if at_most is not None:
            size = min(size, at_most)
        if size <= 1 and not self._keyed:
            return Batch(self, step, mode, [self._ready.popleft()])
        jobs = self._pick(step, mode, max(1, size))
        return Batch(self, step, mode, jobs) if jobs else None

    def _ramp(self) -> int | None:
        """The most deliveries in the next request while the ramp lasts; then no two are under way."""
        return RAMP[self.level] if self.level is not None and self.level < len(RAMP) else None

    def accepted(self, step: Step) -> None:
        """A request was accepted. A contact says nothing of the deal that follows it, and a note nothing new."""
        if self.batch_cap is not None:  # what was refused for one delivery must not slow down all that follow it
            self.batch_cap *= 2
        if step.name != self._main.name:
            return
        self.accepted_any = True
        if self.level is not None:
            self.level += 1

    @property
    def _main(self) -> Step:
        return next(step for step in self.route.channel.steps if not step.preparatory)

    def _pick(self, step: Step, mode: Mode, size: int) -> list[Job]:
        picked: list[Job] = []
        passed: list[Job] = []
        keys = self._keys_later(step)
        scanned = 0
        while self._ready and len(picked) < size and scanned < 4 * PAGE:
            scanned += 1
            job = self._ready.popleft()
            at = job.step()
            fits = at is not None and at.name == step.name and job.mode(at) is mode
            alone = False
            if fits and mode is Mode.SEND:
                alone, free = self._company(step, job, keys)
                fits = free and not (alone and picked)
            (picked if fits else passed).append(job)
            if alone and fits:
                break
        self._ready.extendleft(reversed(passed))
        return picked

    def _company(self, step: Step, job: Job, keys: set[str]) -> tuple[bool, bool]:
        """Whether it must travel alone, and whether none before it has its batch key; adds that key to ``keys``."""
        channel, delivery = self.route.channel, job.delivery()
        key = channel.batch_key(step, delivery)
        free = key is None or key not in keys
        if key is not None:
            keys.add(key)  # of those that were passed over too: nothing overtakes them
        return channel.batch_alone(step, delivery), free

    @property
    def _keyed(self) -> bool:
        """Whether the channel has batch keys at all."""
        return type(self.route.channel).batch_key is not Channel.batch_key

    def _keys_later(self, step: Step) -> set[str]:
        """Batch keys of those that wait to be sent again: what has the same key waits behind them."""
        later = [job for _, _, job in self._later] if self._keyed else []
        keys = {self.route.channel.batch_key(step, job.delivery()) for job in later}
        return {key for key in keys if key is not None}

    @property
    def ramping(self) -> bool:
        return self._ramp() is not None

    def take_more(self, step: Step, count: int) -> list[Job]:
        """Further deliveries to be claimed together with one that :meth:`take` gave."""
        more: list[Job] = []
        while self._ready and len(more) < count and not self._keyed:
            at = self._ready[0].step()
            if at is None or at.name != step.name or self._ready[0].mode(at) is not Mode.SEND:
                break
            more.append(self._ready.popleft())
        return more

    def put_ahead(self, jobs: Sequence[Job]) -> None:
        """They are claimed."""
        self._ahead.extend(jobs)

    def unplaced(self) -> int:
        """How many requests were made without a place (a login, the pages of a look-up) since the last look."""
        made = self.route.channel.exchanges
        more = max(0, made - self.placed)
        self.placed = made if self.in_flight <= 1 else self.placed + more
        return more

    def next_due(self) -> float | None:
        if self.parking:
            return None
        return self._later[0][0] if self._later else None

    @property
    def idle(self) -> bool:
        """Nothing ready, nothing waiting, nothing more to fetch; or parked."""
        waiting = self._ahead or self._ready or self._later or not self._exhausted
        return self.parking is not None or not waiting

    def empty(self) -> list[Job]:
        """Take everything out that is in memory."""
        jobs = [*self._ahead, *self._ready, *(job for _, _, job in sorted(self._later, key=lambda entry: entry[:2]))]
        self._ahead.clear()
        self._ready.clear()
        self._later.clear()
        self._exhausted = True
        return jobs


@dataclass(slots=True)
class Lane:
    """The credentials behind one narrowest limit. They take turns."""

    scope: str
    queues: list[AccountQueue]
    breaker: Breaker
    busy: int = 0
    probing: bool = False
    #: Deliveries whose requests failed in a row: the breaker wants different ones.
    failed_keys: set[str] = field(default_factory=set)
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)
    _turn: int = 0

    @property
    def concurrency(self) -> int:
        return max(queue.route.channel.spec.concurrency for queue in self.queues)

    async def next_batch(self, now: float, at_most: int | None = None) -> Batch | None:
        """The next request of the credential whose turn it is."""
        for offset in range(len(self.queues)):
            queue = self.queues[(self._turn + offset) % len(self.queues)]
            queue.wake(now)
            await queue.fill()
            batch = queue.take(at_most)
            if batch is not None:
                self._turn = (self._turn + offset + 1) % len(self.queues)
                return batch
        return None

    def next_due(self) -> float | None:
        dues = [due for queue in self.queues if (due := queue.next_due()) is not None]
        return min(dues, default=None)

    @property
    def finished(self) -> bool:
        return self.busy == 0 and all(queue.idle for queue in self.queues)

    def changed(self) -> "asyncio.Future[None]":
        """Done at the next :meth:`wake`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def wake(self) -> None:
        """Something changed: whoever waits looks again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def lanes_of(queues: Sequence[AccountQueue], scale: float) -> list[Lane]:
    """Lanes by the narrowest bucket."""
    lanes: dict[str, Lane] = {}
    for queue in queues:
        scope = queue.buckets[-1].scope
        lanes.setdefault(scope, Lane(scope, [], Breaker(scale=scale))).queues.append(queue)
    return list(lanes.values())
