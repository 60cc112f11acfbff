"""Queued runs: the ledger knows what is to be done, the queue says who does what next.

Everything is written to the ledger first, and put into the queue after that, under keys that make a second time do no
harm. So whatever the queue loses, :func:`sync` gives it again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from leadctl.channelkit.spec import Bucket
from leadctl.delivery.engine import EngineReport
from leadctl.delivery.lanes import Parking
from leadctl.domain.errors import ConfigError, Transient
from leadctl.domain.events import RunEvent
from leadctl.domain.model import CredentialId, parse_id
from leadctl.domain.outcomes import ErrorCode, RunStatus
from leadctl.domain.ports import Job, JobQueue, Observer
from leadctl.fleet import open_queue
from leadctl.services.carrying import close_vanished, exit_code_of
from leadctl.services.inspecting import run_report, run_row
from leadctl.services.loops import in_own_loop
from leadctl.services.planning import Planning
from leadctl.services.requests import DEFAULT_QUEUE, Queueing, SendRequest
from leadctl.services.restoring import clear_when_settled
from leadctl.services.routing import OpenRoute, Router
from leadctl.services.selections import from_options
from leadctl.services.shapes import check_sums, run_status, timestamp
from leadctl.services.work import effective_buckets
from leadctl.store.chunks import Chunk, ChunkRows, ChunkState
from leadctl.store.rows import RunRow

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: The most requests a second that one request in flight at a time makes, whatever the limit says.
PER_SLOT = 10.0
#: The most leads of a chunk: bounds what is looked at again after a crash.
MOST = 5000
#: What becomes of a run that was cancelled.
CANCELLED = "the run was cancelled"
_INVALID, _EXPECTED = "invalid_credentials", "expected"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What queued runs are made of."""

    rows: ChunkRows
    queue: JobQueue


def open_fleet(app: "App", *, ready: bool = True) -> Fleet:
    """Ledger and queue. Raises ConfigError where the ledger is not on PostgreSQL, the extra is not installed, or (with
    ``ready``) the queue's tables are not there; DatabaseUnreachable."""
    rows = ChunkRows(app.ledger)
    queue = open_queue(rows.dsn)
    if ready:
        in_own_loop(lambda: queue.enqueue([]))
    return Fleet(rows, queue)


# --- into the queue ------------------------------------------------------------------------------------------


def fleet_for(app: "App", request: SendRequest) -> Fleet | None:
    """Where the request goes to; None: it is sent here and now. Raises as :func:`open_fleet`."""
    return open_fleet(app) if request.queueing else None


def as_before(run: RunRow, *, queue: bool) -> Queueing | None:
    """How a run that goes on was queued before, if it was."""
    if not queue:
        return None
    kept = run.options.get("queueing")
    return Queueing(**kept) if kept else Queueing(DEFAULT_QUEUE)


def check_queued(app: "App", digest: str) -> None:
    """A forced run that workers carry is unfinished as well. Raises ConfigError."""
    for run_id in app.ledger.queued_of(digest):
        raise ConfigError(
            f"a queued run of this selection exists: {run_id}; a new one would send again what it sends",
            hint=f"watch it with: leadctl runs show {run_id} --watch",
        )


def hand_over(
    app: "App",
    fleet: Fleet,
    planning: Planning,
    run_id: str,
    request: SendRequest,
    due: datetime | None,
    observer: Observer,
) -> dict[str, Any]:
    """The pending deliveries of a run that is written to the ledger: into chunks, and those into the queue. The run is
    the workers' in the moment in which all of its chunks are in the ledger. Returns ``leadctl.run/1``."""
    how = request.queueing or Queueing(DEFAULT_QUEUE)
    app.ledger.set_due(run_id, due)
    rows = _cut(app, fleet.rows, planning.router, run_id, how, share=request.share, due=due)
    if rows:
        known = Report(expected=sum(app.ledger.outcome_counts(run_id).values()),
                       invalid_credentials=planning.totals.invalid_credentials)  # fmt: skip
        rows[0] = replace(rows[0], report=known.as_json())
    numbered = fleet.rows.replace(run_id, rows, app.clock.now())
    close_run(app, fleet.rows, run_id)  # where nothing of it waits
    document = run_report(app, run_id, request.global_options)  # as it was handed over, however fast the workers are
    in_own_loop(lambda: fleet.queue.enqueue([job_of(row) for row in numbered]))
    fields = {"run_id": run_id, "queue": how.name, "chunks": len(rows), "deliveries": sum(r.deliveries for r in rows)}
    observer(RunEvent("run_queued", "info", {**fields, "until": timestamp(due) if due else None}))
    return document


def _cut(
    app: "App", rows: ChunkRows, router: Router, run_id: str, how: Queueing, *, share: float, due: datetime | None
) -> list[Chunk]:
    """The chunks, in the order of their leads; not numbered yet."""
    chunks = []
    for account, routes in _by_account(app, router, run_id).items():
        ids = tuple(route.account.credential_id for route in routes)
        speed = app.settings.limits.scale * share
        size = max(1, min(_size(app, route, speed, how.seconds) for route in routes) // len(routes))
        whole = Chunk(run_id, 0, how.name, account, routes[0].account.channel, ids, 0, 0, 0, how.priority,
                      not_before=due)  # fmt: skip
        for first, last, number in rows.ranges(run_id, ids, size):
            chunks.append(replace(whole, first_seq=first, last_seq=last, deliveries=number))
    return sorted(chunks, key=lambda chunk: chunk.first_seq)


def _by_account(app: "App", router: Router, run_id: str) -> Mapping[str, Sequence[OpenRoute]]:
    """The credentials that something waits for, by the owner of the limit that they share."""
    found: defaultdict[str, list[OpenRoute]] = defaultdict(list)
    for credential_id, _, _ in app.ledger.pending_credentials(run_id):
        route = router.route(credential_id)
        if route is not None:
            found[route.account_key].append(route)
    return found


def _size(app: "App", route: OpenRoute, speed: float, seconds: float) -> int:
    """Leads that a credential takes in so many seconds at its limit."""
    requests = min(_rate(effective_buckets(app, route)) * speed, route.channel.spec.concurrency * PER_SLOT) * seconds
    per_lead = sum(1 / route.channel.batch_size(step) for step in route.channel.steps)
    return max(1, min(MOST, round(requests / per_lead)))


def _rate(buckets: Sequence[Bucket]) -> float:
    return min(bucket.limit.rate / bucket.limit.per for bucket in buckets)


def job_of(chunk: Chunk) -> Job:
    """What the queue carries of a chunk: ids only."""
    return Job(chunk.key, chunk.lane, chunk.priority, chunk.not_before)


def sync(app: "App", fleet: Fleet) -> dict[str, Any]:
    """Give the queue what the ledger says is to be done and no job carries; close the runs that have nothing left.

    Returns ``leadctl.queue_sync/1``.
    """
    chunks = fleet.rows.open_chunks()
    carried = in_own_loop(fleet.queue.keys)
    lost = [job_of(chunk) for chunk in chunks if chunk.key not in carried]
    added = in_own_loop(lambda: fleet.queue.enqueue(lost)) if lost else 0
    closed = [run_id for run_id in fleet.rows.queued_runs() if close_run(app, fleet.rows, run_id)]
    return {"schema": "leadctl.queue_sync/1", "chunks": len(chunks), "enqueued": added, "closed_runs": closed}


# --- the end of a run ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What the end of a run must know of its chunks, beside the outcomes. Kept as JSON in the chunk's row."""

    parked: dict[CredentialId, ErrorCode] = field(default_factory=dict)
    #: By credential: ended unknown, and no look-up can ever tell.
    untold: dict[CredentialId, int] = field(default_factory=dict)
    bug: bool = False
    invalid_credentials: int = 0
    #: Deliveries that the plan has put into the run, already delivered and skipped ones included.
    expected: int = 0

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Report":
        return cls(
            {parse_id(name): ErrorCode(code) for name, code in kept.get("parked", {}).items()},
            {parse_id(name): int(number) for name, number in kept.get("untold", {}).items()},
            bool(kept.get("bug")),
            int(kept.get(_INVALID, 0)),
            int(kept.get(_EXPECTED, 0)),
        )

    def add(self, other: "Report") -> None:
        self.parked |= other.parked
        for credential_id, number in other.untold.items():
            self.untold[credential_id] = self.untold.get(credential_id, 0) + number
        self.bug = self.bug or other.bug
        self.invalid_credentials += other.invalid_credentials
        self.expected += other.expected

    def as_json(self) -> dict[str, Any]:
        """Without what is empty."""
        whole = {
            "parked": {str(name): code.value for name, code in self.parked.items()},
            "untold": {str(name): number for name, number in self.untold.items()},
            "bug": self.bug,
            _INVALID: self.invalid_credentials,
            _EXPECTED: self.expected,
        }
        return {name: value for name, value in whole.items() if value}


def close_run(app: "App", rows: ChunkRows, run_id: str) -> bool:
    """End a queued run that nothing is left of: as the foreground does it, and whoever comes first. Says whether it
    was closed just now."""
    row = app.ledger.run(run_id)
    if row is None or row.status is not RunStatus.QUEUED or rows.is_open(run_id):
        return False
    chunks = rows.of_run(run_id)
    cancelled = any(chunk.state is ChunkState.CANCELLED for chunk in chunks)
    if cancelled:
        app.ledger.close_unsent(run_id, CANCELLED)
    close_vanished(app, run_id)
    outcomes = app.ledger.outcome_counts(run_id)
    whole = Report()
    for chunk in chunks:
        whole.add(Report.of(chunk.report))
    check_sums(run_id, whole.expected if chunks else sum(outcomes.values()), outcomes)
    carriers = {name for chunk in chunks for name in chunk.credential_ids}
    exit_code = exit_code_of(
        app,
        Router(app, from_options(row).selectors, only=carriers),
        run_id,
        EngineReport(
            {name: Parking(code, Transient("")) for name, code in whole.parked.items()}, whole.bug, untold=whole.untold
        ),
        not_found=app.ledger.lead_counts(run_id).get("not_found", 0),
        invalid_credentials=whole.invalid_credentials,
        signal=None,
    )
    status = run_status(exit_code, planned=sum(chunk.deliveries for chunk in chunks), outcomes=outcomes)
    closed = rows.close_run(run_id, status, exit_code, app.clock.now())
    if closed and row.command == "bulk-resend":
        clear_when_settled(app, (outcome for _, outcome in outcomes))
    return closed


# --- what a person asks --------------------------------------------------------------------------------------


def init(app: "App") -> None:
    """Make the queue's tables, or bring them up to date."""
    fleet = open_fleet(app, ready=False)
    in_own_loop(fleet.queue.init)


def cancel(app: "App", fleet: Fleet, run_id: str) -> dict[str, Any]:
    """Begin nothing more of a queued run; what a worker is sending just now ends. Returns ``leadctl.queue_cancel/1``.

    Raises ConfigError where the run is not queued.
    """
    status = run_row(app, run_id).status
    if status is not RunStatus.QUEUED:
        raise ConfigError(f"run {run_id} is not queued: it is {status.value}", hint=f"leadctl runs show {run_id}")
    waiting, running = fleet.rows.cancel(run_id, app.clock.now())
    in_own_loop(lambda: fleet.queue.cancel(waiting))
    close_run(app, fleet.rows, run_id)
    return {"schema": "leadctl.queue_cancel/1", "run_id": run_id, "cancelled": len(waiting), "running": running}


def listing(app: "App", fleet: Fleet) -> dict[str, Any]:
    """Everything that is to be done, by queue and account. Returns ``leadctl.queue/1``."""
    chunks = fleet.rows.open_chunks()
    carried = in_own_loop(fleet.queue.keys)  # after the chunks: what was queued between both has its job
    accounts = [
        {
            "queue": lane.queue,
            "account": lane.account,
            "channel": lane.channel,
            "queued": lane.queued,
            "running": lane.running,
            "deliveries": lane.deliveries,
            "oldest": timestamp(lane.oldest) if lane.oldest else None,
            "not_before": _future(app, lane.not_before),
            "workers": list(lane.workers),
        }
        for lane in fleet.rows.backlog()
    ]
    lost = sum(chunk.key not in carried for chunk in chunks)
    return {"schema": "leadctl.queue/1", "accounts": accounts, "runs": fleet.rows.queued_runs(), "without_job": lost}


def _future(app: "App", moment: datetime | None) -> str | None:
    return timestamp(moment) if moment is not None and moment > app.clock.now() else None


def chunks_of(app: "App", run_id: str) -> dict[str, Any]:
    """The chunks of a run. Returns ``leadctl.queue_run/1``. Raises ConfigError where there is no such run."""
    chunks = ChunkRows(app.ledger).of_run(run_id)
    if not chunks:
        raise ConfigError(f"no chunks of a run {run_id} are known", hint="see: leadctl queue list")
    return {
        "schema": "leadctl.queue_run/1",
        "run_id": run_id,
        "chunks": [
            {
                "no": chunk.no,
                "queue": chunk.queue,
                "account": chunk.account,
                "channel": chunk.channel,
                "credential_ids": list(chunk.credential_ids),
                "deliveries": chunk.deliveries,
                "state": chunk.state.value,
                "tries": chunk.tries,
                "worker": chunk.worker,
                "not_before": _future(app, chunk.not_before),
            }
            for chunk in chunks
        ],
    }


def prune(fleet: Fleet, before: datetime) -> dict[str, Any]:
    """Forget chunks of runs that ended before that time, and what the queue remembers. Returns
    ``leadctl.queue_prune/1``. The runs themselves stay: see ``leadctl runs purge``."""
    carried = in_own_loop(fleet.queue.keys)  # before the chunks: what is queued meanwhile is not idle
    open_keys = {chunk.key for chunk in fleet.rows.open_chunks()}
    idle = sorted(carried - open_keys)
    return {
        "schema": "leadctl.queue_prune/1",
        "before": timestamp(before),
        "chunks": fleet.rows.prune(before),
        "jobs": in_own_loop(lambda: fleet.queue.cancel(idle)),
        "log": in_own_loop(lambda: fleet.queue.prune(before)),
    }


def metrics(app: "App") -> str:
    """Prometheus' text format: what is to be done, what was, and how old the oldest is. The ledger tells: the queue
    need not be there."""
    rows = ChunkRows(app.ledger)
    lanes, now = rows.backlog(), app.clock.now()
    by_channel: dict[tuple[str, str, str], int] = defaultdict(int)
    oldest: dict[str, float] = {}
    held: dict[tuple[str, str], int] = defaultdict(int)
    for lane in lanes:
        by_channel[lane.queue, lane.channel, "queued"] += lane.queued
        by_channel[lane.queue, lane.channel, "running"] += lane.running
        age = (now - (lane.oldest or now)) / timedelta(seconds=1)
        oldest[lane.queue] = max(oldest.get(lane.queue, 0.0), age)
        held[lane.queue, lane.channel] += lane.not_before is not None and lane.not_before > now
    outcomes = rows.outcomes()
    families = [
        _family("leadctl_queue_chunks", "gauge", "Chunks that are to be done.",
                [({"queue": q, "channel": c, "state": s}, n) for (q, c, s), n in by_channel.items()]),
        _family("leadctl_queue_oldest_seconds", "gauge", "Age of the oldest chunk that is to be done.",
                [({"queue": queue}, round(age, 1)) for queue, age in oldest.items()]),
        _family("leadctl_queue_waiting_accounts", "gauge", "Accounts of which nothing may be begun yet.",
                [({"queue": q, "channel": c}, n) for (q, c), n in held.items()]),
        _family("leadctl_queue_deliveries", "gauge", "Deliveries of queued runs that are not pruned, by outcome.",
                [({"channel": c, "outcome": o.value}, n) for (c, o), n in sorted(outcomes.items())]),
        _family("leadctl_queue_throttled", "gauge", "How often a vendor said: too fast.",
                [({"channel": c}, n) for c, n in sorted(rows.throttlings().items())]),
    ]  # fmt: skip
    return "".join(families)


def _family(name: str, kind: str, text: str, samples: Sequence[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value:g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
