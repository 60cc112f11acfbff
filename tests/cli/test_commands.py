"""The commands: from what is typed to what the services are asked, and from their answers to what is printed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import ConfigError, DatabaseUnreachable, NothingSelected, RunLocked
from leadctl.services.requests import LeadSelection, PlanTotals, Question, SendRequest
from tests.cli.conftest import FakeServices
from tests.cli.plans import HOSTILE, lead_plan, run_document
from tests.cli.support import NOW, run

REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing selected": (["bulk-resend"], "no lead is selected"),
    "nothing planned": (["plan", "-c", "email"], "no lead is selected"),
    "a channel that is none": (["plan", "1", "-c", "emial"], "emial"),
    "a channel to skip that is none": (["plan", "1", "--skip-channel", "x"], "--skip-channel"),
    "an empty channel": (["plan", "1", "-c", ","], "no channel is named"),
    "force without a reason": (["resend", "1", "--force"], "--force"),
    "force with a blank reason": (["resend", "1", "--force", "--reason", " "], "--force"),
    "a reason without force": (["resend", "1", "--reason", "x"], "--reason"),
    "force in bulk": (["bulk-resend", "1", "--force", "--reason", "x"], "-c or --credential"),
    "a delay": (["resend", "1", "--delay", "30"], "--delay"),
    "a wait": (["bulk-resend", "1", "--wait", "soon"], "--wait"),
    "a time": (["plan", "--since", "tomorrow"], "--since"),
    "an age": (["plan", "--max-age", "7"], "--max-age"),
    "since after until": (["plan", "--since", "2h", "--until", "3h"], "--since"),
    "an id": (["resend", "abc"], '"abc": an id must be a whole number'),
    "skip without a file": (["plan", "1", "--skip-bad-lines"], "--ids-file"),
    "a file that is not there": (["plan", "--ids-file", "/nowhere"], "/nowhere"),
    "a credentials file that is not there": (["plan", "1", "--credentials-file", "/nowhere"], "--credentials-file"),
    "both forms": (["plan", "1", "--json", "--jsonl"], "--jsonl"),
    "settle without a verdict": (["settle", "1", "--credential", "7", "--reason", "x"], "--delivered"),
    "settle with both": (
        ["settle", "1", "--credential", "7", "--reason", "x", "--delivered", "--not-delivered"],
        "either",
    ),
    "settle without a credential": (["settle", "1", "--delivered", "--reason", "x"], "--credential"),
    "settle without a reason": (["settle", "1", "--delivered", "--credential", "7"], "--reason"),
    "settle without a lead": (["settle", "--delivered", "--credential", "7", "--reason", "x"], "no lead is named"),
    "adopt without a verdict": (["adopt", "1", "-c", "email", "--reason", "x"], "--undo"),
    "adopt without a channel": (["adopt", "1", "--delivered", "--reason", "x"], "channel"),
    "adopt without a reason": (["adopt", "1", "--delivered", "-c", "email"], "--reason"),
    "a scale": (["sandbox", "--scale", "0"], "--scale"),
    "an unknown command": (["sned", "1"], "sned"),
    "an unknown option": (["plan", "1", "--chanel", "email"], "--chanel"),
    "a missing argument": (["resend"], "LEAD_ID"),
    "a missing value": (["plan", "1", "-c"], "-c"),
    "a log format": (["plan", "1", "--log-format", "xml"], "--log-format"),
    "an option of the group": (["runs", "--unfinished", "show", "r1"], "--unfinished"),
}


@pytest.mark.parametrize(
    ("name", "as_json"),
    # where a value is missing, --json would be taken for it
    [(name, as_json) for name in REFUSED for as_json in (False, True) if not (as_json and name == "a missing value")],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    services: FakeServices, name: str, as_json: bool
) -> None:
    argv, said = REFUSED[name]
    code, made = run([*argv, *(["--json"] if as_json else [])])
    assert code == 2
    assert services.asked == []
    assert said in made.err
    assert "Traceback" not in made.err
    if as_json or "--json" in argv:
        document = made.document()
        assert (document["schema"], document["exit_code"]) == ("leadctl.error/1", 2)
        assert said in document["message"]
    else:
        assert made.out == ""


def test_a_misspelt_channel_gets_the_nearest(services: FakeServices) -> None:
    code, made = run(["plan", "1", "-c", "amocrn"])
    assert (code, "did you mean amocrm?" in made.err) == (2, True)


def test_selectors(services: FakeServices, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("{}")
    code, _ = run(["plan", "1", "-c", "email,amocrm", "-c", "telegram,email", "--skip-channel", "webhooks",
                   "--credential", "7,8", "--credential", "x", "--credentials-file", str(file)])  # fmt: skip
    assert code == 0
    selectors = services.asked[0][1]
    assert selectors.channels == ("email", "amocrm", "telegram")
    assert selectors.skip_channels == ("webhooks",)
    assert selectors.credentials == ("7", "8", "x")
    assert selectors.credentials_file == file


def test_a_selection_of_everything(services: FakeServices, tmp_path: Path) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text("lead_id;x\n3;a\n1;b\n")
    run(["plan", "2", "3", "--ids-file", str(ids), "--project", "p", "--entity", "5", "--since", "2026-11-20T09:00",
         "--until", "09:00", "--max-age", "2d"])  # fmt: skip
    assert services.asked[0][0] == LeadSelection(
        ids=[2, 3, 1],
        project="p",
        entity="5",
        since=NOW - timedelta(days=2),
        until=datetime(2026, 11, 24, 6, 0, tzinfo=UTC),
        typed=("since=2026-11-20T09:00", "until=09:00", "max_age=2d"),
    )


def test_an_empty_file_selects_nothing_and_never_everything(services: FakeServices, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("# nothing today\n")
    run(["bulk-resend", "--ids-file", str(ids)])
    assert services.asked[0].leads.ids == []


def test_stdin_is_read_for_a_dash(services: FakeServices) -> None:
    run(["bulk-resend", "--ids-file", "-"], stdin="5\n6\n")
    assert services.asked[0].leads.ids == [5, 6]


def test_bad_lines_are_refused_or_left_out(services: FakeServices, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("1\nx\n")
    code, made = run(["bulk-resend", "--ids-file", str(ids), "--json"])
    assert code == 2
    assert 'line 2: "x"' in made.document()["message"]
    assert services.asked == []
    code, made = run(["bulk-resend", "--ids-file", str(ids), "--skip-bad-lines"])
    assert code == 0
    assert "left out: line 2" in made.err


def test_a_request_holds_all_that_was_typed(services: FakeServices, tmp_path: Path) -> None:
    code, _ = run(["--config", "a b.toml", "-q", "bulk-resend", "--since", "3h", "-c", "email", "--delay", "30s",
                   "--force", "--reason", " why ", "--retry-unknown", "--wait", "10m", "--fail-on-empty",
                   "--results-dir", "d", "--no-color"])  # fmt: skip
    assert code == 0
    request: SendRequest = services.asked[0]
    assert (request.command, request.delay, request.wait) == ("bulk-resend", 30.0, 600.0)
    assert (request.force_reason, request.retry_unknown, request.fail_on_empty) == ("why", True, True)
    assert request.results_dir == Path("d")
    assert request.global_options == ("--config", "a b.toml", "--quiet", "--no-color")
    assert services.opened == [True]


def test_resend_names_one_lead(services: FakeServices) -> None:
    services.document = run_document(command="resend", status="ok", exit_code=0, next_command=None)
    code, made = run(["resend", "42"])
    assert (code, services.asked[0].leads.ids) == (0, [42])
    assert "ok: 12 leads" in made.out


def test_a_run_prints_its_document_and_ends_with_its_code(services: FakeServices) -> None:
    services.document = run_document()
    code, made = run(["bulk-resend", "1", "--json"])
    assert code == 4
    assert made.document() == services.document


@pytest.mark.parametrize("command", [["resend", "1"], ["bulk-resend", "1"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_dry_run_prints_what_plan_prints(services: FakeServices, command: list[str], form: list[str]) -> None:
    planned = run(["plan", "1", *form])
    tried = run([*command, "--dry-run", *form])
    assert (tried[0], tried[1].out) == (planned[0], planned[1].out)
    assert services.opened == [False, False]


def test_a_dry_run_plans_with_the_flags_of_the_run(services: FakeServices) -> None:
    run(["resend", "1", "--dry-run", "--force", "--reason", "x", "--retry-unknown"])
    assert services.options == {"force_reason": "x", "retry_unknown": True}


def test_plan_as_json(services: FakeServices) -> None:
    services.plans = [lead_plan(n) for n in range(1, 4)]
    services.plan_code = 1
    code, made = run(["plan", "1", "--json"])
    document = made.document()
    assert code == 1
    assert list(document) == ["schema", "leads", "totals", "errors"]
    assert [lead["lead_id"] for lead in document["leads"]] == [1, 2, 3]
    assert document["leads"][0]["external_project_id"] == HOSTILE
    assert document["totals"]["leads"] == 3


def test_plan_as_json_lines(services: FakeServices) -> None:
    import json

    services.plans = [lead_plan(1), lead_plan(2)]
    _, made = run(["plan", "1", "--jsonl"])
    lines = [json.loads(line) for line in made.out.splitlines()]
    assert [line.get("lead_id") for line in lines] == [1, 2, None]
    assert lines[-1]["type"] == "summary"


def test_leads_of_one_plan_are_encoded_alike(services: FakeServices) -> None:
    from dataclasses import replace

    from leadctl.services.shapes import lead_plan_json

    plans = [replace(lead_plan(n), already_delivered=()) for n in (1, 2)]
    services.plans = [*plans, replace(plans[0], lead_id="x", warnings=()), lead_plan(5)]
    _, made = run(["plan", "1", "--json"])
    expected = [lead_plan_json(plan) for plan in services.plans]
    assert made.document()["leads"] == expected


def test_a_plan_that_breaks_leaves_one_document(services: FakeServices) -> None:
    services.plans = [lead_plan(1), lead_plan(2)]
    services.failure = DatabaseUnreachable("the database does not answer: s3cret-token", hint="again")
    code, made = run(["plan", "1", "--json"])
    assert code == 5
    assert made.document() == {
        "schema": "leadctl.error/1", "code": "database_unreachable", "message": "the database does not answer: ***",
        "hint": "again", "exit_code": 5,
    }  # fmt: skip


@pytest.mark.parametrize("number", [2, 30])
def test_plan_for_a_person(services: FakeServices, number: int) -> None:
    services.plans = [lead_plan(n) for n in range(1, number + 1)]
    _, made = run(["plan", "1"])
    lines = made.out.splitlines()
    assert lines[-1].startswith(f"{number} leads: {2 * number} deliveries to send")
    assert sum(line.startswith("Lead ") for line in lines) == (2 if number == 2 else 0)
    assert sum("  send amocrm (acme.amocrm.ru)" in line for line in lines) == (0 if number == 2 else 30)


def test_detailed_exit_code(services: FakeServices) -> None:
    assert run(["plan", "1", "--detailed-exitcode"])[0] == 10
    assert run(["plan", "1"])[0] == 0


@pytest.mark.parametrize(
    ("failure", "code"),
    [(RunLocked("held by pid 5"), 7), (NothingSelected("no lead"), 3), (ConfigError("no table"), 2),
     (DatabaseUnreachable("gone"), 5), (ZeroDivisionError("s3cret-token"), 70), (RecursionError(), 70)],
)  # fmt: skip
@pytest.mark.parametrize("argv", [["bulk-resend", "1"], ["resend", "1"]])
def test_every_failure_is_one_document(services: FakeServices, argv: list[str], failure: Exception, code: int) -> None:
    services.failure = failure
    found, made = run([*argv, "--json"])
    assert found == code
    document = made.document()
    assert (document["schema"], document["exit_code"]) == ("leadctl.error/1", code)
    assert made.err.count("error: ") == 1
    assert "Traceback" not in made.err
    assert "s3cret" not in made.err + made.out


@pytest.mark.parametrize("argv", [["plan", "1", "--chanel"], ["resend", "1"], ["bulk-resend", "1", "--delay", "x"]])
def test_with_json_logs_stderr_is_json_lines_only(services: FakeServices, argv: list[str]) -> None:
    services.failure = ValueError("odd")
    for form in (["--log-format", "json"], ["--log-format=json"]):
        _, made = run([*form, *argv])
        assert [r["level"] for r in made.records()].count("error") >= 1
        assert run([*argv, *form])[1].records()[-1]["level"] == "error"
    assert run(argv, environ={"LEADCTL_LOG_FORMAT": "json"})[1].records()[-1]["level"] == "error"


def test_warnings_of_the_settings_are_said_once(services: FakeServices) -> None:
    _, made = run(["bulk-resend", "--since", "1h"])
    assert made.err.count("LEADCTL_X is not known") == 1


def test_the_traceback_of_a_bug_is_kept_where_it_can_be(services: FakeServices, tmp_path: Path) -> None:
    services.failure = ZeroDivisionError("at s3cret-token")
    _, made = run(["resend", "1"])
    assert "type it again with -v" in made.err
    _, made = run(["resend", "1", "-v"])
    assert "ZeroDivisionError: at ***" in made.err
    log = tmp_path / "log"
    _, made = run(["resend", "1", "--log-file", str(log)])
    assert "Traceback" not in made.err
    assert "ZeroDivisionError: at ***" in log.read_text()


@pytest.mark.parametrize("stdin", ["n\n", "y\n"])
def test_the_question_is_asked_on_a_terminal(services: FakeServices, stdin: str) -> None:
    services.question = Question("bulk-resend", PlanTotals(leads=500, deliveries=500), nothing_known=False)
    code, made = run(["bulk-resend", "--since", "1d"], terminal=True, stdin=stdin)
    assert code == (0 if stdin == "y\n" else 8)
    assert "500 deliveries" in made.err
    assert run(["bulk-resend", "--since", "1d"], stdin="y\n")[0] == 2
    assert run(["bulk-resend", "--since", "1d", "--yes"])[0] == 0


def test_the_end_of_a_bulk_run_groups_what_failed(services: FakeServices) -> None:
    services.document = run_document()
    _, made = run(["bulk-resend", "1"])
    assert "2 × credential_refused [401], first lead 42" in made.out
    assert "go on with: leadctl runs resume 01JB2T9" in made.out
    assert "run_started" in made.err


def test_runs(services: FakeServices) -> None:
    code, made = run(["runs", "show", "r1"])
    assert (code, services.asked[-1]) == (0, ("r1",))
    assert "what to do" in made.out
    assert run(["runs", "show", "r1", "--json"])[1].document() == services.document
    run(["runs", "resume", "r1", "-v"])
    assert (services.asked[-1], services.options) == ("r1", {"global_options": ("--verbose",)})


@pytest.mark.parametrize(
    "argv", [["runs"], ["runs", "list"], ["runs", "--unfinished"], ["runs", "list", "--unfinished"]]
)
def test_the_list_of_runs(services: FakeServices, argv: list[str]) -> None:
    assert "run" in run(argv)[1].out
    services.rows = [{"run_id": "r1", "command": "resend", "status": "stopped", "started_at": "2026-11-24T12:00:00Z",
                      "total_count": 1200, "outcomes": {"delivered": 1, "failed": 0}}]  # fmt: skip
    _, made = run(argv)
    assert services.asked[-1] == ("--unfinished" in argv,)
    assert "r1" in made.out
    assert "1,200  1 delivered" in made.out
    assert run([*argv, "--json"])[1].document()["runs"] == services.rows
    assert run([argv[0], "--json", *argv[1:]])[1].document()["runs"] == services.rows


CHECK = {"channel": "amocrm", "credential_id": 7, "credential_name": HOSTILE, "target": "acme.amocrm.ru", "ok": False,
         "verdict": "refused", "message": HOSTILE}  # fmt: skip


def test_channels_check(services: FakeServices) -> None:
    assert run(["channels", "check"])[1].out == "there is no enabled credential to check\n"
    services.rows = [CHECK]
    code, made = run(["channels", "check", "amocrm", "--credential", "7"])
    assert (code, services.asked[-1]) == (4, ("amocrm", "7"))
    assert "\x1b" not in made.out
    assert "refused" in made.out
    code, made = run(["channels", "check", "--json"])
    assert (code, made.document()["checks"]) == (4, [CHECK])


def test_channels_need_no_database(services: FakeServices) -> None:
    for argv in (["channels"], ["channels", "list"]):
        assert "amocrm  amoCRM" in run(argv)[1].out
        assert run([*argv, "--json"])[1].document()["channels"][0]["name"] == "amocrm"
    assert run(["channels", "schema", "telegram"])[1].document()["channel"] == "telegram"
    code, made = run(["channels", "schema", "telegran", "--json"])
    assert (code, made.document()["hint"]) == (2, "did you mean telegram?")
    assert services.opened == []


def test_history(services: FakeServices) -> None:
    services.document = {"schema": "leadctl.history/1", "lead_id": 42, "deliveries": []}
    assert "Lead 42" in run(["history", "42"])[1].out
    assert run(["history", "42", "--json"])[1].document() == services.document


@pytest.mark.parametrize("verdict", ["--delivered", "--not-delivered"])
def test_settle(services: FakeServices, verdict: str) -> None:
    services.document = {"schema": "leadctl.settle/1", "settled": [{"lead_id": 1}],
                         "skipped": [{"lead_id": 2, "reason": "not in doubt"}]}  # fmt: skip
    code, made = run(["settle", "1", "2", "--credential", "7", verdict, "--reason", "seen"])
    assert (code, services.asked[-1]) == (0, ([1, 2], "7", verdict == "--delivered", "seen"))
    assert "1 delivery settled" in made.out
    assert "left as it is: lead id 2, reason not in doubt" in made.out
    assert (
        run(["settle", "1", "--credential", "7", verdict, "--reason", "x", "--json"])[1].document() == services.document
    )


@pytest.mark.parametrize("undo", [False, True])
def test_adopt(services: FakeServices, undo: bool) -> None:
    services.document = {"schema": "leadctl.adopt/1", "undone" if undo else "adopted": 4, "known": 1, "leads": 5,
                         "by_channel": {"email": 4}, "dry_run": True}  # fmt: skip
    argv = [
        "adopt",
        "--until",
        "2026-11-01",
        "-c",
        "email",
        "--undo" if undo else "--delivered",
        "--reason",
        "x",
        "--dry-run",
    ]
    code, made = run(argv)
    assert code == 0
    assert services.opened == [False]
    assert services.options["delivered"] is not undo
    assert f"5 leads: 4 deliveries would be {'taken back' if undo else 'recorded as delivered'}, 1 known" in made.out
    assert run([*argv, "--json"])[1].document() == services.document


def test_init(services: FakeServices) -> None:
    services.document = {"schema": "leadctl.init/1", "config": "leadctl.toml", "database": "sqlite:///leads.db",
                         "created_tables": True, "mapping": {}, "sure": [], "unsure": [], "plan": [],
                         "next": ["leadctl doctor"]}  # fmt: skip
    _, made = run(["init", "--database-url", "sqlite:///leads.db"])
    assert made.out.splitlines()[0] == "config written: leadctl.toml"
    assert "  leadctl doctor" in made.out
    assert run(["init", "--json"])[1].document() == services.document


def test_doctor(services: FakeServices) -> None:
    services.rows = [{"check": "database", "verdict": "error", "code": "usage", "message": HOSTILE, "hint": "start it"}]
    code, made = run(["doctor"])
    assert code == 2
    assert "hint: start it" in made.out
    document: Any = run(["doctor", "--json"])[1].document()
    assert (document["checks"], document["exit_code"]) == (services.rows, code)
    run(["doctor", "--ledger-restored"])
    run(["doctor", "--no-ledger-restored"])
    assert services.asked == [None, None, True, False]


def test_runs_purge(services: FakeServices) -> None:
    services.document = {"answers": 1, "attempts": 2000, "deliveries": 3, "runs": 1}
    code, made = run(["runs", "purge", "--before", "2026-03-01T10:00"])
    assert (code, services.asked[-1][0].isoformat()[:16]) == (0, "2026-03-01T10:00")
    assert made.out == ("forgotten: 1 answer, 2,000 attempts, 3 deliveries of 1 run; what is delivered stays known\n")
    assert run(["runs", "purge", "--before", "90d", "--json"])[1].document() == services.document
    assert "--before" in run(["runs", "purge"])[1].err


def test_without_a_command_the_help_is_named() -> None:
    code, made = run([])
    assert (code, made.err) == (2, "error: missing command.\n  hint: leadctl --help\n")
    assert run(["--json"])[1].document()["exit_code"] == 2
