"""The channel against the emulated SendPulse over real sockets, and how strict that is."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from leadctl.channelkit.sendpulse_crm import source_id
from leadctl.channels.sendpulse import SendPulse
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Split, Throttled, Unusable
from leadctl.domain.model import Absent, Delivery, Done, Found, Receipt
from leadctl.sandbox._sendpulse_books import UNSUBSCRIBED, Refused
from leadctl.sandbox.sendpulse import API_KEY, BOOK, SendPulseVendor
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.testing.driver import CLIENT_SCALE, VENDOR_SCALE, with_done
from tests.support.channels import open_channel
from tests.support.sendpulse import one


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["sendpulse"], scale=VENDOR_SCALE) as box:
        yield box


@pytest.fixture
def vendor(box: Sandbox) -> SendPulseVendor:
    vendor = box.vendor("sendpulse")
    assert isinstance(vendor, SendPulseVendor)
    return vendor


@pytest.fixture
def http(vendor: SendPulseVendor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=vendor.url, headers={"Authorization": f"Bearer {API_KEY}"}) as client:
        yield client


def connected(data: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> SendPulse:
    channel = open_channel("sendpulse", data, settings, clock=SystemClock(), scale=CLIENT_SCALE)
    assert isinstance(channel, SendPulse)
    return channel


def sent(channel: SendPulse, *batches: Sequence[Delivery]) -> list[Receipt]:
    """The receipts of these batches of a book; an error of a whole request counts for each."""

    async def run() -> list[Receipt]:
        receipts: list[Receipt] = []
        for batch in batches:
            try:
                verdict = await channel.send(channel.steps[0], batch)
                receipts += [verdict.receipts[delivery.key] for delivery in batch]
            except DeliveryError as error:
                receipts += [error] * len(batch)
        await channel.close()
        return receipts

    return asyncio.run(run())


def kinds(receipts: Sequence[Receipt]) -> list[type[Receipt]]:
    return [type(receipt) for receipt in receipts]


async def carried(channel: SendPulse, delivery: Delivery) -> Delivery:
    """Through all steps; what is in doubt is looked for, and sent again where it is absent."""
    for step in channel.steps:
        while step.name not in delivery.done and channel.needs(step, delivery):
            try:
                receipt = (await channel.send(step, [delivery])).receipts[delivery.key]
            except Ambiguous:
                finding = (await channel.find(step, [delivery]))[delivery.key]
                if isinstance(finding, Absent):
                    continue
                assert isinstance(finding, Found), repr(finding)
                receipt = Done(finding.remote_id, parts=finding.parts)
            assert isinstance(receipt, Done), repr(receipt)
            delivery = with_done(delivery, step, receipt)
    return delivery


def carry(channel: SendPulse, *deliveries: Delivery) -> list[Delivery]:
    async def run() -> list[Delivery]:
        done = [await carried(channel, delivery) for delivery in deliveries]
        await channel.close()
        return done

    return asyncio.run(run())


# A book


def test_a_hundred_in_one_request(box: Sandbox, vendor: SendPulseVendor) -> None:
    batch = [one(number) for number in range(1, 101)]
    assert set(kinds(sent(connected(vendor.credential()), batch))) == {Done}
    assert box.judge.requests("sendpulse") == 1
    assert box.judge.by_lead("sendpulse") == {str(number): 1 for number in range(1, 101)}


def test_a_repeat_makes_no_second_and_a_later_lead_replaces(box: Sandbox, vendor: SendPulseVendor) -> None:
    box.faults.script("sendpulse", 1, ["reset"])
    later = one(2, email="Lead1@example.com", comment="Again", answers=())
    receipts = sent(connected(vendor.credential()), [one(1)], [one(1)], [later])
    assert kinds(receipts) == [Ambiguous, Done, Done]
    assert (len(box.judge.creations("sendpulse")), len(box.judge.twins("sendpulse"))) == (2, 1)
    (stored,) = vendor.books.subscribers[BOOK].values()
    assert (stored.variables["lead_id"], stored.variables["comment"], stored.phone) == ("2", "Again", "79000000002")


def test_one_bad_address_refuses_all(box: Sandbox, vendor: SendPulseVendor) -> None:
    box.faults.script("sendpulse", 1, ["reject"])
    assert kinds(sent(connected(vendor.credential()), [one(1), one(2)])) == [Split, Split]
    assert not box.judge.creations("sendpulse")


def test_the_scripted_refusals(box: Sandbox, vendor: SendPulseVendor) -> None:
    box.faults.script("sendpulse", 1, ["reject", "rate_limit", "unauthorized", "error_body", "server_error"])
    receipts = sent(connected(vendor.credential()), *[[one(1)]] * 6)
    assert kinds(receipts) == [Rejected, Throttled, Unusable, Rejected, Ambiguous, Done]


def test_nobody_is_subscribed_again(vendor: SendPulseVendor) -> None:
    channel = connected(vendor.credential())
    assert kinds(sent(channel, [one(1)])) == [Done]
    (stored,) = vendor.books.subscribers[BOOK].values()
    stored.status = UNSUBSCRIBED
    assert kinds(sent(connected(vendor.credential()), [one(1, comment="x")])) == [Done]
    assert (stored.status, vendor.books.letters) == (UNSUBSCRIBED, [])


@pytest.mark.parametrize("settings", ["book", "crm"])
def test_tokens_are_shared_and_replaced(settings: str, vendor: SendPulseVendor) -> None:
    channel = connected(vendor.client_credential(), vendor.crm_settings() if settings == "crm" else {})
    assert kinds(sent(channel, [one(1)])) == [Done]
    again = SendPulse(channel.config, channel.settings, channel.toolbox)
    assert kinds(sent(again, [one(2)])) == [Done]
    assert vendor.logins == 1
    vendor.end_tokens()
    assert kinds(sent(again, [one(3)])) == [Done]
    assert vendor.logins == 2


@pytest.mark.parametrize("change", [{"client_secret": "wrong-secret"}, {"client_id": "wrong"}, {"address_book_id": 99}])
def test_a_wrong_credential_is_told_by_check_and_send(change: dict[str, Any], vendor: SendPulseVendor) -> None:
    data = {**vendor.client_credential(), **change}

    async def check() -> None:
        channel = connected(data)
        try:
            with pytest.raises(Unusable):
                await channel.check()
        finally:
            await channel.close()

    asyncio.run(check())
    assert kinds(sent(connected(data), [one(1)])) == [Unusable]
    assert not vendor.books.subscribers[BOOK]


def test_check_names_account_and_place(vendor: SendPulseVendor) -> None:
    async def checked(channel: SendPulse) -> str:
        try:
            return await channel.check()
        finally:
            await channel.close()

    book, deals = connected(vendor.credential()), connected(vendor.client_credential(), vendor.crm_settings())
    assert asyncio.run(checked(book)) == f"owner@example.com: address book Leads ({BOOK})"
    assert asyncio.run(checked(deals)) == "owner@example.com: pipeline Sales (10)"


# A deal


def crm(vendor: SendPulseVendor, **settings: Any) -> SendPulse:
    return connected(vendor.credential(), {**vendor.crm_settings(), **settings})


def test_a_deal_with_its_contact(box: Sandbox, vendor: SendPulseVendor) -> None:
    (delivery,) = carry(crm(vendor), one(1))
    contact, deal = vendor.crm.contact(int(delivery.done["contact"])), vendor.crm.deal(int(delivery.done["deal"]))
    assert (contact["firstName"], contact["lastName"], contact["responsibleId"]) == ("Анна", "Ким", 123)
    assert [entry["phone"] for entry in contact["phones"]] == ["+79000000001"]
    assert [entry["email"] for entry in contact["emails"]] == ["lead1@example.com"]
    assert (deal["pipelineId"], deal["stepId"], deal["sourceId"]) == (10, 11, source_id(delivery.key))
    assert (deal["contact"], deal["attributes"]) == ([contact["id"]], [{"attributeId": 7, "value": "100 000"}])
    assert len(vendor.crm.comments[deal["id"]]) == 1
    assert box.judge.by_lead("sendpulse") == {"1": 1}
    # pipeline and fields, two searches, contact, phone, address, deal, comment
    assert box.judge.requests("sendpulse") == 9


def test_a_known_person_gets_another_deal_and_no_second_contact(vendor: SendPulseVendor) -> None:
    first, second = (carry(crm(vendor), one(number, phone="+7 900 000-00-01"))[0] for number in (1, 2))
    assert second.done["by_phone"] == first.done["contact"]
    third = carry(crm(vendor), one(3, phone="", email="LEAD1@example.com"))[0]
    assert third.done["by_email"] == first.done["contact"]
    assert (len(vendor.crm.contacts), len(vendor.crm.deals)) == (1, 3)
    assert "lead2@example.com" in str(vendor.crm.comments[int(second.done["deal"])])


@pytest.mark.parametrize("fault", ["reset", "broken_answer", "bad_gateway_after", "server_error"])
def test_no_step_is_made_twice(fault: str, box: Sandbox, vendor: SendPulseVendor) -> None:
    """Each request meets the fault; the questions that follow are answered."""

    async def run() -> Delivery:
        channel, delivery = crm(vendor), one(1)
        for step in channel.steps:
            if not channel.needs(step, delivery):
                continue
            await channel.check()
            box.faults.always("sendpulse", fault)
            with pytest.raises(DeliveryError):
                await channel.send(step, [delivery])
            box.faults.clear()
            if not step.looks:
                receipt = (await channel.send(step, [delivery])).receipts[delivery.key]
            else:
                finding = (await channel.find(step, [delivery]))[delivery.key]
                assert isinstance(finding, Absent if fault == "server_error" else Found), f"{step.name}: {finding!r}"
                receipt = Done(finding.remote_id) if isinstance(finding, Found) else Done()
                if isinstance(finding, Absent):
                    receipt = (await channel.send(step, [delivery])).receipts[delivery.key]
            assert isinstance(receipt, Done)
            delivery = with_done(delivery, step, receipt)
        await channel.close()
        return delivery

    delivery = asyncio.run(run())
    (contact,), (deal,) = vendor.crm.contacts.values(), vendor.crm.deals.values()
    assert (len(contact["phones"]), len(contact["emails"]), len(vendor.crm.comments[deal["id"]])) == (1, 1, 1)
    assert delivery.done["deal"] == str(deal["id"])
    assert box.judge.by_lead("sendpulse") == {"1": 1}


@pytest.mark.parametrize("filters", [True, False])
def test_a_deal_is_found_whether_or_not_the_filter_works(filters: bool, box: Sandbox, vendor: SendPulseVendor) -> None:
    vendor.crm.filters = filters
    carry(crm(vendor), *(one(number) for number in range(2, 15)))
    for number, fault in ((1, "reset"), (20, "reset_before")):
        box.faults.script("sendpulse", number, [fault])
    carry(crm(vendor), one(1), one(20))
    assert set(box.judge.by_lead("sendpulse").values()) == {1}
    assert len(vendor.crm.deals) == 15


def test_a_forced_send_is_another_deal(box: Sandbox, vendor: SendPulseVendor) -> None:
    carry(crm(vendor), one(1), replace(one(1), key="lc-abc123-1-7-1"))
    assert box.judge.by_lead("sendpulse") == {"1": 2}
    assert len({deal["sourceId"] for deal in vendor.crm.deals.values()}) == 2


def test_an_unknown_user_is_refused_lead_by_lead(vendor: SendPulseVendor) -> None:
    places = {**vendor.crm_settings()["crm"], "responsible_id": 999}

    async def run() -> None:
        channel = crm(vendor, crm=places)
        with pytest.raises(Rejected) as caught:
            await channel.send(channel.steps[2], [one(1)])
        assert caught.value.path == "responsibleId"
        await channel.close()

    asyncio.run(run())


def test_an_owner_who_is_in_no_list_may_have_deals(vendor: SendPulseVendor) -> None:
    carry(crm(vendor, crm={**vendor.crm_settings()["crm"], "responsible_id": 100}), one(1))
    assert len(vendor.crm.deals) == 1


# How strict the account is

ADD = f"/addressbooks/{BOOK}/emails"
GOOD = {"email": "a@example.com", "variables": {"name": "A"}}


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({}, 422, 422, "Argument emails missing"),
        ([], 422, 422, "Argument emails missing"),
        ({"emails": "a@example.com"}, 422, 422, "Argument emails must be array"),
        ({"emails": []}, 422, 422, "Argument emails is invalid"),
        ({"emails": [5]}, 422, 422, "Argument emails is invalid"),
        ({"emails": [GOOD, {"email": "no at"}]}, 422, 422, "Argument email is invalid"),
        ({"emails": [{**GOOD, "variables": [{"name": "x"}]}]}, 422, 422, "Argument emails.*.variables is invalid"),
        ({"emails": [GOOD], "confirmation": "yes"}, 422, 422, "Argument confirmation is invalid"),
        ({"emails": [GOOD], "confirmation": "force"}, 422, 422, "Argument sender_email missing"),
        (
            {"emails": [GOOD], "confirmation": "force", "sender_email": "x"},
            422,
            422,
            "Argument sender_email is invalid",
        ),
        ({"emails": [GOOD], "confirmation": "force", "sender_email": "x@example.com"}, 422, 1003, "Sender not found"),
        ({"emails": [GOOD], "tags": "1"}, 422, 422, "Argument tags must be array"),
        ({"emails": [GOOD], "dont_update": 1}, 422, 422, "Argument dont_update must be boolean"),
    ],
)
def test_what_a_book_refuses(
    body: Any, status: int, code: int, message: str, http: httpx.Client, vendor: SendPulseVendor
) -> None:
    answer = http.post(ADD, json=body)
    assert (answer.status_code, answer.json()) == (status, {"message": message, "error_code": code})
    assert not vendor.books.subscribers[BOOK]


@pytest.mark.parametrize("emails", [GOOD, [{**GOOD, "status": 1}]])
def test_a_wrong_shape_breaks_the_vendor(emails: Any, http: httpx.Client) -> None:
    answer = http.post(ADD, json={"emails": emails})
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (500, "text/html")


def test_books_read_and_change(http: httpx.Client, vendor: SendPulseVendor) -> None:
    assert http.post(ADD, json={"emails": ["plain@example.com", GOOD]}).json() == {"result": True}
    http.post(ADD, json={"emails": [{**GOOD, "variables": {"name": "B", "n": 5}}], "dont_update": True})
    change = {"email": "A@example.com", "variables": [{"name": "lead_id", "value": "4711"}]}
    assert http.post(f"{ADD}/variable", json=change).json() == {"result": True}
    assert http.post(f"{ADD}/variable", json={**change, "variables": {"x": "y"}}).status_code == 422
    assert http.post(f"{ADD}/variable", json={**change, "email": "b@example.com"}).json()["error_code"] == 502
    assert http.put(f"/addressbooks/{BOOK}/phone", json={"email": "a@example.com", "phone": "+79001112233"}).is_success
    assert http.put(f"/addressbooks/{BOOK}/phone", json={"phone": "x"}).json()["message"] == "Phone is not valid"
    shown = http.get(f"{ADD}/a@example.com").json()
    assert (shown["phone"], {v["name"]: v["value"] for v in shown["variables"]}) == (
        "+79001112233", {"name": "A", "lead_id": "4711"},
    )  # fmt: skip
    found = http.get(f"/addressbooks/{BOOK}/variables/lead_id/4711").json()
    assert found == [{"email": "a@example.com", "status": 1, "status_explain": "Active"}]
    assert http.get(f"/addressbooks/{BOOK}/variables/nope/1").json() == {
        "message": "Variable not found",
        "error_code": 299,
    }
    assert http.get("/addressbooks/1").json() == {"message": "Book not found", "error_code": 213}
    (book,) = http.get(f"/addressbooks/{BOOK}").json()
    assert (book["name"], book["all_email_qty"]) == ("Leads", 2)
    letter = {"emails": ["new@example.com"], "confirmation": "force", "sender_email": "news@example.com"}
    http.post(ADD, json=letter)
    assert vendor.books.letters == ["new@example.com"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("contacts/create", {"firstName": "x"}, 422),
        ("contacts/create", {"responsibleId": 123, "externalContactId": 5}, 422),
        ("contacts/create", [], 422),
        ("contacts/1/phones", {"phone": "1"}, 404),
        ("contacts/1/emails", {"emails": [{"email": "a@b.c"}]}, 404),
        ("deals", {"pipelineId": 10}, 422),
        ("deals", {"pipelineId": 10, "stepId": 21}, 422),
        ("deals", {"pipelineId": 10, "stepId": 11, "sourceId": "4711"}, 422),
        ("deals", {"pipelineId": 10, "stepId": 11, "sourceId": "lc-x-1-2"}, 422),
        ("deals", {"pipelineId": 10, "stepId": 11, "name": "x" * 256}, 422),
        ("deals", {"pipelineId": 10, "stepId": 11, "currency": "RUB"}, 422),
        ("deals", {"pipelineId": 10, "stepId": 11, "contact": {"id": 1}}, 422),
        ("deals", {"pipelineId": 10, "stepId": 11, "contact": [1]}, 404),
        ("deals", {"pipelineId": 10, "stepId": 11, "attributes": [{"attributeId": 99, "value": "x"}]}, 422),
        ("deals/1/comments", {"message": "x"}, 404),
        ("deals/get-list", {"limit": 101}, 422),
        ("deals/get-list", {"filter": [{"name": "nope", "expression": "eq", "value": "1"}]}, 422),
        ("nothing", {}, 404),
    ],
)
def test_what_the_crm_refuses(path: str, body: Any, status: int, http: httpx.Client, vendor: SendPulseVendor) -> None:
    answer = http.post(f"/crm/v1/{path}", json=body)
    assert answer.status_code == status
    if status == 404 and path != "nothing":
        assert answer.json()["data"]["code"] == 404
    assert not vendor.crm.contacts
    assert not vendor.crm.deals


def test_phones_addresses_and_comments_have_their_lengths(http: httpx.Client) -> None:
    contact = http.post("/crm/v1/contacts/create", json={"responsibleId": 123}).json()["data"]["id"]
    deal = http.post("/crm/v1/deals", json={"pipelineId": 10, "stepId": 11, "contact": [contact]}).json()["data"]["id"]
    here = f"/crm/v1/contacts/{contact}"
    assert http.post(f"{here}/phones", json={"phone": "1" * 51}).status_code == 422
    assert http.post(f"{here}/emails", json={"email": "a@b.c"}).status_code == 422
    assert http.post(f"{here}/emails", json={"emails": [{"email": "x" * 51}]}).status_code == 422
    assert http.post(f"/crm/v1/deals/{deal}/comments", json={"message": ""}).status_code == 422
    assert http.post(f"/crm/v1/deals/{deal}/comments", json={"message": "x" * 65_536}).status_code == 422
    assert http.get(f"{here}/deals").json()["data"][0]["id"] == deal
    assert [user["id"] for user in http.get("/crm/v1/users").json()["data"]] == [123, 124]
    like = [{"name": "name", "expression": "like", "value": "deal"}, {"name": "id", "expression": "gte", "value": deal}]
    assert http.post("/crm/v1/deals/get-list", json={"filter": like}).json()["meta"] == {"total": 1}


def test_every_path_wants_a_token_that_lives(vendor: SendPulseVendor) -> None:
    refused = {"message": "Unauthorized!", "error_code": 401}
    with httpx.Client(base_url=vendor.url) as http:
        for path in ("/user/info", f"/addressbooks/{BOOK}", "/crm/v1/pipelines", "/nothing"):
            assert (http.get(path).status_code, http.get(path).json()) == (401, refused)
        login = {key: vendor.client_credential()[key] for key in ("client_id", "client_secret")}
        assert http.post("/oauth/access_token", json=login).json()["error"] == "unsupported_grant_type"
        login["grant_type"] = "client_credentials"
        wrong = http.post("/oauth/access_token", json={**login, "client_secret": "x"})
        assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
        given = http.post("/oauth/access_token", json=login).json()
        assert (given["token_type"], given["expires_in"]) == ("Bearer", 3600)
        header = {"Authorization": f"Bearer {given['access_token']}"}
        assert http.get("/user/info", headers=header).json()["email"] == "owner@example.com"
        vendor.end_tokens()
        assert http.get("/user/info", headers=header).status_code == 401


def test_a_plan_that_has_run_out_parks(vendor: SendPulseVendor) -> None:
    vendor.refuse_all = Refused(403, 3030303030, "Access denied! Please change your tariff plan")
    (receipt,) = sent(connected(vendor.credential()), [one(1)])
    assert isinstance(receipt, Unusable)
    assert receipt.vendor_code == "3030303030"


def test_the_limits() -> None:
    with running_sandbox(["sendpulse"]) as box, httpx.Client(base_url=box.vendor("sendpulse").url) as http:  # type: ignore[attr-defined]
        answers = [http.get("/user/info").json()["error_code"] for _ in range(11)]
    assert answers == [401] * 10 + [2020202020]


def test_the_quota_of_a_minute(vendor: SendPulseVendor, http: httpx.Client) -> None:
    vendor._minute._count, vendor._minute._seconds = 2, 60.0
    answers = [http.get("/user/info") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json() == {"message": "Too Many Requests"}
    assert "Retry-After" not in answers[-1].headers
