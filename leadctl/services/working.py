"""A worker: takes chunks of queued runs and carries each as the foreground would, with its engine, lanes and limits."""

import asyncio
import os
import secrets
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadctl.delivery.engine import Engine, EngineReport
from leadctl.delivery.lanes import AccountQueue, Parking
from leadctl.delivery.limits import Limiter
from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError, LimitReached
from leadctl.domain.events import Event, Finished, RunEvent, Throttling
from leadctl.domain.model import CredentialId
from leadctl.domain.outcomes import ErrorCode, Outcome
from leadctl.domain.ports import Claim, Intent, ItemOutcome, Ledger, Record
from leadctl.services.carrying import close_parked, open_engine
from leadctl.services.looking import Looks
from leadctl.services.loops import call_in, in_own_loop
from leadctl.services.queueing import Fleet, Report, close_run, sync
from leadctl.services.requests import SendRequest
from leadctl.services.routing import Router
from leadctl.services.selections import from_options
from leadctl.services.stopping import StopSwitch
from leadctl.services.work import Part, Workload
from leadctl.store.buckets import BucketRows
from leadctl.store.chunks import OPEN, Chunk, ChunkState
from leadctl.store.writer import LedgerWriter

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: Seconds that a chunk waits for its vendor; longer pauses are waited for in the queue, where they hold no worker.
PATIENCE = 30.0
#: Seconds that it waits for deliveries which another process has in hand: one that froze, or was cut off.
HELD = 10.0
#: So often a chunk is begun: what kills its worker, or finds its vendor down, must not go round for ever.
MOST_TRIES = 20
#: Seconds after which a chunk goes on whose vendor was down, or that another process has in hand: at first, at most.
AGAIN, AGAIN_AT_MOST = 30.0, 900.0
#: Seconds between looks at what was cancelled and what is new, and between tries to reach a server that is away.
TICK, RECONNECT = 1.0, 5.0
#: Seconds of places that are taken ahead in a bucket: what is left when the account goes to another worker is lost.
AHEAD = 0.25
#: Ends of a credential that are no verdict: the chunk goes on when they are over.
LATER = (ErrorCode.LIMIT_REACHED, ErrorCode.VENDOR_DOWN)

#: What happened, with where: run, chunk, worker.
Listener = Callable[[Event, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """``heartbeat``: seconds without a sign of life after which another worker goes on with a chunk."""

    queue: str
    concurrency: int = 20
    heartbeat: float = 30.0
    once: bool = False
    health_file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    chunk: Chunk
    request: SendRequest
    router: Router


class Worker:
    """One process of the fleet. ``stop``: the first request drains it."""

    def __init__(self, app: "App", fleet: Fleet, options: WorkerOptions, listener: Listener, stop: StopSwitch) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._app = app
        self._fleet = fleet
        self._options = options
        self._listener = listener
        self._stop = stop
        self._lanes: set[str] = set()
        self._served = False
        app.notify = lambda event: listener(event, {"worker": self.name})

    def run(self) -> int:
        """Work until it is stopped, or with ``once`` until nothing is left that may be begun. Returns the exit code.

        Raises ConfigError where it cannot begin; DatabaseUnreachable likewise, later only with ``once``: else it waits
        until the server is back.
        """
        self._touch()  # where that cannot be, it is said now
        self._forget_health()
        try:
            while True:
                try:
                    in_own_loop(self._serve)
                    break
                except (DatabaseUnreachable, ConfigError) as error:
                    if not self._served or self._options.once or self._stop.requested:
                        raise
                    self._wait_for(error)
                    if self._stop.wait(RECONNECT):
                        break
        finally:
            self._forget_health()
        return 128 + self._stop.signal if self._stop.signal is not None else 0

    async def _serve(self) -> None:
        app, options = self._app, self._options
        app.stopping.begin()
        await asyncio.to_thread(self._look)
        await asyncio.to_thread(sync, app, self._fleet)
        holder = await asyncio.to_thread(app.leases.open_holder)
        writer = LedgerWriter(app.ledger, app.leases, holder, secrets=app.secrets, observer=app.notify)
        carrier = _Carrier(app, self._fleet, self.name, writer, self._listener)
        loop = asyncio.get_running_loop()
        self._stop.listen(lambda: call_in(loop, carrier.halt))
        watching = asyncio.create_task(self._watch(carrier))
        watching.add_done_callback(lambda _: carrier.halt())
        self._say("worker_started", "info", queue=options.queue, concurrency=options.concurrency)
        try:
            await self._fleet.queue.work(
                carrier.handle,
                lambda: self._lanes,
                carrier.halted,
                concurrency=options.concurrency,
                heartbeat=options.heartbeat,
            )
        finally:
            watching.cancel()
            ended = await asyncio.gather(watching, return_exceptions=True)
            await carrier.looks.give_up()
            await asyncio.to_thread(writer.close)
        if carrier.broken is not None:
            raise carrier.broken
        if isinstance(ended[0], Exception):
            raise ended[0]
        self._say("worker_stopped", "info")

    async def _watch(self, carrier: "_Carrier") -> None:
        """What is new, what was cancelled, and whether we are well; until there is nothing left to wait for."""
        began = time.monotonic()
        while not carrier.halted.is_set():
            try:
                await asyncio.to_thread(self._look)
                carrier.cancel(await asyncio.to_thread(self._fleet.rows.cancelling, self.name))
                if self._options.once and not carrier.busy and not await asyncio.to_thread(self._is_due):
                    return
                if time.monotonic() - began > 2 * self._options.heartbeat:
                    began = time.monotonic()
                    await asyncio.to_thread(sync, self._app, self._fleet)
                self._served = True
                self._touch()
            except (DatabaseUnreachable, ConfigError) as error:
                self._wait_for(error)
            await asyncio.sleep(TICK)

    def _look(self) -> None:
        self._lanes = self._fleet.rows.open_lanes(self._options.queue)

    def _is_due(self) -> int:
        return self._fleet.rows.due(self._options.queue, self._app.clock.now())

    def _touch(self) -> None:
        """We reach ledger and queue. Raises ConfigError."""
        path = self._options.health_file
        if path is None:
            return
        try:
            path.write_text(f"{self.name}\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--health-file {path}: cannot be written: {error.strerror}") from None

    def _forget_health(self) -> None:
        if self._options.health_file:
            self._options.health_file.unlink(missing_ok=True)

    def _wait_for(self, error: LeadctlError) -> None:
        """It goes on by itself; what a person can do is said where that is needed."""
        hint = error.hint if isinstance(error, ConfigError) else None
        self._say("worker_waiting", "warning", message=error.message, hint=hint)

    def _say(self, name: str, level: str, **fields: Any) -> None:
        self._listener(RunEvent(name, level, fields), {"worker": self.name})


class _Carrier:
    """The chunks that are under way in one event loop, with what they share."""

    def __init__(self, app: "App", fleet: Fleet, worker: str, writer: LedgerWriter, listener: Listener) -> None:
        self._app = app
        self._fleet = fleet
        self._worker = worker
        self._writer = writer
        self._listener = listener
        self._under_way = 0
        self._engines: dict[str, Engine] = {}
        self._cancelled: set[str] = set()
        self._limiters: dict[tuple[float, bool], Limiter] = {}
        self.looks = Looks(app, fleet.rows, writer, self._limiter, listener, worker)
        self.halted = asyncio.Event()
        #: Why nothing goes on here, although nobody asked for a stop.
        self.broken: DatabaseUnreachable | None = None

    @property
    def busy(self) -> bool:
        return self._under_way > 0 or self.looks.busy

    def halt(self) -> None:
        """Take nothing more, and drain what is under way."""
        self.halted.set()
        self._app.stopping.stop()
        for engine in self._engines.values():
            engine.stop()

    def cancel(self, keys: set[str]) -> None:
        """End these before their next request."""
        for key in keys & self._engines.keys():
            self._cancelled.add(key)
            self._engines[key].stop()

    async def handle(self, key: str) -> float | None:
        """Carry the chunk of that key. None: nothing is left of it; else the seconds after which it goes on."""
        self._under_way += 1
        try:
            return await self._carry(key)
        except DatabaseUnreachable as error:
            self.broken = error
            self.halt()
        except LeadctlError as error:
            self._say(key, "chunk_failed", "error", message=error.message, hint=error.hint)
        except Exception as error:  # noqa: BLE001 one chunk must not end the worker; it goes on later, not for ever
            self._say(key, "bug", "error", traceback="".join(traceback.format_exception(error)))
        finally:
            self._under_way -= 1
        return AGAIN

    async def _carry(self, key: str) -> float | None:
        begun = await asyncio.to_thread(self._begin, key)
        if not isinstance(begun, _Task):
            return begun
        try:
            return await self._send(key, begun)
        except DatabaseUnreachable:
            await asyncio.to_thread(self._give_back, begun.chunk)
            raise

    def _give_back(self, chunk: Chunk) -> None:
        """A database that is away says nothing of the chunk. Is it the ledger's own, the try counts."""
        with suppress(DatabaseUnreachable):
            self._fleet.rows.put_back(chunk, self._worker, self._app.clock.now(), counted=False)

    async def _send(self, key: str, begun: _Task) -> float | None:
        chunk = begun.chunk
        self._say(key, "chunk_started", "info", channel=chunk.channel, deliveries=chunk.deliveries)
        heard = _Heard(lambda event: self._listener(event, self._place(key)))
        limiter = self._limiter(begun.request)
        part = Part(chunk.credential_ids, chunk.first_seq, chunk.last_seq)
        kept = _OpenEnds(self._writer, lambda: self.halted.is_set() or key in self._cancelled)
        engine = open_engine(
            self._app, chunk.run_id, kept, limiter, heard, bulk=_bulk(begun),
            patience=min(PATIENCE, self._app.settings.send.patience), held=HELD,
        )  # fmt: skip
        kept.queues = Workload(
            self._app, begun.router, chunk.run_id, kept, retry_unknown=begun.request.retry_unknown, part=part
        ).queues()
        self._engines[key] = engine
        if self.halted.is_set():
            engine.stop()
        try:
            report = await engine.run(kept.queues)
        finally:
            del self._engines[key]
            for queue in kept.queues:
                await queue.route.channel.close()
        pause = self._pause(chunk, report, kept.queues, limiter)
        again = await asyncio.to_thread(self._end, begun, report, pause, heard)
        self._cancelled.discard(key)
        name = "chunk_finished" if again is None else "chunk_put_back"
        self._say(key, name, "info", **{o.value: n for o, n in heard.outcomes.items()}, again_s=again)
        return again

    def _begin(self, key: str) -> _Task | float | None:
        """The chunk is ours; or what :meth:`handle` returns."""
        app, rows = self._app, self._fleet.rows
        run_id, _, no = key.rpartition(":")
        chunk = rows.get(run_id, int(no))
        run = app.ledger.run(run_id)
        if chunk is None or run is None:
            return None
        wait = (chunk.not_before - app.clock.now()) / timedelta(seconds=1) if chunk.not_before else 0.0
        if chunk.state is ChunkState.QUEUED and wait > 0:
            return wait
        if chunk.state in OPEN and (chunk.state is ChunkState.CANCELLING or chunk.tries >= MOST_TRIES):
            if chunk.state is not ChunkState.CANCELLING:
                self._give_up(chunk)
            rows.end(chunk, chunk.worker, app.clock.now(), throttled=0, report=chunk.report)
        else:
            request = from_options(run)
            # Before it is begun: while the leads' database is away, no try is spent.
            router = Router(app, request.selectors, only=chunk.credential_ids)
            if (ours := rows.begin(chunk, self._worker, app.clock.now())) is not None:
                return _Task(ours, request, router)
        self._close_run(run_id)
        return None

    def _give_up(self, chunk: Chunk) -> None:
        message = f"workers have begun with it {chunk.tries} times and did not come to its end"
        for credential_id in chunk.credential_ids:
            places = (chunk.first_seq, chunk.last_seq)
            self._app.ledger.close_unsent(chunk.run_id, message, credential_id=credential_id, places=places)

    def _limiter(self, request: SendRequest) -> Limiter:
        """One for all chunks: it knows what other chunks of the same accounts were told."""
        known = (request.share, request.command == "bulk-resend")
        if known not in self._limiters:
            scale = self._app.settings.limits.scale * request.share
            ahead = AHEAD if request.command == "bulk-resend" else 0.0
            self._limiters[known] = Limiter(self._app.clock, scale, BucketRows(self._app.ledger), ahead=ahead)
        return self._limiters[known]

    def _pause(
        self, chunk: Chunk, report: EngineReport, queues: Sequence[AccountQueue], limiter: Limiter
    ) -> float | None:
        """Seconds that the vendor, or what is known of it, wants to be left alone; None: it does not."""
        waits = []
        for queue in queues:
            parking = report.parked.get(queue.route.account.credential_id)
            if parking is None or parking.code not in LATER:
                continue
            until = parking.error.until if isinstance(parking.error, LimitReached) else None
            named = until - self._app.clock.now().timestamp() if until is not None else self._backoff(chunk)
            waits.append(max(named, limiter.pause_left(queue.buckets), 1.0))
        return max(waits, default=None)

    def _backoff(self, chunk: Chunk) -> float:
        return min(AGAIN_AT_MOST, AGAIN * 2.0 ** (chunk.tries - 1)) / self._app.settings.limits.scale

    def _end(self, task: _Task, report: EngineReport, pause: float | None, heard: "_Heard") -> float | None:
        """Write what became of the chunk; the seconds after which it goes on."""
        rows, chunk, now = self._fleet.rows, task.chunk, self._app.clock.now()
        final = {name: parking for name, parking in report.parked.items() if parking.code not in LATER}
        close_parked(self._app, chunk.run_id, final)
        cancelled = chunk.key in self._cancelled
        again = pause
        if report.stopped and not cancelled:
            again = 0.0
        elif again is None and not cancelled and self._is_left(task, final):
            again = self._backoff(chunk)
        ended = again is None or cancelled
        # What goes on and cannot be told is counted when it ends.
        untold = dict(report.untold) if ended else {}
        whole = Report.of(chunk.report)
        whole.add(Report({name: parking.code for name, parking in final.items()}, untold, report.bug))
        if again is None or cancelled:
            rows.end(chunk, self._worker, now, throttled=heard.throttled, report=whole.as_json())
            self._close_run(chunk.run_id)
            return None
        until = now + timedelta(seconds=again)
        rows.put_back(
            chunk, self._worker, until,
            throttled=heard.throttled, report=whole.as_json(), counted=not report.stopped,
        )  # fmt: skip
        if pause is not None:
            rows.hold_account(chunk.account, until)
        return again

    def _is_left(self, task: _Task, final: Mapping[CredentialId, Parking]) -> bool:
        """Whether something of the chunk waits that can be sent: another process has it in hand."""
        chunk, ledger = task.chunk, self._app.ledger
        for credential_id in chunk.credential_ids:
            if credential_id in final or task.router.route(credential_id) is None:
                continue
            items = ledger.pending_items(chunk.run_id, credential_id, chunk.first_seq - 1, 1)
            if items and items[0].seq <= chunk.last_seq:
                return True
        return False

    def _close_run(self, run_id: str) -> None:
        if close_run(self._app, self._fleet.rows, run_id):
            row = self._app.ledger.run(run_id)
            fields = {"run_id": run_id, "status": row.status.value, "exit_code": row.exit_code} if row else {}
            self._listener(RunEvent("run_finished", "info", fields), {"worker": self._worker})
            self.looks.begin(run_id)

    def _place(self, key: str) -> dict[str, Any]:
        run_id, _, no = key.rpartition(":")
        return {"run_id": run_id, "chunk": int(no), "worker": self._worker}

    def _say(self, key: str, name: str, level: str, **fields: Any) -> None:
        self._listener(RunEvent(name, level, fields), self._place(key))


def _bulk(task: _Task) -> bool:
    return task.request.command == "bulk-resend"


@dataclass(slots=True)
class _Heard:
    """Counts, and hands on, what happens in a chunk."""

    tell: Callable[[Event], None]
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    throttled: int = 0

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Finished):
            self.outcomes[event.outcome] += 1
        self.throttled += isinstance(event, Throttling)
        self.tell(event)


class _OpenEnds:
    """The ledger as a chunk's engine sees it: what a stop or a pause has ended has no outcome of the run yet, for the
    chunk goes on. What became of the delivery itself is written as always."""

    def __init__(self, ledger: Ledger, is_stopped: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._is_stopped = is_stopped
        self.queues: list[AccountQueue] = []

    async def claim(self, run_id: str, intents: Sequence[Intent]) -> Sequence[Claim]:
        """See :class:`leadctl.domain.ports.Ledger`."""
        return await self._ledger.claim(run_id, intents)

    async def record(self, run_id: str, records: Sequence[Record]) -> None:
        """See :class:`leadctl.domain.ports.Ledger`."""
        kept = [replace(record, item=None) if self._goes_on(record.item) else record for record in records]
        await self._ledger.record(run_id, kept)

    def _goes_on(self, item: ItemOutcome | None) -> bool:
        if item is None:
            return False
        if item.error_code == ErrorCode.IN_USE_ELSEWHERE:
            return True
        open_end = item.outcome in (Outcome.UNPROCESSED, Outcome.UNKNOWN) or item.error_code == ErrorCode.INCOMPLETE
        return open_end and item.error_code != ErrorCode.BUG and (self._is_stopped() or self._is_paused(item))

    def _is_paused(self, item: ItemOutcome) -> bool:
        for queue in self.queues:
            if queue.route.account.credential_id == item.credential_id:
                return queue.parking is not None and queue.parking.code in LATER
        return False
