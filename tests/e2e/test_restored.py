"""A ledger restored from a backup has forgotten sends: nothing of them goes twice, and what cannot be known is said."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from leadctl.sandbox import _amocrm_rules as amocrm
from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.server import Sandbox
from tests.support.servers import on_sqlite
from tests.support.world import CHANNELS, World

pytestmark = on_sqlite  # a backup is a file here

CERTAIN = tuple(channel for channel in CHANNELS if channel != "telegram")
LONG_AGO = "2020-01-01 00:00:00"
DEALS = {"entity": "deal"}
#: amoCRM shows no more than the two newest leads to a look-up that does not know how far to go back.
SHORT_SIGHTED = "from leadctl.channels import amocrm\namocrm.UNGUIDED_PAGES, amocrm.PAGE = 1, 2\n"


class Restored:
    """A world whose ledger knows of the leads of ``before``; those of ``forgotten`` were sent after the backup."""

    def __init__(self, world: World, box: Sandbox) -> None:
        self.world, self.box = world, box
        world.connect(box)
        world.add_credential(40, "bitrix24", box.vendor("bitrix24").credential(), DEALS)
        self.before, self.forgotten, self.fresh = (world.new_leads(3, created_at=LONG_AGO) for _ in range(3))
        self.send(self.before)
        self._copy(world.folder, "leads.db.leadctl.db", "backup.db")
        self.send(self.forgotten)
        self._copy(world.folder, "backup.db", "leads.db.leadctl.db")

    def _copy(self, folder: Path, source: str, target: str) -> None:
        for name in ("", "-wal", "-shm"):
            (folder / f"{target}{name}").unlink(missing_ok=True)
            if (folder / f"{source}{name}").exists():
                shutil.copy(folder / f"{source}{name}", folder / f"{target}{name}")

    def send(self, leads: list[int]) -> None:
        assert self.world.run("bulk-resend", *leads, "--yes", "-q").code == 0

    @property
    def old(self) -> list[int]:
        return [*self.before, *self.forgotten, *self.fresh]

    def assert_once(self, *leads: int) -> None:
        """Everything of these leads is there, and nothing twice."""
        judge, vendor = self.box.judge, cast("AmoCrmVendor", self.box.vendor("amocrm"))
        made = {channel: judge.by_lead(channel) for channel in CERTAIN}
        made["notes"] = Counter(amocrm.lead_of(amocrm.key_of(note)) for note in vendor.notes())
        made["contacts"] = judge.by_lead("bitrix24:contact")
        expected = {channel: 2 if channel == "bitrix24" else 1 for channel in made}  # a lead, and a deal
        for kind, counts in made.items():
            assert {lead: counts[str(lead)] for lead in leads} == dict.fromkeys(leads, expected[kind]), kind

    def telegrams(self, leads: list[int]) -> list[int]:
        return [self.box.judge.by_lead("telegram")[str(lead)] for lead in leads]


@pytest.fixture
def restored(world: World, box: Sandbox) -> Restored:
    return Restored(world, box)


def by_channel(document: dict[str, Any], channel: str) -> Counter[str]:
    return Counter(document["by_channel"][channel])


def test_what_it_has_forgotten_is_looked_for_and_what_was_never_sent_is_sent(restored: Restored) -> None:
    world, young = restored.world, restored.world.new_leads(2, created_at="2999-01-01 00:00:00")
    leads = [*restored.old, *young]
    plan = world.run("plan", *leads, "--json")
    assert "it knows of 1 runs, and this machine remembers 2" in plan.err
    states = {lead["lead_id"]: {d["state"] for d in lead["deliveries"]} for lead in plan.json["leads"]}
    expected = [*([set()] * 3), *([{"unknown"}] * 6), *([{"new"}] * 2)]
    assert states == dict(zip(leads, expected, strict=True))

    done = world.run("bulk-resend", *leads, "--yes", "--json")
    assert done.code == 6
    assert "was restored from a backup" in done.err
    restored.assert_once(*leads)
    how = {(d["lead_id"], d["channel"], d["credential_id"]): d["settled_by"] for d in done.json["deliveries"]}
    for lead in restored.forgotten:
        assert {how[lead, "amocrm", 11], how[lead, "bitrix24", 12], how[lead, "bitrix24", 40]} == {"lookup"}
    for lead in (*restored.fresh, *young):
        assert {how[lead, "amocrm", 11], how[lead, "bitrix24", 40]} == {None}

    assert by_channel(done.json, "telegram") == {"already_delivered": 3, "unknown": 6, "delivered": 2}
    assert restored.telegrams(leads) == [1] * 6 + [0] * 3 + [1] * 2
    assert world.run("bulk-resend", *leads, "--yes").code == 6
    assert restored.telegrams(restored.fresh) == [0] * 3
    settled = world.run("settle", *restored.forgotten, "--credential", 14, "--delivered", "--reason", "they are there")
    assert settled.code == 0
    assert world.run("bulk-resend", *leads, "--yes", "--retry-unknown").code == 0
    assert restored.telegrams(leads) == [1] * len(leads)
    restored.assert_once(*leads)


def test_killed_while_it_settles(restored: Restored) -> None:
    """Between two steps of a delivery as well: what the vendor was not asked for yet is asked for."""
    world, leads = restored.world, restored.old
    world.write_config("[limits.amocrm]\nrate = 0.05\n[limits.bitrix24]\nrate = 0.02\n")
    command = ("bulk-resend", *leads, "--skip-channel", "telegram", "--yes")
    for settled in (4, 12):
        process = world.start(*command)
        world.wait_for_row(
            "SELECT 1 FROM leadctl_attempts WHERE outcome IN ('found', 'done') AND run_id IN "
            f"(SELECT id FROM leadctl_runs ORDER BY started_at LIMIT -1 OFFSET 1) LIMIT 1 OFFSET {settled}"
        )
        process.kill()
        process.communicate()
    assert world.run(*command).code == 0
    restored.assert_once(*leads)


def marked(world: World, box: Sandbox, *channels: str) -> list[int]:
    """A person has said that the ledger is restored: of the first lead it knows, of the others nothing."""
    world.connect(box, channels)
    leads = world.new_leads(3, created_at=LONG_AGO)
    assert world.run("resend", leads[0]).code == 0
    told = world.run("doctor", "--ledger-restored", "--json")
    assert told.code == 0
    (said,) = [check for check in told.json["checks"] if check["check"] == "ledger memory"]
    assert (said["verdict"], said["hint"]) == (
        "warning", "if it has forgotten nothing: leadctl doctor --no-ledger-restored"
    )  # fmt: skip
    return leads


def test_a_forced_send_is_another_one(world: World, box: Sandbox) -> None:
    """Where nobody can be asked it goes at once: it is meant to be there once more."""
    lead = marked(world, box, "telegram", "webhooks")[0]
    forced = world.run("resend", lead, "--force", "--reason", "new price", "--json")
    assert forced.code == 0
    assert forced.outcomes == {11: "delivered", 12: "delivered"}
    assert box.judge.by_lead("telegram")[str(lead)] == box.judge.by_lead("webhooks")[str(lead)] == 2


def test_once_all_is_settled_the_mark_is_taken_away(world: World, box: Sandbox) -> None:
    leads = marked(world, box, "webhooks", "bitrix24")
    marks = "SELECT value FROM leadctl_meta WHERE key = 'restored_at:main'"
    assert world.run("bulk-resend", *leads[:2], "--yes").code == 0
    assert world.ledger_rows(marks)  # of the last one nothing is known yet
    assert world.run("bulk-resend", *leads, "--yes").code == 0
    assert world.ledger_rows(marks) == []
    assert "restored" not in world.run("plan", *leads).err


def test_a_person_knows_better(world: World, box: Sandbox) -> None:
    leads = marked(world, box, "telegram")
    assert world.run("resend", leads[1], "--json").outcomes == {11: "unknown"}
    told = world.run("doctor", "--no-ledger-restored", "--json")
    (said,) = [check for check in told.json["checks"] if check["check"] == "ledger memory"]
    assert (told.code, said["verdict"]) == (0, "ok")
    done = world.run("resend", leads[2], "--json")
    assert (done.code, done.outcomes) == (0, {11: "delivered"})
    assert "restored" not in done.err


def test_where_amocrm_has_too_much_to_look_through_it_is_said_and_a_person_settles_it(
    world: World, box: Sandbox
) -> None:
    """Without any earlier row nothing bounds the look-up. It ends, nothing is sent, and nothing is lost."""
    world.write_config("[send]\ntimeout = 1\n")
    world.connect(box, ["amocrm"])
    first, *newer = world.new_leads(4, created_at=LONG_AGO)
    for leads in ([first], newer):
        assert world.run("bulk-resend", *leads, "--yes").code == 0
    for name in ("", "-wal", "-shm"):
        world.ledger_path.with_name(world.ledger_path.name + name).unlink(missing_ok=True)
    never = world.new_leads(1, created_at=LONG_AGO)[0]
    assert world.run("doctor", "--ledger-restored").code == 0
    leads = [first, *newer, never]
    command = ("bulk-resend", *leads, "--yes", "--json")
    done = world.run(*command, patch=SHORT_SIGHTED)
    assert done.code == 6
    outcomes = {delivery["lead_id"]: delivery["outcome"] for delivery in done.json["deliveries"]}
    assert outcomes == {first: "unknown", newer[0]: "unknown", newer[1]: "delivered", newer[2]: "delivered",
                        never: "unknown"}  # fmt: skip
    messages = {error["message"] for error in done.json["errors"]}
    assert messages == {"there are too many newer entries to look through"}
    assert world.run("settle", first, newer[0], "--credential", 11, "--delivered", "--reason", "looked").code == 0
    assert world.run(*command, "--retry-unknown", patch=SHORT_SIGHTED).code == 0
    made = [creation for creation in box.judge.creations("amocrm") if creation.lead in map(str, leads)]
    assert Counter(creation.lead for creation in made) == dict.fromkeys(map(str, leads), 1)
    assert ["повтор" in creation.detail.lower() for creation in made] == [False] * 4 + [True], "what was never sent"
