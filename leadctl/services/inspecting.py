"""What the ledger knows: runs, the life of a lead; and whether credentials work."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from leadctl.channelkit.spec import Retransmit
from leadctl.channels import channel_class, is_channel
from leadctl.domain.errors import ConfigError, LeadNotFound
from leadctl.domain.model import Account, CredentialId, LeadId, Target
from leadctl.domain.outcomes import ErrorCode, Outcome, RunStatus
from leadctl.services.catalog import channel_rows, channel_schema
from leadctl.services.checking import check_channels, check_exit_code
from leadctl.services.shapes import (
    FAILURES,
    GOING_ON,
    NOT_FOUND_MESSAGE,
    RunFacts,
    error_json,
    run_document,
    timestamp,
)
from leadctl.services.verdicts import IN_DOUBT, advice
from leadctl.store.chunks import ChunkRows
from leadctl.store.credentials import load_credentials
from leadctl.store.leads import heads_by_ids
from leadctl.store.rows import AttemptRow, ErrorGroup, History, ItemRow, RunRow

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

__all__ = [
    "channel_rows",
    "channel_schema",
    "check_channels",
    "check_exit_code",
    "forced_reason",
    "history",
    "list_runs",
    "run_groups",
    "run_progress",
    "run_report",
]

#: The lease of a selection, by the source of its leads and its digest: whoever sends it holds this.
RUN_LEASE = "run-{source}-{digest}"
#: Where a delivery of a lead leads, and which send there it is.
_Place = tuple[str, int]


def run_report(app: "App", run_id: str, global_options: Sequence[str] = ()) -> dict[str, Any]:
    """``leadctl.run/1``, from the ledger alone. Raises ConfigError if there is no such run."""
    row = run_row(app, run_id)
    ledger = app.ledger
    leads = ledger.lead_counts(run_id)
    groups = ledger.group_errors(run_id)
    facts = RunFacts(
        run_id=row.id,
        command=row.command,
        status=_status(app, row),
        started_at=row.started_at,
        finished_at=row.finished_at,
        exit_code=row.exit_code,
        leads=leads.get("planned", 0),
        not_found_count=leads.get("not_found", 0),
        filtered_count=leads.get("filtered", 0),
        outcomes=ledger.outcome_counts(run_id),
        incomplete=sum(group.count for group in groups if group.error_code == ErrorCode.INCOMPLETE),
        dispatched_count=ledger.dispatched_count(run_id),
        global_options=global_options,
    )
    suspects = (*FAILURES, Outcome.DELIVERED) if facts.incomplete else FAILURES
    return run_document(
        facts,
        ledger.iter_items(run_id),
        ledger.iter_items(run_id, suspects),
        chain.from_iterable(ledger.run_lead_ids(run_id, standing="not_found")),
        app.clock.now(),
    )


def forced_reason(app: "App", run_id: str) -> str | None:
    """Why the run sent again what was there already (``--force --reason``); None: it was not forced."""
    return run_row(app, run_id).reason


def run_row(app: "App", run_id: str) -> RunRow:
    """The run of that id. Raises ConfigError where there is none."""
    row = app.ledger.run(run_id)
    if row is None:
        raise ConfigError(f"the ledger knows no run {run_id}", hint="see: leadctl runs list")
    return row


def _status(app: "App", row: RunRow) -> RunStatus:
    """The row of a killed run still says ``running``: its selection's lease tells."""
    if row.status not in GOING_ON:
        return row.status
    if row.status is RunStatus.QUEUED:
        return RunStatus.RUNNING if ChunkRows(app.ledger).begun(row.id) else RunStatus.QUEUED
    alive = app.leases.is_alive(RUN_LEASE.format(source=app.ledger.source, digest=row.selection_digest))
    return RunStatus.RUNNING if alive else RunStatus.INTERRUPTED


def run_progress(app: "App", run_id: str) -> tuple[RunStatus, dict[str, int]]:
    """Where a run is: its status, and how many deliveries wait by channel. Raises ConfigError if there is none."""
    status = _status(app, run_row(app, run_id))
    counts = app.ledger.outcome_counts(run_id)
    return status, {channel: n for (channel, outcome), n in counts.items() if outcome is Outcome.PENDING}


def list_runs(app: "App", unfinished: bool) -> list[dict[str, Any]]:
    """The latest runs, the newest first."""
    return [_run_row(app, row) for row in app.ledger.list_runs(unfinished)]


def _run_row(app: "App", row: RunRow) -> dict[str, Any]:
    status = _status(app, row)
    ended = row.finished_at if status not in GOING_ON else None
    outcomes = dict.fromkeys((outcome.value for outcome in Outcome), 0)
    for (_, outcome), number in app.ledger.outcome_counts(row.id).items():
        outcomes[outcome.value] += number
    return {
        "run_id": row.id,
        "command": row.command,
        "status": status.value,
        "started_at": timestamp(row.started_at),
        "finished_at": timestamp(ended) if ended else None,
        "exit_code": row.exit_code if ended else None,
        "total_count": sum(app.ledger.lead_counts(row.id).values()),
        "outcomes": outcomes,
    }


def run_groups(app: "App", run_id: str, global_options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What went wrong in a run, by credential and code, with what to do about it.

    ``global_options`` stand in every command that is advised.
    """
    groups = app.ledger.group_errors(run_id)
    accounts = {account.credential_id: account for account in load_credentials(app.db)} if groups else {}
    missing = _missing_group(app, run_id)
    run = app.ledger.run(run_id)
    for_a_person = run is not None and run.exit_code == IN_DOUBT
    return [
        *missing,
        *(_group(group, accounts.get(group.credential_id), run_id, global_options, for_a_person) for group in groups),
    ]


def _group(
    group: ErrorGroup, account: Account | None, run_id: str, global_options: Sequence[str], for_a_person: bool
) -> dict[str, Any]:
    held = for_a_person or is_held(group.channel, account.settings if account else {})
    return {
        "channel": group.channel,
        "credential_id": group.credential_id,
        "credential_name": account.name if account else None,
        "code": group.error_code,
        "vendor_code": group.vendor_code,
        "message": group.message or "",
        "count": group.count,
        "first_lead": group.first_lead,
        "advice": advice(
            group.error_code,
            group.channel,
            group.credential_id,
            run_id,
            group.first_lead,
            held=held,
            global_options=global_options,
        ),
    }  # fmt: skip


def _missing_group(app: "App", run_id: str) -> list[dict[str, Any]]:
    count = app.ledger.lead_counts(run_id).get("not_found", 0)
    first = next(chain.from_iterable(app.ledger.run_lead_ids(run_id, 1, standing="not_found")), None)
    if first is None:
        return []
    return [
        {
            "channel": None,
            "credential_id": None,
            "credential_name": None,
            "code": ErrorCode.LEAD_NOT_FOUND.value,
            "vendor_code": None,
            "message": NOT_FOUND_MESSAGE,
            "count": count,
            "first_lead": first,
            "advice": advice(ErrorCode.LEAD_NOT_FOUND, None, None, run_id, first),
        }
    ]


def is_held(channel: str, settings: Mapping[str, Any]) -> bool:
    """Whether what is in doubt there is for a person: nothing can be asked, or nothing shall be."""
    if settings.get("on_unknown") == "hold":
        return True
    steps = channel_class(channel).spec.steps if is_channel(channel) else ()
    return any(step.retransmit is Retransmit.BLIND for step in steps)


def history(app: "App", lead_id: LeadId) -> dict[str, Any]:
    """The life of a lead over all channels. Raises LeadNotFound if neither database nor ledger knows it."""
    known = app.ledger.history(lead_id)
    if not (known.targets or known.attempts or known.items) and lead_id not in heads_by_ids(app.db, [lead_id]):
        raise LeadNotFound(f"lead {lead_id} is not in the database, and the ledger knows nothing of it")
    return {
        "schema": "leadctl.history/1",
        "lead_id": lead_id,
        "deliveries": [_life(place, known) for place in _places(known)],
    }


def _places(known: History) -> Iterable[_Place]:
    """Every place that something is known of: proof, an attempt, or a run that planned it."""
    found: dict[_Place, None] = {}
    for attempt in known.attempts:
        found.setdefault((attempt.attempt.destination, attempt.attempt.n))
    for target in known.targets:
        found.setdefault((target.destination, target.n))
    for _, item in known.items:
        if item.destination:
            found.setdefault((item.destination, item.n))
    return found


def _life(place: _Place, known: History) -> dict[str, Any]:
    target = next((t for t in known.targets if (t.destination, t.n) == place), None)
    attempts = [row for row in known.attempts if (row.attempt.destination, row.attempt.n) == place]
    items = [(run_id, item) for run_id, item in known.items if (item.destination, item.n) == place]
    channel, credential_id = _carrier(target, attempts, items)
    return {
        "channel": channel,
        "credential_id": credential_id,
        "n": place[1],
        **_present(target),
        "runs": [
            {
                "run_id": run_id,
                "outcome": item.outcome.value,
                "finished_at": timestamp(item.finished_at) if item.finished_at else None,
            }
            for run_id, item in items
        ],
        "attempts": [_attempt(row) for row in attempts],
    }


def _carrier(
    target: Target | None, attempts: Sequence[AttemptRow], items: Sequence[tuple[str, ItemRow]]
) -> tuple[str, CredentialId]:
    last = target or (attempts[-1].attempt if attempts else items[-1][1])
    return last.channel, last.credential_id


def _present(target: Target | None) -> dict[str, Any]:
    """What is true now; all null where nothing was ever claimed, or an adoption was undone."""
    if target is None:
        return dict.fromkeys(
            ("state", "key", "remote_id", "remote_url", "settled_by", "error", "first_at", "updated_at")
        )  # fmt: skip
    return {
        "state": target.state.value,
        "key": target.key,
        "remote_id": target.remote_id,
        "remote_url": target.remote_url,
        "settled_by": target.settled_by.value if target.settled_by else None,
        "error": error_json(target.error_code, target.error_message, target.vendor_code),
        "first_at": timestamp(target.first_at),
        "updated_at": timestamp(target.updated_at),
    }


def _attempt(row: AttemptRow) -> dict[str, Any]:
    attempt = row.attempt
    return {
        "run_id": row.run_id,
        "credential_id": attempt.credential_id,
        "step": attempt.step or None,
        "trigger": attempt.trigger,
        "started_at": timestamp(attempt.started_at),
        "ended_at": timestamp(attempt.ended_at) if attempt.ended_at else None,
        "outcome": attempt.outcome,
        "http_status": attempt.http_status,
        "vendor_code": attempt.vendor_code,
        "answer": attempt.answer,
    }
