"""After an outage: exactly what is missing is sent, by the ledger and by the application's own log."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.servers import everywhere
from tests.support.world import World, wait_until

CHANNELS = ("amocrm", "telegram", "webhooks")
SINCE = ("--since", "2026-11-20T00:00")
SEND = ("bulk-resend", "--missing", *SINCE, "--yes")
MAPPING = """
[database.mapping]
types = { AmoCrm = "amocrm" }
[database.mapping.deliveries]
table = "lead_sends"
lead_id = "lead"
credential_id = "account"
status = "state"
delivered = ["sent"]
at = "sent_at"
remote_id = "answer"
"""
LOG = "CREATE TABLE lead_sends (lead VARCHAR(20), account VARCHAR(20), state TEXT, sent_at TEXT, answer TEXT)"


@dataclass
class Application:
    """What the application keeps of its own sends: text ids beside whole numbers."""

    world: World

    def __post_init__(self) -> None:
        self.world.execute(LOG)

    def sent(self, leads: Sequence[int], *credentials: int, state: str = "sent") -> None:
        for lead in leads:
            for credential in credentials:
                self.world.execute(
                    "INSERT INTO lead_sends VALUES (?, ?, ?, '2026-11-24 06:00:05', ?)",
                    str(lead), str(credential), state, f"app-{lead}",
                )  # fmt: skip


def made(box: Sandbox, channel: str, leads: Sequence[int]) -> list[int]:
    counts = box.judge.by_lead(channel)
    return [counts[str(lead)] for lead in leads]


class Outage:
    """The application sent some, leadctl some; some failed there, some are in doubt, the rest was never tried."""

    def __init__(self, world: World, box: Sandbox) -> None:
        self.world, self.box = world, box
        world.connect(box, CHANNELS)  # 11, 12, 13
        self.old = world.new_leads(2, created_at="2026-11-01 00:00:00")
        self.by_app, self.half, self.by_us, self.unknown, self.fresh = (world.new_leads(3) for _ in range(5))
        self.failed = world.new_leads(2)
        application = Application(world)
        application.sent(self.by_app, 11, 12, 13)
        application.sent(self.half, 11)
        application.sent(self.half, 13, state="failed")
        for lead in self.failed:
            box.faults.script("telegram", lead, ["server_error"] * 3)
        for lead in self.unknown:
            box.faults.script("telegram", lead, ["reset"])
        for leads, expected in (([*self.by_us, *self.unknown], "unknown"), (self.failed, "failed")):
            outcomes = world.run("bulk-resend", *leads, "--yes", "--json").json["outcomes"]
            assert outcomes["delivered"] == 3 * len(leads) - outcomes[expected] < 3 * len(leads)

    def assert_exact(self) -> None:
        """What the application sent is not there from us, all the rest exactly once."""
        ours = [*self.by_us, *self.failed, *self.unknown, *self.fresh]
        expected = {channel: [0] * 5 + [1] * (len(ours) + 3) for channel in CHANNELS}
        expected["amocrm"][5:8] = [0] * 3
        for channel in CHANNELS:
            assert made(self.box, channel, [*self.old, *self.by_app, *self.half, *ours]) == expected[channel], channel


@pytest.fixture
def outage(world: World, box: Sandbox) -> Outage:
    return Outage(world, box)


@everywhere
def test_what_is_missing_is_counted_and_sent_once(outage: Outage) -> None:
    world = outage.world
    totals = world.run("plan", "--missing", *SINCE, "--json").json["totals"]
    assert (totals["leads"], totals["deliveries"]) == (14, 32), "without the log the application's would go again"
    world.write_config(MAPPING)
    plan = world.run("plan", "--missing", *SINCE, "--json", "--detailed-exitcode")
    assert plan.code == 10
    missing = sorted([*outage.half, *outage.failed, *outage.unknown, *outage.fresh])
    assert [lead["lead_id"] for lead in plan.json["leads"]] == missing
    assert plan.json["totals"] == {
        "leads": 11, "filtered_count": 0, "deliveries": 20, "already_delivered": 13, "skipped": 0,
        "by_channel": {"amocrm": 3, "telegram": 11, "webhooks": 6},
    }  # fmt: skip
    half = plan.json["leads"][0]
    assert [d["channel"] for d in half["deliveries"]] == ["telegram", "webhooks"]
    (proven,) = half["already_delivered"]
    assert (proven["delivered_at"], proven["remote_id"]) == ("2026-11-24T06:00:05.000Z", f"app-{outage.half[0]}")
    told = world.run("plan", "--missing", *SINCE).out
    assert "missing: 15 never tried, 2 failed, 3 unknown\n" in told
    assert "by the log" in world.run("plan", outage.half[0]).out

    done = world.run(*SEND, "--json", "--log-format", "json")
    assert done.code == 6
    found = done.record("missing_found")
    assert found | {"leads": 11, "never_tried": 15, "failed": 2, "unknown": 3, "rejected": 0} == found
    events = [record["event"] for record in done.records]
    assert events.index("missing_found") < events.index("run_started")
    assert done.json["total_count"] == 11
    outcomes = Counter({name: number for name, number in done.json["outcomes"].items() if number})
    assert outcomes == {"delivered": 17, "already_delivered": 13, "unknown": 3}
    outage.assert_exact()

    requests = outage.box.judge.requests("telegram")
    again = world.run(*SEND, "--json")
    assert again.code == 6
    assert again.json["outcomes"]["unknown"] == again.json["total_count"] == 3
    assert outage.box.judge.requests("telegram") == requests
    settled = world.run("settle", *outage.unknown, "--credential", 12, "--delivered", "--reason", "they are there")
    assert settled.code == 0
    nothing = world.run(*SEND, "--json")
    assert (nothing.code, nothing.json["status"], nothing.json["total_count"]) == (0, "nothing", 0)
    assert world.run(*SEND, "--fail-on-empty").code == 3
    assert world.run("plan", "--missing", *SINCE, "--detailed-exitcode").code == 0
    outage.assert_exact()


def slowly(world: World, box: Sandbox, leads: int, more: str = "") -> list[int]:
    """New leads for webhooks at five a second; every fourth is in the application's log."""
    world.connect(box, ["webhooks"])
    application = Application(world)
    made_leads = world.new_leads(leads)
    application.sent(made_leads[::4], 11)
    world.write_config("[limits.webhooks]\nrate = 0.05\n" + MAPPING + more)
    return made_leads


def assert_rest_once(box: Sandbox, leads: list[int]) -> None:
    assert made(box, "webhooks", leads) == [0 if place % 4 == 0 else 1 for place in range(len(leads))]


def test_killed_in_the_middle_and_the_same_command_again(world: World, box: Sandbox) -> None:
    leads = slowly(world, box, 24)
    process = world.start(*SEND)
    wait_until(lambda: sum(made(box, "webhooks", leads)) >= 4)
    beside = world.run(*SEND)
    assert beside.code == 7, "two at once: one has the lease"
    process.kill()
    process.communicate()
    assert sum(made(box, "webhooks", leads)) < 18
    assert world.run(*SEND, "-q").code == 0
    assert_rest_once(box, leads)
    assert world.run(*SEND, "-q").code == 0
    assert_rest_once(box, leads)


def test_resumed_it_is_still_about_what_was_missing(world: World, box: Sandbox) -> None:
    leads = slowly(world, box, 24)
    process = world.start("bulk-resend", *leads, "--missing", *SINCE, "--yes")
    wait_until(lambda: sum(made(box, "webhooks", leads)) >= 4)
    process.kill()
    process.communicate()
    ((run,),) = world.ledger_rows("SELECT id FROM leadctl_runs")
    before = world.run("runs", "show", run, "--json").json
    done = world.run("runs", "resume", run, "--json", "-q")
    assert done.code == 0
    counts = ("total_count", "filtered_count")
    assert [done.json[name] for name in counts] == [before[name] for name in counts] == [24, 6]
    assert {name: number for name, number in done.json["outcomes"].items() if number} == {"delivered": 18}
    assert_rest_once(box, leads)


def test_forced_beside_the_log(world: World, box: Sandbox) -> None:
    """What a person forces goes once more under a key of its own; whether that arrived, only the ledger tells."""
    first, other, doubtful = leads = slowly(world, box, 3)
    for lead in (other, doubtful):
        world.execute("INSERT INTO lead_sends VALUES (?, '11', 'sent', NULL, NULL)", str(lead))
    box.faults.script("webhooks", doubtful, ["reset_before"] * 3)
    force = ("--force", "--reason", "a new price", "--json")
    assert world.run("resend", first, *force).outcomes == {11: "delivered"}
    assert world.run("resend", doubtful, *force).outcomes == {11: "unknown"}
    assert made(box, "webhooks", leads) == [1, 0, 0]
    key = world.ledger_rows("SELECT t.key FROM leadctl_targets t WHERE state = 'delivered'")[0][0]
    assert key.endswith(f"-{first}-11-1")
    plan = world.run("plan", "--missing", *SINCE, "--json").json
    assert [(lead["lead_id"], [d["state"] for d in lead["deliveries"]]) for lead in plan["leads"]] == [
        (doubtful, ["unknown"])
    ]
    assert world.run("resend", first, *force).outcomes == {11: "delivered"}
    assert world.run(*SEND).code == 0
    assert made(box, "webhooks", leads) == [2, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (("plan", "--missing"), "how far to look back", "--since 2d"),
        (("bulk-resend", 1, "--missing", "--until", "1d"), "how far to look back", "--max-age"),
        (("plan", 1, "--first-run"), "--first-run is about --missing", ""),
        (("bulk-resend", "--missing", "--max-age", "2d", "--force", "--reason", "x", "-c", "amocrm"), "--force", ""),
        (("plan", "--missing", *SINCE), "knows no earlier run", "--first-run"),
        (SEND, "knows no earlier run", "leadctl adopt"),
    ],
)
def test_exit_2(world: World, arguments: tuple[Any, ...], said: str, hint: str) -> None:
    refused = world.run(*arguments, "--json")
    assert (refused.code, refused.json["exit_code"]) == (2, 2)
    assert said in refused.json["message"]
    assert hint in refused.json["hint"]


def test_the_first_run_and_the_night_after(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(2)
    first = world.run(*SEND, "--first-run")
    assert first.code == 0
    assert "knows of no earlier send" not in first.err
    assert made(box, "webhooks", leads) == [1, 1]
    later = world.new_leads(1)
    assert world.run(*SEND, "--json").json["total_count"] == 1
    assert made(box, "webhooks", [*leads, *later]) == [1, 1, 1]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [("lead_sends", "no_such_table", "deliveries.table"), ('"state"', '"no_such"', "deliveries.status")],
)
def test_a_log_that_is_not_there_is_said_before_anything_is_sent(
    world: World, box: Sandbox, old: str, new: str, key: str
) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads(1)
    Application(world)
    world.write_config(MAPPING.replace(old, new))
    for command in (("plan", lead), ("resend", lead), SEND):
        refused = world.run(*command, "--json")
        assert refused.code == 2
        assert f"database.mapping.{key}" in refused.json["message"]
    assert made(box, "webhooks", [lead]) == [0]
