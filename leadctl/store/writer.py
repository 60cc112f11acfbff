"""The writer: one thread, one connection, everything that is queued in one transaction.

The cost of a durable commit is shared by all who wait for it. A call returns after its commit.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection

from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import LeadctlError
from leadctl.domain.events import RunEvent
from leadctl.domain.masking import Secrets
from leadctl.domain.model import Target
from leadctl.domain.outcomes import TargetState
from leadctl.domain.ports import (
    Claim,
    Clock,
    Intent,
    Observer,
    Record,
)
from leadctl.store import commits
from leadctl.store.commits import Committer
from leadctl.store.groups import Call, Changed, Group, Key
from leadctl.store.leases import Leases
from leadctl.store.ledger import LedgerStore

#: At most so many rows in one transaction; a larger call is one of its own.
GROUP_ROWS = 1000


class LedgerWriter:
    """Implements :class:`leadctl.domain.ports.Ledger` for one process.

    ``holder`` is what :meth:`leadctl.store.leases.Leases.open_holder` gave; answers are kept without ``secrets``.
    """

    def __init__(
        self,
        store: LedgerStore,
        leases: Leases,
        holder: str,
        *,
        secrets: Secrets | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._commits = Committer(store, leases, holder)
        self._observer = observer
        self._source = store.source
        self._leases = leases
        self._holder = holder
        self._secrets = secrets or Secrets()
        self._clock = clock or SystemClock()
        #: The rows that say ``sending`` in our name, as our last commit left them. The thread's.
        self._held: dict[Key, Target] = {}
        self._written: Mapping[Key, Target] = {}
        self._waiting: deque[Call] = deque()
        self._changed = threading.Condition()
        #: Where the last call came from, and whether it knows that the ledger is waited for while nothing is written.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._said = False
        self._closing = False
        self._dead: LeadctlError | None = None
        self._thread = threading.Thread(target=self._run, name="leadctl-ledger", daemon=True)
        self._thread.start()

    async def claim(self, run_id: str, intents: Sequence[Intent]) -> Sequence[Claim]:
        """See :class:`leadctl.domain.ports.Ledger`."""
        claims: list[Claim] = await self._submit(run_id, intents, ()) if intents else []
        return claims

    async def record(self, run_id: str, records: Sequence[Record]) -> None:
        """See :class:`leadctl.domain.ports.Ledger`. A caller that is cancelled does not undo it."""
        if records:
            await self._submit(run_id, (), records)

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _submit(self, run_id: str, intents: Sequence[Intent], records: Sequence[Record]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        job = Call(run_id, intents, records, loop, loop.create_future())
        with self._changed:
            if self._dead is not None:
                raise self._dead
            if self._closing:
                raise LeadctlError("the ledger's writer is closed")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    # --- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        jobs: list[Call] = []
        try:
            while not self._ended:
                if jobs := self._take():
                    self._serve(jobs)
                else:
                    self._idle()
        except BaseException as error:  # noqa: BLE001 whatever ends the thread, nobody waits for ever
            self._die(error, jobs)
        finally:
            self._commits.close()

    def _idle(self) -> None:
        """The lanes may stand still for want of a place in a limit, or of their next page: that is said once."""
        message = self._commits.hold_leases()
        if message and not self._said:
            self._say(message)
        self._said = bool(message)

    @property
    def _ended(self) -> bool:
        with self._changed:
            return self._closing and not self._waiting

    def _take(self) -> list[Call]:
        """Everything that waits, up to a limit; empty where nothing comes for a while, and at the end."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(commits.LEASES_EVERY)
            jobs: list[Call] = []
            size = 0
            while self._waiting and (not jobs or size + self._waiting[0].size <= GROUP_ROWS):
                jobs.append(self._waiting.popleft())
                size += jobs[-1].size
            return jobs

    def _serve(self, jobs: Sequence[Call]) -> None:
        wanted = [job for job in jobs if not job.given_up]
        try:
            try:
                self._commit(wanted)
            except Changed:
                self._held.clear()  # somebody has written to what is ours: read it again
                self._commit(wanted)
        except LeadctlError as error:
            self._held.clear()
            for job in wanted:
                job.error = error
        _answer(wanted)

    def _commit(self, jobs: Sequence[Call]) -> None:
        self._loop = jobs[0].loop if jobs else self._loop
        self._commits.run(partial(self._write, jobs), self._say)
        for key, row in self._written.items():
            if row.state is TargetState.SENDING and row.holder == self._holder:
                self._held[key] = row
            else:
                self._held.pop(key, None)

    def _write(self, jobs: Sequence[Call], connection: Connection) -> None:
        group = Group(self._source, self._holder, self._leases, self._secrets, self._clock.now())
        group.load(connection, {key for job in jobs for key in job.keys}, self._held)
        for job in jobs:
            group.apply(job)
        group.write(connection)
        self._written = group.rows

    def _say(self, message: str) -> None:
        """The lanes stand still: why, in the loop's thread."""
        if self._observer is not None and self._loop is not None:
            event = RunEvent("ledger_waiting", "warning", {"message": message})
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
                self._loop.call_soon_threadsafe(self._observer, event)

    def _die(self, error: BaseException, jobs: Sequence[Call]) -> None:
        dead = LeadctlError(f"the ledger's writer has stopped ({type(error).__name__})")
        dead.__cause__ = error
        with self._changed:
            self._dead = dead
            orphans = [*jobs, *self._waiting]
            self._waiting.clear()
        for job in orphans:
            job.error = dead
        _answer(orphans)


def _answer(jobs: Sequence[Call]) -> None:
    """One call into each loop for all of its jobs."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Call]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, theirs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
            loop.call_soon_threadsafe(_wake, theirs)


def _wake(jobs: Sequence[Call]) -> None:
    for job in jobs:
        job.answer()
