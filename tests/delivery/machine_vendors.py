"""Model vendors for the state machine: one per kind of :class:`Retransmit`, their faults, and the truth they hold."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, cast

from leadctl.channelkit.channel import Channel, ChannelConfig, ChannelSettings
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
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
from leadctl.domain.model import Absent, CannotTell, Delivery, Destination, Done, Finding, Found, Receipt, Verdict

if TYPE_CHECKING:
    from tests.delivery.machine_world import Process

#: Seconds until a vendor's index shows what was stored. With :data:`LATEST` it stays below the last look.
LAG = 12.0
LATEST = 20.0
LOOKS = (8.0, 45.0)


class Fate(StrEnum):
    """What becomes of a request."""

    WELL = "well"
    REFUSED = "refused"
    BUSY = "busy"
    LOST = "lost"
    HUNG = "hung"
    LATE = "late"
    BROKEN = "broken"
    SLOW = "slow"
    HASTY = "hasty"
    BANNED = "banned"
    HALF = "half"
    SPLIT = "split"
    STORED_SPLIT = "stored_split"
    LARGE = "large"
    MUTE = "mute"


@dataclass(frozen=True, slots=True)
class Course:
    """``stored``: seconds until the vendor has it, None: never; ``answered``: until the caller knows anything."""

    stored: float | None
    answered: float
    error: Callable[[], DeliveryError] | None = None


COURSES: Mapping[Fate, Course] = {
    Fate.WELL: Course(0.2, 0.4),
    Fate.REFUSED: Course(None, 0.1, lambda: Transient("connection refused")),
    Fate.BUSY: Course(None, 0.2, lambda: Transient("busy", http_status=503, retry_after=5.0)),
    Fate.LOST: Course(None, 30.0, lambda: Ambiguous("timed out")),
    Fate.HUNG: Course(0.2, 30.0, lambda: Ambiguous("timed out")),
    Fate.LATE: Course(LATEST, 30.0, lambda: Ambiguous("timed out")),
    Fate.BROKEN: Course(0.2, 0.4, lambda: Ambiguous("bad gateway", http_status=502)),
    Fate.SLOW: Course(None, 0.2, lambda: Throttled("slow down", retry_after=40.0)),
    Fate.HASTY: Course(None, 0.2, lambda: Throttled("too many requests")),
    Fate.BANNED: Course(None, 0.2, lambda: LimitReached("the day's quota is spent")),
    Fate.HALF: Course(0.2, 0.4),
    Fate.SPLIT: Course(None, 0.4),
    Fate.STORED_SPLIT: Course(0.2, 0.4),
    Fate.LARGE: Course(None, 0.4),
    #: Of a look-up: it will never tell.
    Fate.MUTE: Course(0.2, 0.4),
}
#: During an outage every request goes like this.
OUTAGES = (Fate.REFUSED, Fate.LOST, Fate.HUNG, Fate.BROKEN)


@dataclass(frozen=True, slots=True)
class Copy:
    """Something that the vendor made."""

    number: int
    account: str
    step: str
    lead: int
    key: str
    at: float


class Exchange:
    """One request on its way: the vendor executes it whether or not anybody waits for the answer."""

    def __init__(self, vendor: "Vendor", account: str, step: Step, batch: Sequence[Delivery], fate: Fate) -> None:
        self.vendor, self.account, self.step, self.batch, self.fate = vendor, account, step, batch, fate
        self.refused = [d.key for d in batch if d.lead.id in vendor.refuses and not vendor.knows(account, step, d)]
        #: The sender died before its bytes were out.
        self.cut = False
        self.stored, self.answered = asyncio.Event(), asyncio.Event()
        self.answer: Verdict | DeliveryError = Verdict({})
        course = COURSES[fate]
        loop = asyncio.get_running_loop()
        loop.call_later(course.answered if course.stored is None else course.stored, self._store)
        loop.call_later(course.answered, self._answer)

    def _store(self) -> None:
        if COURSES[self.fate].stored is not None and not self.cut:
            self.vendor.store(self.account, self.step, self.taken)
        self.stored.set()

    @property
    def taken(self) -> list[Delivery]:
        """What the vendor stores of the batch."""
        whole = [delivery for delivery in self.batch if delivery.key not in self.refused]
        if self.fate is Fate.HALF:
            return whole[: (len(whole) + 1) // 2]
        return whole[1:] if self.fate is Fate.STORED_SPLIT else whole

    def _answer(self) -> None:
        course = COURSES[self.fate]
        if self.fate in (Fate.SPLIT, Fate.STORED_SPLIT):
            refused = {self.batch[0].key: Rejected("this one is wrong", vendor_code="bad")}
            self.answer = Split("refused as a whole", refused=refused, executed_maybe=True)
        elif self.fate is Fate.LARGE:
            self.answer = Split("too many")
        else:
            self.answer = course.error() if course.error else Verdict(self._receipts(), 200)
        self.vendor.exchanges.discard(self)
        self.answered.set()

    def _receipts(self) -> dict[str, Receipt]:
        receipts: dict[str, Receipt] = {}
        for delivery in self.taken:
            number = self.vendor.number_of(self.account, self.step.name, delivery.key)
            receipts[delivery.key] = Done(str(number)) if number else Ambiguous("it was cut off")
        for key in self.refused:
            receipts[key] = Rejected("the vendor does not take this lead", vendor_code="no")
        return receipts


@dataclass
class Vendor:
    """One vendor with its accounts."""

    name: str
    kind: Retransmit
    copies: list[Copy] = field(default_factory=list)
    exchanges: set[Exchange] = field(default_factory=set)
    fates: deque[Fate] = field(default_factory=deque)
    outage: Fate | None = None
    #: The credential is refused (401).
    locked: bool = False
    #: Leads that it does not take.
    refuses: set[int] = field(default_factory=set)

    def next_fate(self) -> Fate:
        if self.outage is not None:
            return self.outage
        return self.fates.popleft() if self.fates else Fate.WELL

    def receive(self, account: str, step: Step, batch: Sequence[Delivery]) -> Exchange:
        fate = self.next_fate()
        known = any(self.knows(account, step, delivery) for delivery in batch)
        if (fate in (Fate.SPLIT, Fate.STORED_SPLIT) and known) or (fate is Fate.LARGE and len(batch) == 1):
            fate = Fate.WELL
        exchange = Exchange(self, account, step, batch, fate)
        self.exchanges.add(exchange)
        return exchange

    def knows(self, account: str, step: Step, delivery: Delivery) -> bool:
        """A vendor that keeps our keys recognises what it has, before it looks at anything else."""
        return self.kind is Retransmit.IDEMPOTENT and bool(self.number_of(account, step.name, delivery.key))

    def store(self, account: str, step: Step, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            if self.knows(account, step, delivery):
                continue
            now = asyncio.get_running_loop().time()
            lead = cast("int", delivery.lead.id)
            self.copies.append(Copy(len(self.copies) + 1, account, step.name, lead, delivery.key, now))

    def numbers_of(self, account: str, step: str, key: str) -> list[int]:
        return [copy.number for copy in self.copies if (copy.account, copy.step, copy.key) == (account, step, key)]

    def number_of(self, account: str, step: str, key: str) -> int | None:
        return next(iter(self.numbers_of(account, step, key)), None)

    def in_flight(self, key: str) -> bool:
        return any(delivery.key == key for exchange in self.exchanges for delivery in exchange.batch)

    def find(self, account: str, step: str, delivery: Delivery, now: float) -> Finding:
        """As amoCRM is asked: only what is newer than the highest id before the attempt, and in the index by now."""
        above = int(delivery.context["highest"])
        numbers = [
            copy.number
            for copy in self.copies
            if (copy.account, copy.step, copy.key) == (account, step, delivery.key)
            and copy.number > above
            and copy.at + LAG <= now
        ]
        return Found(str(numbers[0]), duplicates=tuple(map(str, numbers[1:]))) if numbers else Absent()


class ModelConfig(ChannelConfig):
    account: str
    box: str = "1"


class ModelChannel(Channel[ModelConfig, ChannelSettings]):
    """What leadctl sees of a model vendor. Its clock knows which process it is in."""

    Config = ModelConfig
    Settings = ChannelSettings

    @property
    def process(self) -> "Process":
        return cast("Any", self.toolbox.clock).process  # type: ignore[no-any-return]

    @property
    def vendor(self) -> Vendor:
        return self.process.world.vendors[self.spec.name]

    @property
    def account(self) -> str:
        return self.destination().account_key

    def destination(self) -> Destination:
        name, account = self.spec.name, self.config.account
        return Destination(name, (name, account), (name, account, self.config.box), account)

    def endpoints(self) -> Sequence[str]:
        return ()

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(f"{self.spec.name}:{self.config.account}", Limit(20, 1, 5, 20))]

    def needs(self, step: Step, delivery: Delivery) -> bool:
        return step.name != "note" or bool(delivery.lead.comment)

    async def prepare(self, step: Step) -> Mapping[str, str]:
        if step.retransmit is not Retransmit.LOOKUP:
            return {}
        await self._ask(self.vendor.outage or Fate.WELL)
        return {"highest": str(len(self.vendor.copies))}

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        process = self.process
        if self.vendor.locked:
            await process.clock.sleep(0.2)
            raise Unusable("the token is refused", http_status=401)
        process.world.audit.sends(process, self, step, batch)
        exchange = self.vendor.receive(self.account, step, batch)
        process.exchanges.append(exchange)
        await process.passes("in the request")
        await exchange.stored.wait()
        await process.passes("stored")
        await exchange.answered.wait()
        await process.passes("answered")
        if isinstance(exchange.answer, DeliveryError):
            raise exchange.answer
        return exchange.answer

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        if step.retransmit is not Retransmit.LOOKUP:
            return await super().find(step, batch)
        self.process.world.audit.asks(self.process, self)
        fate = self.vendor.next_fate()
        if fate is Fate.BROKEN:
            return {delivery.key: CannotTell("an answer that cannot be read") for delivery in batch}
        if fate is Fate.MUTE:
            return {delivery.key: CannotTell("no right to read", final=True) for delivery in batch}
        await self._ask(fate)
        now = asyncio.get_running_loop().time()
        asked = batch[::2] if fate is Fate.HALF else batch
        found = {delivery.key: self.vendor.find(self.account, step.name, delivery, now) for delivery in asked}
        await self.process.passes("looked")
        return found

    async def check(self) -> str:
        await self._ask(self.vendor.outage or Fate.WELL)
        return self.config.account

    async def _ask(self, fate: Fate) -> None:
        """A request that reads."""
        await self.process.passes("asking")
        course = COURSES[fate]
        await self.process.clock.sleep(course.answered)
        if self.vendor.locked:
            raise Unusable("the token is refused", http_status=401)
        if course.error:
            raise course.error()


def _channel(name: str, *steps: Step, concurrency: int = 1) -> type[ModelChannel]:
    class Model(ModelChannel):
        spec: ClassVar[ChannelSpec] = ChannelSpec(
            name, name, "https://example.com", steps, limits="", repeat="", concurrency=concurrency
        )

    return Model


#: By the channel's name: the main step's batch is small, so that batches differ within few leads.
CHANNELS: Mapping[str, type[ModelChannel]] = {
    "blind": _channel("blind", Step("message", Retransmit.BLIND)),
    "held": _channel("held", Step("lead", Retransmit.LOOKUP, batch=2, looks=LOOKS)),
    "indexed": _channel(
        "indexed",
        Step("lead", Retransmit.LOOKUP, batch=3, looks=LOOKS),
        Step("note", Retransmit.LOOKUP, batch=3, looks=LOOKS),
    ),
    "keyed": _channel("keyed", Step("event", Retransmit.IDEMPOTENT), concurrency=2),
    "staged": _channel(
        "staged",
        Step("contact", Retransmit.LOOKUP, batch=2, looks=LOOKS, preparatory=True),
        Step("deal", Retransmit.LOOKUP, batch=2, looks=LOOKS),
    ),
}


def main_step(name: str) -> Step:
    """The step that makes a delivery delivered."""
    return next(step for step in CHANNELS[name].spec.steps if not step.preparatory)
