"""What a vendor has only queued: one look at the end of a bulk run, and a warning; never a verdict."""

from typing import Any

from leadctl.sandbox.getresponse import GetResponseVendor
from leadctl.sandbox.server import Sandbox
from tests.support.world import World


def notices(records: list[dict[str, Any]]) -> list[str]:
    return [record["message"] for record in records if record["event"] == "notice" and record["code"] == "not_visible"]


def connected(world: World, box: Sandbox) -> GetResponseVendor:
    world.connect(box, ["getresponse"])
    vendor = box.vendor("getresponse")
    assert isinstance(vendor, GetResponseVendor)
    vendor.base.dropped.clear()
    return vendor


def test_what_is_not_seen_is_a_warning(world: World, box: Sandbox) -> None:
    vendor = connected(world, box)
    leads = world.new_leads(12)
    vendor.base.dropped |= {f"lead{lead}@example.com" for lead in leads[:2]}
    done = world.run("--log-format", "json", "bulk-resend", *leads, "--json")
    assert (done.code, done.json["outcomes"]["delivered"]) == (0, 12)
    assert {(d["settled_by"], d["remote_id"]) for d in done.json["deliveries"]} == {("accepted", None)}
    (message,) = notices(done.records)
    assert "has accepted 12 leads and does not show 2 of them yet" in message
    again = world.run("--log-format", "json", "bulk-resend", *leads, "--json")
    assert (again.json["outcomes"]["already_delivered"], notices(again.records)) == (12, [])


def test_where_all_are_seen_nothing_is_said(world: World, box: Sandbox) -> None:
    connected(world, box)
    done = world.run("--log-format", "json", "bulk-resend", *world.new_leads(3), "--json")
    assert (done.code, notices(done.records)) == (0, [])


def test_a_single_lead_is_not_waited_for(world: World, box: Sandbox) -> None:
    vendor = connected(world, box)
    (lead,) = world.new_leads()
    vendor.base.dropped.add(f"lead{lead}@example.com")
    done = world.run("--log-format", "json", "resend", lead, "--json")
    assert (done.code, done.outcomes, notices(done.records)) == (0, {11: "delivered"}, [])
