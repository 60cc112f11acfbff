"""Services that are not there: what a command asks of them is kept, what they answer is given."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from leadctl.domain.events import RunEvent
from leadctl.domain.masking import Secrets
from leadctl.domain.model import LeadPlan
from leadctl.services.planning import Entry
from leadctl.services.requests import LeadSelection, PlanTotals, Question, Selectors, SendRequest
from leadctl.settings import LoadedSettings, Settings
from tests.cli.plans import group, lead_plan, run_document


class FakePlanning:
    """A plan that is known beforehand. ``failure`` is raised after the first lead."""

    def __init__(self, plans: list[LeadPlan], code: int, failure: Exception | None) -> None:
        self._plans = plans
        self._code = code
        self._failure = failure
        self.missing = False
        self.totals = PlanTotals(leads=len(plans), deliveries=2 * len(plans), by_channel={"amocrm": len(plans)})

    def entries(self) -> Iterator[list[Entry]]:
        for plan in self._plans:
            yield [(plan.lead_id, plan)]
            if self._failure is not None:
                raise self._failure

    def errors(self) -> list[dict[str, Any]]:
        return []

    def exit_code(self, detailed: bool) -> int:
        return 10 if detailed else self._code


class FakeServices:
    """Stands for everything behind the commands."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.options: dict[str, Any] = {}
        self.plans = [lead_plan()]
        self.plan_code = 0
        self.failure: Exception | None = None
        self.document = run_document(exit_code=0, status="ok", next_command=None)
        self.question: Question | None = None
        self.opened: list[bool] = []
        self.rows: list[dict[str, Any]] = []
        self.warnings = ("environment variable LEADCTL_X is not known and has no effect",)

    def open_app(self, loaded: Any, *, create_ledger: bool = False) -> Any:
        self.opened.append(create_ledger)
        return FakeApp()

    def plan_leads(self, app: Any, selection: LeadSelection, selectors: Selectors, **options: Any) -> FakePlanning:
        self._keep((selection, selectors), options)
        return FakePlanning(self.plans, self.plan_code, self.failure)

    def send(
        self, app: Any, request: SendRequest, *, confirm: Callable[[Question], None], observer: Any, stop: Any
    ) -> Any:
        self._keep(request, {"stop": stop})
        if self.question is not None:
            confirm(self.question)
        observer(RunEvent("run_started", "info", {"run_id": "r1", "deliveries": 1, "by_channel": {"amocrm": 1}}))
        self._fail()
        return self.document

    def resume(self, app: Any, run_id: str, *, observer: Any, stop: Any, global_options: Any = ()) -> Any:
        self._keep(run_id, {"global_options": global_options})
        return self.document

    def answer(self, *arguments: Any, **options: Any) -> Any:
        """Any other service: the arguments after the application are kept."""
        self._keep(arguments[1:], options)
        self._fail()
        return self.document

    def doctor(self, config: str | None, *, restored: bool | None) -> Any:
        self._keep(restored, {})
        return self.rows

    def answer_rows(self, *arguments: Any, **options: Any) -> Any:
        self._keep(arguments[1:], options)
        return self.rows

    def _keep(self, asked: Any, options: dict[str, Any]) -> None:
        self.asked.append(asked)
        self.options = options

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeApp(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(
            secrets=Secrets(["s3cret-token"]), db=SimpleNamespace(lead_id=_lead_id), warnings=lambda: iter(())
        )

    def __enter__(self) -> "FakeApp":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


def _lead_id(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("an id must be a whole number")
    return int(text)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> FakeServices:
    """The services, replaced by name: a name that is gone fails here."""
    fake = FakeServices()
    for name, stand_in in {
        "bootstrap.open_app": fake.open_app,
        "planning.plan_leads": fake.plan_leads,
        "resending.send": fake.send,
        "resending.resume": fake.resume,
        "inspecting.run_groups": lambda app, run_id, global_options=(): [group()],
        "inspecting.run_report": fake.answer,
        "inspecting.forced_reason": lambda app, run: None,
        "inspecting.list_runs": fake.answer_rows,
        "inspecting.history": fake.answer,
        "inspecting.check_channels": fake.answer_rows,
        "settling.settle": fake.answer,
        "settling.adopt": fake.answer,
        "setup.init": fake.answer,
        "setup.doctor": fake.doctor,
        "purging.purge": fake.answer,
    }.items():
        monkeypatch.setattr(f"leadctl.services.{name}", stand_in)
    loaded = LoadedSettings(Settings(timezone="Europe/Moscow"), None, warnings=fake.warnings)
    monkeypatch.setattr("leadctl.settings.load_settings", lambda explicit, environ: loaded)
    return fake
