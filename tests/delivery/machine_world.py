"""The world of the state machine: processes of leadctl over one ledger, on virtual time.

Services, engine, writer, leases and ledger are the real ones, over SQLite in a temporary folder. A service is
synchronous and runs its engine in a loop of its own: here it runs in a thread that stands still while the one virtual
loop of all processes carries its engine, and the loop stands still while the service works. So time passes only where
the engine waits, and every run of a test is the same.
"""

import asyncio
import json
import queue
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import closing
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from leadctl.domain.errors import ConfigError, RunLocked
from leadctl.domain.events import Event, RunEvent
from leadctl.domain.ports import Claim, Intent, Record
from leadctl.services import carrying, resending, routing, settling
from leadctl.services.bootstrap import App, open_app
from leadctl.services.requests import LeadSelection, SendRequest
from leadctl.services.stopping import StopSwitch
from leadctl.settings import DatabaseSettings, LoadedSettings, SendSettings, Settings
from leadctl.store.leases import Leases
from leadctl.store.ledger import LedgerStore
from leadctl.store.sample import create_tables
from leadctl.store.writer import LedgerWriter
from tests.delivery.machine_audit import Audit
from tests.delivery.machine_vendors import CHANNELS, Exchange, Vendor, main_step
from tests.support.virtual import START, VirtualLoop

T = TypeVar("T")

LEADS = tuple(range(1, 7))
#: channel → credential id.
CREDENTIALS = {name: number for number, name in enumerate(CHANNELS, 11)}
#: Where a credential may point: to another box of the same account, or to another account.
PLACES = (("a", "1"), ("a", "2"), ("b", "1"))
#: Where a process may die, by name.
POINTS = (
    "planning", "planned", "asking", "before claim", "after claim", "in the request", "stored", "answered", "looked",
    "before record", "after record", "reporting",
)  # fmt: skip


#: Below the loop's resolution a wait would end at the moment at which it began, again and again.
_TICK = 1e-6


class Died(BaseException):
    """The process is gone: nothing of it goes on."""


class ModelLoop(VirtualLoop):
    """The loop of all processes. What would run in another thread runs at once: threads know no virtual time."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 handed to who awaits it
            future.set_exception(error)
        return future


class ServiceThread(threading.Thread):
    """A service, taking turns with the loop."""

    def __init__(self, process: "Process", work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._work = work
        self._asked: queue.SimpleQueue[Callable[[], Coroutine[Any, Any, Any]] | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._outcome: tuple[Any, BaseException | None] = (None, None)

    def run(self) -> None:
        try:
            self._outcome = (self._work(), None)
        except BaseException as error:  # noqa: BLE001 handed to who awaits it
            self._outcome = (None, error)
        self._asked.put(None)

    def in_own_loop(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Stands in for :func:`leadctl.services.loops.in_own_loop`, in this thread."""
        self._asked.put(main)
        result: T = _unpack(*self._told.get())
        self._process.passes_now("reporting")
        return result

    async def carry(self) -> Any:
        """In the loop: run the service to its end."""
        self.start()
        while (main := self._asked.get()) is not None:
            try:
                self._told.put((await main(), None))
            except BaseException as error:  # noqa: BLE001 handed to the service
                self._told.put((None, error))
        self.join()
        return _unpack(*self._outcome)


def _unpack(result: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return result


def _in_own_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    thread = threading.current_thread()
    assert isinstance(thread, ServiceThread)
    return thread.in_own_loop(main)


class ProcessClock:
    """``leadctl.domain.ports.Clock`` of one process: it stands still while the process is frozen."""

    def __init__(self, process: "Process") -> None:
        self.process = process

    def now(self) -> datetime:
        return self.process.world.now()

    def monotonic(self) -> float:
        return self.process.world.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, _TICK))
        await self.process.passes("")


class Process:
    """One process of leadctl that sends. It may die, freeze, and be asked to stop."""

    def __init__(self, world: "World", crash: tuple[str, int, bool] | None, *, retry: bool) -> None:
        self.world = world
        self.name = f"P{len(world.processes) + 1}"
        self.retry = retry
        self.app: App = open_app(world.loaded, create_ledger=True)
        self.clock = ProcessClock(self)
        self.app.clock = cast("Any", self.clock)
        self.switch = StopSwitch()
        self.exchanges: list[Exchange] = []
        self.dead = False
        #: No other process ran beside it.
        self.alone = True
        self.holder: str | None = None
        self._going = asyncio.Event()
        self._going.set()
        #: The point of death, how often it is passed before, and whether requests under way are cut.
        self._crash = crash
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Callable[["Process"], Any]) -> None:
        self._task = self.world.loop.create_task(self._main(work))

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def frozen(self) -> bool:
        return not self._going.is_set()

    async def _main(self, work: Callable[["Process"], Any]) -> None:
        try:
            document = await ServiceThread(self, lambda: work(self)).carry()
            self.world.audit.ended(self, document)
        except (RunLocked, ConfigError) as error:
            # Another process has the lease; an unfinished forced run; a run without its leads.
            self.world.audit.say(f"{self.name} does not begin: {error}")
        except (asyncio.CancelledError, Died):
            if not self.dead:
                raise
        except Exception as error:  # noqa: BLE001 whatever it is, it is a fault
            self.world.audit.fault(f"a process ended with {error!r}")
        finally:
            self.app.close()
            self.world.audit.gone(self)

    # --- where it may die ------------------------------------------------------------------------------------

    async def passes(self, point: str) -> None:
        """A point where the process may be frozen or dead, and where it may die."""
        await self._going.wait()
        if self.dead or self._is_trapped(point):
            self.die()
            await self.world.never.wait()  # nothing of a dead process goes on; its tasks are cancelled

    def passes_now(self, point: str) -> None:
        """The same outside of the loop."""
        if self.dead or self._is_trapped(point):
            self.dead = True
            raise Died

    def _is_trapped(self, point: str) -> bool:
        if self._crash is None or self._crash[0] != point:
            return False
        name, passages, cut = self._crash
        self._crash = (name, passages - 1, cut)
        return passages <= 0

    def die(self) -> None:
        """``kill -9``: whatever is under way at a vendor goes on there, unless its bytes were not out."""
        if self.dead:
            return
        self.dead = True
        self.world.audit.say(f"{self.name} dies")
        for exchange in self.exchanges:
            exchange.cut = bool(self._crash and self._crash[2])
        self._going.set()
        if self._task is not None:
            self.world.loop.call_soon(self._task.cancel)

    def freeze(self) -> None:
        self._going.clear()

    def thaw(self) -> None:
        self._going.set()

    # --- what the service is given ---------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        if isinstance(event, RunEvent):
            if event.name == "bug":
                self.world.audit.fault(event.fields["traceback"])
            if event.name in ("credentials_found", "run_started"):
                self.passes_now("planning" if event.name == "credentials_found" else "planned")

    def send(self, request: SendRequest) -> Any:
        return resending.send(
            self.app, request, confirm=lambda question: None, observer=self.observe, stop=self.switch
        )  # fmt: skip

    def resume(self, run_id: str) -> Any:
        return resending.resume(self.app, run_id, observer=self.observe, stop=self.switch)


class WatchedWriter:
    """The process's own ``LedgerWriter``, with the points around its commits, and the audit beside it."""

    def __init__(self, process: Process, real: LedgerWriter) -> None:
        self._process = process
        self._real = real

    async def claim(self, run_id: str, intents: Sequence[Intent]) -> Sequence[Claim]:
        process, audit = self._process, self._process.world.audit
        await process.passes("before claim")
        before = audit.rows((intent.lead_id, intent.destination, intent.n) for intent in intents)
        claims = process.world.in_background(self._real.claim(run_id, intents))
        audit.claimed(process, before, claims)
        await process.passes("after claim")
        return claims

    async def record(self, run_id: str, records: Sequence[Record]) -> None:
        process, audit = self._process, self._process.world.audit
        await process.passes("before record")
        audit.records(process, run_id, records)
        process.world.in_background(self._real.record(run_id, records))
        await process.passes("after record")

    def close(self) -> None:
        self._real.close()


class World:
    """One folder, its vendors, and the processes over it. Close it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="leadctl-machine-"))
        for name, content in _template().items():
            (self._folder / name).write_bytes(content)
        self.loaded = LoadedSettings(_settings(self._folder), None)
        self.loop = ModelLoop()
        self.skew = 0.0
        self.never = asyncio.Event()
        self.vendors = {name: Vendor(name, main_step(name).retransmit) for name in CHANNELS}
        self.places = dict.fromkeys(CHANNELS, PLACES[0])
        self.audit = Audit(self, sqlite3.connect(self._folder / "leads.db.leadctl.db", isolation_level=None))
        self.processes: list[Process] = []
        self._background = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._background.run_forever, daemon=True)
        self._thread.start()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(routing, "is_channel", CHANNELS.__contains__)
        self._patch.setattr(routing, "channel_class", CHANNELS.__getitem__)
        self._patch.setattr(carrying, "in_own_loop", _in_own_loop)
        self._patch.setattr(carrying, "LedgerWriter", self._writer)

    def close(self) -> None:
        for process in self.processes:
            process.die()
        self.run(1.0)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.run(1.0)
        self.loop.close()
        self._background.call_soon_threadsafe(self._background.stop)
        self._thread.join()
        self._background.close()
        self.audit.close()
        self._patch.undo()
        shutil.rmtree(self._folder)

    # --- time ------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return START + timedelta(seconds=self.loop.time() + self.skew)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def finish(self, process: Process) -> None:
        """Until that process has ended; not for ever, where another one holds what it wants."""
        for _ in range(2000):
            if not process.running or process.frozen:
                return
            self.run(10.0)
        self.audit.fault("a process does not end")

    def in_background(self, call: Coroutine[Any, Any, T]) -> T:
        """The writer's thread needs a loop that lives on real time."""
        return asyncio.run_coroutine_threadsafe(call, self._background).result(60)

    # --- processes -------------------------------------------------------------------------------------------

    def start(
        self, leads: Sequence[int], mode: str = "resend", crash: tuple[str, int, bool] | None = None
    ) -> Process:  # fmt: skip
        """``mode``: resend, bulk, retry (``--retry-unknown``), force."""
        request = SendRequest(
            "bulk-resend" if mode == "bulk" else "resend",
            LeadSelection(tuple(leads)),
            force_reason="a test" if mode == "force" else None,
            retry_unknown=mode == "retry",
        )
        process = self._process(crash, retry=mode == "retry")
        if mode == "force":
            self.audit.forces(leads)
        self.audit.say(f"{process.name} starts: {mode} {list(leads)}, dies {crash}")
        process.start(lambda own: own.send(request))
        return process

    def resume(self, run_id: str, crash: tuple[str, int, bool] | None = None) -> Process:
        options = self.audit.options_of(run_id)
        process = self._process(crash, retry=bool(options.get("retry_unknown")))
        self.audit.say(f"{process.name} resumes {run_id}, {options}")
        process.start(lambda own: own.resume(run_id))
        return process

    def _process(self, crash: tuple[str, int, bool] | None, *, retry: bool) -> Process:
        self.run(0.001)  # no two runs begin at the same moment
        process = Process(self, crash, retry=retry)
        for other in self.processes:
            if other.running:
                other.alone = process.alone = False
        self.processes.append(process)
        return process

    def settle(self, lead: int, channel: str, *, delivered: bool) -> None:
        """A person's word."""
        with open_app(self.loaded, create_ledger=True) as app:
            app.clock = cast("Any", self)
            settling.settle(app, [lead], str(CREDENTIALS[channel]), delivered, "a test")
        self.audit.settled(lead, channel)

    def point(self, channel: str, place: tuple[str, str]) -> None:
        """Change the credential."""
        self.places[channel] = place
        data = json.dumps({"account": place[0], "box": place[1]})
        with closing(sqlite3.connect(self._folder / "leads.db")) as connection, connection:
            connection.execute("UPDATE credentials SET data = ? WHERE id = ?", (data, CREDENTIALS[channel]))

    def last_outcomes(self) -> dict[tuple[int, str], str]:
        """(lead, channel) → outcome, of the run that ended last."""
        document = self.audit.documents[-1]
        return {(entry["lead_id"], entry["channel"]): entry["outcome"] for entry in document["deliveries"]}

    def is_alive(self, holder: str) -> bool:
        return any(process.holder == holder and not process.dead for process in self.processes)

    def _writer(self, store: LedgerStore, leases: Leases, holder: str, **options: Any) -> WatchedWriter:
        process = next(process for process in self.processes if process.app.leases is leases)
        process.holder = holder
        return WatchedWriter(process, LedgerWriter(store, leases, holder, clock=process.clock, **options))


def _settings(folder: Path) -> Settings:
    return Settings(
        database=DatabaseSettings(url=f"sqlite:///{folder / 'leads.db'}"),
        send=SendSettings(tries=3, timeout=120, patience=300, drain=20),
    )


@cache
def _template() -> dict[str, bytes]:
    """Leads, credentials and an empty ledger, as files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_tables(f"sqlite:///{folder / 'leads.db'}")
        with closing(sqlite3.connect(folder / "leads.db")) as connection, connection:
            leads = [(lead, 1, "note" if lead % 2 else "") for lead in LEADS]
            connection.executemany("INSERT INTO leads (id, external_entity_id, comment) VALUES (?, ?, ?)", leads)
            for channel, number in CREDENTIALS.items():
                settings = json.dumps({"on_unknown": "hold"} if channel == "held" else {})
                row = (number, channel, json.dumps({"account": "a"}), settings)
                connection.execute("INSERT INTO credentials (id, type, data, settings) VALUES (?, ?, ?, ?)", row)
                link = "INSERT INTO entity_credentials (external_entity_id, credentials_id) VALUES (1, ?)"
                connection.execute(link, (number,))
        open_app(LoadedSettings(_settings(folder), None), create_ledger=True).close()
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
