"""A signal before anything is sent: while it waits for another process's run, and while it plans."""

import signal

import pexpect
import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.world import World, wait_until

SIGNALS = [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
#: Says that it waits.
WAITING = """
import os, pathlib
from leadctl.services.stopping import StopSwitch
plain = StopSwitch.wait
def wait(self, seconds):
    pathlib.Path(f"waits-{os.getpid()}").touch()
    return plain(self, 3600)  # only the signal itself ends it within the test's time
StopSwitch.wait = wait
"""
#: Each page of the plan takes until a signal comes.
SLOW_PLAN = """
import pathlib, threading
from leadctl.services.planning import Planning
from leadctl.services.stopping import StopSwitch
told, plain, inner = threading.Event(), StopSwitch.request, Planning.entries
def request(self, number):
    plain(self, number)
    told.set()
def entries(self):
    for page in inner(self):
        pathlib.Path("planning").touch()
        told.wait(60)
        yield page
StopSwitch.request, Planning.entries = request, entries
"""


def test_a_signal_ends_the_wait_for_a_lease_with_its_own_code(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    world.write_config("[limits]\nscale = 1\n")
    box.faults.script("webhooks", lead, ["timeout"])
    holder = world.start("bulk-resend", lead)
    try:
        wait_until(lambda: box.judge.by_lead("webhooks")[str(lead)])
        waiting = [world.start("bulk-resend", lead, "--wait", "1h", "--json", patch=WAITING) for _ in SIGNALS]
        wait_until(lambda: len(list(world.folder.glob("waits-*"))) == len(SIGNALS))
        for process, (number, code) in zip(waiting, SIGNALS, strict=True):
            assert process.poll() is None
            process.send_signal(number)
            done = world.finish(process)
            assert (done.code, done.json["code"], done.json["exit_code"]) == (code, "interrupted", code)
            assert f"interrupted by {number.name}; nothing was sent" in done.err
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()
    assert world.run("bulk-resend", lead, "--wait", "1m").code == 0
    assert box.judge.by_lead("webhooks")[str(lead)] == 1


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_it_plans_sends_nothing(
    world: World, box: Sandbox, number: signal.Signals, code: int
) -> None:  # fmt: skip
    world.connect(box, ["webhooks"])
    leads = world.new_leads(2)
    process = world.start("bulk-resend", *leads, "--yes", "--json", patch=SLOW_PLAN)
    wait_until((world.folder / "planning").exists)
    process.send_signal(number)
    done = world.finish(process)
    assert (done.code, done.json["code"]) == (code, "interrupted")
    assert not any(box.judge.by_lead("webhooks")[str(lead)] for lead in leads)
    assert world.run("runs", "--json").json["runs"] == [], "no run had begun"


def test_a_signal_while_it_plans_asks_nothing(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    child = world.terminal("bulk-resend", lead, patch=SLOW_PLAN)
    wait_until((world.folder / "planning").exists)
    child.kill(signal.SIGTERM)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 143
    shown = child.before or ""
    assert "interrupted by SIGTERM" in shown
    assert "Go on?" not in shown
    assert box.judge.by_lead("webhooks")[str(lead)] == 0
