"""The queue in this process's memory: the same promises, without a server."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from leadctl.domain.ports import Job, JobHandler

#: Seconds between looks for what has become due.
_POLL = 0.02


class MemoryQueue:
    """Implements :class:`leadctl.domain.ports.JobQueue` for one event loop."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._jobs: dict[str, Job] = {}
        self._running: set[str] = set()

    async def init(self) -> None:
        """Nothing is to be made."""

    async def enqueue(self, jobs: Sequence[Job]) -> int:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        fresh = {job.key: job for job in jobs if job.key not in self._jobs}
        self._jobs |= fresh
        return len(fresh)

    async def cancel(self, keys: Sequence[str]) -> int:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        waiting = [key for key in keys if key in self._jobs and key not in self._running]
        for key in waiting:
            del self._jobs[key]
        return len(waiting)

    async def keys(self) -> set[str]:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        return set(self._jobs)

    async def prune(self, before: datetime) -> int:
        """Nothing is remembered of jobs that ended."""
        del before
        return 0

    async def work(
        self,
        handle: JobHandler,
        lanes: Callable[[], Collection[str]],
        stop: asyncio.Event,
        *,
        concurrency: int,
        heartbeat: float,
    ) -> None:
        """See :class:`leadctl.domain.ports.JobQueue`. Nobody else could take over: there is no heartbeat."""
        del heartbeat
        under_way: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            while len(under_way) < concurrency and (job := self._next(lanes())) is not None:
                self._running.add(job.key)
                task = asyncio.create_task(self._do(job, handle))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(_POLL)
        await asyncio.gather(*under_way)

    def _next(self, lanes: Collection[str]) -> Job | None:
        busy = {self._jobs[key].lane for key in self._running}
        now = self._now()
        free = [
            job
            for job in self._jobs.values()
            if job.lane in lanes and job.lane not in busy and (job.not_before is None or job.not_before <= now)
        ]
        return max(free, key=lambda job: job.priority, default=None)

    async def _do(self, job: Job, handle: JobHandler) -> None:
        again = await handle(job.key)
        self._running.discard(job.key)
        del self._jobs[job.key]
        if again is not None:
            self._jobs[job.key] = replace(job, not_before=self._now() + timedelta(seconds=again))
