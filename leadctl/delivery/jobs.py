"""A delivery while the engine carries it: the mutable part, and what the ledger is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from leadctl.channelkit.channel import Channel
from leadctl.channelkit.spec import Retransmit, Step
from leadctl.delivery.retries import Facts
from leadctl.domain.errors import DeliveryError
from leadctl.domain.model import RESTORED, Account, Delivery, Done, Lead, Target
from leadctl.domain.outcomes import ErrorCode, Outcome, SettledBy, TargetState
from leadctl.domain.ports import AttemptRecord, Intent, ItemOutcome, TargetWrite

#: ``Delivery.context`` of a repeat whose earlier attempt is in doubt (a webhook's 409 means success then).
IN_DOUBT = "in_doubt"


class Mode(StrEnum):
    """What a delivery's next request is."""

    SEND = "send"
    LOOK = "look"
    HELD = "held"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Route:
    """One credential as the engine uses it."""

    account: Account
    channel: Channel[Any, Any]
    #: ``Destination.account_key``.
    account_key: str

    @property
    def name(self) -> str:
        return self.account.channel

    @property
    def hold(self) -> bool:
        return bool(self.channel.settings.on_unknown == "hold")


@dataclass(slots=True)
class Job:
    """One delivery of the run. Monotonic seconds for ``due``; ``spent`` is what counts against the time-out."""

    route: Route
    lead: Lead
    destination: str
    n: int
    key: str
    first_at: datetime
    trigger: str = "first"
    rev: int | None = None
    #: The row is claimed by this run and says ``sending``.
    ours: bool = False
    #: It was claimed in a window, and its request has not begun.
    ahead: bool = False
    done: dict[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    sent_at: datetime | None = None
    #: The attempt in doubt was over at this monotonic time or before; None: another process's, nobody knows when.
    since: float | None = None
    #: The step in doubt was sent by an earlier process: the row must be taken over before it is settled.
    foreign: bool = False
    #: The earlier process never wrote what became of the request.
    crashed: bool = False
    in_doubt: bool = False
    #: The ledger was restored from a backup: every step may have been made by an attempt that it has forgotten.
    forgotten: bool = False
    main_done: bool = False
    #: A person asked to go on although it is in doubt and cannot be asked for.
    retry_unknown: bool = False
    #: The vendor was asked, and could never tell.
    untold: bool = False
    #: It goes again all the same, for a person asked for that.
    repeating: bool = False
    tries: int = 0
    attempts: int = 0
    spent: float = 0.0
    looks_done: int = 0
    look_failures: int = 0
    held_since: float | None = None
    due: float = 0.0
    remote_id: str | None = None
    remote_url: str | None = None
    settled_by: SettledBy | None = None
    #: What is missing although the main step is done.
    missing: DeliveryError | None = None
    #: Steps that are given up for this run.
    closed: set[str] = field(default_factory=set)

    def step(self) -> Step | None:
        """What is to be done next; None: nothing."""
        delivery = self.delivery()
        for step in self.route.channel.steps:
            if step.name not in self.done and step.name not in self.closed and self.route.channel.needs(step, delivery):
                return step
        return None

    def delivery(self) -> Delivery:
        context = {**self.context, IN_DOUBT: "1"} if self.in_doubt else self.context
        return Delivery(self.lead, self.key, self.first_at, dict(self.done), context, self._may_repeat())

    def _may_repeat(self) -> bool:
        if self.repeating or not self.retry_unknown:
            return self.repeating
        return any(step.retransmit is Retransmit.BLIND for step in self.route.channel.steps)

    def mode(self, step: Step) -> "Mode":
        """Send, ask the vendor first, or leave it to a person."""
        if not self.in_doubt:
            return Mode.SEND
        if self.route.hold and not self.retry_unknown:
            return Mode.HELD
        match step.retransmit:
            case Retransmit.LOOKUP:
                return Mode.SEND if self.repeating else Mode.LOOK
            case Retransmit.IDEMPOTENT:
                return Mode.SEND
            case Retransmit.BLIND:
                return Mode.SEND if self.retry_unknown else Mode.HELD

    def facts(self, step: Step) -> Facts:
        return Facts(step, self.tries, self.spent, self.in_doubt, self.route.hold, self.retry_unknown)

    def intent(self, step: Step, now: datetime, context: Mapping[str, str]) -> Intent:
        """A wish to send; or, for a row in doubt that another process left, to take it over as it is."""
        return Intent(
            lead_id=self.lead.id,
            destination=self.destination,
            n=self.n,
            rev=self.rev,
            key=self.key,
            credential_id=self.route.account.credential_id,
            channel=self.route.name,
            account=self.route.account_key,
            step=step.name,
            first_at=self.first_at,
            sent_at=now,
            context={**context, RESTORED: "1"} if self.forgotten else context,
        )

    def granted(self, target: Target) -> None:
        """The intent is on disk."""
        self.rev = target.rev
        self.first_at = target.first_at
        self.ours = True
        self.foreign = self.crashed = False
        self.held_since = None

    def let_go(self) -> None:
        """A write that leaves ``sending``: the next request must claim the row again, at its new revision."""
        self.rev = (self.rev or 0) + 1
        self.ours = False

    def adopt(self, target: Target) -> None:
        """Take over what the ledger's row says."""
        self.rev = target.rev
        self.ours = self.untold = self.repeating = False
        self.key = target.key
        self.first_at = target.first_at
        self.done = dict(target.done)
        self.remote_id = target.remote_id
        self.remote_url = target.remote_url
        self.main_done = target.state is TargetState.INCOMPLETE or self._has_main(target)
        self.in_doubt = target.in_doubt or target.state in (TargetState.UNKNOWN, TargetState.SENDING)
        self.forgotten = RESTORED in target.context
        self.foreign = self.in_doubt
        self.crashed = target.state is TargetState.SENDING
        if self.in_doubt:
            self.context = dict(target.context)
            self.sent_at = target.sent_at
            self.since = None

    def _has_main(self, target: Target) -> bool:
        preparatory = {step.name for step in self.route.channel.steps if step.preparatory}
        return any(part not in preparatory for part in target.done)

    def accept(self, step: Step, done: Done) -> None:
        """The vendor has this step. A step with open parts is not done, but the delivery is there."""
        self.done.update(done.parts)
        self.in_doubt = self.untold = self.repeating = False
        self.looks_done = self.look_failures = 0
        self.context = {}
        if not done.open:
            self.done[step.name] = done.remote_id or ""
        if not step.preparatory and not self.main_done:
            self.main_done = True
            self.remote_id, self.remote_url = done.remote_id, done.remote_url
            if done.accepted:
                self.settled_by = SettledBy.ACCEPTED
        if self.forgotten and not done.open:
            self.in_doubt = self.foreign = self.step() is not None

    def doubt(self, context: Mapping[str, str], sent_at: datetime, since: float) -> None:
        """The attempt just made may have been executed."""
        self.in_doubt = True
        if self.repeating:  # once; and what was known before the first attempt bounds a look-up for both
            self.repeating = self.retry_unknown = False
        else:
            self.context = dict(context)
        self.sent_at = sent_at
        self.since = since
        self.looks_done = self.look_failures = 0

    def absent(self) -> None:
        """Proven not to be there."""
        self.in_doubt = self.untold = self.repeating = False
        self.context = {}
        self.looks_done = self.look_failures = 0

    def attempt(
        self,
        step: Step,
        trigger: str,
        started: datetime,
        ended: datetime | None,
        outcome: str,
        **answer: Any,
    ) -> AttemptRecord:
        return AttemptRecord(
            lead_id=self.lead.id,
            destination=self.destination,
            n=self.n,
            credential_id=self.route.account.credential_id,
            channel=self.route.name,
            step=step.name,
            trigger=trigger,
            started_at=started,
            ended_at=ended,
            outcome=outcome,
            **answer,
        )

    def write(
        self, state: TargetState, error: DeliveryError | None = None, code: ErrorCode | None = None
    ) -> TargetWrite:
        return TargetWrite(
            lead_id=self.lead.id,
            destination=self.destination,
            n=self.n,
            state=state,
            done=dict(self.done),
            remote_id=self.remote_id,
            remote_url=self.remote_url,
            digest=f"{self.lead.digest}:{self.route.account.digest}" if state is TargetState.REJECTED else None,
            in_doubt=self.in_doubt,
            error_code=code,
            error_message=error.message if error else None,
            vendor_code=error.vendor_code if error else None,
            settled_by=self.settled_by,
        )

    def item(self, outcome: Outcome, error: DeliveryError | None = None, code: ErrorCode | None = None) -> ItemOutcome:
        return ItemOutcome(
            lead_id=self.lead.id,
            credential_id=self.route.account.credential_id,
            outcome=outcome,
            attempts=self.attempts,
            remote_id=self.remote_id,
            remote_url=self.remote_url,
            error_code=code,
            error_message=error.message if error else None,
            vendor_code=error.vendor_code if error else None,
            settled_by=self.settled_by,
        )


#: The row's state for a delivery that ends in this outcome while its main step is not done.
FINAL_STATES = {
    Outcome.REJECTED: TargetState.REJECTED,
    Outcome.FAILED: TargetState.FAILED,
    Outcome.UNKNOWN: TargetState.UNKNOWN,
    Outcome.UNPROCESSED: TargetState.IDLE,
}


def final_state(job: Job, outcome: Outcome) -> TargetState:
    """What the row says after the end: never idle or failed while the request may have been executed."""
    if job.main_done:
        complete = job.missing is None and job.step() is None and not job.in_doubt
        return TargetState.DELIVERED if complete else TargetState.INCOMPLETE
    if job.in_doubt and outcome is not Outcome.REJECTED:
        return TargetState.UNKNOWN
    return FINAL_STATES[outcome]
