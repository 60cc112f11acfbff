"""Logs: their levels, their form, and what is never in them."""

import json
from pathlib import Path

import pytest

from leadctl.cli.logs import named
from leadctl.domain.errors import ConfigError
from leadctl.domain.events import (
    Attempted,
    Claimed,
    Event,
    Finished,
    Notice,
    Parked,
    RunEvent,
    Throttling,
    TokenRefreshed,
)
from leadctl.domain.outcomes import Outcome
from tests.cli.support import world

ATTEMPT = Attempted("r1", 42, "amocrm", 7, 1, "done", 200, None, 35, "first")
EVENTS: dict[str, Event] = {
    "delivery_attempt": ATTEMPT,
    "delivery_finished": Finished(42, "amocrm", 7, Outcome.DELIVERED),
    "throttled": Throttling("amocrm", 7, 2.0, "429"),
    "credential_parked": Parked("amocrm", 7, "Acme", "credential_refused", "the token is refused"),
    "token_refreshed": TokenRefreshed("amocrm", 7),
    "notice": Notice("telegram", 9, "chat_moved", "the chat moved"),
    "no_credentials": RunEvent("no_credentials", "warning", {"lead_id": 42}),
}


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_has_its_name_and_its_fields(name: str) -> None:
    made = world("--log-format", "json", environ={"LEADCTL_VERBOSE": "1"})
    made.context.logs.observe(EVENTS[name])
    (record,) = made.records()
    assert record["event"] == name
    assert record["timestamp"].endswith("Z")
    if name != "no_credentials":
        assert (record["channel"], record["credential_id"]) in {("amocrm", 7), ("telegram", 9)}


def test_an_attempt_says_all_that_the_contract_names() -> None:
    made = world(environ={"LEADCTL_LOG_FORMAT": "json"})
    made.context.logs.observe(ATTEMPT)
    expected = {"run_id": "r1", "lead_id": 42, "channel": "amocrm", "credential_id": 7, "attempt": 1,
                "outcome": "done", "http_status": 200, "vendor_code": None, "ms": 35}  # fmt: skip
    assert expected.items() <= made.records()[0].items()


def test_what_is_not_logged() -> None:
    assert named(Claimed("amocrm", 7, 3)) is None
    assert named(RunEvent("waiting", "info", {"seconds": 3})) is None


@pytest.mark.parametrize(
    ("environ", "levels"),
    [
        ({}, ["info", "warning", "error"]),
        ({"LEADCTL_QUIET": "1"}, ["warning", "error"]),
        ({"LEADCTL_VERBOSE": "1"}, ["debug", "info", "warning", "error"]),
    ],
)
def test_thresholds(environ: dict[str, str], levels: list[str]) -> None:
    made = world(environ={"LEADCTL_LOG_FORMAT": "json", **environ})
    for level in ("debug", "info", "warning", "error"):
        made.context.logs.write(level, "x")
    assert [record["level"] for record in made.records()] == levels


def test_in_bulk_the_console_does_not_repeat_every_attempt() -> None:
    made = world()
    made.context.logs.bulk = True
    made.context.logs.observe(ATTEMPT)
    assert made.err == ""
    made.context.logs.bulk = False
    made.context.logs.observe(ATTEMPT)
    assert "delivery_attempt run_id=r1 lead_id=42" in made.err


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_secrets_and_personal_data_are_hidden(log_format: str) -> None:
    made = world("--log-format", log_format, environ={"LEADCTL_LOG_FORMAT": log_format})
    made.context.secrets.add(["s3cret-token"])
    made.context.logs.write("error", "x", message="s3cret-token for anna@example.org, +7 900 123-45-67",
                            nested={"url": ["https://h/s3cret-token"]}, remote_id="123456789012")  # fmt: skip
    assert "s3cret" not in made.err
    assert "anna@" not in made.err
    assert "900" not in made.err
    assert "123456789012" in made.err


def test_personal_data_only_when_asked_for() -> None:
    made = world(environ={"LEADCTL_LOG_PERSONAL_DATA": "yes"})
    made.context.secrets.add(["s3cret-token"])
    made.context.logs.write("error", "x", message="s3cret-token of anna@example.org")
    assert "anna@example.org" in made.err
    assert "s3cret" not in made.err


def test_a_foreign_text_stays_on_its_line() -> None:
    made = world()
    made.context.logs.write("error", "x", message="a\x1b[31m\r\nerror: forged\u202e", name="a b")
    assert made.err.count("\n") == 1
    assert "\x1b" not in made.err
    assert 'name="a b"' in made.err


def test_the_log_file_takes_json_lines_and_tracebacks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    made = world(environ={"LEADCTL_LOG_FILE": str(path)})
    made.context.secrets.add(["s3cret-token"])
    made.context.logs.observe(ATTEMPT)
    assert made.context.logs.traceback("Traceback:\n  File x\nValueError: s3cret-token")
    made.context.warn("careful", hint="do so")
    made.context.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["event"] for record in records] == ["delivery_attempt", "bug", "warning"]
    assert records[1]["exception"] == "Traceback:\n  File x\nValueError: ***"
    assert records[2] | {"message": "careful", "hint": "do so"} == records[2]
    assert "Traceback" not in made.err


def test_a_traceback_is_on_the_console_only_with_verbose() -> None:
    made = world(environ={"LEADCTL_VERBOSE": "1"})
    assert made.context.logs.traceback("Traceback:\n  File x\x1b[31m")
    assert "Traceback:\n  File x" in made.err
    assert "\x1b" not in made.err
    assert not world().context.logs.traceback("Traceback")


def test_a_log_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        _ = world(environ={"LEADCTL_LOG_FILE": str(tmp_path)}).context.logs
