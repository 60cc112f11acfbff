"""A scripted channel and an engine over a virtual clock."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from leadctl.channelkit.channel import Channel, ChannelConfig, ChannelSettings, Toolbox
from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.delivery.engine import Engine, EngineReport
from leadctl.delivery.jobs import Job, Route
from leadctl.delivery.lanes import AccountQueue
from leadctl.delivery.limits import Limiter
from leadctl.delivery.retries import Policy
from leadctl.domain.errors import DeliveryError
from leadctl.domain.events import Event
from leadctl.domain.model import Account, Delivery, Destination, Done, Finding, Lead, Receipt, Verdict
from leadctl.testing.fakes import MemoryCredentials
from tests.support.memory_ledger import MemoryLedger
from tests.support.virtual import START, LoopClock

Reply = Receipt | float  # a float: seconds that the request takes before the next reply counts


class ScriptedConfig(ChannelConfig):
    pass


class Scripted(Channel[ScriptedConfig, ChannelSettings]):
    """Answers from a script per lead id; Done when the script is empty."""

    spec: ClassVar[ChannelSpec] = ChannelSpec(
        name="scripted", title="Scripted", docs="https://example.com", steps=(), limits="none", repeat="none"
    )
    Config = ScriptedConfig
    Settings = ChannelSettings

    def __init__(self, steps: tuple[Step, ...], hold: bool = False, limit: Limit | None = None) -> None:
        toolbox = Toolbox(7, NetworkGuard(), LoopClock(), MemoryCredentials())
        super().__init__(ScriptedConfig(), ChannelSettings(on_unknown="hold" if hold else "settle"), toolbox)
        self._steps = steps
        self._limit = limit or Limit(1000, 1, 1000, 1000)
        self.script: dict[Any, list[Reply]] = defaultdict(list)
        self.findings: dict[Any, list[Finding | DeliveryError]] = defaultdict(list)
        self.checks: list[DeliveryError | None] = []
        self.whole: list[DeliveryError] = []
        self.prepared: list[DeliveryError] = []
        self.prepared_context: Mapping[str, str] = {"mark": "1"}
        self.sent: list[tuple[float, str, list[Any]]] = []
        self.looked: list[tuple[float, str, list[Any]]] = []
        self.deliveries: list[Delivery] = []
        self.scope = "scripted"

    @property
    def steps(self) -> tuple[Step, ...]:
        return self._steps

    def destination(self) -> Destination:
        return Destination("scripted", ("a",), ("a",), "a")

    def endpoints(self) -> Sequence[str]:
        return ()

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(self.scope, self._limit)]

    async def prepare(self, step: Step) -> Mapping[str, str]:
        if self.prepared:
            raise self.prepared.pop(0)
        return self.prepared_context

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        self.sent.append((self.toolbox.clock.monotonic(), step.name, [d.lead.id for d in batch]))
        self.deliveries.extend(batch)
        if self.whole:
            raise self.whole.pop(0)
        receipts: dict[str, Receipt] = {}
        for delivery in batch:
            script = self.script[delivery.lead.id]
            reply = script.pop(0) if script else Done(f"r{delivery.lead.id}")
            if isinstance(reply, float):
                await asyncio.sleep(reply)
                reply = script.pop(0) if script else Done(f"r{delivery.lead.id}")
            assert not isinstance(reply, float)
            if isinstance(reply, DeliveryError) and reply.message == "whole":
                raise reply
            receipts[delivery.key] = reply
        return Verdict(receipts, 200)

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        self.looked.append((self.toolbox.clock.monotonic(), step.name, [d.lead.id for d in batch]))
        found: dict[str, Finding] = {}
        for delivery in batch:
            answer = self.findings[delivery.lead.id].pop(0)
            if isinstance(answer, DeliveryError):
                raise answer
            found[delivery.key] = answer
        return found

    async def check(self) -> str:
        error = self.checks.pop(0) if self.checks else None
        if error:
            raise error
        return "scripted"


@dataclass
class World:
    """One credential, one ledger, one run."""

    channel: Scripted
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    policy: Policy = field(default_factory=Policy)
    events: list[Event] = field(default_factory=list)
    bulk: bool = False
    clock: LoopClock = field(default_factory=LoopClock)
    engine: Engine | None = None
    queues: list[AccountQueue] = field(default_factory=list)

    @property
    def route(self) -> Route:
        return Route(Account(7, "scripted"), self.channel, "acc")

    def job(self, lead_id: int, **changes: Any) -> Job:
        job = Job(self.route, Lead(lead_id), "dest", 0, f"k{lead_id}", START)
        row = self.ledger.targets.get((lead_id, "dest", 0))
        if row is not None:
            job.adopt(row)
        for name, value in changes.items():
            setattr(job, name, value)
        return job

    def queue(self, jobs: Sequence[Job], channel: Scripted | None = None) -> AccountQueue:
        pages = [list(jobs)]

        async def source(limit: int) -> list[Job]:
            return pages.pop(0) if pages else []

        channel = channel or self.channel
        return AccountQueue(jobs[0].route if jobs else self.route, source, channel.buckets())

    async def run(self, *lead_ids: int, stop_after: float | None = None, **changes: Any) -> EngineReport:
        return await self.run_queues(
            [self.queue([self.job(lead_id, **changes) for lead_id in lead_ids])], stop_after=stop_after
        )

    async def run_queues(self, queues: Sequence[AccountQueue], stop_after: float | None = None) -> EngineReport:
        self.engine = Engine(
            run_id="run", ledger=self.ledger, clock=self.clock, limiter=Limiter(self.clock), policy=self.policy,
            observer=self.events.append, bulk=self.bulk,
        )  # fmt: skip
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, self.engine.stop)
        return await self.engine.run(queues)


LOOKUP = Step("lead", Retransmit.LOOKUP, batch=50, looks=(8.0, 45.0))
IDEMPOTENT = Step("event", Retransmit.IDEMPOTENT)
BLIND = Step("message", Retransmit.BLIND)
NOTE = Step("note", Retransmit.LOOKUP, batch=50, looks=(5.0,))
