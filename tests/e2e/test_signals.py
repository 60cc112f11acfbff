"""Exit codes 129, 130 and 143: drained and saved; and what a second signal, or a vendor that is silent, makes of it."""

import signal
import time

import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.world import World, wait_until


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_saves_and_the_same_command_goes_on(
    world: World, box: Sandbox, number: signal.Signals, code: int
) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(40)
    world.write_config("[limits.webhooks]\nrate = 0.1\n")  # 10 a second
    process = world.start("bulk-resend", *leads, "--json")
    wait_until(lambda: sum(box.judge.by_lead("webhooks")[str(lead)] for lead in leads) > 3)
    process.send_signal(number)
    done = world.finish(process)
    document = done.json
    assert (done.code, document["exit_code"], document["status"]) == (code, code, "stopped")
    assert document["outcomes"]["delivered"] > 3
    assert document["outcomes"]["unprocessed"] == 40 - document["outcomes"]["delivered"]
    assert {error["code"] for error in document["errors"]} == {"run_stopped"}

    world.write_config()
    again = world.run("bulk-resend", *leads, "--json")
    assert (again.code, again.json["outcomes"]["already_delivered"]) == (0, document["outcomes"]["delivered"])
    assert [box.judge.by_lead("webhooks")[str(lead)] for lead in leads] == [1] * 40


def test_a_second_signal_leaves_at_once(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    world.write_config("[limits]\nscale = 1\n")
    box.faults.script("webhooks", lead, ["timeout"])
    process = world.start("resend", lead)
    wait_until(lambda: box.judge.by_lead("webhooks")[str(lead)])
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None, "the first one waits for the vendor's answer"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert world.finish(process).code == 143
    assert time.monotonic() - began < 3
    again = world.run("resend", lead, "--json")
    assert (again.code, again.json["deliveries"][0]["settled_by"]) == (0, "resend")
    assert box.judge.by_lead("webhooks")[str(lead)] == 1


def test_what_does_not_answer_within_the_drain_is_unknown(world: World, box: Sandbox) -> None:
    world.connect(box, ["telegram"])
    leads = world.new_leads(3)
    world.write_config("[limits]\nscale = 1\n[send]\ndrain = 0.5\n")
    box.faults.script("telegram", leads[0], ["timeout"])
    process = world.start("bulk-resend", *leads, "--json")
    wait_until(lambda: box.judge.by_lead("telegram")[str(leads[0])])
    process.send_signal(signal.SIGTERM)
    done = world.finish(process)
    assert done.code == 143
    outcomes = {d["lead_id"]: d["outcome"] for d in done.json["deliveries"]}
    assert outcomes == {leads[0]: "unknown", leads[1]: "unprocessed", leads[2]: "unprocessed"}
