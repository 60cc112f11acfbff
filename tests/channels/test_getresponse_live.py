"""GetResponse over real sockets against the emulated account."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

import httpx
import pytest

from leadctl.channels.getresponse import GetResponse
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, LimitReached, Rejected, Throttled, Transient, Unusable
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Absent, CannotTell, Delivery, Done, Found, Receipt
from leadctl.sandbox.getresponse import API_KEY, GetResponseVendor
from leadctl.sandbox.server import Sandbox, running_sandbox
from tests.support.channels import make_delivery, make_lead, open_channel

T = TypeVar("T")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["getresponse"], scale=1000) as running:
        yield running


@pytest.fixture
def vendor(box: Sandbox) -> GetResponseVendor:
    found = box.vendor("getresponse")
    assert isinstance(found, GetResponseVendor)
    return found


@pytest.fixture
def http(vendor: GetResponseVendor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{vendor.url}/v3", headers={"X-Auth-Token": f"api-key {API_KEY}"}) as client:
        yield client


def connected(vendor: GetResponseVendor, settings: Mapping[str, Any] | None = None, **more: Any) -> GetResponse:
    data = {**vendor.credential(), **more.pop("data", {})}
    chosen = vendor.settings() if settings is None else settings
    channel = open_channel("getresponse", data, chosen, clock=SystemClock(), scale=100, **more)
    assert isinstance(channel, GetResponse)
    return channel


def one(number: int, *, doubt: bool = False, **changes: Any) -> Delivery:
    own = {"id": number, "email": f"lead{number}@example.com", "phone": f"+7900{number:07d}"}
    return make_delivery(make_lead(**{**own, **changes}), context={"in_doubt": "1"} if doubt else {})


def used(channel: GetResponse, what: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        try:
            return await what()
        finally:
            await channel.close()

    return asyncio.run(run())


async def receipt_of(channel: GetResponse, delivery: Delivery) -> Receipt:
    try:
        return (await channel.send(channel.steps[0], [delivery])).receipts[delivery.key]
    except DeliveryError as error:
        return error


def sent(channel: GetResponse, *deliveries: Delivery) -> list[Receipt]:
    """The receipts of one after another."""

    async def run() -> list[Receipt]:
        return [await receipt_of(channel, delivery) for delivery in deliveries]

    return used(channel, run)


def kinds(receipts: list[Receipt]) -> list[type]:
    return [type(receipt) for receipt in receipts]


def texts(vendor: GetResponseVendor, email: str) -> dict[str, str]:
    """The custom fields of a contact, by name."""
    contact = vendor.base.find(email)
    assert contact is not None
    return {vendor.base.fields[identity][0]: values[0] for identity, values in contact.customs.items()}


def test_a_lead_is_queued_and_found_later(box: Sandbox, vendor: GetResponseVendor) -> None:
    vendor.base.lag = 0.3
    channel = connected(vendor)

    async def run() -> list[Any]:
        said: list[Any] = [await receipt_of(channel, one(1))]
        for _ in range(2):
            said.append(await channel.find(channel.steps[0], [one(1), one(2)]))
            await asyncio.sleep(0.35)
        return said

    receipt, early, late = used(channel, run)
    assert receipt == Done(accepted=True)
    assert dict(early) == {one(1).key: Absent(), one(2).key: Absent()}
    (made,) = box.judge.creations("getresponse")
    assert dict(late) == {one(1).key: Found(made.remote_id), one(2).key: Absent()}
    assert (made.lead, made.key) == ("1", one(1).key)
    assert texts(vendor, "lead1@example.com") == {
        "lead_id": "1", "leadctl_key": one(1).key, "phone": "+79000000001", "page_url": "https://example.com/p",
        "comment": "Перезвоните после 18:00\n\nbudget: 100 000", "utm_source": "yandex", "utm_medium": "cpc",
        "budget": "100 000",
    }  # fmt: skip


def test_eight_at_a_time_are_let_in(box: Sandbox, vendor: GetResponseVendor) -> None:
    channel = connected(vendor)
    count = channel.spec.concurrency

    async def run() -> list[Receipt]:
        return await asyncio.gather(*(receipt_of(channel, one(number)) for number in range(count)))

    assert used(channel, run) == [Done(accepted=True)] * count
    assert box.judge.requests("getresponse") == count + 2


@pytest.mark.parametrize("lag", [0.0, 60.0])
@pytest.mark.parametrize("fault", ["timeout", "reset", "bad_gateway_after"])
def test_a_repeat_makes_no_second_contact(fault: str, lag: float, box: Sandbox, vendor: GetResponseVendor) -> None:
    vendor.base.lag = lag
    box.faults.script("getresponse", 1, [fault])
    receipts = sent(connected(vendor), one(1), one(1, doubt=True))
    assert kinds(receipts) == [Ambiguous, Done]
    (made,) = box.judge.creations("getresponse")
    assert receipts[1] == (Done(accepted=True) if lag else Done(made.remote_id))
    assert (len(box.judge.twins("getresponse")), len(vendor.base.contacts)) == (1, 1)


def test_a_queued_address_may_be_taken_already(box: Sandbox, vendor: GetResponseVendor) -> None:
    vendor.base.lag, vendor.base.queued_is_taken = 60.0, True
    box.faults.script("getresponse", 1, ["reset"])
    receipts = sent(connected(vendor), one(1), one(1, doubt=True))
    assert receipts[1] == Done(accepted=True)
    assert isinstance(sent(connected(vendor), one(2, email="lead1@example.com"))[0], Transient)
    assert box.judge.by_lead("getresponse") == {"1": 1}


def test_an_addition_in_doubt_is_made_once(box: Sandbox, vendor: GetResponseVendor) -> None:
    box.faults.script("getresponse", 2, ["reset"])
    again, repeat = one(2, email="lead1@example.com"), one(2, doubt=True, email="lead1@example.com")
    receipts = sent(connected(vendor), one(1), again, repeat)
    assert kinds(receipts) == [Done, Ambiguous, Done]
    assert box.judge.by_lead("getresponse") == {"1": 1, "2": 1}
    assert [twin.lead for twin in box.judge.twins("getresponse")] == ["2"]


def test_a_later_lead_of_a_person_changes_fields_and_removes_none(box: Sandbox, vendor: GetResponseVendor) -> None:
    later = one(2, email="Lead1@Example.com", phone="", comment="again", answers=(), page_url="", utm={})
    receipts = sent(connected(vendor), one(1), later)
    (first, second) = box.judge.creations("getresponse")
    assert receipts == [Done(accepted=True), Done(second.remote_id)]
    assert (first.remote_id, len(vendor.base.contacts)) == (second.remote_id, 1)
    stored = texts(vendor, "lead1@example.com")
    assert (stored["lead_id"], stored["leadctl_key"], stored["comment"]) == ("2", later.key, "again")
    assert (stored["phone"], stored["budget"]) == ("+79000000001", "100 000")


def test_two_leads_of_one_person_at_once_lose_nothing(box: Sandbox, vendor: GetResponseVendor) -> None:
    """The vendor would merge them while the first is queued, and drop the data of the second."""
    vendor.base.lag = 0.3
    channel = connected(vendor)

    async def run() -> list[Receipt]:
        leads = [one(1), one(2, email="lead1@example.com")]
        at_once = await asyncio.gather(*(receipt_of(channel, lead) for lead in leads))
        await asyncio.sleep(0.35)
        return [*at_once, await receipt_of(channel, leads[1])]

    receipts = used(channel, run)
    assert kinds(receipts) == [Done, Transient, Done]
    assert box.judge.by_lead("getresponse") == {"1": 1, "2": 1}
    assert texts(vendor, "lead1@example.com")["lead_id"] == "2"


def test_who_was_deleted_by_hand_is_refused(http: httpx.Client, vendor: GetResponseVendor) -> None:
    channel = connected(vendor)
    assert kinds(sent(channel, one(1))) == [Done]
    contact = vendor.base.find("lead1@example.com")
    assert contact is not None
    assert http.delete(f"/contacts/{contact.contact_id}").status_code == 204
    (receipt,) = sent(connected(vendor), one(1))
    assert isinstance(receipt, Rejected)
    assert receipt.vendor_code == "1002"


def test_what_is_dropped_without_a_word_is_absent(box: Sandbox, vendor: GetResponseVendor) -> None:
    vendor.base.dropped.add("lead1@example.com")
    channel = connected(vendor)

    async def run() -> Any:
        return await receipt_of(channel, one(1)), await channel.find(channel.steps[0], [one(1)])

    assert used(channel, run) == (Done(accepted=True), {one(1).key: Absent()})
    assert not box.judge.creations("getresponse")


def test_a_list_that_asks_for_confirmation(box: Sandbox, vendor: GetResponseVendor) -> None:
    events: list[Event] = []
    channel = connected(vendor, {}, data={"campaign_id": "V"}, events=events)

    async def run() -> list[Any]:
        box.faults.script("getresponse", 1, ["reset"])
        said: list[Any] = [await receipt_of(channel, one(1)), await receipt_of(channel, one(1, doubt=True))]
        said += [await receipt_of(channel, one(2, email="lead1@example.com"))]
        said += [(await channel.find(channel.steps[0], [one(1)]))[one(1).key]]
        vendor.confirm("lead1@example.com", "V")
        return [*said, (await channel.find(channel.steps[0], [one(1)]))[one(1).key]]

    said = used(channel, run)
    assert [type(entry) for entry in said] == [Ambiguous, Done, Rejected, CannotTell, Found]
    assert vendor.base.letters == ["lead1@example.com"]
    assert [event.code for event in events if isinstance(event, Notice)] == ["double_optin"]
    refused = connected(vendor, {"double_optin": False}, data={"campaign_id": "V"})
    assert kinds(sent(refused, one(3))) == [Unusable]


def test_what_the_account_finds_too_long_is_cut(vendor: GetResponseVendor) -> None:
    events: list[Event] = []
    long = one(1, comment="Ж" * 6_000)
    (receipt,) = sent(connected(vendor, events=events), long)
    assert receipt == Done(accepted=True, parts={"left_out": "comment"})
    assert len(texts(vendor, "lead1@example.com")["comment"]) == 4_000
    assert [event.code for event in events if isinstance(event, Notice)] == ["left_out"]


def test_a_choice_that_is_not_offered_is_left_out(vendor: GetResponseVendor) -> None:
    fields = {"fields": {"plan": "{{ lead.comment }}"}}
    receipts = sent(connected(vendor, fields), one(1, comment="pro"), one(2, comment="gold"))
    assert receipts == [Done(accepted=True), Done(accepted=True, parts={"left_out": "plan"})]
    assert texts(vendor, "lead1@example.com")["plan"] == "pro"
    assert "plan" not in texts(vendor, "lead2@example.com")


def test_a_field_that_was_made_anew_is_found(vendor: GetResponseVendor) -> None:
    channel = connected(vendor)

    async def run() -> list[Receipt]:
        first = await receipt_of(channel, one(1))
        vendor.base.fields["new77"] = vendor.base.fields.pop("bQ7dx")
        return [first, await receipt_of(channel, one(2))]

    assert used(channel, run) == [Done(accepted=True)] * 2
    assert texts(vendor, "lead2@example.com")["budget"] == "100 000"


def test_the_scripted_refusals(box: Sandbox, vendor: GetResponseVendor) -> None:
    box.faults.script("getresponse", 1, ["reject", "rate_limit", "unauthorized", "error_body", "server_error"])
    receipts = sent(connected(vendor), *[one(1)] * 6)
    assert kinds(receipts) == [Rejected, Throttled, Unusable, Transient, Ambiguous, Done]
    limit = receipts[1]
    assert isinstance(limit, Throttled)
    assert limit.retry_after == 0.001
    assert box.judge.by_lead("getresponse") == {"1": 1}


@pytest.mark.parametrize(
    ("code", "expected"),
    [(1016, LimitReached), (1017, Unusable), (1019, Transient), (1023, Unusable), (1027, Unusable), (1, Transient)],
)
def test_an_account_that_is_shut(code: int, expected: type[DeliveryError], vendor: GetResponseVendor) -> None:
    vendor.failing = code
    assert kinds(sent(connected(vendor), one(1))) == [expected]


def test_a_full_plan_parks_the_credential(vendor: GetResponseVendor) -> None:
    vendor.base.plan = 1
    assert kinds(sent(connected(vendor), one(1), one(2))) == [Done, Unusable]


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_has_two_statuses(status: int, vendor: GetResponseVendor) -> None:
    vendor.wrong_key_status = status
    channel = connected(vendor, data={"api_key": "wrong-0123456789"})
    (receipt,) = sent(channel, one(1))
    assert isinstance(receipt, Unusable)
    assert (receipt.http_status, receipt.vendor_code) == (status, "1014")
    assert "wrong-0123456789" not in f"{receipt.message}{receipt.answer}"


@pytest.mark.parametrize(
    ("own", "given", "code"),
    [("acme.example", "acme.example", ""), ("acme.example", "other.example", "1024"), ("acme.example", None, "1021"),
     (None, "acme.example", "1021")],
)  # fmt: skip
def test_the_domain_is_of_max_alone(own: str | None, given: str | None, code: str, vendor: GetResponseVendor) -> None:
    vendor.domain = own
    (receipt,) = sent(connected(vendor, data={"domain": given}), one(1))
    assert (receipt.vendor_code if isinstance(receipt, Unusable) else "") == code


def test_check_says_what_is_missing(vendor: GetResponseVendor) -> None:
    def checked(channel: GetResponse) -> str:
        try:
            return used(channel, channel.check)
        except Unusable as error:
            return error.message

    assert checked(connected(vendor)) == (
        "owner@example.com: list leads (p86zQ), without confirmation letters; fills lead_id, leadctl_key, phone, "
        "comment, page_url, utm_source, utm_medium, utm_campaign, utm_content, utm_term"
    )
    assert "no list P86zQ" in checked(connected(vendor, data={"campaign_id": "P86zQ"}))
    assert "no custom field nope" in checked(connected(vendor, {"fields": {"nope": "x"}}))
    assert "API key is wrong" in checked(connected(vendor, data={"api_key": "wrong-0123456789"}))
    assert "is base_url right" in sent_message(connected(vendor, {}, data={"base_url": vendor.url}))


def sent_message(channel: GetResponse) -> str:
    (receipt,) = sent(channel, one(1))
    assert isinstance(receipt, Unusable)
    return receipt.message
