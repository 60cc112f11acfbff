"""``leadctl runs purge`` as it is typed."""

from leadctl.sandbox.server import Sandbox
from tests.support.servers import everywhere
from tests.support.world import World


@everywhere
def test_runs_purge(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    sent, doubtful = world.new_leads(2)
    assert world.run("resend", sent).code == 0
    box.faults.script("telegram", doubtful, ["timeout"])
    assert world.run("resend", doubtful).code == 6
    purge = ("runs", "purge", "--before")

    early = world.run(*purge, "1h", "--json")
    assert (early.code, early.json["runs"], early.json["answers"]) == (0, 0, 0)
    document = world.run(*purge, "0s", "--json").json
    assert (document["attempts"], document["deliveries"], document["runs"]) == (4, 4, 2)
    assert document["answers"] == 1
    assert world.run(*purge, "0s").out == (
        "forgotten: 0 answers, 0 attempts, 0 deliveries of 0 runs; what is delivered stays known\n"
    )
    assert world.run("runs", "list", "--json").json["runs"] == []

    plan = world.run("plan", sent, doubtful, "--json").json
    assert plan["totals"]["already_delivered"] == 3
    assert [d["state"] for lead in plan["leads"] for d in lead["deliveries"]] == ["unknown"]
    life = world.run("history", doubtful, "--json").json
    assert {delivery["state"] for delivery in life["deliveries"]} == {"delivered", "unknown"}
    assert [delivery["attempts"] for delivery in life["deliveries"]] == [[], []]


def test_what_cannot_be_purged(world: World) -> None:
    for typed, said in (((), "--before"), (("--before", "yesterday"), "is not a time")):
        refused = world.run("runs", "purge", *typed, "--json")
        assert (refused.code, refused.json["code"]) == (2, "usage")
        assert said in refused.json["message"]
    assert world.run("runs", "purge", "--before", "90d", "--json").json["runs"] == 0
    assert not world.ledger_path.exists()
