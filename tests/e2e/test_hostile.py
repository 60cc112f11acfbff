"""Leads that try to become something else (LESSONS 35): text at every vendor, on every screen, in every file."""

import csv
import email
import email.policy
import json
import re
from email.message import EmailMessage
from pathlib import Path

import pexpect

from leadctl.domain.masking import clean
from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.bitrix24 import LEAD, Bitrix24Vendor
from leadctl.sandbox.email import EmailVendor
from leadctl.sandbox.server import Sandbox
from leadctl.sandbox.telegram import TelegramVendor
from leadctl.sandbox.webhooks import WebhooksVendor
from leadctl.testing.hostile import HOSTILE_TEXTS, RENDERED
from tests.support.world import World

#: What a terminal would act on; a line's end is none.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: The only sequences that leadctl itself may send to a terminal: colours, the cursor, clearing a line.
OURS = re.compile(r"\x1b\[(?:[\d;]*m|\?25[hl]|\d*[AKG]|2K)|\r")
NAME = "[red]Ops[/red] \x1b[31m\x1b]0;x\x07\x9b31m =cmd()|' /C x'!A0\r\nsecond \u202eline"


def hostile_leads(world: World) -> dict[int, str]:
    """lead → the text that it holds everywhere. SQLite's own text holds no half surrogate; its JSON may. PostgreSQL
    takes no NUL, and neither in JSON."""
    leads = {}
    for hostile in HOSTILE_TEXTS.values():
        on_server = world.server is not None
        text = hostile.replace("\0", "").encode("utf-8", "replace").decode() if on_server else hostile
        plain = text.encode("utf-8", "replace").decode()
        (lead,) = world.new_leads(
            name=plain, comment=plain, page_url=plain, phone="call <b>me</b>",
            utm=json.dumps({"utm_source": text}), answers=json.dumps({text: text}),
        )  # fmt: skip
        leads[lead] = plain
    return leads


def flat(text: str) -> str:
    """As it can be compared: every vendor keeps lines and control characters in its own way."""
    return clean(text.replace("\ufffd", " "), 100_000)


def assert_mail(message: EmailMessage, lead: int, text: str) -> None:
    expected = {
        "From", "To", "Reply-To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress",
        "X-Lead-Id", "MIME-Version", "Content-Type",
    }  # fmt: skip
    assert set(message.keys()) == expected, "no header is smuggled in"
    assert len(message.keys()) == len(expected)
    assert message["To"] == "maria@example.org, ivan@example.org"
    assert message["Subject"] == f"New lead {lead}: {flat(text)}"
    plain, rich = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert rich is not None
    assert flat(text) in flat(plain.get_content())
    assert "<a href=x>" not in rich.get_content()
    assert "<b>me</b>" not in rich.get_content()
    assert [part.get_content_type() for part in message.walk()] == ["multipart/alternative", "text/plain", "text/html"]


def test_at_the_vendors(world: World, box: Sandbox) -> None:
    world.connect(box, ["amocrm", "bitrix24", "email", "telegram", "webhooks"])
    (ordinary,) = world.new_leads()
    leads = hostile_leads(world)
    done = world.run("bulk-resend", ordinary, *leads, "--json")
    assert (done.code, done.json["outcomes"]["delivered"]) == (0, 5 * (len(leads) + 1))

    telegram, mail, hooks = box.vendor("telegram"), box.vendor("email"), box.vendor("webhooks")
    amocrm, bitrix24 = box.vendor("amocrm"), box.vendor("bitrix24")
    assert isinstance(telegram, TelegramVendor)
    assert isinstance(mail, EmailVendor)
    assert isinstance(hooks, WebhooksVendor)
    assert isinstance(amocrm, AmoCrmVendor)
    assert isinstance(bitrix24, Bitrix24Vendor)
    mails = [email.message_from_bytes(raw, policy=email.policy.default) for raw in mail.messages]
    by_lead = {int(message["X-Lead-Id"]): message for message in mails}
    chats = [message for chat in telegram.chats.values() for message in chat.messages]
    shapes = {lead: [entity["type"] for m in chats if f"№ {lead} " in m["text"] for entity in m["entities"]]
              for lead in (ordinary, *leads)}  # fmt: skip
    events = {(body := json.loads(received.body))["data"]["id"]: body["data"] for received in hooks.received}
    for lead, text in leads.items():
        key = f"-{lead}-"
        (item,) = (item for item in bitrix24.items[LEAD].values() if key in item["originId"])
        (deal,) = (deal for deal in amocrm.leads.values() if key in json.dumps(deal.body))
        (message,) = (m["text"] for m in chats if f"№ {lead} " in m["text"])
        assert flat(text) in flat(message)
        assert shapes[lead] == shapes[ordinary], "no formatting but ours"
        assert_mail(by_lead[lead], lead, text)
        # a space stands where Bitrix24 would begin a tag or a reference
        assert f"{item['name']}{item.get('lastName') or ''}".replace(" ", "") == flat(text).replace(" ", "")
        assert "$result[" not in json.dumps(item)
        assert item["utmSource"].replace(" ", "") == flat(text).replace(" ", "")
        assert deal.body["name"].endswith(flat(text))
        assert flat(text) in flat(deal.notes[0]["params"]["text"])
        assert flat(events[lead]["name"]) == flat(text)
        assert flat(events[lead]["answers"][0]["question"]) == flat(text)
        for kept in (message, str(by_lead[lead]), json.dumps([item, deal.body, deal.notes, events[lead]])):
            assert RENDERED not in kept, "a template of a lead is never run"
    assert not hooks.alarms


def spoil_names(world: World) -> None:
    """Names of credentials and a type that would be markup, an escape sequence or a formula."""
    world.execute("UPDATE credentials SET name = ?", NAME)
    world.add_credential(90, "[bold]=x\x1b[31m", {})
    world.execute("UPDATE credentials SET name = ? WHERE id = 90", NAME)


def test_in_a_pipe_in_json_and_in_csv(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    spoil_names(world)
    leads = hostile_leads(world)
    first = min(leads)
    box.faults.script("webhooks", first, ["reject"])
    box.faults.script("telegram", first, ["reset"])
    run = world.run("bulk-resend", *leads, "--results-dir", "out", "-v", "--log-file", "run.log")
    assert run.code == 6
    run_id = world.run("runs", "--json").json["runs"][0]["run_id"]
    commands: list[list[object]] = [
        ["plan", *leads], ["plan", first], ["history", first], ["runs", "show", run_id], ["doctor"],
        ["channels", "check"], ["resend", first, "-c", "[red]x\x1b[31m"], ["plan", "[b]\x1b[31m"],
        ["bulk-resend", "--ids-file", "[red]\x1b[31m.txt"],
    ]  # fmt: skip
    texts = [run, *(world.run(*command) for command in commands)]
    for done in texts:
        assert not CONTROL.search(done.out + done.err), (done.out, done.err)
    assert "[red]Ops[/red]" in texts[2].out, "shown as it is"
    assert not CONTROL.search((world.folder / "run.log").read_text())
    plan = world.run("plan", first, "--json")
    assert {s["credential_name"] for s in plan.json["leads"][0]["skipped"]} == {NAME}, "JSON keeps the text"
    assert not CONTROL.search(plan.out)
    for path in (world.folder / "out").iterdir():
        assert_no_formula(path)


def assert_no_formula(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            for cell in row:
                assert not CONTROL.search(cell)
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), f"{path.name}: {cell}"
                assert not cell.startswith("-") or re.fullmatch(r"-\d+/\d+|-\d+", cell), f"{path.name}: {cell}"


def test_on_a_terminal(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    spoil_names(world)
    lead = min(hostile_leads(world))
    box.faults.script("webhooks", lead, ["reject"])
    for arguments in (["plan", lead], ["bulk-resend", lead, "--yes"], ["history", lead], ["channels", "check"]):
        child = world.terminal(*arguments, NO_COLOR="")
        child.expect(pexpect.EOF)
        child.close()
        shown = child.before or ""
        left = OURS.sub("", shown)
        assert not CONTROL.search(left), (arguments, shown)
        assert "\x1b[31m\x1b]0;" not in shown
        if arguments[0] == "plan":
            assert "\x1b[" in shown, "colours of our own"
            assert "[red]Ops" in left, "markup is text"
