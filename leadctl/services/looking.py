"""When a worker has ended a queued bulk run: one look for what a vendor has only queued, beside its other work."""

import asyncio
import signal
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from leadctl.channels import channel_class
from leadctl.delivery.limits import Limiter
from leadctl.domain.errors import LeadctlError
from leadctl.domain.events import Event, RunEvent
from leadctl.domain.model import CredentialId
from leadctl.domain.ports import Ledger
from leadctl.services.queueing import Report
from leadctl.services.requests import SendRequest
from leadctl.services.routing import Router
from leadctl.services.selections import from_options
from leadctl.services.sightings import look_for_accepted
from leadctl.services.stopping import StopSwitch
from leadctl.services.work import Part, Workload
from leadctl.store.chunks import ChunkRows, ChunkState

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App


class Looks:
    """Those of one worker; make it in the worker's loop. The runs have their ends: nothing here changes them.

    ``limiter``: the one that chunks of such a request share. ``listener``: as that of the worker.
    """

    def __init__(
        self,
        app: "App",
        rows: ChunkRows,
        ledger: Ledger,
        limiter: Callable[[SendRequest], Limiter],
        listener: Callable[[Event, Mapping[str, Any]], None],
        worker: str,
    ) -> None:
        self._app = app
        self._rows = rows
        self._ledger = ledger
        self._limiter = limiter
        self._listener = listener
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._stop = StopSwitch()
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    def begin(self, run_id: str) -> None:
        """From any thread. What is called back in the loop after that finds :attr:`busy` set."""
        self._loop.call_soon_threadsafe(self._start, run_id)

    async def give_up(self) -> None:
        """End what is under way: a warning that nobody has waited for is not worth a worker's stop."""
        self._stop.request(signal.SIGTERM)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _start(self, run_id: str) -> None:
        if not self._stop.requested:
            task = self._loop.create_task(self._look(run_id))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _look(self, run_id: str) -> None:
        place = {"run_id": run_id, "worker": self._worker}
        try:
            known = await asyncio.to_thread(self._accepted, run_id)
            if known is not None:
                await self._ask(run_id, *known, lambda event: self._listener(event, place))
        except LeadctlError as error:
            fields = {"message": error.message, "hint": error.hint}
            self._listener(RunEvent("look_failed", "warning", fields), place)
        except Exception as error:  # noqa: BLE001 the run has ended, and a look must not end the worker
            fields = {"traceback": "".join(traceback.format_exception(error))}
            self._listener(RunEvent("bug", "error", fields), place)

    def _accepted(self, run_id: str) -> tuple[SendRequest, tuple[CredentialId, ...]] | None:
        """The credentials to look with; None: the vendors of this run show at once what they accept, or a person has
        cancelled it."""
        run = self._app.ledger.run(run_id)
        chunks = self._rows.of_run(run_id)
        if run is None or run.command != "bulk-resend" or any(c.state is ChunkState.CANCELLED for c in chunks):
            return None
        parked = {name for chunk in chunks for name in Report.of(chunk.report).parked}
        slow = [chunk for chunk in chunks if channel_class(chunk.channel).spec.visible_after is not None]
        names = tuple({name: None for chunk in slow for name in chunk.credential_ids if name not in parked})
        return (from_options(run), names) if names else None

    async def _ask(
        self, run_id: str, request: SendRequest, names: tuple[CredentialId, ...], observer: Callable[[Event], None]
    ) -> None:
        router = await asyncio.to_thread(Router, self._app, request.selectors, only=names)
        work = Workload(
            self._app, router, run_id, self._ledger, retry_unknown=False, part=Part(names, 0, 0)
        )  # nothing is taken from its queues: they say how a credential is asked
        queues = work.queues()
        try:
            await look_for_accepted(self._app, run_id, queues, self._limiter(request), observer, self._stop)
        finally:
            for queue in queues:
                await queue.route.channel.close()
