"""The deliveries of a run as its ledger begins with them."""

from collections.abc import Iterator

from leadctl.domain.model import LeadPlan, PlannedDelivery
from leadctl.domain.outcomes import ErrorCode, Outcome, PlanState, TargetState
from leadctl.services.planning import Planning
from leadctl.store.rows import ItemRow

HELD_MESSAGE = "an earlier attempt may have arrived; a person must look, or --retry-unknown risks a second one"


def item_rows(planning: Planning, plan: LeadPlan, seq: int) -> Iterator[ItemRow]:
    """A row for each delivery and skip of the lead, which is the ``seq``-th of the run."""
    for planned in (*plan.deliveries, *plan.already_delivered):
        proven = planned.state is None
        target = planned.target
        held = _is_held(planning, planned)
        yield ItemRow(
            seq=seq,
            lead_id=plan.lead_id,
            channel=planned.account.channel,
            credential_id=planned.account.credential_id,
            credential_name=planned.account.name,
            destination=target.destination if target else planned.destination.key,
            n=planned.n,
            outcome=Outcome.ALREADY_DELIVERED if proven else Outcome.UNKNOWN if held else Outcome.PENDING,
            reason=str(planned.state) if planned.state else None,
            target=planned.destination.target,
            remote_id=planned.proof[1] if proven else None,
            remote_url=target.remote_url if target and proven else None,
            error_code=ErrorCode.MAYBE_DELIVERED if held else None,
            error_message=HELD_MESSAGE if held else None,
            settled_by=target.settled_by if target and proven else None,
        )
    for skip in plan.skipped:
        yield ItemRow(
            seq=seq,
            lead_id=plan.lead_id,
            channel=skip.account.channel,
            credential_id=skip.account.credential_id,
            credential_name=skip.account.name,
            outcome=Outcome.SKIPPED,
            reason=skip.reason.value,
            detail=skip.detail,
            target=skip.target,
        )


def _is_held(planning: Planning, planned: PlannedDelivery) -> bool:
    """Whether only a person settles it. Whether a living process is sending it just now, the claim tells."""
    if planned.state is not PlanState.UNKNOWN or planning.retry_unknown:
        return False
    if planned.target is not None and planned.target.state is TargetState.SENDING:
        return False
    route = planning.router.route(planned.account.credential_id)
    return route is not None and route.held
