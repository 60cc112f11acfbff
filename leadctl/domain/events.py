"""What happened, as values. The engine emits them; logs and the progress display observe."""

from dataclasses import dataclass
from typing import Any

from leadctl.domain.model import CredentialId, LeadId
from leadctl.domain.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Claimed:
    """Intents are on disk; the request is about to leave."""

    channel: str
    credential_id: CredentialId
    count: int


@dataclass(frozen=True, slots=True)
class Attempted:
    """One attempt ended (log event ``delivery_attempt``). ``ms``: duration of its request."""

    run_id: str
    lead_id: LeadId
    channel: str
    credential_id: CredentialId
    attempt: int
    outcome: str
    http_status: int | None
    vendor_code: str | None
    ms: int
    trigger: str


@dataclass(frozen=True, slots=True)
class Throttling:
    """A lane waits (log event ``throttled``). ``seconds``: how long."""

    channel: str
    credential_id: CredentialId
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Parked:
    """A credential sends nothing more in this run (log event ``credential_parked``)."""

    channel: str
    credential_id: CredentialId
    credential_name: str | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class TokenRefreshed:
    """Log event ``token_refreshed``."""

    channel: str
    credential_id: CredentialId


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know: a chat that moved, a renamed portal, a duplicate at the vendor."""

    channel: str
    credential_id: CredentialId
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A delivery has its one final outcome of this run."""

    lead_id: LeadId
    channel: str
    credential_id: CredentialId
    outcome: Outcome
    code: str | None = None
    message: str | None = None
    remote_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Anything else that is logged by name (CONTRACT §8), with its fields."""

    name: str
    level: str
    fields: dict[str, Any]


Event = Claimed | Attempted | Throttling | Parked | TokenRefreshed | Notice | Finished | RunEvent
