"""Values to rows of the ledger, and back."""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from leadctl.domain.model import CredentialId, LeadId, Target, parse_id
from leadctl.domain.outcomes import Outcome, RunStatus, SettledBy, TargetState
from leadctl.domain.ports import AttemptRecord

TARGET_COLUMNS = tuple(field.name for field in fields(Target))
ATTEMPT_COLUMNS = tuple(field.name for field in fields(AttemptRecord))
#: The most characters that are kept of a vendor's id, code or message.
MAX_TEXT = 2000


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of ``leadctl_runs``. ``counter``: how often the run was taken up again; ``taken_at``: last when."""

    id: str
    command: str
    selection_digest: str
    #: Everything that going on needs.
    options: Mapping[str, Any]
    status: RunStatus
    host: str
    pid: int
    started_at: datetime
    due_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    total_count: int = 0
    filtered_count: int = 0
    reason: str | None = None
    counter: int = 0
    #: The later run of the same selection that took over what this one had not sent.
    superseded_by: str | None = None
    taken_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ItemRow:
    """A row of ``leadctl_deliveries``: one delivery of a run. ``seq`` is the lead's place in the run."""

    seq: int
    lead_id: LeadId
    channel: str
    credential_id: CredentialId
    credential_name: str | None = None
    destination: str = ""
    n: int = 0
    outcome: Outcome = Outcome.PENDING
    reason: str | None = None
    detail: str = ""
    target: str = ""
    attempts: int = 0
    remote_id: str | None = None
    remote_url: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    vendor_code: str | None = None
    settled_by: SettledBy | None = None
    finished_at: datetime | None = None


ITEM_COLUMNS = tuple(field.name for field in fields(ItemRow))
RUN_COLUMNS = tuple(field.name for field in fields(RunRow))


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """A row of ``leadctl_attempts``."""

    id: int
    run_id: str | None
    attempt: AttemptRecord


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Deliveries of a run that ended with one error."""

    channel: str
    credential_id: CredentialId
    error_code: str
    vendor_code: str | None
    count: int
    first_lead: LeadId
    message: str | None


@dataclass(frozen=True, slots=True)
class History:
    """The life of a lead. ``items``: (run, delivery), oldest run first."""

    targets: tuple[Target, ...]
    attempts: tuple[AttemptRow, ...]
    items: tuple[tuple[str, ItemRow], ...]


def to_text(moment: datetime) -> str:
    """A time as the ledger keeps it: UTC, microseconds, one width."""
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat(timespec="microseconds")


def from_text(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _optional_text(moment: datetime | None) -> str | None:
    return to_text(moment) if moment is not None else None


def pack(mapping: Mapping[str, Any]) -> str:
    """A mapping as JSON text in plain ASCII: no database chokes on what a vendor said."""
    return json.dumps(dict(mapping)) if mapping else "{}"


def unpack(text: str) -> dict[str, Any]:
    return dict(json.loads(text)) if text != "{}" else {}


def storable(text: str | None) -> str | None:
    """A foreign text that every database takes: bounded, no NUL, no half surrogates."""
    if text is None:
        return None
    text = text[:MAX_TEXT].replace("\x00", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def target_to_row(target: Target) -> tuple[Any, ...]:
    """In the order of :data:`TARGET_COLUMNS`."""
    return (
        str(target.lead_id), target.destination, target.n, str(target.state), target.key, str(target.credential_id),
        target.channel, target.account, to_text(target.first_at), to_text(target.updated_at), target.step,
        pack(target.done), pack(target.context), _optional_text(target.sent_at), int(target.in_doubt),
        storable(target.remote_id), storable(target.remote_url), target.run_id, target.holder, target.digest,
        target.error_code, storable(target.error_message), storable(target.vendor_code), target.settled_by, target.rev,
    )  # fmt: skip


def target_from_row(row: Any) -> Target:
    """From a row with the columns of :data:`TARGET_COLUMNS`."""
    (lead_id, destination, n, state, key, credential_id, channel, account, first_at, updated_at, step, done, context,
     sent_at, in_doubt, remote_id, remote_url, run_id, holder, digest, error_code, error_message, vendor_code,
     settled_by, rev) = row  # fmt: skip
    return Target(
        parse_id(lead_id), destination, n, TargetState(state), key, parse_id(credential_id), channel, account,
        _time(first_at), _time(updated_at), step, unpack(done), unpack(context), from_text(sent_at), bool(in_doubt),
        remote_id, remote_url, run_id, holder, digest, error_code, error_message, vendor_code,
        SettledBy(settled_by) if settled_by else None, rev,
    )  # fmt: skip


def attempt_to_row(attempt: AttemptRecord, answer: str) -> tuple[Any, ...]:
    """In the order of :data:`ATTEMPT_COLUMNS`; ``answer`` as it may be kept."""
    return (
        str(attempt.lead_id), attempt.destination, attempt.n, str(attempt.credential_id), attempt.channel, attempt.step,
        attempt.trigger, to_text(attempt.started_at), _optional_text(attempt.ended_at), attempt.outcome,
        attempt.http_status, storable(attempt.vendor_code), answer, attempt.request_digest,
    )  # fmt: skip


def attempt_from_row(row: Any) -> AttemptRow:
    """From a row of id, run and the columns of :data:`ATTEMPT_COLUMNS`."""
    identity, run_id, *rest = row
    values = dict(zip(ATTEMPT_COLUMNS, rest, strict=True))
    values["lead_id"] = parse_id(values["lead_id"])
    values["credential_id"] = parse_id(values["credential_id"])
    values["started_at"] = _time(values["started_at"])
    values["ended_at"] = from_text(values["ended_at"])
    return AttemptRow(identity, run_id, AttemptRecord(**values))


def item_to_row(item: ItemRow) -> tuple[Any, ...]:
    """In the order of :data:`ITEM_COLUMNS`."""
    return (
        item.seq, str(item.lead_id), item.channel, str(item.credential_id), storable(item.credential_name),
        item.destination, item.n, str(item.outcome), item.reason, storable(item.detail), storable(item.target),
        item.attempts, storable(item.remote_id), storable(item.remote_url), item.error_code,
        storable(item.error_message), storable(item.vendor_code), item.settled_by, _optional_text(item.finished_at),
    )  # fmt: skip


def item_from_row(row: Any) -> ItemRow:
    """From a row with the columns of :data:`ITEM_COLUMNS`."""
    (seq, lead_id, channel, credential_id, name, destination, n, outcome, reason, detail, target, attempts, remote_id,
     remote_url, error_code, error_message, vendor_code, settled_by, finished_at) = row  # fmt: skip
    return ItemRow(
        seq, parse_id(lead_id), channel, parse_id(credential_id), name, destination, n, Outcome(outcome), reason,
        detail, target, attempts, remote_id, remote_url, error_code, error_message, vendor_code,
        SettledBy(settled_by) if settled_by else None, from_text(finished_at),
    )  # fmt: skip


def run_to_row(run: RunRow) -> dict[str, Any]:
    """By column."""
    values = dict(zip(RUN_COLUMNS, astuple(run), strict=True))
    values["options"] = pack(run.options)
    for name in ("started_at", "due_at", "finished_at", "taken_at"):
        values[name] = _optional_text(values[name])
    return values


def run_from_row(row: Any) -> RunRow:
    """From a row with the columns of :data:`RUN_COLUMNS`."""
    values = dict(zip(RUN_COLUMNS, row, strict=True))
    values["options"] = unpack(values["options"])
    values["status"] = RunStatus(values["status"])
    values["started_at"] = _time(values["started_at"])
    for name in ("due_at", "finished_at", "taken_at"):
        values[name] = from_text(values[name])
    return RunRow(**values)
