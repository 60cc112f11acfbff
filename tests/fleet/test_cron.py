"""Between queueing and sending: the cron line comes again, and leads vanish."""

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from leadctl.store.chunks import ChunkState
from tests.fleet.desks import Desk
from tests.fleet.fleets import Company

README = Path(__file__).parents[2] / "README.md"
LINE = "bulk-resend --missing --since 1d --yes --queue --quiet"
#: Accounts of the company.
ACCOUNTS = 6


def new_leads(company: Company, count: int) -> list[int]:
    """Created a few minutes ago."""
    at = datetime.now(UTC) - timedelta(minutes=5)
    return company.world.new_leads(count, created_at=f"{at:%Y-%m-%d %H:%M:%S}")


def cron(company: Company) -> dict[str, Any]:
    """The line, once; the document."""
    done = company.world.run(*LINE.split(), "--json")
    assert (done.code, done.err) == (0, "")
    document: dict[str, Any] = done.json
    return document


def pending_of(document: dict[str, Any]) -> Counter[int]:
    assert document["status"] == "queued"
    assert document["outcomes"] == {**dict.fromkeys(document["outcomes"], 0), "pending": len(document["deliveries"])}
    return Counter(delivery["lead_id"] for delivery in document["deliveries"])


def assert_nothing(document: dict[str, Any]) -> None:
    counts = (document["total_count"], document["errors_count"], sum(document["outcomes"].values()))
    assert (document["status"], document["exit_code"], counts) == ("nothing", 0, (0, 0, 0))


def test_the_cron_line_queues_each_lead_once(company: Company) -> None:
    assert f"leadctl {LINE} >/dev/null\n" in README.read_text(encoding="utf-8")
    (known,) = new_leads(company, 1)
    assert company.world.run("resend", known).code == 0
    first = new_leads(company, 3)
    runs = [cron(company)]
    assert pending_of(runs[0]) == dict.fromkeys(first, ACCOUNTS)
    assert_nothing(cron(company))
    (late,) = new_leads(company, 1)
    runs.append(cron(company))
    assert pending_of(runs[1]) == {late: ACCOUNTS}
    assert company.done() == ACCOUNTS  # so far nobody has sent anything
    assert company.world.run("worker", "--once").code == 0
    assert [company.status(run["run_id"]) for run in runs] == ["ok", "ok"]
    company.assert_once(5)
    assert_nothing(cron(company))
    ((left,),) = company.world.ledger_rows("SELECT count(*) FROM leadctl_chunks WHERE state <> 'done'")
    assert left == 0


# --- leads that are not there any more -----------------------------------------------------------------------


def delete(desk: Desk, lead: int) -> None:
    desk.world.execute("DELETE FROM leads WHERE id = ?", lead)


def garble(desk: Desk, lead: int) -> None:
    """The application has encrypted a column, and no key of ours opens it."""
    parts = {"iv": b64encode(bytes(16)).decode(), "value": b64encode(bytes(32)).decode(), "mac": "0" * 64, "tag": ""}
    sealed = b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode()
    desk.world.execute("UPDATE leads SET phone = ? WHERE id = ?", sealed, lead)


def arrived(desk: Desk, leads: list[int], channel: str) -> Counter[int]:
    by_lead = desk.box.judge.by_lead(channel)
    return Counter({lead: number for lead in leads if (number := by_lead[str(lead)])})


def shown(desk: Desk, run: str) -> dict[str, Any]:
    """What ``runs show --json`` prints; its sums hold."""
    document = desk.report(run)
    assert sum(document["outcomes"].values()) == len(document["deliveries"])
    assert document["outcomes"]["pending"] == 0
    assert document["errors_count"] == len(document["errors"])
    return document


@pytest.mark.parametrize(
    ("vanish", "words"), [(delete, "the lead was deleted"), (garble, "the lead cannot be read: phone ")]
)
def test_a_lead_that_vanishes_from_the_queue(
    found: Callable[..., Desk], vanish: Callable[[Desk, int], None], words: str
) -> None:
    desk = found("webhooks", "telegram")
    leads = desk.world.new_leads(4)
    run = desk.queue(leads)
    vanish(desk, leads[1])
    left = [lead for lead in leads if lead != leads[1]]
    assert desk.work() == 0
    document = shown(desk, run)
    assert (document["status"], document["exit_code"]) == ("partial", 1)
    assert {name: n for name, n in document["outcomes"].items() if n} == {"delivered": 6, "failed": 2}
    assert (document["total_count"], document["dispatched_count"]) == (4, 3)
    assert [(error["lead_id"], error["code"]) for error in document["errors"]] == [(leads[1], "lead_not_found")] * 2
    assert {error["channel"] for error in document["errors"]} == {"webhooks", "telegram"}
    assert all(error["message"].startswith(words) for error in document["errors"])
    assert arrived(desk, leads, "webhooks") == arrived(desk, leads, "telegram") == Counter(left)
    delete(desk, leads[1])
    desk.world.add_leads(leads[1:2])  # it is there again
    run = desk.queue(leads)
    desk.work()
    document = shown(desk, run)
    assert (document["status"], document["outcomes"]["delivered"], document["outcomes"]["already_delivered"]) == (
        "ok",
        2,
        6,
    )
    assert arrived(desk, leads, "webhooks") == arrived(desk, leads, "telegram") == Counter(leads)


def test_a_run_of_which_no_lead_is_left(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    leads = desk.world.new_leads(30)
    run = desk.queue(leads, seconds=0.01)
    assert len(desk.fleet.rows.of_run(run)) > 1
    desk.world.execute("DELETE FROM leads")
    before = desk.box.judge.requests("webhooks")
    assert desk.work() == 0
    document = shown(desk, run)
    assert (document["status"], document["exit_code"], document["outcomes"]["failed"]) == ("partial", 1, 30)
    assert (document["total_count"], document["dispatched_count"], document["errors_count"]) == (30, 0, 30)
    assert desk.box.judge.requests("webhooks") == before
    assert {chunk.state for chunk in desk.fleet.rows.of_run(run)} == {ChunkState.DONE}


@pytest.mark.parametrize("vanish", [delete, garble])
def test_one_that_is_in_doubt_stays_so(found: Callable[..., Desk], vanish: Callable[[Desk, int], None]) -> None:
    """The message of the first try may be there: that its lead is not, proves nothing."""
    desk = found("telegram")
    (lead,) = desk.world.new_leads(1)
    desk.box.faults.script("telegram", lead, ["reset"])
    first = desk.queue([lead])
    desk.work()
    assert desk.ended(first) == ("partial", 6)
    run = desk.queue([lead], retry_unknown=True)
    vanish(desk, lead)
    desk.work()
    document = shown(desk, run)
    assert (document["status"], document["exit_code"], document["outcomes"]["unknown"]) == ("partial", 6, 1)
    assert [error["code"] for error in document["errors"]] == ["maybe_delivered"]
    assert document["dispatched_count"] == 1
    assert arrived(desk, [lead], "telegram") == {lead: 1}
