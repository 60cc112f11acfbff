"""Sending: plan, ask, claim, send, and say what happened. ``resend`` and ``bulk-resend`` are one path."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from leadctl.domain.errors import ConfigError, LeadctlError, NothingSelected, RunLocked
from leadctl.domain.events import Event, RunEvent
from leadctl.domain.ids import UniqueIds
from leadctl.domain.model import CredentialId, LeadId, LeadPlan, sort_key
from leadctl.domain.outcomes import ErrorCode, Outcome, RunStatus
from leadctl.domain.ports import Observer
from leadctl.services.carrying import Rest, carry
from leadctl.services.checks import check_limits
from leadctl.services.estimating import WORTH_SAYING, check_deadline, estimate_plan
from leadctl.services.inspecting import RUN_LEASE, run_report
from leadctl.services.items import item_rows
from leadctl.services.missing import missing_event
from leadctl.services.planning import Planning, plan_leads
from leadctl.services.queueing import Fleet, as_before, check_queued, fleet_for, hand_over
from leadctl.services.requests import PlanTotals, Question, SendRequest
from leadctl.services.restoring import clear_when_settled, write_doubts
from leadctl.services.results import ResultsDir
from leadctl.services.selections import as_options, from_options, selection_digest
from leadctl.services.shapes import run_status, timestamp
from leadctl.services.stopping import StopSwitch
from leadctl.services.work import effective_buckets
from leadctl.services.written import Written
from leadctl.store.leases import process_info
from leadctl.store.rows import RunRow

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

Confirm = Callable[[Question], None]


def send(app: "App", request: SendRequest, *, confirm: Confirm, observer: Observer, stop: StopSwitch) -> dict[str, Any]:
    """Send what is missing. Returns the document ``leadctl.run/1``.

    Raises ConfigError, NothingSelected, RunLocked, Interrupted and Declined (from ``confirm``) before anything is sent,
    and DatabaseUnreachable at any time (the same command goes on later).
    """
    digest = selection_digest(request)
    fleet = fleet_for(app, request)
    with _lease(app, digest, request.wait, stop):
        planning = _preview(app, request, stop)
        totals = planning.totals
        if request.leads.missing:
            observer(missing_event(totals))
        if request.fail_on_empty and not totals.leads and not totals.not_found:
            raise NothingSelected("no lead is selected", hint="see what the selection holds with: leadctl plan")
        check_limits(app, planning.router)
        estimates = estimate_plan(app, planning, request.share) if request.command == "bulk-resend" else []
        check_deadline(app, request, estimates)
        results = ResultsDir(request.results_dir, app.secrets) if request.results_dir else None
        if totals.deliveries:
            nothing_known = not (request.leads.first_run or app.delivery_log or app.ledger.has_any_proof())
            stop.check()
            missing = request.leads.missing
            confirm(Question(request.command, totals, nothing_known, bool(request.force_reason), estimates, missing))
        earlier = _take_over(app, request, digest)
        app.ledger.make()
        run = app.ledger.new_run(
            request.command,
            digest,
            now=app.clock.now(),
            options=as_options(request),
            total_count=UNPLANNED,
            reason=request.force_reason,
        )
        _supersede(app, earlier, run)
        return _Run(app, request, run, observer, stop, results, fleet).begin(earlier)


def resume(
    app: "App",
    run_id: str,
    *,
    observer: Observer,
    stop: StopSwitch,
    global_options: Sequence[str] = (),
    queue: bool = False,
) -> dict[str, Any]:
    """Go on with a run by its id, with the leads and flags that the ledger kept. ``queue``: workers shall do it; then
    what has failed is tried again too."""
    run = app.ledger.run(run_id)
    if run is None:
        raise ConfigError(f"there is no run {run_id} in the ledger {app.ledger.location}", hint="see: leadctl runs")
    request = replace(from_options(run), global_options=tuple(global_options), queueing=as_before(run, queue=queue))
    fleet = fleet_for(app, request)
    with _lease(app, run.selection_digest, 0.0, stop):
        again = [RunStatus.PARTIAL] if queue else []
        if run.status not in (RunStatus.RUNNING, RunStatus.INTERRUPTED, RunStatus.STOPPED, *again):
            observer(RunEvent("nothing_to_resume", "warning", {"run_id": run_id, "status": run.status.value}))
            return run_report(app, run_id, global_options)
        if run.total_count == UNPLANNED:
            raise ConfigError(
                f"run {run_id} ended before its leads were in the ledger; nothing of it was sent",
                hint="type the original command again",
            )
        ledger = app.ledger
        ledger.make()
        ledger.touch_run(run_id, socket.gethostname(), os.getpid(), app.clock.now())
        ids = UniqueIds(identity for page in ledger.run_lead_ids(run_id) for identity in page)
        # What was missing is in the run, whatever has become of it since.
        left_out = _left_out(app, run_id) if request.leads.missing else ()
        leads = replace(request.leads, ids=ids, missing=False, left_out=left_out)
        request = replace(request, leads=leads)
        results = ResultsDir(request.results_dir, app.secrets) if request.results_dir else None
        return _Run(app, request, run, observer, stop, results, fleet).go_on()


def _left_out(app: "App", run_id: str) -> frozenset[LeadId]:
    pages = app.ledger.run_lead_ids(run_id, standing="filtered")
    return frozenset(identity for page in pages for identity in page)


#: From so many leads on a run that goes on sends while the rest of it is still planned.
AHEAD_FROM = 10_000
#: What a run that goes on has nothing to do for, most probably.
_SETTLED = (Outcome.DELIVERED, Outcome.ALREADY_DELIVERED, Outcome.SKIPPED)

#: ``total_count`` of a run whose ids are not all in the ledger yet.
UNPLANNED = -1


@contextmanager
def _lease(app: "App", digest: str, wait: float, stop: StopSwitch) -> Iterator[None]:
    """The lease of a selection: it dies with this process. Raises RunLocked, Interrupted."""
    name = RUN_LEASE.format(source=app.ledger.source, digest=digest)
    info = process_info(since=app.clock.now().isoformat(timespec="seconds"))
    left = wait
    while (lease := app.leases.acquire(name, info)) is None:
        if left <= 0:
            holder = app.leases.holder_info(name) or {}
            raise RunLocked(
                f"this selection is being sent already: by {holder.get('who', 'somebody')} on "
                f"{holder.get('host', 'another host')}, process {holder.get('pid', 'unknown')}, "
                f"since {holder.get('since', 'a moment ago')}",
                hint="watch it with: leadctl runs list --unfinished, then: leadctl runs show RUN; or wait: --wait 10m",
            )
        stop.wait(min(1.0, left))
        stop.check()
        left -= 1.0
    with lease:
        yield


def _plan(app: "App", request: SendRequest) -> Planning:
    return plan_leads(
        app,
        request.leads,
        request.selectors,
        force_reason=request.force_reason,
        retry_unknown=request.retry_unknown,
    )


def _preview(app: "App", request: SendRequest, stop: StopSwitch) -> Planning:
    """The whole plan, for its sums only. Raises Interrupted."""
    planning = _plan(app, request)
    for _ in planning.entries():
        stop.check()
    return planning


def _take_over(app: "App", request: SendRequest, digest: str) -> list[RunRow]:
    """Earlier runs of this selection that did not finish: their lease is ours, so nobody carries them."""
    earlier = app.ledger.unfinished_of(digest, request.command)
    if request.force_reason:
        check_queued(app, digest)
    if request.force_reason and earlier:
        raise ConfigError(
            f"an unfinished forced run of this selection exists: {earlier[0].id}; a new one would send again what "
            "it has sent",
            hint=f"go on with: leadctl runs resume {earlier[0].id}",
        )
    return earlier


def _supersede(app: "App", earlier: Sequence[RunRow], run: RunRow) -> None:
    """What those had not begun is this run's now; what was in doubt is in the ledger and is settled by it."""
    for old in earlier:
        app.ledger.close_unsent(old.id, f"taken over by run {run.id}")
        app.ledger.supersede_run(old.id, run.id, app.clock.now())


class _Run:
    """One run under its lease."""

    def __init__(
        self,
        app: "App",
        request: SendRequest,
        run: RunRow,
        observer: Observer,
        stop: StopSwitch,
        results: ResultsDir | None,
        fleet: Fleet | None,
    ) -> None:
        self._app = app
        self._request = request
        self._run = run
        self._stop = stop
        self._results = results
        self._fleet = fleet
        self._expected = 0
        #: Leads without anything to send to, by the warning's name.
        self._without: dict[str, int] = {}
        self._observing = threading.RLock()
        self._observers = [observer, *([results] if results else [])]
        app.notify = self._observe

    def _observe(self, event: Event) -> None:
        with self._observing:  # the plan may be written while it is sent
            for observer in self._observers:
                observer(event)

    def begin(self, earlier: Sequence[RunRow]) -> dict[str, Any]:
        """A new run: write the plan; with ``--delay`` wait once, and plan anew."""
        planning = self._write_plan(anew=True)
        due = next((old.due_at for old in earlier if old.due_at), None)
        if due is None and self._request.delay:
            due = self._app.clock.now() + timedelta(seconds=self._request.delay)
        if self._fleet and planning.totals.deliveries:
            return hand_over(self._app, self._fleet, planning, self._run.id, self._request, due, self._observe)
        if due is not None and planning.totals.deliveries:
            planning = self._wait_until(due, planning)
        return self._carry(planning)

    def go_on(self) -> dict[str, Any]:
        """A run that was interrupted: what has its final outcome stays, the rest is planned anew."""
        planning = _plan(self._app, self._request)
        waiting = self._open_credentials(planning)
        check_limits(self._app, planning.router)
        ahead = self._may_send_ahead(planning, waiting)
        self._app.ledger.reopen_items(self._run.id, keep_rejected=not self._request.leads.named)
        if ahead and not self._fleet:
            return self._carry(
                planning, Rest(sorted(waiting, key=sort_key), partial(self._write_rest, planning)), waiting
            )
        self._write(planning, anew=False)
        check_limits(self._app, planning.router)
        if self._fleet:
            due = self._run.due_at
            return hand_over(self._app, self._fleet, planning, self._run.id, self._request, due, self._observe)
        if self._run.due_at is not None:
            planning = self._wait_until(self._run.due_at, planning)
        return self._carry(planning)

    def _open_credentials(self, planning: Planning) -> Counter[CredentialId]:
        """How many deliveries of the run each credential has left to do, as far as the ledger tells. All of the run's
        credentials are opened."""
        waiting: Counter[CredentialId] = Counter()
        for (credential_id, outcome, code), number in self._app.ledger.verdict_counts(self._run.id).items():
            opened = planning.router.route(credential_id)
            if opened and (outcome not in _SETTLED or code == ErrorCode.INCOMPLETE):
                waiting[credential_id] += number
        return waiting

    def _may_send_ahead(self, planning: Planning, waiting: Mapping[CredentialId, int]) -> bool:
        """Whether what is written of the plan may be sent while the rest is still being planned: where that takes long,
        and where nothing that is found out later could forbid it."""
        if self._run.total_count < AHEAD_FROM or self._request.command == "resend":
            return False
        if self._results or self._run.due_at or self._app.ledger.restored_at:
            return False
        for account in planning.router.accounts():
            planning.router.route(account.credential_id)
        try:
            check_limits(self._app, planning.router)
        except ConfigError:
            return False  # perhaps of a credential that no lead has: the plan tells
        # Where credentials share a lane, one that has nothing written yet would keep the others waiting.
        routes = [route for name in waiting if (route := planning.router.route(name)) is not None]
        lanes = {effective_buckets(self._app, route)[-1].scope for route in routes}
        return len(lanes) == len(routes)

    def _wait_until(self, due: datetime, planning: Planning) -> Planning:
        self._app.ledger.set_due(self._run.id, due)
        waited = False
        if due > self._app.clock.now():
            self._observe(RunEvent("delayed", "info", {"run_id": self._run.id, "until": timestamp(due)}))
        while (left := (due - self._app.clock.now()).total_seconds()) > 0 and not self._stop.requested:
            self._observe(RunEvent("waiting", "info", {"run_id": self._run.id, "seconds": round(left, 1)}))
            self._stop.wait(min(1.0, left))
            waited = True
        if self._stop.requested:
            return planning  # the due time is kept for who goes on
        self._app.ledger.set_due(self._run.id, None)
        if not waited:
            return planning
        self._app.ledger.set_counts(self._run.id, UNPLANNED, 0)
        self._app.ledger.clear_items(self._run.id)
        return self._write_plan(anew=True)

    def _write_plan(self, *, anew: bool) -> Planning:
        """Leads and deliveries of the run into the ledger, all of them before the first send.

        ``anew`` False: its ids are there already, and some of its deliveries have their final outcome.
        """
        planning = _plan(self._app, self._request)
        self._write(planning, anew=anew)
        return planning

    def _write_rest(self, planning: Planning, written: Written) -> None:
        try:
            self._write(planning, anew=False, written=written)
            self._say_estimates(planning)
        finally:
            written.end()

    def _write(self, planning: Planning, *, anew: bool, written: Written | None = None) -> None:
        ledger, run_id = self._app.ledger, self._run.id
        seq = 0
        for plans in planning.pages():
            rows = [(seq + i, lead_id, standing) for i, (lead_id, standing) in enumerate(planning.standings)]
            places = {lead_id: place for place, lead_id, _ in rows}
            if anew:
                ledger.add_leads(run_id, rows)
            else:  # some may be deleted since, or back
                ledger.correct_leads(run_id, rows)
            write_doubts(self._app, plans)
            kept = set() if anew else ledger.kept_items(run_id, list(places))
            for plan in plans:
                self._say_lead(plan)
            items = [item for plan in plans for item in item_rows(planning, plan, places[plan.lead_id])]
            items = [item for item in items if (item.lead_id, item.credential_id) not in kept]
            ledger.add_items(run_id, items)
            seq += len(rows)
            if written is not None:
                written.page((item.credential_id, item.seq) for item in items if item.outcome is Outcome.PENDING)
                if written.abandoned:
                    return
        self._say_without()
        ledger.set_counts(run_id, seq, planning.totals.filtered_count)
        self._expected = sum(ledger.outcome_counts(run_id).values())
        self._check_plan(planning.totals)

    def _check_plan(self, totals: PlanTotals) -> None:
        planned = totals.deliveries + totals.already_delivered + totals.skipped
        if self._expected < planned:
            raise LeadctlError(f"run {self._run.id}: {planned} deliveries were planned, {self._expected} were kept")

    def _say_lead(self, plan: LeadPlan) -> None:
        level = "info" if self._request.command == "resend" else "debug"
        found = (
            len({s.account.credential_id for s in plan.skipped}) + len(plan.deliveries) + len(plan.already_delivered)
        )
        types = sorted({d.account.channel for d in (*plan.deliveries, *plan.already_delivered)})
        count = len(plan.deliveries) + len(plan.already_delivered)
        lead = {"lead_id": plan.lead_id}
        self._observe(RunEvent("credentials_found", level, {**lead, "credentials_count": found}))
        fields = {**lead, "integrations_count": count, "integration_types": types}
        self._observe(RunEvent("integrations_resolved", level, fields))
        for warning in plan.warnings:
            name = "no_supported_integrations" if plan.skipped else "no_credentials"
            if self._request.command == "resend":
                self._observe(RunEvent(name, "warning", {**lead, "message": warning}))
            else:
                self._observe(RunEvent(name, "debug", {**lead, "message": warning}))
                self._without[name] = self._without.get(name, 0) + 1

    def _say_without(self) -> None:
        """In bulk, one warning a kind: leads by the hundred may have no integrations."""
        for name, count in self._without.items():
            what = name.replace("_", " ")
            message = f"{count} lead(s) with {what}: nothing is sent for them"
            self._observe(RunEvent(name, "warning", {"leads": count, "message": message}))
        self._without = {}

    def _carry(
        self, planning: Planning, rest: Rest | None = None, waiting: Mapping[CredentialId, int] | None = None
    ) -> dict[str, Any]:
        """``rest``: of the plan, with how many deliveries ``waiting`` there are by credential."""
        ledger, run_id = self._app.ledger, self._run.id
        self._rewrite_results()
        by_channel = self._pending_by_channel() if waiting is None else _by_channel(planning, waiting)
        leads = planning.totals.leads if rest is None else self._run.total_count
        started = {"run_id": run_id, "command": self._request.command, "leads": leads,
                   "deliveries": sum(by_channel.values()), "by_channel": by_channel}  # fmt: skip
        self._observe(RunEvent("run_started", "info", started))
        if rest is None:
            self._say_estimates(planning)
        exit_code = carry(
            self._app,
            planning,
            run_id,
            observer=self._observe,
            stop=self._stop,
            expected=lambda: self._expected,
            rest=rest,
            retry_unknown=self._request.retry_unknown,
            bulk=self._request.command == "bulk-resend",
            share=self._request.share,
            finish_by=self._request.finish_by,
        )
        outcomes = ledger.outcome_counts(run_id)
        status = run_status(exit_code, planned=planning.totals.deliveries, outcomes=outcomes)
        ledger.finish_run(run_id, status, exit_code, self._app.clock.now())
        if self._request.command == "bulk-resend":
            clear_when_settled(self._app, (outcome for _, outcome in outcomes))
        self._rewrite_results()
        document = run_report(self._app, run_id, self._request.global_options)
        self._observe(
            RunEvent(
                "run_finished",
                "info",
                {"run_id": run_id, "status": document["status"], "exit_code": exit_code, **document["outcomes"]},
            )
        )
        return document

    def _say_estimates(self, planning: Planning) -> None:
        if self._request.command != "bulk-resend":
            return
        for one in estimate_plan(self._app, planning, self._request.share):
            fields = {"channel": one.channel, "deliveries": one.deliveries, "requests": one.requests,
                      "look_ups": one.look_ups, "at_least_s": round(one.seconds, 1)}  # fmt: skip
            self._observe(RunEvent("estimated", "info" if one.seconds >= WORTH_SAYING else "debug", fields))

    def _pending_by_channel(self) -> dict[str, int]:
        waiting: dict[str, int] = {}
        for _, channel, count in self._app.ledger.pending_credentials(self._run.id):
            waiting[channel] = waiting.get(channel, 0) + count
        return waiting

    def _rewrite_results(self) -> None:
        if self._results is not None:
            ledger, run_id = self._app.ledger, self._run.id
            missing = (i for page in ledger.run_lead_ids(run_id, standing="not_found") for i in page)
            self._results.rewrite(ledger.iter_items(run_id), missing)


def _by_channel(planning: Planning, waiting: Mapping[CredentialId, int]) -> dict[str, int]:
    by_channel: Counter[str] = Counter()
    for credential_id, number in waiting.items():
        route = planning.router.route(credential_id)
        if route is not None:
            by_channel[route.account.channel] += number
    return dict(by_channel)
