"""``--missing``: what routing says should have arrived, less what ledger and delivery log prove."""

from typing import TYPE_CHECKING

from leadctl.domain.errors import ConfigError
from leadctl.domain.events import RunEvent
from leadctl.domain.outcomes import PlanState
from leadctl.services.requests import LeadSelection, PlanTotals

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: What a state is called among what is missing.
_WORDS = {
    PlanState.NEW: "never tried",
    PlanState.FAILED: "failed",
    PlanState.UNKNOWN: "unknown",
    PlanState.REJECTED: "rejected, and changed since",
    PlanState.INCOMPLETE: "incomplete",
}
#: Those that are named also where there are none of them.
_ALWAYS = (PlanState.NEW, PlanState.FAILED, PlanState.UNKNOWN)


def require_knowledge(app: "App", selection: LeadSelection) -> None:
    """Where nothing is known of any earlier send, all that was ever sent would be missing. Raises ConfigError."""
    if not selection.missing or selection.first_run or app.delivery_log is not None:
        return
    if app.ledger.list_runs(limit=1) or app.ledger.has_any_proof():
        return
    raise ConfigError(
        f"--missing: the ledger {app.ledger.location} knows no earlier run, and no delivery log is mapped: whatever "
        "another system has delivered would count as missing",
        hint="say what was sent: leadctl adopt, or [database.mapping.deliveries] in the config; or that nothing was "
        "sent before: --first-run",
    )


def missing_line(totals: PlanTotals) -> str:
    """``missing: 12 never tried, 3 failed, 0 unknown``; what else is missing only where there is any."""
    numbers = ((state, totals.by_state.get(state.value, 0)) for state in _WORDS)
    return "missing: " + ", ".join(
        f"{number:,} {_WORDS[state]}" for state, number in numbers if number or state in _ALWAYS
    )


def missing_event(totals: PlanTotals) -> RunEvent:
    """The same for the log."""
    numbers = {state.value: totals.by_state.get(state.value, 0) for state in _WORDS}
    never_tried = numbers.pop(PlanState.NEW.value)
    return RunEvent("missing_found", "info", {"leads": totals.leads, "never_tried": never_tried, **numbers})
