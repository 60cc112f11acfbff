"""What the engine and the channels need from outside, as Protocols."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from leadctl.domain.events import Event
from leadctl.domain.model import EMPTY, CredentialId, LeadId, Target
from leadctl.domain.outcomes import Outcome, SettledBy, TargetState


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware, UTC."""

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Observer(Protocol):
    def __call__(self, event: Event, /) -> None: ...


class CredentialStore(Protocol):
    """Writing back to the credential's row: tokens that rotate, a chat that moved."""

    async def read(self, credential_id: CredentialId) -> Mapping[str, Any]:
        """``data`` as the row has it now (not as it was when the run began)."""

    async def writable(self, credential_id: CredentialId) -> bool: ...

    async def swap(self, credential_id: CredentialId, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Write the keys of ``new`` into ``data`` if the keys of ``old`` still have those values."""

    async def keep(self, credential_id: CredentialId, key: str, value: Any) -> str:
        """Keep a value that the vendor changed: in ``data`` where that can be written, else in the ledger.
        Returns ``"data"`` or ``"ledger"``."""

    def lease(self, credential_id: CredentialId) -> AbstractAsyncContextManager[None]:
        """Only one process at a time holds it. Dies with its holder."""


class Buckets(Protocol):
    """Rate buckets that processes share. Times are Unix seconds."""

    async def take(
        self, scope: str, now: float, interval: float, tolerance: float, count: int
    ) -> tuple[Sequence[float], float]:
        """The next ``count`` places (see :func:`leadctl.domain.buckets.grant`), and the end of the pause."""

    async def silence(self, scope: str, until: float) -> None:
        """Nobody takes a place before ``until``."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A wish to carry one delivery: granted by a conditional write."""

    lead_id: LeadId
    destination: str
    n: int
    #: ``Target.rev`` as it was planned; None when there was no row.
    rev: int | None
    key: str
    credential_id: CredentialId
    channel: str
    account: str
    step: str
    first_at: datetime
    sent_at: datetime
    context: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True)
class Granted:
    """The intent is on disk; the delivery is ours. ``target`` is the row as it stands now."""

    target: Target


@dataclass(frozen=True, slots=True)
class Refusal:
    """The row is not as it was planned: ``target`` is what it is now; ``held`` if a living process has it."""

    target: Target
    held: bool


Claim = Granted | Refusal


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """A row of ``leadctl_attempts``. ``outcome``: done, found, absent, cannot_tell, or the error's type in
    snake case. ``trigger``: first, retry, resume, repeat, retry_unknown, force, lookup, operator."""

    lead_id: LeadId
    destination: str
    n: int
    credential_id: CredentialId
    channel: str
    step: str
    trigger: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    http_status: int | None = None
    vendor_code: str | None = None
    answer: str = ""
    request_digest: str | None = None


@dataclass(frozen=True, slots=True)
class TargetWrite:
    """The new truth about one row of ``leadctl_targets``. The row must be ours."""

    lead_id: LeadId
    destination: str
    n: int
    state: TargetState
    done: Mapping[str, str] | None = None
    remote_id: str | None = None
    remote_url: str | None = None
    digest: str | None = None
    in_doubt: bool = False
    error_code: str | None = None
    error_message: str | None = None
    vendor_code: str | None = None
    settled_by: SettledBy | None = None


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """The one final outcome of a delivery of a run (a row of ``leadctl_deliveries``)."""

    lead_id: LeadId
    credential_id: CredentialId
    outcome: Outcome
    attempts: int
    remote_id: str | None = None
    remote_url: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    vendor_code: str | None = None
    settled_by: SettledBy | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What is committed together for one delivery."""

    attempt: AttemptRecord | None = None
    target: TargetWrite | None = None
    item: ItemOutcome | None = None


class Ledger(Protocol):
    """The part of the ledger that the engine needs. Every call returns after its commit."""

    async def claim(self, run_id: str, intents: Sequence[Intent]) -> Sequence[Claim]:
        """One transaction for the batch; an answer per intent, in order."""

    async def record(self, run_id: str, records: Sequence[Record]) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """What the queue of a fleet carries: a name, and who may do it when. All else is in the ledger."""

    #: At most one job of this key waits or is being done.
    key: str
    #: Jobs of one lane are done one at a time, over all workers.
    lane: str
    #: The higher one goes first.
    priority: int = 0
    not_before: datetime | None = None


#: Do the job of that key: None when it is done, or the seconds after which it is to be done again.
JobHandler = Callable[[str], Awaitable[float | None]]


class JobQueue(Protocol):
    """Who does what next, over all machines. Loses nothing that :meth:`enqueue` cannot give it again.

    Every method raises ConfigError where :meth:`init` was never called, and DatabaseUnreachable.
    """

    async def init(self) -> None:
        """Make what it needs, or bring it up to date. A second call does no harm."""

    async def enqueue(self, jobs: Sequence[Job]) -> int:
        """Add those whose key neither waits nor is being done; how many that were."""

    async def work(
        self,
        handle: JobHandler,
        lanes: Callable[[], Collection[str]],
        stop: asyncio.Event,
        *,
        concurrency: int,
        heartbeat: float,
    ) -> None:
        """Do jobs of these lanes, asked for again and again, until ``stop``; those under way are waited for.

        A job whose worker has shown no life for ``heartbeat`` seconds is done elsewhere.
        """

    async def cancel(self, keys: Sequence[str]) -> int:
        """Take out those that are not being done yet; how many that were."""

    async def keys(self) -> set[str]:
        """Of everything that waits or is being done."""

    async def prune(self, before: datetime) -> int:
        """Forget what is remembered of jobs that ended before that time; how many entries."""
