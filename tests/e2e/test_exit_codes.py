"""Every exit code of CONTRACT §5, by the process itself, and which of several wins (signals: test_signals)."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.servers import everywhere, on_sqlite
from tests.support.world import Finished, World, wait_until

#: A bug in a channel, after its request was claimed.
BROKEN_WEBHOOKS = """
from leadctl.channels.webhooks import WebhooksChannel
async def send(self, step, batch):
    raise KeyError("not there")
WebhooksChannel.send = send
"""


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def error_of(done: Finished, code: int) -> dict[str, Any]:
    """The error document of a command that did not begin, which must agree with the process."""
    document: dict[str, Any] = done.json
    assert done.code == code, (done.out, done.err)
    assert (document["schema"], document["exit_code"]) == ("leadctl.error/1", code)
    assert document["message"] in done.err
    return document


# --- 0 and 1 ------------------------------------------------------------------------------------------------------


@everywhere
def test_0_for_delivered_already_delivered_and_nothing_to_send(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "amocrm"])
    lead, orphan = *world.new_leads(), *world.new_leads(external_entity_id=None, external_project_id=None)

    first = world.run("resend", lead, "--json")
    assert (first.code, first.json["status"], first.outcomes) == (0, "ok", {11: "delivered", 12: "delivered"})
    again = world.run("resend", lead, "--json")
    assert (again.code, again.json["status"]) == (0, "nothing")
    assert set(again.outcomes.values()) == {"already_delivered"}
    assert box.judge.by_lead("webhooks")[str(lead)] == 1

    nothing = world.run("resend", orphan)
    assert nothing.code == 0
    assert "no credentials" in nothing.err
    assert "nothing" in nothing.out


@everywhere
def test_1_for_a_lead_that_is_not_there_or_refused_or_out_of_tries_or_incomplete(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    email = {**box.vendor("email").credential(), "to": ["maria@example.org", "refused@example.org"]}
    world.add_credential(20, "email", email, entity=2)
    world.add_credential(21, "webhooks", {"url": f"http://127.0.0.1:{closed_port()}/x"}, entity=3)
    (refused,), (half,), (dead,) = (world.new_leads(external_entity_id=entity) for entity in (1, 2, 3))
    box.faults.script("webhooks", refused, ["reject"])

    absent = world.run("resend", 999_999_999, "--json")
    assert (absent.code, absent.json["status"], absent.json["total_count"]) == (1, "partial", 1)
    assert [(e["lead_id"], e["code"]) for e in absent.json["errors"]] == [(999_999_999, "lead_not_found")]

    together = world.run("bulk-resend", refused, half, dead, "--json")
    document = together.json
    assert (together.code, document["status"], document["next_command"]) == (1, "partial", None)
    assert together.outcomes == {11: "rejected", 20: "delivered", 21: "failed"}
    codes = {error["credential_id"]: error["code"] for error in document["errors"]}
    assert codes == {11: "vendor_rejected", 20: "incomplete", 21: "tries_exhausted"}
    assert document["errors_count"] == 3
    assert document["dispatched_count"] == 2, "the dead one was not dispatched"
    assert [d["attempts"] for d in document["deliveries"] if d["credential_id"] == 21] == [3]

    for lead in (refused, half, dead):
        assert world.run("resend", lead).code == (0 if lead == refused else 1)
    assert box.judge.by_lead("email")[str(half)] == 1, "what is incomplete is completed, alone"


# --- 2 and 3: before anything is sent -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiet_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Leads and credentials that nobody answers for: commands of these tests must not get that far."""
    world = World(tmp_path_factory.mktemp("quiet"))
    world.add_credential(11, "webhooks", {"url": f"http://127.0.0.1:{closed_port()}/x"})
    world.add_leads(range(1, 121))
    world.path("bad.txt", "1\nx y\n3\n\nlead\n")
    world.path("ids.txt", "\n".join(map(str, range(1, 121))))
    return world


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json"], "--json"),
        (["runs", "show", "--json"], "RUN"),
        (["resned", "1", "--json"], "resend"),
        (["resend", "--json"], "LEAD_ID"),
        (["resend", "1", "--chanel", "email", "--json"], "--chanel"),
        (["resend", "abc", "--json"], "abc"),
        (["resend", "1", "-c", "emial", "--json"], "did you mean email"),
        (["resend", "1", "--skip-channel", "telegramm", "--json"], "did you mean telegram"),
        (["resend", "1", "--credential", "99", "--json"], "no such credential: 99"),
        (["resend", "1", "--credential", "", "--json"], "no credential is named"),
        (["resend", "1", "-c", " ", "--json"], "no channel is named"),
        (["resend", "1", "--credentials-file", "none.json", "--json"], "none.json"),
        (["resend", "1", "--delay", "soon", "--json"], "--delay"),
        (["resend", "1", "--force", "--json"], "--reason"),
        (["resend", "1", "--reason", "why", "--json"], "--force"),
        (["bulk-resend", "--json"], "no lead is selected"),
        (["bulk-resend", "-c", "email", "--json"], "no lead is selected"),
        (["bulk-resend", "--ids-file", "none.txt", "--json"], "none.txt"),
        (["bulk-resend", "--ids-file", "bad.txt", "--json"], "line 2"),
        (["bulk-resend", "1", "--force", "--reason", "why", "--json"], "-c or --credential"),
        (["bulk-resend", "--since", "yesterday", "--json"], "--since"),
        (["bulk-resend", "1", "--log-file", "/nowhere/x.log", "--json"], "/nowhere/x.log"),
        (["runs", "show", "20260101-000000-none", "--json"], "20260101-000000-none"),
        (["settle", "1", "--credential", "11", "--delivered", "--json"], "--reason"),
        (["channels", "check", "icq", "--json"], "icq"),
        (["history", "--json"], "LEAD_ID"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_2_for_what_cannot_be_meant(quiet_world: World, arguments: list[str], said: str) -> None:
    error = error_of(quiet_world.run(*arguments), 2)
    assert said.lower() in f"{error['message']} {error['hint']}".lower()


def test_2_for_a_bulk_without_yes_names_the_command_to_type(quiet_world: World) -> None:
    done = quiet_world.run("bulk-resend", "--ids-file", "ids.txt", "--json")
    error = error_of(done, 2)
    assert "120 deliveries" in error["message"]
    assert "bulk-resend --ids-file ids.txt --json --yes" in error["hint"]
    assert "leadctl.toml" in error["hint"], "with the global options"
    assert quiet_world.run("runs", "--json").json["runs"] == [], "nothing was begun"


@pytest.mark.parametrize(
    ("text", "key", "right"),
    [
        ("[send]\ntreis = 2\n", "send.treis", "send.tries"),
        ("[sned]\ntries = 2\n", "sned", "send"),
        ('[send]\ntries = "many"\n', "send.tries", "integer"),
        ('timezone = "Mars/Olympus"\n', "timezone", "no such time zone"),
        ("[send]\ntries = \n", "TOML", "config.example.toml"),
        ('[ledger]\nurl = "env:NOT_SET_ANYWHERE"\n', "ledger.url", "export NOT_SET_ANYWHERE"),
        ("[limits.webhooks]\nrate = 5000\n", "limits.webhooks", "at most 1000"),
        ("[limits.webhoks]\nrate = 5\n", "limits.webhoks", "did you mean webhooks"),
    ],
)
def test_2_for_a_config_names_file_key_and_what_is_right(tmp_path: Path, text: str, key: str, right: str) -> None:
    world = World(tmp_path)
    (config := tmp_path / "leadctl.toml").write_text(text + config.read_text())
    world.add_credential(11, "webhooks", {"url": f"http://127.0.0.1:{closed_port()}/x"})
    world.add_leads([1])
    error = error_of(world.run("resend", 1, "--json"), 2)
    assert key in error["message"]
    assert right in f"{error['message']} {error['hint']}"
    assert str(config) in error["message"] or key.startswith("limits"), "names the file"


def test_2_for_a_scale_above_1_outside_allow_private(world: World) -> None:
    world.add_credential(11, "webhooks", {"url": "https://1.1.1.1/x"})
    world.add_leads([1])
    error = error_of(world.run("resend", 1, "--json"), 2)
    assert "scale" in error["message"]
    assert "1.1.1.1" in error["message"]


@on_sqlite
def test_2_for_a_database_that_is_not_there_or_has_no_tables(world: World) -> None:
    world.execute("DROP TABLE entity_credentials")
    error = error_of(world.run("plan", 1, "--json"), 2)
    assert "entity_credentials" in error["message"]

    world.db_path.unlink()
    for arguments in (["plan", "1"], ["resend", "1"], ["runs"], ["history", "1"]):
        error = error_of(world.run(*arguments, "--json"), 2)
        assert str(world.db_path) in error["message"]
    assert world.run("doctor").code == 2
    assert not world.db_path.exists(), "a read creates no database"
    assert not world.ledger_path.exists()


def test_3_for_an_empty_selection_only_with_fail_on_empty(world: World) -> None:
    world.add_leads([1])
    assert world.run("bulk-resend", "--project", 999).code == 0
    error_of(world.run("bulk-resend", "--project", 999, "--fail-on-empty", "--json"), 3)
    assert world.run("bulk-resend", 404, "--fail-on-empty").code == 1, "a lead that is not there is named"


# --- 4, 5, 6 ------------------------------------------------------------------------------------------------------


def test_4_for_a_refused_credential_while_the_others_go_on(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    leads = world.new_leads(3)
    box.faults.always("webhooks", "unauthorized")
    done = world.run("bulk-resend", *leads, "--json")
    document = done.json
    assert (done.code, document["status"]) == (4, "stopped")
    assert document["by_channel"] == {"telegram": {"delivered": 3}, "webhooks": {"unprocessed": 3}}
    assert {error["code"] for error in document["errors"]} == {"credential_refused"}
    assert document["next_command"].endswith(f"runs resume {document['run_id']}")


def test_4_for_an_invalid_credential_that_is_enabled_selected_and_linked(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    world.add_credential(20, "amocrm", {"subdomain": "acme"})
    (lead,) = world.new_leads()
    assert world.run("plan", lead).code == 0, "a plan never exits 4"
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (4, {11: "delivered", 20: "skipped"})
    assert world.run("resend", lead, "--skip-channel", "amocrm").code == 0
    world.execute("UPDATE credentials SET enabled = false WHERE id = 20")
    assert world.run("resend", lead).code == 0


def test_5_for_an_outage_and_the_same_command_goes_on(world: World, box: Sandbox) -> None:
    world.write_config("[send]\npatience = 0.5\n")
    world.connect(box, ["webhooks"])
    leads = world.new_leads(8)
    box.faults.always("webhooks", "reset_before")
    done = world.run("bulk-resend", *leads, "--json")
    document = done.json
    assert (done.code, document["status"]) == (5, "stopped")
    assert document["outcomes"]["unprocessed"] + document["outcomes"]["unknown"] == 8
    assert "vendor_down" in {error["code"] for error in document["errors"]}
    box.faults.clear()
    words = document["next_command"].split()
    assert words[:3] == ["leadctl", "--config", str(world.folder / "leadctl.toml")]
    resumed = world.run(*words[3:], "--json")
    assert (resumed.code, resumed.json["run_id"]) == (0, document["run_id"])
    assert resumed.json["outcomes"]["delivered"] == 8
    assert [box.judge.by_lead("webhooks")[str(lead)] for lead in leads] == [1] * 8


def test_5_for_a_wait_longer_than_patience_and_for_doubt_that_the_next_run_settles(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    limited, doubtful = world.new_leads(2)
    box.faults.script("webhooks", limited, ["rate_limit"])  # asks for 1 s
    world.write_config("[send]\npatience = 0.2\n")
    done = world.run("resend", limited, "--json")
    assert (done.code, done.outcomes, done.json["errors"][0]["code"]) == (5, {11: "unprocessed"}, "limit_reached")

    world.write_config()  # the vendor's pause is known to all processes, and now not too long
    box.faults.script("webhooks", doubtful, ["reset"] * 3)
    done = world.run("resend", doubtful, "--json")
    assert (done.code, done.outcomes, done.json["status"]) == (5, {11: "unknown"}, "stopped")
    again = world.run("resend", doubtful, "--json")
    assert (again.code, again.json["deliveries"][0]["settled_by"]) == (0, "resend")
    assert box.judge.by_lead("webhooks")[str(doubtful)] == 1


def test_5_for_a_database_that_does_not_answer(world: World) -> None:
    for scheme in ("postgresql+psycopg", "mysql+pymysql"):
        url = f"{scheme}://leads:canary-password@127.0.0.1:{closed_port()}/leads"
        error = error_of(world.run("plan", 1, "--json", LEADCTL_DATABASE__URL=url), 5)
        assert "canary-password" not in json.dumps(error)


@everywhere
def test_6_for_what_only_a_person_can_settle_and_retry_unknown_marks_the_repeat(world: World, box: Sandbox) -> None:
    world.connect(box, ["telegram"])
    (lead,) = world.new_leads()
    box.faults.script("telegram", lead, ["timeout"])
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes, done.json["errors"][0]["code"]) == (6, {11: "unknown"}, "maybe_delivered")
    requests = box.judge.requests("telegram")
    assert world.run("plan", lead, "--detailed-exitcode").code == 0, "what is held is nothing to send"
    assert world.run("resend", lead).code == 6
    assert box.judge.requests("telegram") == requests, "nothing is sent until a person says so"

    assert world.run("resend", lead, "--retry-unknown").code == 0
    first, second = (c.detail for c in box.judge.creations("telegram") if c.lead == str(lead))
    assert "repeat" in second.lower() or "повтор" in second.lower()
    assert "repeat" not in first.lower()
    assert "повтор" not in first.lower()
    assert world.run("resend", lead).code == 0


# --- 7, 8, 10 -----------------------------------------------------------------------------------------------------


def test_7_while_another_process_holds_the_selection(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    world.write_config("[limits]\nscale = 1\n")
    box.faults.script("webhooks", lead, ["timeout"])
    first = world.start("bulk-resend", lead)
    wait_until(lambda: box.judge.by_lead("webhooks")[str(lead)])
    world.write_config()
    error = error_of(world.run("bulk-resend", lead, "--json"), 7)
    for part in (str(first.pid), socket.gethostname(), "since 20"):
        assert part in error["message"]
    assert "runs" in error["hint"]
    (run,) = world.run("runs", "list", "--unfinished", "--json").json["runs"]
    assert run["status"] == "running"
    error_of(world.run("runs", "resume", run["run_id"], "--json"), 7)
    waiting = world.start("bulk-resend", lead, "--wait", "60s", "--json")
    time.sleep(1)
    assert waiting.poll() is None
    first.kill()
    world.finish(first)
    waited = world.finish(waiting)
    assert (waited.code, waited.outcomes) == (0, {11: "delivered"})
    assert box.judge.by_lead("webhooks")[str(lead)] == 1


@everywhere
def test_a_killed_holder_is_not_7_and_the_same_command_goes_on_at_once(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    world.write_config("[limits]\nscale = 1\n")
    box.faults.script("webhooks", lead, ["timeout"])
    process = world.start("resend", lead)
    wait_until(lambda: box.judge.by_lead("webhooks")[str(lead)])
    process.kill()
    world.finish(process)
    assert world.run("runs", "--unfinished", "--json").json["runs"][0]["status"] == "interrupted"
    began = time.monotonic()
    assert world.run("resend", lead).code == 0
    assert time.monotonic() - began < 10
    assert box.judge.by_lead("webhooks")[str(lead)] == 1


def test_8_when_the_operator_says_no(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    for answer, code, sent in (("n", 8, 0), ("\x03", 130, 0), ("y", 0, 1)):
        child = world.terminal("bulk-resend", lead)
        child.expect(r"1 delivery to be sent: webhooks 1[\s\S]*no earlier send[\s\S]*Go on\? \[y/N\] ")
        if answer == "\x03":
            child.sendcontrol("c")
        else:
            child.sendline(answer)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == code
        assert box.judge.by_lead("webhooks")[str(lead)] == sent


def test_10_when_there_is_something_to_send(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    assert world.run("plan", lead).code == 0
    assert world.run("plan", lead, "--detailed-exitcode").code == 10
    assert world.run("plan", lead, 999_999_999, "--detailed-exitcode").code == 1, "1 wins over 10"
    assert world.run("resend", lead).code == 0
    assert world.run("plan", lead, "--detailed-exitcode").code == 0


# --- 70 -----------------------------------------------------------------------------------------------------------


def test_70_for_a_bug_in_one_channel_while_the_others_go_on(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram", "email"])
    leads = world.new_leads(2)
    done = world.run("bulk-resend", *leads, "--json", "--log-file", "run.log", patch=BROKEN_WEBHOOKS)
    document = done.json
    assert done.code == 70
    assert document["by_channel"]["telegram"] == {"delivered": 2}
    assert document["by_channel"]["email"] == {"delivered": 2}
    by_code = {error["code"] for error in document["errors"]}
    assert by_code == {"bug"}
    assert document["by_channel"]["webhooks"]["unknown"] >= 1
    assert "KeyError" in (world.folder / "run.log").read_text()
    healed = world.run("bulk-resend", *leads, "--json")
    assert healed.code == 0
    assert [box.judge.by_lead("webhooks")[str(lead)] for lead in leads] == [1, 1]


# --- several at once ----------------------------------------------------------------------------------------------


@everywhere
def test_4_wins_over_5_over_6_over_1(world: World, box: Sandbox) -> None:
    world.write_config("[send]\npatience = 0.5\n")
    world.connect(box, ["amocrm", "bitrix24", "email", "telegram", "webhooks"])
    (lead,) = world.new_leads()
    box.faults.always("amocrm", "unauthorized")
    box.faults.always("webhooks", "rate_limit")
    box.faults.always("telegram", "reset")
    box.faults.always("bitrix24", "reject")
    done = world.run("resend", lead, "--json")
    expected = {11: "unprocessed", 12: "rejected", 13: "delivered", 14: "unknown", 15: "unprocessed"}
    assert (done.code, done.outcomes) == (4, expected)
    for vendor, code in (("amocrm", 5), ("webhooks", 6), ("telegram", 6)):
        box.faults.always(vendor, None)
        assert world.run("resend", lead).code == code, f"{vendor} is well again"
    settle = world.run("settle", lead, "--credential", 14, "--delivered", "--reason", "seen in the chat", "--json")
    assert (settle.code, len(settle.json["settled"])) == (0, 1)
    assert world.run("resend", lead).code == 1
    box.faults.clear()
    assert world.run("resend", lead).code == 0
