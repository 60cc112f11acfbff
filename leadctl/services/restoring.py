"""A ledger that was restored from a backup, or begun anew where one was lost: what it has forgotten may be there.

Every lead that is older than the restoring is in doubt where the ledger knows of no delivery, or has not written to its
row since. Before a run sends anything it writes that doubt into the ledger; from there on it is settled like any other:
the vendor is asked (LOOKUP), the same key is sent again (IDEMPOTENT), or it is left to a person (BLIND).
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from leadctl.domain.model import LeadPlan, PlannedDelivery, Target
from leadctl.domain.outcomes import Outcome, PlanState, SkipReason, TargetState
from leadctl.services.planning import is_forgotten, plan_leads
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.services.work import travelling_key

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: Skips that no change of a credential or a lead turns into a send.
_NEVER_SENT = (SkipReason.UNSUPPORTED_CHANNEL, SkipReason.DUPLICATE_DESTINATION)


def write_doubts(app: "App", plans: Iterable[LeadPlan]) -> None:
    """Before the first send: the deliveries that a restored ledger may have forgotten are in doubt from now on."""
    before = app.ledger.restored_at
    if before is None:
        return
    now = app.clock.now()
    rows = [
        planned.target or _new_row(app.ledger.installation, planned, now)
        for plan in plans
        for planned in plan.deliveries
        if _is_doubtful(planned, before)
    ]
    app.ledger.doubt(rows, before, now, app.leases)


def _is_doubtful(planned: PlannedDelivery, restored_at: datetime) -> bool:
    """Whether the plan takes it for forgotten, and no doubt is in the ledger yet."""
    if planned.state not in (PlanState.UNKNOWN, PlanState.INCOMPLETE):
        return False
    return planned.target is None or is_forgotten(restored_at, None, planned.target)


def _new_row(installation: str, planned: PlannedDelivery, now: datetime) -> Target:
    account = planned.account
    return Target(
        planned.lead_id,
        planned.destination.key,
        planned.n,
        TargetState.UNKNOWN,
        travelling_key(installation, planned.lead_id, account.credential_id, planned.n),
        account.credential_id,
        account.channel,
        planned.destination.account_key,
        first_at=now,
        updated_at=now,
    )


def clear_when_settled(app: "App", outcomes: Iterable[Outcome]) -> None:
    """After a bulk run that left nothing in doubt: if nothing is left in the whole plan either, all is settled.

    A run over some leads says nothing of the others: the mark stays, and costs a look-up for each old lead.
    """
    if app.ledger.restored_at is None or {Outcome.UNKNOWN, Outcome.UNPROCESSED} & {*outcomes}:
        return
    everything = plan_leads(app, LeadSelection(), Selectors())
    if not any(_is_open(plan, app.ledger.restored_at) for plan in everything):
        app.ledger.clear_restored()


def _is_open(plan: LeadPlan, restored_at: datetime) -> bool:
    """Whether something of this lead may have been forgotten, or would be if a credential were switched on."""
    doubtful = any(_is_doubtful(planned, restored_at) for planned in plan.deliveries)
    return doubtful or any(skip.reason not in _NEVER_SENT for skip in plan.skipped)
