"""Two operators, and cron on top: who holds what, a holder that is frozen, and one that is dead."""

import getpass
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from leadctl.sandbox.server import Sandbox
from tests.support.servers import everywhere
from tests.support.world import World, wait_until

CHANNELS = ("webhooks", "amocrm")


def counts(box: Sandbox, channel: str, leads: Sequence[int]) -> list[int]:
    return [box.judge.by_lead(channel)[str(lead)] for lead in leads]


@contextmanager
def frozen(world: World, box: Sandbox, lead: int, *command: object) -> Iterator["subprocess.Popen[str]"]:
    """leadctl, stopped where both vendors have this lead and have not answered."""
    for channel in CHANNELS:
        box.faults.script(channel, lead, ["timeout"])
    process = world.start(*command, "--json", LEADCTL_LIMITS__SCALE="20")
    try:
        wait_until(lambda: all(counts(box, channel, [lead]) == [1] for channel in CHANNELS))
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def outcomes(document: dict[str, Any]) -> dict[tuple[int, str], str]:
    return {(d["lead_id"], d["channel"]): d["outcome"] for d in document["deliveries"]}


@everywhere
def test_7_says_who_holds_it_and_who_waits_goes_on_when_the_holder_is_killed(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(100)
    world.write_config("[limits.webhooks]\nrate = 0.1\n")  # 10 a second
    holder = world.start("bulk-resend", *leads)
    wait_until(lambda: sum(counts(box, "webhooks", leads)) > 2)
    held = world.run("bulk-resend", *leads, "--json")
    assert (held.code, held.json["schema"]) == (7, "leadctl.error/1")
    for part in (getpass.getuser(), socket.gethostname(), f"process {holder.pid}", "since 20"):
        assert part in held.json["message"]
    ((run_id,),) = world.ledger_rows("SELECT id FROM leadctl_runs")
    resumed = world.run("runs", "resume", run_id)
    assert resumed.code == 7
    assert f"process {holder.pid}" in resumed.err

    world.write_config()
    waiting = world.start("bulk-resend", *leads, "--wait", "1m", "--json")
    time.sleep(1.0)
    assert waiting.poll() is None
    holder.kill()
    killed = time.monotonic()
    world.finish(holder)
    done = world.finish(waiting)
    assert time.monotonic() - killed < 5
    sums = done.json["outcomes"]
    assert (done.code, sums["delivered"] + sums["already_delivered"]) == (0, 100)
    assert sums["delivered"] > 0
    assert sums["already_delivered"] > 2
    assert counts(box, "webhooks", leads) == [1] * 100
    assert world.ledger_rows("SELECT count(*) FROM leadctl_runs WHERE superseded_by IS NOT NULL") == [(1,)]


@everywhere
def test_a_frozen_holder_is_not_robbed_and_all_is_there_once_when_it_goes_on(world: World, box: Sandbox) -> None:
    world.connect(box, CHANNELS)
    leads = world.new_leads(6)
    with frozen(world, box, leads[0], "bulk-resend", "--entity", 1) as holder:
        same = world.run("bulk-resend", "--entity", 1)
        assert same.code == 7
        assert f"process {holder.pid}" in same.err

        other = world.run("bulk-resend", "--project", 1, "--json", LEADCTL_SEND__TIMEOUT="100")  # a second here
        document = other.json
        assert (other.code, document["status"]) == (5, "stopped"), other.err
        assert outcomes(document) == {
            (lead, channel): "unprocessed" if lead == leads[0] else "delivered"
            for lead in leads
            for channel in CHANNELS
        }
        assert {error["code"] for error in document["errors"]} == {"in_use_elsewhere"}
        assert "another process" in document["errors"][0]["message"]
        assert document["next_command"].endswith(f"runs resume {document['run_id']}")
        assert not [twin for twin in box.judge.twins("webhooks") if twin.lead == str(leads[0])]

        holder.send_signal(signal.SIGCONT)
        done = world.finish(holder)
    assert done.code == 0, done.err
    assert outcomes(done.json) == {
        (lead, channel): "delivered" if lead == leads[0] else "already_delivered"
        for lead in leads
        for channel in CHANNELS
    }
    for channel in CHANNELS:
        assert counts(box, channel, leads) == [1] * 6
    again = world.run("bulk-resend", "--project", 1, "--json")
    assert (again.code, again.json["outcomes"]["already_delivered"]) == (0, 12)


@everywhere
def test_what_a_killed_holder_had_in_hand_is_free_at_once(world: World, box: Sandbox) -> None:
    world.connect(box, CHANNELS)
    (lead,) = world.new_leads()
    with frozen(world, box, lead, "resend", lead) as holder:
        other = world.start("bulk-resend", lead, "--json", LEADCTL_SEND__TIMEOUT="2000")
        world.wait_for_row("SELECT 1 FROM leadctl_runs WHERE command = 'bulk-resend' AND total_count = 1")
        time.sleep(0.5)
        assert other.poll() is None, "it waits for what the frozen one has in hand"
        holder.kill()
        killed = time.monotonic()
        done = world.finish(other)
        assert time.monotonic() - killed < 5
    assert done.code == 0, done.err
    settled = {d["channel"]: (d["outcome"], d["settled_by"]) for d in done.json["deliveries"]}
    assert settled == {"webhooks": ("delivered", "resend"), "amocrm": ("delivered", "lookup")}
    for channel in CHANNELS:
        assert counts(box, channel, [lead]) == [1]
