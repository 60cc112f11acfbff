"""The Python face (CONTRACT §9), over real sockets."""

import asyncio
import signal
import threading
from typing import Any

import pytest

from leadctl import ConfigError, LeadNotFound, LeadResendService, RunLocked
from leadctl.sandbox.server import Sandbox
from tests.support.schemas import validate
from tests.support.world import World


@pytest.fixture
def service(world: World) -> LeadResendService:
    return LeadResendService.from_config(world.folder / "leadctl.toml")


def test_all_channels_some_and_an_empty_list(world: World, box: Sandbox, service: LeadResendService) -> None:
    world.connect(box, ["webhooks", "telegram", "email"])
    some, everything, *many = world.new_leads(5)
    result = service.resend_lead(some, ["email", "webhooks"])
    validate(result)
    assert {d["channel"]: d["outcome"] for d in result["deliveries"]} == {
        "webhooks": "delivered", "email": "delivered", "telegram": "skipped",
    }  # fmt: skip
    assert service.resend_lead(everything, [])["outcomes"]["delivered"] == 3
    assert service.resend_lead(everything)["outcomes"]["already_delivered"] == 3

    plan = service.plan([some, *many])
    validate(plan)
    assert plan["totals"]["deliveries"] == 10
    result = service.bulk_resend_leads([some, *many, 404_404], [])
    validate(result)
    assert (result["dispatched_count"], result["total_count"], result["errors_count"]) == (4, 5, 1)
    assert result["errors"][0]["code"] == "lead_not_found"
    assert result["outcomes"]["delivered"] == 10


def test_a_vendors_failure_is_in_the_result_and_only_what_cannot_begin_is_raised(
    world: World, box: Sandbox, service: LeadResendService
) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    box.faults.script("webhooks", lead, ["unauthorized"])
    result = service.resend_lead(lead)
    assert (result["exit_code"], result["outcomes"]["unprocessed"]) == (4, 1)
    with pytest.raises(LeadNotFound):
        service.resend_lead(404_404)
    with pytest.raises(ConfigError):
        service.resend_lead("not an id")
    with pytest.raises(ConfigError):
        service.resend_lead(lead, ["emial"])
    with pytest.raises(ConfigError):
        LeadResendService.from_config(world.folder / "none.toml")
    process = world.start("resend", lead, "--delay", "60s")
    try:
        world.wait_for_row("SELECT id FROM leadctl_runs WHERE due_at IS NOT NULL")
        with pytest.raises(RunLocked):
            service.resend_lead(lead)
    finally:
        process.kill()
        world.finish(process)


def test_inside_a_running_event_loop_and_a_thread_and_without_signal_handlers(
    world: World, box: Sandbox, service: LeadResendService
) -> None:
    world.connect(box, ["webhooks", "telegram"])
    first, second = world.new_leads(2)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    async def main() -> dict[str, Any]:
        return service.resend_lead(first)

    assert asyncio.run(main())["outcomes"]["delivered"] == 2
    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.append(service.resend_lead(second)))
    thread.start()
    thread.join(30)
    assert results[0]["outcomes"]["delivered"] == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_it_asks_nothing_and_prints_nothing(
    world: World, box: Sandbox, service: LeadResendService, capfd: pytest.CaptureFixture[str]
) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(101)
    result = service.bulk_resend_leads(leads)
    assert (result["status"], result["outcomes"]["delivered"]) == ("ok", 101)
    assert capfd.readouterr() == ("", "")
