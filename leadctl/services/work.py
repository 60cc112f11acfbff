"""The engine's work, read from the ledger page by page: nothing holds all of a bulk in memory."""

import asyncio
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from leadctl.channelkit.spec import Bucket
from leadctl.delivery.jobs import Job, Route
from leadctl.delivery.lanes import AccountQueue, Source
from leadctl.delivery.limits import overridden
from leadctl.domain.model import CredentialId, Lead, LeadId, Target
from leadctl.domain.outcomes import ErrorCode, Outcome, PlanState, TargetState
from leadctl.domain.ports import ItemOutcome, Ledger, Record
from leadctl.services.routing import OpenRoute, Router
from leadctl.services.written import Written
from leadctl.store.leads import load_leads
from leadctl.store.rows import ItemRow

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: Deliveries that the plan may know to be in doubt.
_IN_DOUBT = (PlanState.UNKNOWN, PlanState.INCOMPLETE)
#: Of a delivery whose credential is not as it was planned.
CHANGED = "the credential was changed or switched off while the run was going on"
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def travelling_key(installation: str, lead_id: LeadId, credential_id: CredentialId, n: int) -> str:
    """``lc-{installation}-{lead}-{credential}[-{n}]``; ids with other characters are hashed."""
    suffix = f"-{n}" if n else ""
    return f"lc-{installation}-{_safe(lead_id)}-{_safe(credential_id)}{suffix}"


def _safe(identity: int | str) -> str:
    text = str(identity)
    return text if _SAFE.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:16]


def effective_buckets(app: "App", opened: OpenRoute) -> Sequence[Bucket]:
    """The channel's limits, with ``[limits]`` of the config."""
    buckets = opened.channel.buckets()
    rate = app.settings.limits.rate_for(opened.account.channel, opened.account.credential_id)
    return buckets if rate is None else overridden(buckets, rate.rate, rate.per)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run: the deliveries of these credentials, of the leads between these two places."""

    credential_ids: Sequence[CredentialId]
    first: int
    last: int


class Workload:
    """The queues of one run, or of a part of it."""

    def __init__(
        self,
        app: "App",
        router: Router,
        run_id: str,
        ledger: Ledger,
        *,
        retry_unknown: bool,
        part: Part | None = None,
    ) -> None:
        self._app = app
        self._router = router
        self._run_id = run_id
        self._ledger = ledger
        self._retry_unknown = retry_unknown
        self._part = part
        #: Where the plan is still being written. None: all of it is in the ledger.
        self._written: Written | None = None
        self._now = app.clock.now()

    def queues(self, besides: Sequence[AccountQueue] = ()) -> list[AccountQueue]:
        """A queue per credential that has pending deliveries and can still be sent to. ``besides``: which had one."""
        had = {queue.route.account.credential_id for queue in besides}
        wanted = self._part.credential_ids if self._part else self._pending_credentials()
        return self._queues_of(credential_id for credential_id in wanted if credential_id not in had)

    def queues_ahead(self, credential_ids: Iterable[CredentialId], written: Written) -> list[AccountQueue]:
        """A queue for each of these that can be sent to, while the plan is still being written."""
        self._written = written
        return self._queues_of(credential_ids)

    def _queues_of(self, credential_ids: Iterable[CredentialId]) -> list[AccountQueue]:
        routes = map(self._router.route, credential_ids)
        return [self._queue(route) for route in routes if route is not None]

    def _pending_credentials(self) -> list[CredentialId]:
        return [credential_id for credential_id, _, _ in self._app.ledger.pending_credentials(self._run_id)]

    def _queue(self, opened: OpenRoute) -> AccountQueue:
        account = opened.account
        route = Route(account, opened.channel, opened.destination.account_key)
        return AccountQueue(route, self._source(route, opened), effective_buckets(self._app, opened))

    def _source(self, route: Route, opened: OpenRoute) -> Source:
        after, written = self._part.first - 1 if self._part else -1, self._written

        async def fetch(limit: int) -> list[Job]:
            nonlocal after
            while True:
                last = await written.beyond(route.account.credential_id, after) if written else None
                items, jobs, gone = await asyncio.to_thread(self._page, route, opened, after, limit)
                if gone:
                    await self._ledger.record(self._run_id, gone)
                if not items and last is None:
                    return []
                after = items[-1].seq if items else max(after, last or 0)
                if jobs:
                    return jobs

        return fetch

    def _page(
        self, route: Route, opened: OpenRoute, after: int, limit: int
    ) -> tuple[Sequence[ItemRow], list[Job], list[Record]]:
        items = self._app.ledger.pending_items(self._run_id, route.account.credential_id, after, limit)
        if self._part:
            items = [item for item in items if item.seq <= self._part.last]
        ids = [item.lead_id for item in items]
        leads = load_leads(self._app.db, ids) if ids else {}
        targets = self._app.ledger.targets_for(ids, {item.destination for item in items}) if ids else {}
        jobs: list[Job] = []
        gone: list[Record] = []
        for item in items:
            lead = leads.get(item.lead_id)
            known = targets.get(item.lead_id, [])
            row = next((t for t in known if t.destination == item.destination and t.n == item.n), None)
            if item.destination != opened.key and (row is None or not opened.has(row)):
                gone.append(_moved(item, row))
            elif lead is None:
                gone.append(_gone(item, row, "the lead was deleted while the run was going on"))
            elif lead.problem is not None:
                gone.append(_gone(item, row, f"the lead cannot be read: {lead.problem}"))
            else:
                jobs.append(self._job(route, item, lead, row))
        return items, jobs, gone

    def _job(self, route: Route, item: ItemRow, lead: Lead, row: Target | None) -> Job:
        key = travelling_key(self._app.ledger.installation, lead.id, route.account.credential_id, item.n)
        job = Job(route, lead, item.destination, item.n, key, self._now)
        if row is not None:
            job.adopt(row)
            job.trigger = "resume" if job.in_doubt else "retry"
            job.retry_unknown = self._retry_unknown and job.in_doubt and item.reason in _IN_DOUBT
        if job.retry_unknown:
            job.trigger = "retry_unknown"
        elif item.n and row is None:
            job.trigger = "force"
        return job


def _moved(item: ItemRow, row: Target | None) -> Record:
    """Since it was planned, the credential has been made to lead elsewhere: it is planned anew, not sent."""
    gone = _gone(item, row, CHANGED)
    if gone.item is None or gone.item.outcome is Outcome.UNKNOWN:
        return gone
    return Record(item=replace(gone.item, outcome=Outcome.UNPROCESSED, error_code=ErrorCode.CREDENTIAL_REFUSED))


def _gone(item: ItemRow, row: Target | None, why: str) -> Record:
    """There is no lead to send. What was in doubt stays so: nobody has looked."""
    in_doubt = row is not None and row.state in (TargetState.SENDING, TargetState.UNKNOWN)
    return Record(
        item=ItemOutcome(
            lead_id=item.lead_id,
            credential_id=item.credential_id,
            outcome=Outcome.UNKNOWN if in_doubt else Outcome.FAILED,
            attempts=0,
            error_code=ErrorCode.MAYBE_DELIVERED if in_doubt else ErrorCode.LEAD_NOT_FOUND,
            error_message=why,
        )
    )
