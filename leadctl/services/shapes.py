"""The JSON shapes of CONTRACT §4 that several commands share. Pure functions."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, Protocol

from leadctl.domain.errors import LeadctlError
from leadctl.domain.model import CredentialId, LeadId, LeadPlan, PlannedDelivery, Skip
from leadctl.domain.outcomes import ErrorCode, Outcome, RunStatus
from leadctl.services import verdicts
from leadctl.services.requests import PlanTotals

#: The most entries of ``deliveries`` and ``errors`` in the document of a bulk run.
MAX_ENTRIES = 1000
#: Outcomes that are an error entry, each of them.
FAILURES = (Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN, Outcome.UNPROCESSED)
#: A run of these has not ended.
GOING_ON = (RunStatus.RUNNING, RunStatus.INTERRUPTED, RunStatus.QUEUED)
#: What is said of a lead that is not in the database.
NOT_FOUND_MESSAGE = "there is no lead with this id in the database"


class RunItem(Protocol):
    """One delivery of a run, as the ledger has it."""

    @property
    def lead_id(self) -> LeadId: ...
    @property
    def channel(self) -> str: ...
    @property
    def credential_id(self) -> CredentialId: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def remote_id(self) -> str | None: ...
    @property
    def remote_url(self) -> str | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def error_code(self) -> str | None: ...
    @property
    def error_message(self) -> str | None: ...
    @property
    def vendor_code(self) -> str | None: ...
    @property
    def settled_by(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the ledger knows of a run, apart from its items."""

    run_id: str
    command: str
    status: RunStatus
    started_at: datetime
    finished_at: datetime | None
    exit_code: int | None
    #: Leads that were planned, are not in the database, and were named but filtered out.
    leads: int
    not_found_count: int
    filtered_count: int
    #: (channel, outcome) → how many deliveries have it.
    outcomes: Mapping[tuple[str, Outcome], int]
    #: Delivered ones of which a part is missing.
    incomplete: int
    dispatched_count: int
    global_options: Sequence[str] = ()

    @property
    def errors_count(self) -> int:
        """The true number of error entries."""
        return self.not_found_count + self.incomplete + sum(map(self.count, FAILURES))

    def count(self, outcome: Outcome) -> int:
        """Deliveries with that outcome, over all channels."""
        return sum(n for (_, found), n in self.outcomes.items() if found == outcome)


def timestamp(moment: datetime) -> str:
    """``2026-11-24T09:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lead_plan_json(plan: LeadPlan) -> dict[str, Any]:
    """A LEAD of ``leadctl.plan/1``, and a line of ``plan --jsonl``."""
    return {
        "lead_id": plan.lead_id,
        "external_entity_id": plan.external_entity_id,
        "external_project_id": plan.external_project_id,
        "deliveries": [planned_json(delivery) for delivery in plan.deliveries],
        "already_delivered": [_proven(delivery) for delivery in plan.already_delivered],
        "skipped": [skip_json(skip) for skip in plan.skipped],
        "warnings": list(plan.warnings),
    }


def planned_json(delivery: PlannedDelivery) -> dict[str, Any]:
    """A D of CONTRACT §4."""
    account = delivery.account
    return {
        "channel": account.channel,
        "state": delivery.state.value if delivery.state else None,
        "credential_id": account.credential_id,
        "credential_name": account.name,
        "via": list(delivery.via),
        "target": delivery.destination.target,
    }


def _proven(delivery: PlannedDelivery) -> dict[str, Any]:
    at, remote_id = delivery.proof
    return {
        **planned_json(delivery),
        "delivered_at": timestamp(at) if at else None,
        "remote_id": remote_id,
    }


def skip_json(skip: Skip) -> dict[str, Any]:
    """An S of CONTRACT §4."""
    account = skip.account
    return {
        "channel": account.channel,
        "state": None,
        "credential_id": account.credential_id,
        "credential_name": account.name,
        "via": list(skip.via),
        "target": skip.target,
        "reason": skip.reason.value,
        "detail": skip.detail,
    }


def plan_totals_json(totals: PlanTotals) -> dict[str, Any]:
    """``totals`` of ``leadctl.plan/1``."""
    return {
        "leads": totals.leads,
        "filtered_count": totals.filtered_count,
        "deliveries": totals.deliveries,
        "already_delivered": totals.already_delivered,
        "skipped": totals.skipped,
        "by_channel": dict(totals.by_channel),
    }


def plan_document(
    leads: Iterable[dict[str, Any]], totals: PlanTotals, errors: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """``leadctl.plan/1``."""
    return {
        "schema": "leadctl.plan/1",
        "leads": list(leads),
        "totals": plan_totals_json(totals),
        "errors": list(errors),
    }


def plan_summary_line(totals: PlanTotals, errors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last line of ``plan --jsonl``."""
    return {"type": "summary", "totals": plan_totals_json(totals), "errors": list(errors)}


def error_entry(
    lead_id: LeadId,
    code: str,
    message: str,
    *,
    channel: str | None = None,
    credential_id: CredentialId | None = None,
    vendor_code: str | None = None,
) -> dict[str, Any]:
    """An ERR of CONTRACT §4."""
    return {
        "lead_id": lead_id,
        "channel": channel,
        "credential_id": credential_id,
        "code": code,
        "message": message,
        "vendor_code": vendor_code,
    }


def not_found_entry(lead_id: LeadId) -> dict[str, Any]:
    """The ERR of a lead that does not exist."""
    return error_entry(lead_id, ErrorCode.LEAD_NOT_FOUND.value, NOT_FOUND_MESSAGE)


def resume_command(run_id: str, global_options: Sequence[str] = ()) -> str:
    """What goes on with this run."""
    return shlex.join(["leadctl", *global_options, "runs", "resume", run_id])


def run_status(exit_code: int, *, planned: int, outcomes: Mapping[tuple[str, Outcome], int]) -> RunStatus:
    """``status`` of a run that has ended. ``planned``: deliveries that it set out to send."""
    unprocessed = any(number for (_, outcome), number in outcomes.items() if outcome is Outcome.UNPROCESSED)
    if unprocessed or exit_code == verdicts.GO_ON or exit_code > verdicts.SIGNALS:
        return RunStatus.STOPPED
    if exit_code != verdicts.OK:
        return RunStatus.PARTIAL
    return RunStatus.OK if planned else RunStatus.NOTHING


def check_sums(run_id: str, expected: int, outcomes: Mapping[tuple[str, Outcome], int]) -> None:
    """At the end of a run each of the ``expected`` deliveries, already delivered and skipped ones included, has
    exactly one outcome. Raises LeadctlError (exit 70)."""
    counted = sum(outcomes.values())
    pending = sum(n for (_, outcome), n in outcomes.items() if outcome == Outcome.PENDING)
    if counted != expected or pending:
        raise LeadctlError(
            f"run {run_id}: the outcomes do not add up: {expected} in the plan, {counted} with an outcome,"
            f" {pending} of them pending",
            hint=f"the ledger has every attempt: leadctl runs show {run_id}",
        )


def run_document(
    facts: RunFacts,
    items: Iterable[RunItem],
    failed_items: Iterable[RunItem],
    not_found: Iterable[LeadId],
    now: datetime,
) -> dict[str, Any]:
    """``leadctl.run/1``.

    All of ``items``; those of them that may be error entries; the leads that are not in the database. All three
    are read lazily, and no further than the document shows.
    """
    cap = None if facts.command == "resend" else MAX_ENTRIES
    room = facts.errors_count if cap is None else min(cap, facts.errors_count)
    entries = chain(map(not_found_entry, not_found), map(_item_error, filter(is_failure, failed_items)))
    ended = facts.finished_at if facts.status not in GOING_ON else None
    goes_on = facts.status in {RunStatus.STOPPED, RunStatus.INTERRUPTED}
    return {
        "schema": "leadctl.run/1",
        "run_id": facts.run_id,
        "command": facts.command,
        "status": facts.status.value,
        "dispatched_count": facts.dispatched_count,
        "total_count": facts.leads + facts.not_found_count + facts.filtered_count,
        "filtered_count": facts.filtered_count,
        "errors_count": facts.errors_count,
        "errors": list(islice(entries, room)),
        "outcomes": {outcome.value: facts.count(outcome) for outcome in Outcome},
        "by_channel": outcomes_by_channel(facts.outcomes),
        "started_at": timestamp(facts.started_at),
        "finished_at": timestamp(ended) if ended else None,
        "duration_s": round(max(0.0, ((ended or now) - facts.started_at).total_seconds()), 3),
        "exit_code": facts.exit_code if ended else None,
        "next_command": resume_command(facts.run_id, facts.global_options) if goes_on else None,
        "deliveries": [_item(item) for item in islice(items, cap)],
    }


def outcomes_by_channel(outcomes: Mapping[tuple[str, Outcome], int]) -> dict[str, dict[str, int]]:
    """``by_channel`` of ``leadctl.run/1``: what did not happen is left out."""
    table: dict[str, dict[str, int]] = {}
    for (channel, outcome), number in sorted(outcomes.items()):
        if number:
            table.setdefault(channel, {})[Outcome(outcome).value] = number
    return table


def is_failure(item: RunItem) -> bool:
    """Whether this delivery of a run is an error entry."""
    return item.outcome in FAILURES or (
        item.outcome == Outcome.DELIVERED and item.error_code == ErrorCode.INCOMPLETE
    )  # fmt: skip


def _item(item: RunItem) -> dict[str, Any]:
    told = is_failure(item) and item.error_code
    return {
        "lead_id": item.lead_id,
        "channel": item.channel,
        "credential_id": item.credential_id,
        "outcome": Outcome(item.outcome).value,
        "remote_id": item.remote_id,
        "remote_url": item.remote_url,
        "attempts": item.attempts,
        "error": error_json(item.error_code, item.error_message, item.vendor_code) if told else None,
        "settled_by": str(item.settled_by) if item.settled_by else None,
    }


def error_json(code: str | None, message: str | None, vendor_code: str | None) -> dict[str, Any] | None:
    """``error`` of a delivery."""
    if code is None:
        return None
    return {"code": str(code), "message": message or "", "vendor_code": vendor_code}


def _item_error(item: RunItem) -> dict[str, Any]:
    return error_entry(
        item.lead_id,
        item.error_code or ErrorCode.BUG.value,
        item.error_message or f"{Outcome(item.outcome).value}, with no reason kept",
        channel=item.channel,
        credential_id=item.credential_id,
        vendor_code=item.vendor_code,
    )
