"""What a person reads: at 80 and 160 columns, in a pipe, and with hostile text."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len

from leadctl.cli import render
from leadctl.services.requests import PlanTotals
from tests.cli.plans import HOSTILE, error_entry, group, lead_plan, run_document
from tests.cli.support import World, world

CHANNEL = {
    "name": "amocrm", "title": "amoCRM", "state": "supported", "batch": 50, "limits": "7 requests/s " * 12,
    "repeat": "asks first", "data_keys": [{"key": "subdomain", "required": False, "secret": False}],
    "settings_keys": [],
}  # fmt: skip
HISTORY = {
    "lead_id": 42,
    "deliveries": [{
        "channel": "amocrm", "credential_id": 7, "state": "delivered", "key": "lc-abc-42-7", "remote_id": HOSTILE,
        "settled_by": "lookup", "attempts": [{
            "started_at": "2026-11-24T12:00:00.000Z", "trigger": "first", "step": "lead", "outcome": "ambiguous",
            "http_status": 502, "vendor_code": None, "answer": HOSTILE * 4}],
    }],
}  # fmt: skip
TOTALS = PlanTotals(
    leads=12, filtered_count=1, deliveries=14, already_delivered=3, skipped=2,
    by_channel={"amocrm": 12, "email": 2}, by_state={"new": 13, "failed": 1},
)  # fmt: skip

SHOWN: dict[str, Callable[[Any], None]] = {
    "plan": lambda context: render.show_lead_plan(context, lead_plan()),
    "plan line": lambda context: context.line(render.lead_plan_line(lead_plan())),
    "plan end": lambda context: render.show_plan_end(context, TOTALS, [error_entry(9, "lead_not_found", HOSTILE)]),
    "run": lambda context: render.show_run(context, run_document(), [group()]),
    "resend": lambda context: render.show_run(
        context,
        run_document(command="resend", deliveries=[{
            "lead_id": 42, "channel": "amocrm", "credential_id": 7, "outcome": "rejected", "remote_id": None,
            "remote_url": None, "attempts": 1, "settled_by": None,
            "error": {"code": "vendor_rejected", "message": HOSTILE, "vendor_code": None}}]),
        [],
    ),
    "history": lambda context: render.show_history(context, HISTORY),
    "channels": lambda context: render.show_channels(context, [CHANNEL, {**CHANNEL, "state": "planned"}]),
}  # fmt: skip


def shown(name: str, **how: Any) -> World:
    made = world(**how)
    SHOWN[name](made.context)
    return made


@pytest.mark.parametrize("name", SHOWN)
def test_in_a_pipe_it_is_plain_text_and_nothing_is_wrapped(name: str) -> None:
    text = shown(name, environ={"FORCE_COLOR": "1", "COLUMNS": "20"}).out
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())
    if name != "channels":
        assert "[red]Anna[/red] [31mred [0m new line [link=x]" in text


@pytest.mark.parametrize("name", sorted(set(SHOWN) - {"plan line", "plan end", "run"}))
@pytest.mark.parametrize("columns", [80, 160])
def test_tables_fit_the_terminal(name: str, columns: int) -> None:
    text = shown(name, terminal=True, columns=columns, environ={"NO_COLOR": "1"}).out
    assert "\x1b[31m" not in text
    rows = [line for line in text.splitlines() if line.startswith("  ") or name == "resend"]
    assert rows
    wide = [line for line in rows if cell_len(line) > columns and not line.startswith("  warning")]
    assert wide == [] or name == "resend"


def test_colours_are_of_the_terminal_only() -> None:
    assert "\x1b[32msend" in shown("plan", terminal=True, columns=160).out
    assert "\x1b" not in shown("plan", terminal=True, columns=160, environ={"NO_COLOR": "1"}).out
    assert "\x1b" not in shown("plan", terminal=True, columns=160, environ={"TERM": "dumb"}).out


def test_a_plan_says_all_of_a_lead() -> None:
    text = shown("plan").out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("Lead 42 (entity 5, project [red]Anna")
    assert any(line.startswith("send amocrm #7") and line.endswith("acme.amocrm.ru new") for line in lines)
    assert "send telegram #9 -100123/4 failed" in lines
    assert "already email #3 Sales mail sales@acme.ru, boss@acme.ru since 2026-11-20 08:30Z, 9774766" in lines
    assert "skip bitrix24 #11 portal.bitrix24.ru disabled" in lines


def test_many_leads_have_a_line_each() -> None:
    assert shown("plan line").out.startswith(
        "42  send amocrm (acme.amocrm.ru), telegram (-100123/4, failed); already email; "
        "skip bitrix24 (disabled), webhooks (invalid_credential); warning: a warning"
    )


def test_the_sums_of_a_plan() -> None:
    text = shown("plan end").out
    assert "12 leads: 14 deliveries to send (amocrm 12, email 2), 3 delivered already, 2 skipped" in text
    assert "of those to send: failed 1" in text
    assert "1 named lead left out by the other selectors" in text
    assert "error: lead 9, amocrm #7: lead_not_found: [red]Anna" in text


def test_the_end_of_a_run_says_what_to_do() -> None:
    text = shown("run").out
    assert [line.split() for line in text.splitlines()[:3]] == [
        ["channel", "delivered", "rejected", "unprocessed"],
        ["amocrm", "4", "0", "2"],
        ["email", "5", "1", "0"],
    ]
    assert "not found: 99" in text
    assert "2 × credential_refused [401], first lead 42" in text
    assert "  what to do: correct the credential, then: leadctl runs resume 01JB2T9" in text
    assert "stopped: 12 leads; 9 delivered, 1 rejected, 2 unprocessed, 1 not found (run 01JB2T9, 1.2 s)" in text
    assert text.endswith("go on with: leadctl runs resume 01JB2T9\n")


def test_a_run_with_nothing_to_do_says_so() -> None:
    nothing = run_document(status="nothing", outcomes={}, by_channel={}, errors=[], next_command=None, exit_code=0)
    made = world()
    render.show_run(made.context, nothing, [])
    assert made.out == "nothing: 12 leads; nothing to do (run 01JB2T9, 1.2 s)\n"


def test_a_lead_without_a_history() -> None:
    made = world()
    render.show_history(made.context, {"lead_id": "x", "deliveries": []})
    assert "never sent by leadctl" in made.out


def test_what_differs_in_the_vendors_words_only_is_one_group() -> None:
    made = world()
    render.show_groups(made.context, [group(count=50), group(count=11, vendor_code=None), group(code="vendor_down")])
    assert [line.split(" × ")[0].split()[-1] for line in made.out.splitlines() if " × " in line] == ["61", "2"]


def test_exit_4_without_a_failure_is_explained() -> None:
    made = world()
    render.show_run(made.context, run_document(errors=[]), [])
    assert "a linked credential is invalid" in made.out
