"""Bitrix24 over sockets: what is at the emulated portal afterwards."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from leadctl.channelkit.channel import Channel
from leadctl.channelkit.spec import Step
from leadctl.channels.bitrix24 import CONTACT, DEAL, LEAD, Bitrix24Channel
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, LimitReached, Rejected, Throttled, Unusable
from leadctl.domain.model import Absent, CannotTell, Delivery, Done, Finding, Found, Receipt
from leadctl.sandbox._bitrix24_batch import RestError, php_array, substitute
from leadctl.sandbox.bitrix24 import CODE, Bitrix24Vendor
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.testing.contract import ChannelContract
from tests.support.bitrix24 import DATA, batch, opened
from tests.support.channels import make_delivery, make_lead


class TestDealContract(ChannelContract):
    """The other entity: two steps, of which only the second is a delivery."""

    name = "bitrix24"
    data = DATA
    settings: ClassVar[Mapping[str, Any]] = {"entity": "deal", "category_id": 9}

    def spoil(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"webhook_url": f"{data['webhook_url'].rstrip('/')}x/"}

    @asynccontextmanager
    async def opened(self, data: Mapping[str, Any], settings: Mapping[str, Any]) -> AsyncIterator[Channel[Any, Any]]:
        async with super().opened(data, {**settings, **self.settings}) as channel:
            yield channel


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["bitrix24"], scale=1000.0) as box:
        yield box


@pytest.fixture
def portal(box: Sandbox) -> Bitrix24Vendor:
    vendor = box.vendor("bitrix24")
    assert isinstance(vendor, Bitrix24Vendor)
    return vendor


def connected(portal: Bitrix24Vendor, settings: Mapping[str, Any] | None = None, **more: Any) -> Bitrix24Channel:
    return opened(None, settings, data=portal.credential(), clock=SystemClock(), scale=60.0, **more)


async def receipts_of(channel: Bitrix24Channel, deliveries: Sequence[Delivery], step: Step = LEAD) -> list[Receipt]:
    try:
        return list((await channel.send(step, deliveries)).receipts.values())
    except DeliveryError as error:
        return [error] * len(deliveries)


def send_once(channel: Bitrix24Channel, deliveries: Sequence[Delivery], step: Step = LEAD) -> list[Receipt]:
    async def run() -> list[Receipt]:
        try:
            return await receipts_of(channel, deliveries, step)
        finally:
            await channel.close()

    return asyncio.run(run())


def call(portal: Bitrix24Vendor, method: str, params: Mapping[str, Any], *, form: bool = False) -> Any:
    """A request of somebody else."""
    body = urlencode(params) if form else json.dumps(params)
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    request = Request(f"{portal.url}/rest/1/{CODE}/{method}", body.encode(), {"Content-Type": kind})
    with urlopen(request, timeout=5) as answer:
        return json.load(answer)


def test_a_customers_reference_is_text_for_us_and_replaced_for_others(portal: Bitrix24Vendor, box: Sandbox) -> None:
    hostile = make_lead(id=2, comment="$RESULT[d0][item][id] and $result[nope]", answers=(), name="$result")
    first, second = send_once(connected(portal), [batch(1)[0], make_delivery(hostile)])
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    item = portal.items[1][int(second.remote_id or 0)]
    assert item["comments"] == "$ RESULT[ d0][ item][ id] and $ result[ nope]"
    assert item["name"] == "$ result"
    assert box.judge.by_lead("bitrix24") == {"1": 1, "2": 1}
    command = (
        "crm.item.add?entityTypeId=1&fields[title]=see+$result[a][item][id]+$result[b]&fields[comments]=$result[b]"
    )
    answer = call(portal, "batch", {"cmd": {"a": "crm.item.add?entityTypeId=1&fields[title]=x", "c": command}})
    victim = answer["result"]["result"]["c"]["item"]
    made = answer["result"]["result"]["a"]["item"]["id"]
    assert (victim["title"], victim["comments"]) == (f"see {made} ", "Array"), "the emulator does what the vendor does"


def test_a_deal_after_a_time_out_on_its_contact_has_one_contact(portal: Bitrix24Vendor, box: Sandbox) -> None:
    """The contact in doubt is looked up; the deal is made with it; neither is there twice."""
    box.faults.script("bitrix24", 1, ["bad_gateway_after", "ok", "bad_gateway_after"])
    settings = {"entity": "deal", "category_id": 9}

    async def run() -> Finding:
        channel = connected(portal, settings)
        (delivery,) = batch(1)
        assert isinstance((await receipts_of(channel, [delivery], CONTACT))[0], Ambiguous)
        contact = (await channel.find(CONTACT, [delivery]))[delivery.key]
        assert isinstance(contact, Found)
        assert contact.remote_url is None
        delivery = replace(delivery, done={"contact": contact.remote_id or ""})
        (other,) = await receipts_of(channel, [replace(batch(2)[0], done=delivery.done)], DEAL)
        assert isinstance(other, Done)
        assert isinstance((await receipts_of(channel, [delivery], DEAL))[0], Done)
        finding = (await channel.find(DEAL, [delivery]))[delivery.key]
        await channel.close()
        return finding

    finding = asyncio.run(run())
    assert isinstance(finding, Found)
    deal = portal.items[2][int(finding.remote_id or 0)]
    (contact,) = portal.items[3].values()
    assert (deal["contactIds"], deal["categoryId"], deal["stageId"]) == ([contact["id"]], 9, "C9:NEW")
    assert [entry["value"] for entry in contact["fm"]] == ["+79000000001", "anna@example.com"]
    assert box.judge.by_lead("bitrix24") == {"1": 1, "2": 1}
    assert box.judge.by_lead("bitrix24:contact") == {"1": 1}


def test_without_the_right_to_read_nothing_is_sent_again(portal: Bitrix24Vendor, box: Sandbox) -> None:
    portal.read_right = "none"
    box.faults.script("bitrix24", 2, ["bad_gateway_after"])

    async def run() -> Finding:
        channel = connected(portal)
        await receipts_of(channel, batch(1))
        assert isinstance((await receipts_of(channel, batch(2)))[0], Ambiguous)
        finding = (await channel.find(LEAD, batch(2)))[batch(2)[0].key]
        await channel.close()
        return finding

    assert isinstance(asyncio.run(run()), CannotTell)


def test_own_items_only_and_another_responsible_user(portal: Bitrix24Vendor) -> None:
    portal.read_right = "own"
    call(portal, "crm.item.add", {"entityTypeId": 1, "fields": {"title": "x", "originatorId": "leadctl"}})

    async def run() -> Finding:
        channel = connected(portal, {"assigned_by_id": 6})
        assert isinstance((await receipts_of(channel, batch(1)))[0], Done)
        finding = (await channel.find(LEAD, batch(1)))[batch(1)[0].key]
        await channel.close()
        return finding

    assert isinstance(asyncio.run(run()), CannotTell)


def test_a_killed_batch_leaves_what_was_made(portal: Bitrix24Vendor, box: Sandbox) -> None:
    portal.add_seconds, portal.cap_seconds = 25.0, 60.0

    async def run() -> list[Finding]:
        channel = connected(portal)
        receipts = await receipts_of(channel, batch(1, 2, 3, 4, 5))
        assert all(isinstance(receipt, Ambiguous) for receipt in receipts)
        assert channel.batch_size(LEAD) == 5
        findings = await channel.find(LEAD, batch(1, 2, 3, 4, 5))
        await channel.close()
        return list(findings.values())

    assert [type(finding) for finding in asyncio.run(run())] == [Found, Found, Found, Absent, Absent]
    assert box.judge.by_lead("bitrix24") == {"1": 1, "2": 1, "3": 1}


def test_execution_time_refuses_inside_the_batch(portal: Bitrix24Vendor, box: Sandbox) -> None:
    portal.add_seconds, portal.cap_seconds = 200.0, 1e6
    receipts = send_once(connected(portal), batch(1, 2, 3, 4))
    assert [type(receipt) for receipt in receipts] == [Done, Done, Done, Throttled]
    assert isinstance(receipts[3], Throttled)
    assert receipts[3].retry_after is not None
    assert 0 < receipts[3].retry_after <= 0.6
    assert sum(box.judge.by_lead("bitrix24").values()) == 3


def test_a_portal_without_leads_converts_them(portal: Bitrix24Vendor, box: Sandbox) -> None:
    portal.simple_mode = True

    async def run() -> Finding:
        channel = connected(portal)
        (receipt,) = await receipts_of(channel, [make_delivery(make_lead(id=1, name=""))])
        assert isinstance(receipt, Done)
        finding = (await channel.find(LEAD, batch(1)))[batch(1)[0].key]
        await channel.close()
        return finding

    assert isinstance(asyncio.run(run()), Found)
    (lead,), (deal,) = portal.items[1].values(), portal.items[2].values()
    assert (lead["stageId"], deal["leadId"]) == ("CONVERTED", lead["id"])
    assert box.judge.by_lead("bitrix24") == {"1": 1}


def test_a_portal_that_was_renamed(portal: Bitrix24Vendor, box: Sandbox) -> None:
    async def another() -> Bitrix24Vendor:
        vendor = Bitrix24Vendor(box.judge, box.faults, scale=1000.0)
        await vendor.start("127.0.0.1")
        return vendor

    async def run() -> Receipt:
        new = await another()
        portal.moved_to = new.url
        channel = connected(portal)
        (receipt,) = await receipts_of(channel, batch(1))
        assert await channel.check() == f"{new.url.removeprefix('http://')} as Olga Sandbox"
        await channel.close()
        await new.stop()
        return receipt

    assert isinstance(asyncio.run(run()), Done)
    assert box.judge.by_lead("bitrix24") == {"1": 1}


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [("OVERLOAD_LIMIT", 503, LimitReached), ("PORTAL_DELETED", 403, Unusable), ("ACCESS_DENIED", 403, Unusable)],
)
def test_a_portal_that_refuses_everything(
    portal: Bitrix24Vendor, box: Sandbox, code: str, status: int, expected: type[DeliveryError]
) -> None:
    portal.refuse_all = RestError(code, "", status)
    assert isinstance(send_once(connected(portal), batch(1))[0], expected)
    assert not box.judge.creations()


def test_switches_of_the_portal(portal: Bitrix24Vendor, box: Sandbox) -> None:
    async def check() -> str:
        channel = connected(portal)
        try:
            return await channel.check()
        finally:
            await channel.close()

    portal.user_active = False
    with pytest.raises(Unusable, match="no active user"):
        asyncio.run(check())
    portal.user_active, portal.scopes = True, ["user_basic"]
    with pytest.raises(Unusable, match="scope crm"):
        asyncio.run(check())
    assert isinstance(send_once(connected(portal), batch(1))[0], Unusable)
    portal.scopes, portal.may_add = ["crm"], False
    assert isinstance(send_once(connected(portal), batch(1))[0], Unusable)
    portal.may_add, portal.required[1] = True, {"opportunity"}
    (refused,) = send_once(connected(portal), batch(1))
    assert isinstance(refused, Rejected)
    assert refused.path == "opportunity"
    assert not box.judge.creations()


def test_the_rate_of_the_portal() -> None:
    with running_sandbox(["bitrix24"], scale=0.001) as box:
        vendor = box.vendor("bitrix24")
        assert isinstance(vendor, Bitrix24Vendor)

        async def run() -> list[Receipt]:
            channel = connected(vendor)
            receipts = [(await receipts_of(channel, batch(number)))[0] for number in range(1, 53)]
            await channel.close()
            return receipts

        receipts = asyncio.run(run())
    assert [type(receipt) for receipt in receipts] == [Done] * 50 + [Throttled] * 2
    assert sum(box.judge.by_lead("bitrix24").values()) == 50


# The emulator itself


def test_the_emulated_batch_has_the_vendors_traps(portal: Bitrix24Vendor) -> None:
    commands = {f"k{number}": "profile" for number in range(50)} | {"over": "profile", "odd": 5}
    result = call(portal, "batch", {"cmd": commands})["result"]
    assert len(result["result"]) == 50
    assert result["result_error"] == {
        "over": {"error": "ERROR_BATCH_LENGTH_EXCEEDED", "error_description": "Max batch length exceeded"}
    }
    assert (result["result_total"], result["result_next"]) == ([], [])
    halted = call(portal, "batch", {"halt": 1, "cmd": ["nope", "profile", "BATCH?x=1"]})["result"]
    assert halted["result"] == []
    assert [error["error"] for error in halted["result_error"]] == ["ERROR_METHOD_NOT_FOUND"]
    going_on = call(portal, "BATCH.json", {"halt": 0, "cmd[x]": "batch?a=1", "cmd[0]": "Profile"}, form=True)["result"]
    assert going_on["result_error"]["x"]["error"] == "ERROR_BATCH_METHOD_NOT_ALLOWED"
    assert going_on["result"][0]["NAME"] == "Olga"


def test_the_emulated_lists_differ_as_the_vendors_do(portal: Bitrix24Vendor) -> None:
    fields = {"TITLE": "x", "PHONE": "+7", "EMAIL": [{"VALUE": "a@b.example"}], "NO_SUCH": "y", "ORIGIN_ID": "a+b"}
    number = call(portal, "crm.lead.add", {"fields": fields})["result"]
    item = portal.items[1][number]
    assert [entry["value"] for entry in item["fm"]] == ["a@b.example"], "a phone that is a plain text is lost"
    assert "noSuch" not in item
    legacy = call(portal, "crm.lead.list", {"filter": {"=NO_SUCH": "z"}})
    assert (len(legacy["result"]), legacy["total"]) == (1, 1)
    assert call(portal, "crm.lead.list", {"filter": {"@ORIGIN_ID": ["A+B"]}})["result"][0]["ID"] == str(number)
    assert call(portal, "crm.lead.list", {"filter": {"=ORIGIN_ID": "other"}})["result"] == []
    with pytest.raises(OSError, match="400"):
        call(portal, "crm.item.list", {"entityTypeId": 1, "filter": {"=noSuch": "z"}})
    assert call(portal, "crm.settings.mode.get", {})["result"] == 1
    statuses = call(portal, "crm.status.list", {"filter[ENTITY_ID]": "SOURCE"}, form=True)["result"]
    assert {row["ENTITY_ID"] for row in statuses} == {"SOURCE"}
    assert "ufCrm_1747309879" in call(portal, "crm.item.fields", {"entityTypeId": 2})["result"]["fields"]


def test_a_dangling_reference_becomes_all_results() -> None:
    answers = {
        "result": {"a": {"item": {"id": 5}}, "l": [{"ID": "6"}]},
        "error": {},
        "total": {},
        "next": {},
        "time": {},
    }
    assert substitute("$result[a][item][id]", answers) == 5
    assert substitute("$Result[l][0][ID]", answers) == "6"
    assert substitute("$result[gone]", answers) == answers["result"]
    assert substitute("x $result[gone]y z", answers) == "x  z"
    assert php_array({"0": {}, "1": {"a": {}}}) == [[], {"a": []}]
