"""A company whose queue is in memory, so that one process does it all."""

from dataclasses import dataclass, field
from typing import Any, Literal

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
from tests.support.world import World

#: So many times faster than life are limits and pauses.
SCALE = 100.0


@dataclass
class Desk:
    """The company, with what its workers have said."""

    world: World
    box: Sandbox
    app: App
    fleet: Fleet
    events: list[tuple[RunEvent, dict[str, Any]]] = field(default_factory=list)
    notices: list[tuple[Notice, dict[str, Any]]] = field(default_factory=list)

    def queue(
        self,
        leads: list[int],
        *,
        command: Literal["resend", "bulk-resend"] = "bulk-resend",
        seconds: float = 10.0,
        **how: Any,
    ) -> str:
        request = SendRequest(command, LeadSelection(leads), queueing=Queueing("integrations", seconds=seconds), **how)
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

    def report(self, run_id: str) -> dict[str, Any]:
        document = run_report(self.app, run_id)
        validate(document)
        return document

    def ended(self, run_id: str) -> tuple[str, int | None]:
        document = self.report(run_id)
        return document["status"], document["exit_code"]

    def said(self, name: str) -> list[dict[str, Any]]:
        return [{**event.fields, **place} for event, place in self.events if event.name == name]
