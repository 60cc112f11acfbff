"""A credential that led to a wrong place of the right account, and is corrected: what did not arrive goes where it
leads now, once; what did arrive, or may have, is not sent again; and proof is of the place that was reached."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from leadctl import LeadResendService
from leadctl.domain.model import Destination
from leadctl.sandbox.server import Sandbox
from leadctl.sandbox.telegram import Chat, TelegramVendor
from leadctl.sandbox.webhooks import WebhooksVendor, lead_of
from tests.support.schemas import validate
from tests.support.world import Finished, World

RIGHT, OTHER = -1001234567890, -4001
#: Chats of nobody's.
_nowhere = itertools.count(-1009000000001)


@pytest.fixture
def bot(box: Sandbox) -> TelegramVendor:
    vendor = box.vendor("telegram")
    assert isinstance(vendor, TelegramVendor)
    return vendor


def to_chat(bot: TelegramVendor, chat: int) -> Mapping[str, Any]:
    return {**bot.credential(), "chat_id": chat}


def chats(box: Sandbox, lead: int) -> list[int]:
    """Where the bot has written of that lead, in order."""
    return [int(c.remote_id.partition("/")[0]) for c in box.judge.creations("telegram") if c.lead == str(lead)]


def arrivals(box: Sandbox, leads: Sequence[int]) -> list[int]:
    return [box.judge.by_lead("webhooks")[str(lead)] for lead in leads]


def service(world: World) -> LeadResendService:
    """The commands without a process for each."""
    return LeadResendService.from_config(world.folder / "leadctl.toml")


def send(world: World, *leads: int) -> list[tuple[int, str]]:
    """Send what is missing of them: credential and outcome, by lead."""
    document = service(world).bulk_resend_leads(leads)
    validate(document)
    assert sum(document["outcomes"].values()) == len(document["deliveries"])
    return [(one["credential_id"], one["outcome"]) for one in document["deliveries"]]


def planned(world: World, *leads: int) -> list[tuple[int, str, str]]:
    """What would be sent: lead, state and target."""
    plan = service(world).plan(leads)
    return [(lead["lead_id"], one["state"], one["target"]) for lead in plan["leads"] for one in lead["deliveries"]]


def one_by_one(world: World, leads: Sequence[int]) -> list[Finished]:
    return [world.run("resend", lead, "--json") for lead in leads]


def by_file(world: World, leads: Sequence[int]) -> list[Finished]:
    ids = world.path("ids.txt", "".join(f"{lead}\n" for lead in leads))
    return [world.run("bulk-resend", "--ids-file", ids, "--json")]


def by_resuming(world: World, leads: Sequence[int]) -> list[Finished]:
    del leads
    ((run_id,),) = world.ledger_rows("SELECT id FROM leadctl_runs")
    return [world.run("runs", "resume", run_id, "--json")]


HOW = pytest.mark.parametrize("how", [one_by_one, by_file, by_resuming])
How = Callable[[World, Sequence[int]], list[Finished]]


def delivered(finished: Sequence[Finished]) -> int:
    """How many deliveries, all of which were delivered now."""
    outcomes = [done.json["outcomes"] for done in finished]
    assert [(done.code, done.json["status"]) for done in finished] == [(0, "ok")] * len(finished)
    assert all(sum(one.values()) == one["delivered"] for one in outcomes)
    return sum(one["delivered"] for one in outcomes)


@HOW
def test_a_chat_that_was_wrong_is_corrected(world: World, box: Sandbox, bot: TelegramVendor, how: How) -> None:
    world.add_credential(11, "telegram", to_chat(bot, next(_nowhere)))
    leads = world.new_leads(2)
    refused = service(world).bulk_resend_leads(leads)
    assert (refused["exit_code"], refused["outcomes"]["unprocessed"]) == (4, 2)
    assert {error["code"] for error in refused["errors"]} == {"credential_refused"}
    assert "chat not found" in refused["errors"][0]["message"]

    world.set_data(11, to_chat(bot, RIGHT))
    assert planned(world, *leads) == [(lead, "new", str(RIGHT)) for lead in leads]
    assert delivered(how(world, leads)) == 2
    assert [chats(box, lead) for lead in leads] == [[RIGHT]] * 2
    assert send(world, *leads) == [(11, "already_delivered")] * 2
    assert [chats(box, lead) for lead in leads] == [[RIGHT]] * 2


def test_a_path_that_was_wrong_is_corrected(world: World, box: Sandbox) -> None:
    hook = box.vendor("webhooks").credential()
    world.add_credential(11, "webhooks", {**hook, "url": f"{hook['url']}/nothing-here"})
    leads = world.new_leads(2)
    assert send(world, *leads) == [(11, "unprocessed")] * 2
    assert arrivals(box, leads) == [0, 0]

    world.set_data(11, hook)
    assert delivered(by_resuming(world, leads)) == 2
    assert send(world, *leads) == [(11, "already_delivered")] * 2
    assert arrivals(box, leads) == [1, 1]


def test_what_was_rejected_there_is_new_here(world: World, box: Sandbox) -> None:
    """For a selection too that names no lead: another destination has refused nothing."""
    hook = box.vendor("webhooks").credential()
    world.add_credential(11, "webhooks", {**hook, "url": f"{hook['url']}?tenant=1"})
    (lead,) = world.new_leads()
    box.faults.script("webhooks", lead, ["reject"])
    assert send(world, lead) == [(11, "rejected")]

    world.set_data(11, {**hook, "url": f"{hook['url']}?tenant=2"})
    assert [state for _, state, _ in planned(world, lead)] == ["new"]
    assert delivered([world.run("bulk-resend", "--project", 1, "--json")]) == 1
    assert arrivals(box, [lead]) == [1]


def test_proof_is_of_the_chat_that_was_reached(world: World, box: Sandbox, bot: TelegramVendor) -> None:
    """Whoever leads to the chat that got the lead has nothing to send; whoever leads to the one that did not, has."""
    wrong = next(_nowhere)
    world.add_credential(11, "telegram", to_chat(bot, wrong))
    (lead,) = world.new_leads()
    assert send(world, lead) == [(11, "unprocessed")]
    world.set_data(11, to_chat(bot, OTHER))
    assert send(world, lead) == [(11, "delivered")]

    world.execute("UPDATE leads SET external_entity_id = 2 WHERE id = ?", lead)
    world.add_credential(12, "telegram", to_chat(bot, OTHER), entity=2)
    bot.add_chat(Chat(wrong, "supergroup", "Found after all"))
    world.add_credential(13, "telegram", to_chat(bot, wrong), entity=2)
    assert sorted(send(world, lead)) == [(12, "already_delivered"), (13, "delivered")]
    assert chats(box, lead) == [OTHER, wrong]


def test_what_has_arrived_stays_where_it_is(world: World, box: Sandbox, bot: TelegramVendor) -> None:
    """The same credential, the same account: proof (CONTRACT §1). What is new goes to the new chat."""
    world.add_credential(11, "telegram", to_chat(bot, RIGHT))
    (lead,) = world.new_leads()
    assert send(world, lead) == [(11, "delivered")]

    world.set_data(11, to_chat(bot, OTHER))
    (later,) = world.new_leads()
    assert planned(world, lead, later) == [(later, "new", str(OTHER))]
    assert sorted(send(world, lead, later)) == [(11, "already_delivered"), (11, "delivered")]
    assert (chats(box, lead), chats(box, later)) == ([RIGHT], [OTHER])
    forced = world.run("resend", lead, "--force", "--reason", "the new chat wants it", "--json")
    assert forced.outcomes == {11: "delivered"}
    assert chats(box, lead) == [RIGHT, OTHER]
    assert send(world, lead) == [(11, "already_delivered")]


@pytest.mark.parametrize("found", [True, False])
def test_what_is_in_doubt_there_is_in_doubt_here(world: World, box: Sandbox, bot: TelegramVendor, found: bool) -> None:
    """The account is the same: nothing is sent before somebody has looked into the chat that it led to."""
    world.add_credential(11, "telegram", to_chat(bot, RIGHT))
    (lead,) = world.new_leads()
    box.faults.script("telegram", lead, ["reset" if found else "reset_before"])
    assert send(world, lead) == [(11, "unknown")]
    was = chats(box, lead)
    assert was == ([RIGHT] if found else [])

    world.set_data(11, to_chat(bot, OTHER))
    held = service(world).resend_lead(lead)
    assert (held["exit_code"], held["outcomes"]["unknown"], chats(box, lead)) == (6, 1, was)
    verdict = "--delivered" if found else "--not-delivered"
    assert world.run("settle", lead, "--credential", 11, verdict, "--reason", "looked into the chat").code == 0
    assert send(world, lead) == [(11, "already_delivered" if found else "delivered")]
    assert send(world, lead) == [(11, "already_delivered")]
    assert chats(box, lead) == (was or [OTHER])


def test_a_receiver_that_knows_the_key_gets_it_again(world: World, box: Sandbox) -> None:
    """In doubt at the wrong path: the corrected one gets the event under the same id, which settles it."""
    world.write_config("[send]\ntries = 1\n")
    hook = box.vendor("webhooks").credential()
    world.add_credential(11, "webhooks", {**hook, "url": f"{hook['url']}?tenant=1"})
    (lead,) = world.new_leads()
    box.faults.script("webhooks", lead, ["reset"])
    assert send(world, lead) == [(11, "unknown")]
    world.set_data(11, {**hook, "url": f"{hook['url']}?tenant=2"})
    assert send(world, lead) == [(11, "delivered")]
    assert send(world, lead) == [(11, "already_delivered")]
    (receiver, *_) = (vendor for vendor in box.vendors if isinstance(vendor, WebhooksVendor))
    identities = [
        one.headers["webhook-id"] for one in receiver.received if lead_of("application/json", one.body) == str(lead)
    ]
    assert (len(identities), len(set(identities)), arrivals(box, [lead])) == (2, 1, [1])


def key_of(bot: TelegramVendor, chat: int) -> str:
    return Destination("telegram", (str(bot.bot_id),), (str(bot.bot_id), str(chat), ""), "").key


@pytest.mark.parametrize("before", [True, False])
def test_there_and_back_again(world: World, box: Sandbox, bot: TelegramVendor, before: bool) -> None:
    """What failed here says less than what is in doubt there, in whatever order the ledger gives the two."""
    first = next(chat for chat in _nowhere if (key_of(bot, chat) < key_of(bot, RIGHT)) is before)
    world.add_credential(11, "telegram", to_chat(bot, first))
    (lead,) = world.new_leads()
    assert send(world, lead) == [(11, "unprocessed")]
    world.set_data(11, to_chat(bot, RIGHT))
    box.faults.script("telegram", lead, ["reset"])
    assert send(world, lead) == [(11, "unknown")]
    keys = [key for (key,) in world.ledger_rows("SELECT destination FROM leadctl_targets ORDER BY destination")]
    assert keys == sorted([key_of(bot, first), key_of(bot, RIGHT)])

    bot.add_chat(Chat(first, "supergroup", "Found after all"))
    world.set_data(11, to_chat(bot, first))
    assert send(world, lead) == [(11, "unknown")]
    assert chats(box, lead) == [RIGHT]
