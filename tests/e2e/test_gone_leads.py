"""A lead that was planned, and is not there, or cannot be read, when it is to be sent: it is told, in sums that add up,
and goes once when it is back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from leadctl import LeadResendService
from leadctl.sandbox.server import Sandbox
from tests.support.servers import everywhere, on_sqlite
from tests.support.world import Finished, World

CHANNELS = ("webhooks", "telegram")
#: A place within JSON: a lead whose JSON is broken cannot be read.
MAPPING = '[database.mapping.leads]\npage_url = "utm->page"\n'
#: Somebody changes the leads when the plan is in the ledger, and nothing is sent yet.
MEANWHILE = """
import sqlite3
from contextlib import closing
from leadctl.services import resending
carry = resending.carry
def later(*args, **how):
    with closing(sqlite3.connect({path!r}, isolation_level=None)) as connection:
        connection.execute({sql!r})
    return carry(*args, **how)
resending.carry = later
"""
#: The process dies when the vendor has the lead, and before the ledger knows.
DIES = """
import os
from leadctl.channels.{channel} import {kind} as Channel
send = Channel.send
async def deadly(self, step, batch):
    await send(self, step, batch)
    os._exit(9)
Channel.send = deadly
"""
#: It dies when its plan is in the ledger.
DIES_PLANNED = """
import os
from leadctl.services import resending
resending.carry = lambda *args, **how: os._exit(9)
"""


@dataclass(frozen=True)
class Loss:
    """How a lead is lost, what is said of it, and how it is back."""

    sql: str
    said: str

    def of(self, lead: int) -> str:
        return self.sql.format(lead=lead)

    def undo(self, world: World, lead: int) -> None:
        world.execute("DELETE FROM leads WHERE id = ?", lead)
        world.add_leads([lead])


DELETED = Loss("DELETE FROM leads WHERE id = {lead}", "the lead was deleted while the run was going on")
BROKEN = Loss(
    "UPDATE leads SET utm = '{{\"page\": ' WHERE id = {lead}", "the lead cannot be read: utm is not valid JSON"
)
LOSSES = pytest.mark.parametrize("loss", [DELETED, BROKEN], ids=["deleted", "broken"])


@pytest.fixture
def shop(world: World, box: Sandbox) -> World:
    """Credentials 11 and 12."""
    world.connect(box, CHANNELS)
    world.write_config(MAPPING)
    return world


def send(world: World, leads: Sequence[int], patch: str | None = None) -> Finished:
    ids = world.path("ids.txt", "".join(f"{lead}\n" for lead in leads))
    return world.run("bulk-resend", "--ids-file", ids, "--json", patch=patch)


def send_again(world: World, leads: Sequence[int]) -> dict[str, int]:
    """What became of them; without a process."""
    return outcomes(LeadResendService.from_config(world.folder / "leadctl.toml").bulk_resend_leads(leads))


def meanwhile(world: World, sql: str) -> str:
    return MEANWHILE.format(path=str(world.db_path), sql=sql)


def outcomes(document: dict[str, Any]) -> dict[str, int]:
    """Those that are not nought; they are as many as the deliveries that the document lists."""
    assert sum(document["outcomes"].values()) == len(document["deliveries"])
    assert document["errors_count"] == len(document["errors"])
    return {name: number for name, number in document["outcomes"].items() if number}


def errors_of(done: Finished, lead: int) -> list[tuple[str, str | None]]:
    """Code and channel of what is said of that lead, and of no other."""
    errors = done.json["errors"]
    assert {error["lead_id"] for error in errors} <= {lead}
    return sorted((error["code"], error["channel"]) for error in errors)


def arrived(box: Sandbox, leads: Sequence[int]) -> list[list[int]]:
    return [[box.judge.by_lead(name)[str(lead)] for name in CHANNELS] for lead in leads]


@on_sqlite
@LOSSES
def test_between_the_plan_and_the_sending(shop: World, box: Sandbox, loss: Loss) -> None:
    leads = shop.new_leads(3)
    lost = leads[1]
    done = send(shop, leads, meanwhile(shop, loss.of(lost)))
    assert (done.code, done.json["status"], outcomes(done.json)) == (1, "partial", {"delivered": 4, "failed": 2})
    assert (done.json["total_count"], done.json["dispatched_count"]) == (3, 2)
    assert errors_of(done, lost) == [("lead_not_found", "telegram"), ("lead_not_found", "webhooks")]
    assert all(loss.said in error["message"] for error in done.json["errors"])
    assert arrived(box, leads) == [[1, 1], [0, 0], [1, 1]]

    loss.undo(shop, lost)
    again = send(shop, leads)
    assert (again.code, outcomes(again.json)) == (0, {"delivered": 2, "already_delivered": 4})
    assert arrived(box, leads) == [[1, 1]] * 3


@on_sqlite
@pytest.mark.parametrize(
    ("loss", "channel", "kind", "code", "settled"),
    [
        (DELETED, "webhooks", "WebhooksChannel", 5, "delivered"),
        (BROKEN, "telegram", "TelegramChannel", 6, "unknown"),
    ],
    ids=["deleted", "broken"],
)
def test_what_a_killed_process_left_in_doubt_stays_so(
    shop: World, box: Sandbox, loss: Loss, channel: str, kind: str, code: int, settled: str
) -> None:
    """Nobody can look for a lead that is not there: it is neither called failed nor sent."""
    shop.execute("UPDATE credentials SET enabled = false WHERE type <> ?", channel)
    (lead,) = shop.new_leads()
    assert send(shop, [lead], DIES.format(channel=channel, kind=kind)).code == 9
    assert shop.ledger_rows("SELECT state FROM leadctl_targets") == [("sending",)]

    done = send(shop, [lead], meanwhile(shop, loss.of(lead)))
    assert (done.code, outcomes(done.json)) == (code, {"unknown": 1, "skipped": 1})
    assert errors_of(done, lead) == [("maybe_delivered", channel)]
    assert loss.said in done.json["errors"][0]["message"]
    assert shop.ledger_rows("SELECT state FROM leadctl_targets") == [("sending",)]

    loss.undo(shop, lead)
    assert send_again(shop, [lead]) == {settled: 1, "skipped": 1}
    assert box.judge.by_lead(channel)[str(lead)] == 1


def interrupted(world: World, leads: Sequence[int]) -> str:
    """A run of them that died when its plan was in the ledger."""
    assert send(world, leads, DIES_PLANNED).code == 9
    ((run_id,),) = world.ledger_rows("SELECT id FROM leadctl_runs")
    return str(run_id)


@on_sqlite
@pytest.mark.parametrize(
    ("loss", "failed", "told"),
    [
        (DELETED, {}, [("lead_not_found", None)]),
        (BROKEN, {"failed": 2}, [("lead_not_found", "telegram"), ("lead_not_found", "webhooks")]),
    ],
    ids=["deleted", "broken"],
)
def test_before_a_run_goes_on(
    shop: World, box: Sandbox, loss: Loss, failed: dict[str, int], told: list[tuple[str, str | None]]
) -> None:
    """Its ids are in the ledger; what they name is read anew."""
    leads = shop.new_leads(3)
    lost = leads[1]
    run_id = interrupted(shop, leads)
    shop.execute(loss.of(lost))
    done = shop.run("runs", "resume", run_id, "--json")
    assert (done.code, done.json["status"], outcomes(done.json)) == (1, "partial", {"delivered": 4, **failed})
    assert errors_of(done, lost) == told
    assert (done.json["total_count"], done.json["dispatched_count"]) == (3, 2)
    assert arrived(box, leads) == [[1, 1], [0, 0], [1, 1]]

    loss.undo(shop, lost)
    assert send_again(shop, leads) == {"delivered": 2, "already_delivered": 4}
    assert arrived(box, leads) == [[1, 1]] * 3


@everywhere
def test_one_that_was_not_there_is_back_when_a_run_goes_on(shop: World, box: Sandbox) -> None:
    leads = shop.new_leads(2)
    shop.execute(DELETED.of(leads[0]))
    run_id = interrupted(shop, leads)
    DELETED.undo(shop, leads[0])
    done = shop.run("runs", "resume", run_id, "--json")
    assert (done.code, done.json["status"], outcomes(done.json)) == (0, "ok", {"delivered": 4})
    assert (done.json["errors"], done.json["total_count"], done.json["dispatched_count"]) == ([], 2, 2)
    assert arrived(box, leads) == [[1, 1]] * 2
