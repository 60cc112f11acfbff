"""What a person, or another system, knows better than the ledger: ``settle`` and ``adopt``."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import LeadId, LeadPlan, PlannedDelivery, Target
from leadctl.domain.outcomes import TargetState
from leadctl.services.checking import find_credential
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, PlanTotals, Question, Selectors
from leadctl.services.routing import Router
from leadctl.services.work import travelling_key
from leadctl.store.settling import AdoptRow, is_adopted

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: What a person settles: it may be there, or a part of it is missing.
_OPEN = frozenset({TargetState.UNKNOWN, TargetState.SENDING, TargetState.INCOMPLETE})
#: Leads whose rows are read together.
_PAGE = 500


def settle(
    app: "App", lead_ids: Sequence[LeadId], credential: str, delivered: bool, reason: str
) -> dict[str, Any]:  # fmt: skip
    """Write what a person found at the vendor, for these leads at the destination of this credential.

    Raises ConfigError for a credential that neither the database nor the ledger knows.
    """
    destination = _destination(app, lead_ids, credential)
    app.ledger.make()
    settled: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for lead_id, rows in _rows(app, lead_ids):
        mine = [row for row in rows if str(row.credential_id) == credential or row.destination == destination]
        open_rows = [row for row in mine if row.state in _OPEN]
        if not open_rows:
            skipped.append({"lead_id": lead_id, "reason": _why_not(mine)})
        for row in open_rows:
            try:
                settled.append(_settle_one(app, row, delivered=delivered, reason=reason))
            except ConfigError as error:  # a process is sending it just now
                skipped.append({"lead_id": lead_id, "reason": error.message})
    return {"schema": "leadctl.settle/1", "settled": settled, "skipped": skipped}


def _destination(app: "App", lead_ids: Sequence[LeadId], credential: str) -> str | None:
    """The key of where the credential leads now; None where only the ledger remembers it."""
    router = Router(app, Selectors())
    account = next((a for a in router.accounts() if str(a.credential_id) == credential), None)
    if account is None:
        # It was deleted since, or stood in a file.
        if not any(str(row.credential_id) == credential for _, rows in _rows(app, lead_ids) for row in rows):
            find_credential(router.accounts(), credential)
        return None
    route = router.route(account.credential_id)
    return route.destination.key if route else None


def _settle_one(app: "App", row: Target, *, delivered: bool, reason: str) -> dict[str, Any]:
    settled = app.ledger.settle(
        row.lead_id,
        row.destination,
        row.n,
        delivered=delivered,
        reason=reason,
        at=app.clock.now(),
        leases=app.leases,
    )
    return {
        "lead_id": settled.lead_id,
        "channel": settled.channel,
        "credential_id": settled.credential_id,
        "from": row.state.value,
        "state": settled.state.value,
    }


def _rows(app: "App", lead_ids: Sequence[LeadId]) -> Iterator[tuple[LeadId, Sequence[Target]]]:
    ids = list(dict.fromkeys(lead_ids))
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        known = app.ledger.targets_for(page)
        yield from ((lead_id, known.get(lead_id, ())) for lead_id in page)


def _why_not(rows: Sequence[Target]) -> str:
    if not rows:
        return "the ledger knows nothing of it there; what another system has sent is told with: leadctl adopt"
    return f"nothing is in doubt: it is {rows[-1].state.value} there"


def adopt(
    app: "App",
    selection: LeadSelection,
    selectors: Selectors,
    *,
    delivered: bool,
    reason: str,
    dry_run: bool,
    confirm: Callable[[Question], None],
) -> dict[str, Any]:
    """Proof from outside for the deliveries that the plan would make and the ledger knows nothing of.

    ``delivered`` False takes back what was adopted and not touched since. ``confirm`` is asked once, with the
    number, before anything is written.
    """
    candidates = _fresh if delivered else _adopted
    planning = plan_leads(app, selection, selectors)
    counts: Counter[str] = Counter()
    for plan in planning:
        counts.update(found.account.channel for found in candidates(plan))
    totals = planning.totals
    planned = totals.deliveries if delivered else 0
    found = counts.total()
    if found and not dry_run:
        confirm(Question("adopt", _question_totals(totals, counts), nothing_known=False))
        # The plan is made again, page by page: what was there to be counted may be a million rows.
        found, counts = _write(app, selection, selectors, candidates, delivered=delivered, reason=reason)
    return {
        "schema": "leadctl.adopt/1",
        "adopted" if delivered else "undone": found,
        "known": totals.already_delivered + planned - found,
        "leads": totals.leads,
        "by_channel": dict(sorted(counts.items())),
        "dry_run": dry_run,
    }


def _fresh(plan: LeadPlan) -> list[PlannedDelivery]:
    return [delivery for delivery in plan.deliveries if delivery.target is None]


def _adopted(plan: LeadPlan) -> list[PlannedDelivery]:
    return [proven for proven in plan.already_delivered if proven.target is not None and is_adopted(proven.target)]


def _question_totals(totals: PlanTotals, counts: Counter[str]) -> PlanTotals:
    return replace(totals, deliveries=counts.total(), by_channel=dict(sorted(counts.items())))


def _write(
    app: "App",
    selection: LeadSelection,
    selectors: Selectors,
    candidates: Callable[[LeadPlan], Sequence[PlannedDelivery]],
    *,
    delivered: bool,
    reason: str,
) -> tuple[int, Counter[str]]:
    ledger = app.ledger
    ledger.make()
    store = ledger.adopt if delivered else ledger.undo_adopt
    written: Counter[str] = Counter()
    for plans in plan_leads(app, selection, selectors).pages():
        by_channel: dict[str, list[AdoptRow]] = {}
        for planned in (planned for plan in plans for planned in candidates(plan)):
            by_channel.setdefault(planned.account.channel, []).append(_adopt_row(ledger.installation, planned))
        for channel, rows in by_channel.items():
            written[channel] += store(rows, reason, app.clock.now())
    return written.total(), +written


def _adopt_row(installation: str, planned: PlannedDelivery) -> AdoptRow:
    account, target = planned.account, planned.target
    return AdoptRow(
        lead_id=planned.lead_id,
        destination=target.destination if target else planned.destination.key,
        credential_id=account.credential_id,
        channel=account.channel,
        account=planned.destination.account_key,
        key=travelling_key(installation, planned.lead_id, account.credential_id, planned.n),
    )
