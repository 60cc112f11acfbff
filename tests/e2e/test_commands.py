"""A database made by hand, nothing else of ours, and every command over it; every document is checked by its schema."""

import json
import re
import signal
import stat
import time
from datetime import UTC, datetime, timedelta

from leadctl.sandbox.server import Sandbox
from tests.support.schemas import validate_plan_line
from tests.support.servers import everywhere, on_sqlite
from tests.support.world import CHANNELS, World

#: What a pipe must never get.
ESCAPES = re.compile(r"[\x1b\r\x07\x08]")

#: A run that waits for its --delay.
WAITING = "SELECT id FROM leadctl_runs WHERE due_at IS NOT NULL"


def arrived(box: Sandbox, vendor: str, *leads: int) -> list[int]:
    counts = box.judge.by_lead(vendor)
    return [counts[str(lead)] for lead in leads]


@on_sqlite
def test_one_lead_then_many_through_all_channels(world: World, box: Sandbox) -> None:
    numbers = world.connect(box)
    leads = world.new_leads(5)
    before = world.db_path.read_bytes()

    plan = world.run("plan", leads[0], "--json")
    assert plan.code == 0
    assert plan.json["totals"] == {
        "leads": 1, "filtered_count": 0, "deliveries": len(CHANNELS), "already_delivered": 0, "skipped": 0,
        "by_channel": dict.fromkeys(CHANNELS, 1),
    }  # fmt: skip
    targets = {d["channel"]: d["target"] for d in plan.json["leads"][0]["deliveries"]}
    assert targets["email"] == "maria@example.org, ivan@example.org"
    assert targets["telegram"] == "-1001234567890"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", targets["webhooks"]), "a host, never a path"
    assert not world.ledger_path.exists(), "a plan makes no ledger"

    dry = world.run("resend", leads[0], "--dry-run", "--delay", "1h", "--json")
    assert (dry.json, dry.code) == (plan.json, 0)
    assert box.judge.by_lead("webhooks")[str(leads[0])] == 0

    one = world.run("resend", leads[0], "--json")
    assert one.code == 0
    assert one.outcomes == dict.fromkeys(numbers.values(), "delivered")
    document = one.json
    assert (document["command"], document["next_command"], document["errors_count"]) == ("resend", None, 0)
    assert all(d["attempts"] >= 1 for d in document["deliveries"])
    anonymous = {d["channel"] for d in document["deliveries"] if not d["remote_id"]}
    assert anonymous <= {"getresponse", "sendpulse"}, "of an address book nobody hears an id"

    many = world.run("bulk-resend", "--entity", 1, "--json")
    assert many.code == 0
    number = len(CHANNELS)
    assert many.json["outcomes"] == {**document["outcomes"], "delivered": 4 * number, "already_delivered": number}
    assert many.json["by_channel"] == {name: {"delivered": 4, "already_delivered": 1} for name in sorted(CHANNELS)}
    assert (many.json["dispatched_count"], many.json["total_count"]) == (5, 5)
    for channel in CHANNELS:
        assert arrived(box, channel, *leads) == [1] * 5
    assert not box.vendor("webhooks").alarms  # type: ignore[attr-defined]
    assert world.run("runs", "show", document["run_id"], "--json").json == document
    assert world.db_path.read_bytes() == before, "the application's database is only read"


def test_the_plan_as_lines_and_for_a_person(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    leads = world.new_leads(12)
    done = world.run("plan", *leads, 404_404, "--jsonl")
    *lines, summary = map(validate_plan_line, done.out.splitlines())
    assert [line["lead_id"] for line in lines] == leads
    assert (summary["type"], summary["totals"]["deliveries"], done.code) == ("summary", 24, 1)
    assert summary["errors"][0]["lead_id"] == 404_404
    text = world.run("plan", *leads).out
    assert "12 leads: 24 deliveries to send (telegram 12, webhooks 12)" in text
    for lead in leads:
        assert str(lead) in text
    usage = world.run("plan", "--jsonl", "--json", "1")
    assert usage.code == 2
    json.loads(usage.out)


@everywhere
def test_what_is_known_of_runs_and_of_a_lead(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    (lead,) = world.new_leads()
    box.faults.script("webhooks", lead, ["server_error", "ok"])
    run = world.run("resend", lead, "--json").json
    world.run("resend", lead)

    history = world.run("history", lead, "--json").json
    hook = next(row for row in history["deliveries"] if row["channel"] == "webhooks")
    assert (hook["state"], hook["n"], hook["settled_by"]) == ("delivered", 0, "resend")
    assert [(a["outcome"], a["http_status"]) for a in hook["attempts"]] == [("ambiguous", 500), ("done", 200)]
    assert [r["outcome"] for r in hook["runs"]] == ["delivered", "already_delivered"]
    assert hook["key"].endswith(f"-{lead}-11")
    assert world.run("history", 404_404, "--json").json["code"] == "lead_not_found"

    listed = world.run("runs", "--json").json["runs"]
    assert [row["status"] for row in listed] == ["nothing", "ok"]
    assert listed[1]["run_id"] == run["run_id"]
    assert world.run("runs", "list", "--unfinished", "--json").json["runs"] == []
    resumed = world.run("runs", "resume", run["run_id"], "--json")
    assert (resumed.code, resumed.json) == (0, run), "a finished run has nothing to go on with"
    assert arrived(box, "webhooks", lead) == [1]


@everywhere
def test_settling_what_is_in_doubt(world: World, box: Sandbox) -> None:
    world.connect(box, ["telegram"])
    there, absent, fine = world.new_leads(3)
    for lead in (there, absent):
        box.faults.script("telegram", lead, ["reset"])
    assert world.run("bulk-resend", there, absent, fine).code == 6

    settle = ("settle", "--credential", "11", "--reason", "looked into the chat", "--json")
    yes = world.run(*settle, "--delivered", there, fine).json
    assert [(row["lead_id"], row["from"], row["state"]) for row in yes["settled"]] == [(there, "unknown", "delivered")]
    assert [row["lead_id"] for row in yes["skipped"]] == [fine]
    world.path("absent.txt", f"{absent}\n")
    no = world.run(*settle, "--not-delivered", "--ids-file", "absent.txt").json
    assert [(row["lead_id"], row["state"]) for row in no["settled"]] == [(absent, "failed")]

    done = world.run("bulk-resend", there, absent, fine, "--json")
    assert done.code == 0
    assert {d["lead_id"]: d["outcome"] for d in done.json["deliveries"]} == {
        there: "already_delivered", absent: "delivered", fine: "already_delivered",
    }  # fmt: skip
    proven = {d["lead_id"]: d["settled_by"] for d in done.json["deliveries"]}
    assert proven[there] == "operator"
    (row,) = world.run("history", there, "--json").json["deliveries"]
    assert row["attempts"][-1]["trigger"] == "operator"
    assert "looked into the chat" in row["attempts"][-1]["answer"]


@everywhere
def test_adopting_what_another_system_has_sent(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    *old, known, new = world.new_leads(5, external_project_id=7)
    assert world.run("resend", known).code == 0
    adopt = ("adopt", *old, known, "-c", "webhooks", "--reason", "sent by the old site", "--json")
    dry = world.run(*adopt, "--delivered", "--dry-run").json
    assert (dry["adopted"], dry["known"], dry["dry_run"]) == (3, 1, True)
    assert len(world.run("plan", *old, "--json").json["leads"][0]["already_delivered"]) == 0
    done = world.run(*adopt, "--delivered", "--yes").json
    assert (done["adopted"], done["by_channel"]) == (3, {"webhooks": 3})
    assert world.run(*adopt, "--delivered", "--yes").json["adopted"] == 0, "it touches only what is not known"

    plan = world.run("plan", *old, known, new, "--json").json
    assert plan["totals"]["by_channel"] == {"telegram": 4, "webhooks": 1}
    assert world.run("resend", old[0], "--json").outcomes == {11: "already_delivered", 12: "delivered"}
    undo = ("adopt", *old, known, "-c", "webhooks", "--undo", "--reason", "it was not", "--yes", "--json")
    assert world.run(*undo).json["undone"] == 3
    assert world.run("bulk-resend", *old, known, "--json").json["by_channel"]["webhooks"] == {
        "delivered": 3, "already_delivered": 1,
    }  # fmt: skip
    assert arrived(box, "webhooks", *old, known) == [1] * 4


def test_channels_and_their_check(world: World, box: Sandbox) -> None:
    rows = {row["name"]: row["state"] for row in world.run("channels", "list", "--json").json["channels"]}
    assert rows == dict.fromkeys(CHANNELS, "supported")
    for channel in CHANNELS:
        assert world.run("channels", "schema", channel).json["channel"] == channel

    world.connect(box)
    world.add_credential(30, "telegram", {**box.vendor("telegram").credential()}, enabled=False)
    requests = {channel: len(box.judge.creations(channel)) for channel in CHANNELS}
    done = world.run("channels", "check", "--json")
    assert (done.code, [row["verdict"] for row in done.json["checks"]]) == (0, ["ok"] * len(CHANNELS))
    assert {channel: len(box.judge.creations(channel)) for channel in CHANNELS} == requests, "no lead is sent"
    telegram = {**box.vendor("telegram").credential(), "bot_token": f"123456789:{'A' * 35}"}
    world.set_data(14, telegram)
    refused = world.run("channels", "check", "telegram", "--json")
    assert (refused.code, [row["verdict"] for row in refused.json["checks"]]) == (4, ["refused"])
    world.set_data(14, {**telegram, "base_url": "http://127.0.0.1:9"})
    assert world.run("channels", "check", "--credential", 14).code == 5


@on_sqlite
def test_init_and_doctor(world: World) -> None:
    made = world.run("init", "--path", "new/leadctl.toml", "--json")
    assert made.code == 0
    assert made.json["created_tables"] is True
    config = world.folder / "new" / "leadctl.toml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    before = config.read_bytes()
    assert world.run("init", "--path", "new/leadctl.toml", "--json").json["exit_code"] == 2
    assert config.read_bytes() == before
    checked = world.run("--config", str(config), "doctor", "--json")
    assert checked.code == 0
    assert {row["verdict"] for row in checked.json["checks"]} <= {"ok", "warning"}

    existing = world.run("init", "--path", "other.toml", "--database-url", f"sqlite:///{world.db_path}", "--json")
    assert existing.json["created_tables"] is False
    rows = {
        row["check"]: row["message"] for row in world.run("doctor", "--json", LEADCTL_SEND__TRIES="7").json["checks"]
    }
    assert rows["config send.tries"] == "7 (environment)"
    assert rows["config limits.scale"].endswith("(file)")
    assert rows["config send.drain"].endswith("(default)")
    world.execute("DROP TABLE leads")
    broken = world.run("doctor", "--json")
    assert broken.code == 2
    assert any("leads" in row["message"] for row in broken.json["checks"] if row["verdict"] == "error")


def test_streams_of_a_pipe_hold_no_escape_codes_whatever_the_environment_says(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    leads = world.new_leads(3)
    loud = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color", "NO_COLOR": "", "COLUMNS": "40"}
    box.faults.script("telegram", leads[0], ["reject"])
    named = " ".join(map(str, leads))
    for line in (f"bulk-resend {named}", f"plan {named}", f"history {leads[0]}", "doctor", "channels", "runs",
                 "channels check", "--help", "bulk-resend --help", "nonsense"):  # fmt: skip
        done = world.run(*line.split(), **loud)
        assert not ESCAPES.search(done.out + done.err), line


def test_with_json_logs_stderr_is_json_lines_only(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    leads, (orphan,) = world.new_leads(2), world.new_leads(external_entity_id=None)
    json_logs = ("--log-format", "json")
    done = world.run("bulk-resend", *leads, orphan, "--json", *json_logs)
    events = [record["event"] for record in done.records]
    assert (events[0], events[-1]) == ("warning", "run_finished"), "the warning that --yes will be needed"
    assert events.count("delivery_attempt") == 4
    assert "no_credentials" in events
    attempt = done.record("delivery_attempt")
    assert {"run_id", "lead_id", "channel", "credential_id", "attempt", "outcome", "http_status", "ms"} <= set(attempt)
    assert done.record("run_started")["run_id"] == done.json["run_id"]

    single = world.run("resend", leads[0], *json_logs)
    assert single.record("credentials_found")["credentials_count"] == 2
    assert single.record("integrations_resolved")["integration_types"] == ["telegram", "webhooks"]
    for arguments in (["plan", "abc"], ["resend"], ["bulk-resend", "-c", "emial", "1"], ["history", "404404"]):
        failed = world.run(*arguments, *json_logs, "--json")
        assert [record["level"] for record in failed.records] == ["error"]
        assert failed.json["message"] == failed.records[0]["message"]
    warned = world.run("plan", leads[0], *json_logs, LEADCTL_SEND__TRYS="3")
    assert "LEADCTL_SEND__TRYS" in warned.records[0]["message"]
    assert warned.code == 0


def test_a_bulk_without_yes_warns_below_100_and_says_that_nothing_is_known(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    first, second = world.new_leads(2)
    done = world.run("bulk-resend", first)
    assert "no earlier send" in done.err
    assert "--yes" in done.err
    done = world.run("bulk-resend", second)
    assert "no earlier send" not in done.err
    assert "no earlier send" not in world.run("resend", second, "--force", "--reason", "lost").err


def test_a_delay_waits_once_says_so_and_reads_the_leads_anew(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    lead, late = world.new_leads(2)
    began = time.monotonic()
    assert world.run("bulk-resend", lead, "--delay", "1h", "--dry-run").code == 0
    assert time.monotonic() - began < 5

    process = world.start("bulk-resend", lead, late, "--delay", "2s", "--json")
    world.wait_for_row(WAITING)
    assert arrived(box, "webhooks", lead) == [0]
    world.execute("UPDATE leads SET comment = 'written while it waited' WHERE id = ?", lead)
    world.execute("DELETE FROM leads WHERE id = ?", late)
    done = world.finish(process)
    assert (done.code, done.json["total_count"], done.json["outcomes"]["delivered"]) == (1, 2, 1)
    assert [error["code"] for error in done.json["errors"]] == ["lead_not_found"]
    (event,) = (c for c in box.judge.creations("webhooks") if c.lead == str(lead))
    assert "written while it waited" in event.detail
    assert "delayed" in done.err
    assert done.json["duration_s"] >= 1.8


def test_a_delay_that_was_cut_is_waited_for_to_its_end_by_the_same_command(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    command = ("resend", lead, "--delay", "1h")
    due = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = world.start(*command)
        world.wait_for_row(f"{WAITING} AND status = 'running'")
        due += world.ledger_rows("SELECT due_at FROM leadctl_runs WHERE status = 'running'")
        process.send_signal(number)
        assert world.finish(process).code == (143 if number is signal.SIGTERM else -9)
    assert due[0] == due[1], "not another hour"
    assert arrived(box, "webhooks", lead) == [0]
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    world.change_ledger("UPDATE leadctl_runs SET due_at = ?", soon)  # the hour is over
    assert world.run(*command).code == 0
    assert arrived(box, "webhooks", lead) == [1]


@everywhere
def test_a_forced_send_needs_a_resume_while_one_is_unfinished(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(2)
    assert world.run("bulk-resend", *leads).code == 0
    force = ("bulk-resend", *leads, "-c", "webhooks", "--force", "--reason", "their disk was lost", "--json")
    box.faults.script("webhooks", leads[1], ["unauthorized"])
    stopped = world.run(*force)
    assert (stopped.code, stopped.json["outcomes"]["delivered"]) == (4, 1)
    refused = world.run(*force)
    assert (refused.code, stopped.json["run_id"] in refused.json["message"]) == (2, True)
    resumed = world.run("runs", "resume", stopped.json["run_id"], "--json")
    assert (resumed.code, resumed.json["outcomes"]["delivered"]) == (0, 2)
    assert arrived(box, "webhooks", *leads) == [2, 2]
    keys = {c.key for c in box.judge.creations("webhooks") if c.lead in map(str, leads)}
    assert len(keys) == 4, "each forced send travels under a key of its own"


def test_no_variable_selects_permits_or_forces(world: World) -> None:
    variables = ("LEADCTL_YES", "LEADCTL_FORCE", "LEADCTL_CHANNEL", "LEADCTL_RETRY_UNKNOWN", "LEADCTL_LEAD_ID")
    done = world.run("plan", 1, **dict.fromkeys(variables, "1"))
    for variable in variables:
        assert f"{variable} is not known and has no effect" in done.err


def test_a_closed_stdout_stops_nothing(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(3)
    process = world.start("bulk-resend", *leads, "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stream:
        errors = stream.read()
    process.wait(60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert arrived(box, "webhooks", *leads) == [1, 1, 1]
