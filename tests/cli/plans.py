"""Plans and run documents for tests of the display."""

from datetime import UTC, datetime
from typing import Any

from leadctl.domain.model import Account, Destination, LeadPlan, PlannedDelivery, Skip, Target
from leadctl.domain.outcomes import Outcome, PlanState, SkipReason, TargetState

#: Markup, an escape sequence, line breaks, a direction override: all of it must come out as plain text.
HOSTILE = "[red]Anna[/red] \x1b[31mred\x1b[0m\r\nnew\u202eline [link=x]"

EMAIL = Account(3, "email", name="Sales mail")
AMO = Account(7, "amocrm", name=HOSTILE)
CHAT = Account(9, "telegram")
THEN = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


def delivery(account: Account, target: str, state: PlanState | None = PlanState.NEW, lead: int = 42) -> PlannedDelivery:
    destination = Destination(account.channel, ("a",), ("p",), target)
    proof = None
    if state is None:
        proof = Target(
            lead, destination.key, 0, TargetState.DELIVERED, "lc-x", account.credential_id, account.channel,
            "account", THEN, THEN, remote_id="9774766",
        )  # fmt: skip
    return PlannedDelivery(lead, account, destination, ("entity",), state, 0, proof)


def lead_plan(lead: int = 42) -> LeadPlan:
    return LeadPlan(
        lead_id=lead,
        external_entity_id=5,
        external_project_id=HOSTILE,
        deliveries=(delivery(AMO, "acme.amocrm.ru", lead=lead), delivery(CHAT, "-100123/4", PlanState.FAILED, lead)),
        already_delivered=(delivery(EMAIL, "sales@acme.ru, boss@acme.ru", None, lead),),
        skipped=(Skip(Account(11, "bitrix24"), SkipReason.DISABLED, target="portal.bitrix24.ru"),
                 Skip(Account(12, "webhooks"), SkipReason.INVALID_CREDENTIAL, f"data.url: {HOSTILE}")),
        warnings=(f"a warning {HOSTILE}",),
    )  # fmt: skip


def run_document(**changes: Any) -> dict[str, Any]:
    """``leadctl.run/1`` of a bulk run in which things went wrong."""
    return {
        "schema": "leadctl.run/1",
        "run_id": "01JB2T9",
        "command": "bulk-resend",
        "status": "stopped",
        "dispatched_count": 9,
        "total_count": 12,
        "filtered_count": 0,
        "errors_count": 3,
        "errors": [error_entry(99, "lead_not_found", "there is no lead with this id in the database", None)],
        "outcomes": {**dict.fromkeys(map(str, Outcome), 0), "delivered": 9, "unprocessed": 2, "rejected": 1},
        "by_channel": {"amocrm": {"delivered": 4, "unprocessed": 2}, "email": {"delivered": 5, "rejected": 1}},
        "started_at": "2026-11-24T12:00:00.000Z",
        "finished_at": "2026-11-24T12:00:01.200Z",
        "duration_s": 1.2,
        "exit_code": 4,
        "next_command": "leadctl runs resume 01JB2T9",
        "deliveries": [],
        **changes,
    }


def error_entry(lead: int, code: str, message: str, channel: str | None = "amocrm") -> dict[str, Any]:
    return {"lead_id": lead, "channel": channel, "credential_id": 7 if channel else None, "code": code,
            "message": message, "vendor_code": None}  # fmt: skip


def group(**changes: Any) -> dict[str, Any]:
    return {
        "channel": "amocrm", "credential_id": 7, "credential_name": HOSTILE, "code": "credential_refused",
        "vendor_code": "401", "message": f"the token is refused {HOSTILE}", "count": 2, "first_lead": 42,
        "advice": "correct the credential, then: leadctl runs resume 01JB2T9", **changes,
    }  # fmt: skip
