"""Exit codes 5 and 6 of channels that are asked: what a later look-up settles, and what only a person can."""

from collections.abc import Iterator
from typing import cast

import pytest

from leadctl.sandbox.bitrix24 import Bitrix24Vendor
from leadctl.sandbox.server import Sandbox
from tests.support.world import World, wait_until


def portal_of(box: Sandbox) -> Bitrix24Vendor:
    return cast("Bitrix24Vendor", box.vendor("bitrix24"))


@pytest.fixture
def unreadable(box: Sandbox) -> Iterator[Bitrix24Vendor]:
    """A portal whose webhook may add and not read."""
    portal = portal_of(box)
    portal.read_right = "none"
    yield portal
    portal.read_right = "all"


def titles(box: Sandbox, lead: int) -> list[str]:
    return [creation.detail for creation in box.judge.creations("bitrix24") if creation.lead == str(lead)]


def test_6_in_a_portal_without_anything_of_ours_and_retry_unknown_sends_it(world: World, box: Sandbox) -> None:
    """Nothing of ours is listed there, so an empty list proves nothing: the right to read may be missing."""
    assert not portal_of(box).items[1], "the first test here: nothing was made yet"
    world.connect(box, ["bitrix24"])
    (lead,) = world.new_leads()
    box.faults.script("bitrix24", lead, ["reset_before"])
    done = world.run("resend", lead, "--json")
    assert (done.code, done.json["status"], done.outcomes) == (6, "partial", {11: "unknown"})
    (error,) = done.json["errors"]
    assert (error["code"], "the right to read" in error["message"]) == ("maybe_delivered", True)
    shown = world.run("runs", "show", done.json["run_id"])
    for word in (f"settle {lead} --credential 11 --delivered", f"resend {lead} -c bitrix24 --retry-unknown"):
        assert word in " ".join((shown.out + shown.err).split())

    requests = box.judge.requests("bitrix24")
    assert world.run("resend", lead).code == 6
    assert box.judge.requests("bitrix24") > requests, "it is asked for, each time"
    assert titles(box, lead) == []
    again = world.run("resend", lead, "--retry-unknown", "--json")
    assert (again.code, again.outcomes) == (0, {11: "delivered"})
    (title,) = titles(box, lead)
    assert "повтор" in title
    triggers = [trigger for (trigger,) in world.ledger_rows("SELECT a.trigger FROM leadctl_attempts a ORDER BY id")]
    assert triggers == ["first", *["lookup"] * (len(triggers) - 2), "retry_unknown"], "asked once more, and then sent"


@pytest.mark.usefixtures("unreadable")
def test_6_until_it_may_be_read_and_then_the_same_command_settles_it(world: World, box: Sandbox) -> None:
    world.connect(box, ["bitrix24", "telegram"])
    (lead,) = world.new_leads()
    for channel in ("bitrix24", "telegram"):
        box.faults.script(channel, lead, ["reset"])
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (6, {11: "unknown", 12: "unknown"})
    portal_of(box).read_right = "all"
    again = world.run("resend", lead, "--json")
    assert (again.code, again.outcomes) == (6, {11: "delivered", 12: "unknown"})
    assert again.json["deliveries"][0]["settled_by"] == "lookup"
    assert len(titles(box, lead)) == 1


@pytest.mark.usefixtures("unreadable")
def test_5_wins_where_the_next_run_settles_another_one(world: World, box: Sandbox) -> None:
    world.connect(box, ["bitrix24", "webhooks"])
    (lead,) = world.new_leads()
    box.faults.script("bitrix24", lead, ["reset"])
    box.faults.script("webhooks", lead, ["reset"] * 3)
    for code, webhooks in ((5, "unknown"), (6, "delivered")):
        done = world.run("resend", lead, "--json")
        assert (done.code, done.outcomes) == (code, {11: "unknown", 12: webhooks})
    assert len(titles(box, lead)) == 1


def test_5_where_the_look_up_itself_fails(world: World, box: Sandbox) -> None:
    """That says nothing of the next one."""
    world.write_config("[send]\ntimeout = 1\n")
    world.connect(box, ["bitrix24"])
    (lead,) = world.new_leads()
    box.faults.script("bitrix24", lead, ["timeout"])
    process = world.start("resend", lead, "--json")
    wait_until(lambda: titles(box, lead))
    box.faults.always("bitrix24", "server_error")
    done = world.finish(process)
    assert (done.code, done.json["status"], done.outcomes) == (5, "stopped", {11: "unknown"})
    box.faults.clear()
    again = world.run("resend", lead, "--json")
    assert (again.code, again.json["deliveries"][0]["settled_by"]) == (0, "lookup")
    assert len(titles(box, lead)) == 1


def test_in_bulk_what_the_others_make_settles_the_first(world: World, box: Sandbox) -> None:
    """In a portal without anything of ours the first one's doubt ends when an item of ours can be read."""
    portal_of(box).items[1].clear()
    world.connect(box, ["bitrix24"])
    first, *others = world.new_leads(8)
    box.faults.script("bitrix24", first, ["reset_before"])
    done = world.run("bulk-resend", first, *others, "--json")
    assert (done.code, done.json["outcomes"]["delivered"]) == (0, 8)
    assert [len(titles(box, lead)) for lead in (first, *others)] == [1] * 8
    assert "повтор" not in titles(box, first)[0]
