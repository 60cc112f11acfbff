"""The values that travel between the layers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from leadctl.domain.errors import DeliveryError
from leadctl.domain.outcomes import PlanState, SettledBy, SkipReason, TargetState

LeadId = int | str
CredentialId = int | str
ExternalId = int | str

EMPTY: Mapping[str, str] = MappingProxyType({})
#: In a row's ``context``: the ledger was restored from a backup, and every step of the delivery is in doubt.
RESTORED = "restored"


def sort_key(identity: int | str) -> tuple[int, int, str]:
    """Numeric ids first, in numeric order, then text."""
    if isinstance(identity, int):
        return (0, identity, "")
    return (1, 0, identity)


def parse_id(text: str) -> int | str:
    """An id as a person types it or the ledger keeps it: an integer where it is written as one."""
    digits = text.removeprefix("-")
    if len(digits) < 20 and digits.isascii() and digits.isdigit() and not digits.startswith("0"):
        number = int(text)
        return number if -(2**63) <= number < 2**63 else text  # what no integer column can hold is no number
    return 0 if text == "0" else text


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the lead's form."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Lead:
    """One person's request, with every text already read as text. Missing columns are empty."""

    id: LeadId
    external_entity_id: ExternalId | None = None
    external_project_id: ExternalId | None = None
    name: str = ""
    phone: str = ""
    email: str = ""
    comment: str = ""
    page_url: str = ""
    #: ``utm_source`` … as they stand in the database, empty values left out.
    utm: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    answers: tuple[Answer, ...] = ()
    #: Aware, UTC.
    created_at: datetime | None = None
    #: Why something of it could not be read ("phone is encrypted …"); never holds a value. Such a lead is not sent.
    problem: str | None = None

    @property
    def digest(self) -> str:
        """Changes when anything that could be sent changes."""
        body = [
            self.name, self.phone, self.email, self.comment, self.page_url,
            sorted(self.utm.items()), [(a.question, a.answer) for a in self.answers],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Account:
    """One credential: an account at one vendor."""

    credential_id: CredentialId
    channel: str
    name: str | None = None
    enabled: bool = True
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Why ``data`` or ``settings`` could not be read ("data is not valid JSON …"); never holds a value.
    problem: str | None = None

    @property
    def digest(self) -> str:
        """Changes when the credential's data or settings change. One way: secrets do not come back."""
        body = json.dumps([self.data, self.settings], sort_keys=True, default=str)
        return hashlib.sha256(body.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a credential leads to (CONTRACT §2.3).

    ``parts`` and ``account`` may hold secrets and are never shown; :attr:`key` and :attr:`account_key` are
    hashes of them for the ledger. ``target`` is what a person may see.
    """

    channel: str
    account: tuple[str, ...] = field(repr=False)
    parts: tuple[str, ...] = field(repr=False)
    target: str

    @property
    def key(self) -> str:
        return f"{self.channel}:{_hash(self.parts)}"

    @property
    def account_key(self) -> str:
        return f"{self.channel}:{_hash(self.account)}"


@lru_cache(maxsize=8192)  # every delivery of a plan asks for its destination's
def _hash(parts: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One lead on its way to one credential, as a channel sees it."""

    lead: Lead
    #: What travels to the vendor: ``lc-{installation}-{lead}-{credential}[-{n}]``. The same in every attempt.
    key: str
    #: When this delivery was first attempted: the same in every attempt (e-mail's Date). Aware, UTC.
    first_at: datetime
    #: What is at the vendor already: part (a step's name, ``rcpt:a@b.c``, ``contact``) → remote id.
    done: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    #: What ``Channel.prepare`` wanted kept beside the intent of the attempt in doubt.
    context: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    #: A person asked for a repeat that may be a second one: say so in the message.
    possible_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The vendor has it.

    ``parts``: what is there now, part → remote id, to be kept (the step's own name is added by the engine).
    ``open``: parts that are still missing, part → why; Transient ones are tried again alone.
    """

    remote_id: str | None = None
    remote_url: str | None = None
    parts: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    open: Mapping[str, DeliveryError] = field(default_factory=dict)
    #: The vendor only says that it queued it.
    accepted: bool = False


#: One per delivery key. A key that an answer leaves out is Ambiguous, never a success.
Receipt = Done | DeliveryError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one request said: a receipt per delivery key, and what the ledger keeps of the request."""

    receipts: Mapping[str, Receipt]
    http_status: int | None = None
    #: SHA-256 of the request's body, hexadecimal.
    request_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The vendor has it. Several remote ids: duplicates; the lowest is first and wins."""

    remote_id: str | None
    parts: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    remote_url: str | None = None
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Absent:
    """The vendor was asked in a way that would have shown it, and does not have it."""


@dataclass(frozen=True, slots=True)
class CannotTell:
    """The look-up itself failed, or would not have shown it."""

    reason: str = ""
    #: Asked again, the vendor could not tell either: only a person, or ``--retry-unknown``, ends the doubt.
    final: bool = False


Finding = Found | Absent | CannotTell


#: Of a row whose send was surely not executed.
NOT_THERE = (TargetState.IDLE, TargetState.FAILED, TargetState.REJECTED)


@dataclass(frozen=True, slots=True)
class Target:
    """A row of ``leadctl_targets``: what the ledger knows of one lead at one destination."""

    lead_id: LeadId
    destination: str
    n: int
    state: TargetState
    key: str
    credential_id: CredentialId
    channel: str
    account: str
    first_at: datetime
    updated_at: datetime
    step: str | None = None
    done: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    context: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    #: When the attempt in doubt was sent.
    sent_at: datetime | None = None
    #: True while a later step (a note) is in doubt although the main one is done.
    in_doubt: bool = False
    remote_id: str | None = None
    remote_url: str | None = None
    run_id: str | None = None
    holder: str | None = None
    #: Digest of lead and credential when it was rejected: `rejected_before` compares it.
    digest: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    vendor_code: str | None = None
    settled_by: SettledBy | None = None
    #: Rises with each write: the conditional write of a claim compares it.
    rev: int = 0

    @property
    def is_empty(self) -> bool:
        """Nothing of it is there, not even in part, and nothing may be."""
        return self.state in NOT_THERE and not self.done and not self.in_doubt


@dataclass(frozen=True, slots=True)
class Skip:
    """A linked credential that gets nothing, and why."""

    account: Account
    reason: SkipReason
    detail: str = ""
    via: tuple[str, ...] = ()
    target: str = ""


@dataclass(frozen=True, slots=True)
class Logged:
    """A delivery that the application's own log proves, as far as it tells of it. ``at`` is aware, UTC."""

    at: datetime | None = None
    remote_id: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedDelivery:
    """One lead to one credential: to be sent, or proven already (then ``state`` is None)."""

    lead_id: LeadId
    account: Account
    destination: Destination
    via: tuple[str, ...]
    state: PlanState | None
    #: The number of the send at that destination: 0, and one more for each forced one.
    n: int = 0
    target: Target | None = None
    #: Proof of the application's own log, where the ledger has none.
    logged: Logged | None = None

    @property
    def proof(self) -> tuple[datetime | None, str | None]:
        """When it arrived, and the vendor's id, as far as it is known."""
        if self.target is not None:
            return self.target.updated_at, self.target.remote_id
        return (self.logged.at, self.logged.remote_id) if self.logged is not None else (None, None)


@dataclass(frozen=True, slots=True)
class LeadPlan:
    """What is to be done for one lead."""

    lead_id: LeadId
    external_entity_id: ExternalId | None
    external_project_id: ExternalId | None
    deliveries: tuple[PlannedDelivery, ...] = ()
    already_delivered: tuple[PlannedDelivery, ...] = ()
    skipped: tuple[Skip, ...] = ()
    warnings: tuple[str, ...] = ()
