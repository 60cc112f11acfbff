"""The plan: what would be sent for which lead. ``plan``, ``--dry-run`` and the real run use this one path."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from leadctl.domain.ids import UniqueIds
from leadctl.domain.model import CredentialId, ExternalId, Lead, LeadId, LeadPlan, PlannedDelivery, Skip, Target
from leadctl.domain.outcomes import PlanState, SkipReason, TargetState
from leadctl.services.logged import Logbook
from leadctl.services.missing import require_knowledge
from leadctl.services.requests import LeadSelection, PlanTotals, Selectors
from leadctl.services.routing import MEMO, OpenRoute, Router, Routing, Via
from leadctl.services.shapes import MAX_ENTRIES, not_found_entry
from leadctl.store.leads import CONTENT, LeadFilter, LeadHead, Standing, classify, head_pages, load_leads

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App
    from leadctl.store.deliverylog import LoggedRow

#: Why ``--missing`` leaves out what a queued run has not sent yet.
QUEUED = "it is in the queue, and workers will send it"
#: Leads that are planned together: one query each for heads, targets and, where needed, the leads' texts.
PAGE = 1000

_STATES: Mapping[TargetState, PlanState] = {
    TargetState.IDLE: PlanState.NEW,
    TargetState.FAILED: PlanState.FAILED,
    TargetState.REJECTED: PlanState.REJECTED,
    TargetState.UNKNOWN: PlanState.UNKNOWN,
    TargetState.SENDING: PlanState.UNKNOWN,
    TargetState.INCOMPLETE: PlanState.INCOMPLETE,
}
#: What is sent without asking the vendor first.
_SENT_AT_ONCE = (PlanState.NEW, PlanState.FAILED, PlanState.REJECTED)


@dataclass(slots=True)
class _Sums:
    leads: int = 0
    not_found: int = 0
    filtered: int = 0
    already: int = 0
    skipped: int = 0
    invalid: int = 0
    held: int = 0
    oldest: datetime | None = None
    by_channel: Counter[str] = field(default_factory=Counter)
    by_state: Counter[str] = field(default_factory=Counter)
    by_credential: Counter[CredentialId] = field(default_factory=Counter)
    in_doubt: Counter[CredentialId] = field(default_factory=Counter)

    def note_age(self, created_at: datetime | None) -> None:
        """A lead of that age has something to send."""
        if created_at is not None and (self.oldest is None or created_at < self.oldest):
            self.oldest = created_at


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What is planned for every lead of one entity and project that ledger and delivery log know nothing of, and
    that the channels judge alike."""

    entity: ExternalId | None
    project: ExternalId | None
    routing: Routing

    def plan(self, lead_id: LeadId) -> LeadPlan:
        """The plan of such a lead."""
        deliveries = tuple(
            PlannedDelivery(lead_id, route.account, route.destination, via, PlanState.NEW)
            for route, via in self.routing.routes
        )
        return LeadPlan(
            lead_id, self.entity, self.project, deliveries, (), self.routing.skips, self.routing.warnings
        )  # fmt: skip


#: A lead and its plan, or the shape of it.
Entry = tuple[LeadId, Shape | LeadPlan]


def plan_of(entry: Entry) -> LeadPlan:
    """The whole plan of a lead."""
    lead_id, found = entry
    return found if isinstance(found, LeadPlan) else found.plan(lead_id)


class Planning:
    """Iterate it once for the LeadPlans, in order; then the sums are there."""

    def __init__(
        self,
        app: "App",
        selection: LeadSelection,
        selectors: Selectors,
        *,
        forced: bool = False,
        retry_unknown: bool = False,
    ) -> None:
        self.router = Router(app, selectors)
        self._logbook = Logbook(app, self.router)
        #: Whether leads that nothing is to be sent for are left out, of the sums too.
        self.missing = selection.missing
        self.not_found: list[LeadId] = []
        #: Every id that was asked for, with what became of it, page by page (for the run's ledger).
        self.standings: list[tuple[LeadId, Standing]] = []
        self._app = app
        self._selection = selection
        self._filter = LeadFilter(selection.project, selection.entity, selection.since, selection.until)
        self._forced = forced
        self.retry_unknown = retry_unknown
        self._sums = _Sums()
        self._shape = lru_cache(MEMO)(self._new_shape)
        self._refusing = lru_cache(MEMO)(_refusing)
        #: How many leads fit each shape, as far as they are not in the sums yet.
        self._fresh: Counter[Shape] = Counter()

    def _new_shape(self, entity: ExternalId | None, project: ExternalId | None) -> Shape:
        return Shape(entity, project, self.router.for_lead(entity, project))

    def __iter__(self) -> Iterator[LeadPlan]:
        for page in self.pages():
            yield from page

    def pages(self) -> Iterator[list[LeadPlan]]:
        """The plans in pages; ``standings`` holds the ids of the page just yielded."""
        for page in self.entries():
            yield [plan_of(entry) for entry in page]

    def entries(self) -> Iterator[list[Entry]]:
        """:meth:`pages` without what leads have in common: a shape stands for the plan of all leads that it fits."""
        asked = self._selection.ids
        if asked is None:
            for page in head_pages(self._app.db, self._filter, PAGE):
                if page:
                    entries = self._plan_page(page)
                    self.standings = [(identity, "planned") for identity, _ in entries]
                    yield entries
            return
        left_out = self._selection.left_out
        for ids in _slices(asked if isinstance(asked, UniqueIds) else UniqueIds(asked), PAGE):
            rows = list(classify(self._app.db, ids, self._filter))
            entries = self._plan_page(
                [head for identity, standing, head in rows
                 if standing == "planned" and head is not None and identity not in left_out]
            )  # fmt: skip
            planned = {identity for identity, _ in entries}
            self.standings = [
                (identity, "filtered" if standing == "planned" and identity not in planned else standing)
                for identity, standing, _ in rows
            ]
            not_found = [identity for identity, standing in self.standings if standing == "not_found"]
            self._sums.not_found += len(not_found)
            self._sums.filtered += sum(standing == "filtered" for _, standing in self.standings)
            self.not_found += not_found[: max(0, MAX_ENTRIES - len(self.not_found))]
            yield entries

    def _plan_page(self, heads: Sequence[LeadHead]) -> list[Entry]:
        shapes = [self._shape(head.external_entity_id, head.external_project_id) for head in heads]
        ids = [head.id for head in heads]
        known, logged = self._known(ids), self._logbook.of(ids)
        queued = self._app.ledger.queued_among(ids) if self._selection.unless_queued else {}
        leads, restored_at = self._texts(heads, shapes, known), self._app.ledger.restored_at
        fresh: list[tuple[LeadHead, Shape]] = []
        entries: list[Entry] = []
        for head, shape in zip(heads, shapes, strict=True):
            lead = leads.get(head.id)
            rows, log, waiting = known.get(head.id, ()), logged.get(head.id, ()), queued.get(str(head.id), ())
            if rows or log or waiting or is_forgotten(restored_at, head.created_at, None) or (lead and lead.problem):
                entries.append((head.id, self._plan_lead(head, shape.routing, rows, lead, log, waiting)))
            else:
                fit = self._judged(shape, lead) if lead else shape
                fresh.append((head, fit))
                entries.append((head.id, fit))
        self._count_fresh(fresh)
        return [entry for entry in entries if _is_open(entry)] if self.missing else entries

    def _known(self, ids: Sequence[LeadId]) -> Mapping[LeadId, Sequence[Target]]:
        known = self._app.ledger.known_among(ids)
        return self._app.ledger.targets_for(known) if known else {}

    def _judged(self, shape: Shape, lead: Lead) -> Shape:
        """The shape that fits this lead of those that its channels may make of it."""
        said = tuple([tuple(judge(lead)) for judge in shape.routing.judges])
        return self._refusing(shape, said) if any(said) else shape

    def _texts(
        self, heads: Sequence[LeadHead], shapes: Sequence[Shape], known: Mapping[LeadId, Sequence[Target]]
    ) -> Mapping[LeadId, Lead]:
        """The leads whose texts the plan depends on: a channel judges them, or they were rejected before."""
        rejected = {
            lead_id for lead_id, rows in known.items() if any(row.state is TargetState.REJECTED for row in rows)
        }
        columns = frozenset().union(*{shape.routing.judged for shape in shapes})
        wanted = [
            head.id
            for head, shape in zip(heads, shapes, strict=True)
            if shape.routing.judged or head.id in rejected
        ] if columns or rejected else []  # fmt: skip
        if not wanted:
            return {}
        # Whether the lead was changed since it was rejected, all of it tells.
        return load_leads(self._app.db, wanted, CONTENT if rejected else columns)

    def _plan_lead(
        self,
        head: LeadHead,
        routing: Routing,
        known: Sequence[Target],
        lead: Lead | None,
        logged: "Sequence[LoggedRow]",
        waiting: Collection[str],
    ) -> LeadPlan:
        deliveries: list[PlannedDelivery] = []
        already: list[PlannedDelivery] = []
        skips = list(routing.skips)
        for route, via in routing.routes:
            if str(route.account.credential_id) in waiting:
                skips.append(Skip(route.account, SkipReason.NOT_SELECTED, QUEUED, via, route.destination.target))
                continue
            planned = self._plan_delivery(head, route, via, known, lead, logged)
            if isinstance(planned, Skip):
                skips.append(planned)
            elif planned.state is None:
                already.append(planned)
            else:
                deliveries.append(planned)
                self._count(planned, route)
        self._sums.invalid += routing.invalid
        if deliveries or not self.missing:
            self._sums.leads += 1
            self._sums.already += len(already)
            self._sums.skipped += len(skips)
        if deliveries:
            self._sums.note_age(head.created_at)
        return LeadPlan(
            head.id, head.external_entity_id, head.external_project_id,
            tuple(deliveries), tuple(already), tuple(skips), routing.warnings,
        )  # fmt: skip

    def _plan_delivery(
        self,
        head: LeadHead,
        route: OpenRoute,
        via: Via,
        known: Sequence[Target],
        lead: Lead | None,
        log: "Sequence[LoggedRow]",
    ) -> PlannedDelivery | Skip:
        # What may have arrived elsewhere in the account weighs more than what surely did not arrive here.
        rows = sorted((row for row in known if route.has(row)), key=lambda row: (row.n, not row.is_empty))
        proof = next((row for row in reversed(rows) if row.state is TargetState.DELIVERED), None)
        last = rows[-1] if rows else None
        logged = self._logbook.proof(log, route) if log and proof is None and _may_be_theirs(last) else None

        def planned(state: PlanState | None, target: Target | None, n: int) -> PlannedDelivery:
            if state in _SENT_AT_ONCE and self._is_forgotten(head, route, target):
                state = PlanState.UNKNOWN
            return PlannedDelivery(head.id, route.account, route.destination, via, state, n, target)

        if proof is not None and not self._forced:
            return planned(None, proof, proof.n)
        if logged is not None and not self._forced:
            return PlannedDelivery(head.id, route.account, route.destination, via, None, logged=logged)
        if lead is not None and (problems := [lead.problem] if lead.problem else route.channel.judge(lead)):
            return route.refusal(problems, via)
        if last is None:
            return planned(PlanState.NEW, None, 0 if logged is None else 1)  # the first one is the application's
        if last.state is TargetState.DELIVERED:
            return planned(PlanState.NEW, None, last.n + 1)
        if last.state is TargetState.REJECTED and not self._again(last, route, lead):
            detail = f"refused before: {last.error_message or 'no reason kept'}"
            return Skip(route.account, SkipReason.REJECTED_BEFORE, detail, via, route.destination.target)
        return planned(_STATES[last.state], last, last.n)

    def _is_forgotten(self, head: LeadHead, route: OpenRoute, row: Target | None) -> bool:
        """A forced send is meant to be another one: where nobody could tell of an earlier one, it goes."""
        if self._forced and route.held:
            return False
        return is_forgotten(self._app.ledger.restored_at, head.created_at, row)

    def _again(self, row: Target, route: OpenRoute, lead: Lead | None) -> bool:
        """A rejected one goes again when a person names the lead, or when lead or credential changed since."""
        if self._selection.named or self._forced or lead is None:
            return True
        return row.digest != f"{lead.digest}:{route.account.digest}"

    def _count(self, planned: PlannedDelivery, route: OpenRoute) -> None:
        sums = self._sums
        sums.by_channel[planned.account.channel] += 1
        sums.by_state[str(planned.state)] += 1
        sums.by_credential[planned.account.credential_id] += 1
        if planned.state is PlanState.UNKNOWN:
            sums.in_doubt[planned.account.credential_id] += 1
            if route.held and not self.retry_unknown:
                sums.held += 1

    def _count_fresh(self, fresh: Sequence[tuple[LeadHead, Shape]]) -> None:
        times = [head.created_at for head, shape in fresh if shape.routing.routes and head.created_at is not None]
        self._sums.note_age(min(times, default=None))
        self._fresh.update([shape for _, shape in fresh])
        if len(self._fresh) > MEMO:
            self._add_fresh()

    def _add_fresh(self) -> None:
        sums, fresh = self._sums, self._fresh
        for shape, number in fresh.items():
            routing = shape.routing
            sums.invalid += number * routing.invalid
            if self.missing and not routing.routes:
                continue
            sums.leads += number
            sums.skipped += number * len(routing.skips)
            sums.by_state[str(PlanState.NEW)] += number * len(routing.routes)
            for route, _ in routing.routes:
                sums.by_channel[route.account.channel] += number
                sums.by_credential[route.account.credential_id] += number
        fresh.clear()

    @property
    def totals(self) -> PlanTotals:
        """The sums so far; all of them after the last page."""
        self._add_fresh()
        sums = self._sums
        return PlanTotals(
            leads=sums.leads,
            not_found=sums.not_found,
            filtered_count=sums.filtered,
            deliveries=sums.by_channel.total(),
            already_delivered=sums.already,
            skipped=sums.skipped,
            by_channel=dict(sorted(sums.by_channel.items())),
            by_state=dict(sorted((+sums.by_state).items())),
            invalid_credentials=sums.invalid,
            held_unknown=sums.held,
            oldest=sums.oldest,
            by_credential=dict(sums.by_credential),
            in_doubt=dict(sums.in_doubt),
        )

    def errors(self) -> list[dict[str, Any]]:
        """An entry per lead that was not found, at most 1,000."""
        return [not_found_entry(identity) for identity in self.not_found]

    def exit_code(self, detailed: bool) -> int:
        """Of ``plan``: 1 > 10 > 0; 2 and 5 are raised."""
        totals = self.totals
        if totals.not_found:
            return 1
        return 10 if detailed and totals.deliveries > totals.held_unknown else 0


def _refusing(shape: Shape, said: Sequence[Sequence[str]]) -> Shape:
    return Shape(shape.entity, shape.project, shape.routing.refusing(said))


def is_forgotten(restored_at: datetime | None, created_at: datetime | None, row: Target | None) -> bool:
    """Whether the delivery may have been made although the ledger, which was restored then, does not know it."""
    if restored_at is None:
        return False
    if row is None:
        return created_at is None or created_at < restored_at
    return row.state is not TargetState.DELIVERED and row.updated_at < restored_at


def _may_be_theirs(last: Target | None) -> bool:
    """Whether the delivery log may speak of that delivery: not where a part of ours is missing, nor of a forced one."""
    return last is None or (last.n == 0 and last.state is not TargetState.INCOMPLETE)


def _is_open(entry: Entry) -> bool:
    """Whether something is to be sent for the lead."""
    found = entry[1]
    return bool(found.deliveries if isinstance(found, LeadPlan) else found.routing.routes)


def _slices(ids: Sequence[LeadId], size: int) -> Iterator[Sequence[LeadId]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def plan_leads(
    app: "App",
    selection: LeadSelection,
    selectors: Selectors,
    *,
    force_reason: str | None = None,
    retry_unknown: bool = False,
) -> Planning:
    """The plan of this selection. Raises ConfigError, DatabaseUnreachable."""
    require_knowledge(app, selection)
    return Planning(app, selection, selectors, forced=force_reason is not None, retry_unknown=retry_unknown)
