"""A company whose queue is in memory, so that one process does it all."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from leadctl.domain.clock import SystemClock
from leadctl.domain.events import Event, Notice, RunEvent
from leadctl.sandbox.server import Sandbox
from leadctl.services.bootstrap import App
from leadctl.services.inspecting import run_report
from leadctl.services.queueing import Fleet
from leadctl.services.requests import LeadSelection, Queueing, SendRequest
from leadctl.services.resending import send
from leadctl.services.stopping import StopSwitch
from leadctl.services.working import Worker, WorkerOptions
from tests.support.schemas import validate
from tests.support.world import TIMEOUT, World

#: So many times faster than life are limits and pauses.
SCALE = 100.0


class MovingClock(SystemClock):
    """The real one, and ``ahead`` of it by so many seconds: hours pass in a moment."""

    ahead = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@dataclass
class Desk:
    """The company, with what its workers have said."""

    world: World
    box: Sandbox
    app: App
    fleet: Fleet
    clock: MovingClock
    events: list[tuple[RunEvent, dict[str, Any]]] = field(default_factory=list)
    notices: list[tuple[Notice, dict[str, Any]]] = field(default_factory=list)

    def queue(
        self,
        leads: list[int],
        *,
        command: Literal["resend", "bulk-resend"] = "bulk-resend",
        seconds: float = 10.0,
        name: str = "integrations",
        **how: Any,
    ) -> str:
        request = SendRequest(command, LeadSelection(leads), queueing=Queueing(name, seconds=seconds), **how)
        document = send(self.app, request, confirm=lambda _: None, observer=lambda _: None, stop=StopSwitch())
        validate(document)
        return str(document["run_id"])

    def listen(self, event: Event, place: Any) -> None:
        if isinstance(event, RunEvent):
            self.events.append((event, dict(place)))
        if isinstance(event, Notice):
            self.notices.append((event, dict(place)))

    def work(self, stop: StopSwitch | None = None, **options: Any) -> int:
        """A worker, until nothing may be begun."""
        wanted = WorkerOptions("integrations", once=True, **options)
        return Worker(self.app, self.fleet, wanted, self.listen, stop or StopSwitch()).run()

    @contextmanager
    def resident(self) -> Iterator[None]:
        """A worker that goes on beside the block, and is drained at its end."""
        stop = StopSwitch()
        worker = Worker(self.app, self.fleet, WorkerOptions("integrations"), self.listen, stop)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(worker.run)
            try:
                yield
            finally:
                stop.request(signal.SIGTERM)
        assert ended.result(TIMEOUT) == 128 + signal.SIGTERM

    def report(self, run_id: str) -> dict[str, Any]:
        document = run_report(self.app, run_id)
        validate(document)
        return document

    def ended(self, run_id: str) -> tuple[str, int | None]:
        document = self.report(run_id)
        return document["status"], document["exit_code"]

    def said(self, name: str) -> list[dict[str, Any]]:
        return [{**event.fields, **place} for event, place in self.events if event.name == name]
