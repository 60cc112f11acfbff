"""U-ON.Travel over real sockets: leadctl against the emulated account, and how strict that is."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from leadctl.channels.uontravel import UonTravel
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.model import Absent, Delivery, Done, Finding, Found, Receipt
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.sandbox.uontravel import API_KEY, UonTravelVendor
from tests.channels.test_uontravel import uon
from tests.support.channels import make_delivery, make_lead

GOOD = {"u_phone": "79990000001"}


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["uontravel"], scale=1000) as running:
        yield running


@pytest.fixture
def vendor(box: Sandbox) -> UonTravelVendor:
    found = box.vendor("uontravel")
    assert isinstance(found, UonTravelVendor)
    return found


@pytest.fixture
def http(vendor: UonTravelVendor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{vendor.url}/{API_KEY}") as client:
        yield client


def connected(vendor: UonTravelVendor, settings: Mapping[str, Any] | None = None) -> UonTravel:
    return uon(settings or vendor.settings(), vendor.credential(), clock=SystemClock(), scale=100)


def sent(vendor: UonTravelVendor, delivery: Delivery, settings: Mapping[str, Any] | None = None) -> Receipt:
    async def run() -> Receipt:
        channel = connected(vendor, settings)
        try:
            return (await channel.send(channel.steps[0], [delivery])).receipts[delivery.key]
        except DeliveryError as error:
            return error
        finally:
            await channel.close()

    return asyncio.run(run())


def found(vendor: UonTravelVendor, delivery: Delivery) -> Finding:
    async def run() -> Finding:
        channel = connected(vendor)
        try:
            return (await channel.find(channel.steps[0], [delivery]))[delivery.key]
        finally:
            await channel.close()

    return asyncio.run(run())


def checked(vendor: UonTravelVendor) -> str:
    async def run() -> str:
        channel = connected(vendor)
        try:
            return await channel.check()
        finally:
            await channel.close()

    return asyncio.run(run())


def recent(**changes: Any) -> Delivery:
    """A delivery that is sent now."""
    return make_delivery(context={"sent": str(int(time.time()))}, **changes)


# leadctl against the account


def test_a_lead_arrives_whole(box: Sandbox, vendor: UonTravelVendor) -> None:
    assert sent(vendor, make_delivery()) == Done("12345")
    body = vendor.base.leads[12345].body
    assert (body["client_name"], body["client_surname"], body["client_phone"]) == ("Анна", "Ким", "79000000001")
    assert (body["dat"], body["source"], body["manager_id"]) == ("2026-03-01 13:00:00", "sandbox", "2")
    assert body["id_internal"] == "lc-abc123-42-7"
    assert body["extended_fields"] == [{"id": 199888, "value": "100 000"}]
    (creation,) = box.judge.creations("uontravel")
    assert (creation.lead, creation.key, creation.remote_id) == ("42", "lc-abc123-42-7", "12345")


@pytest.mark.parametrize("fault", ["timeout", "reset", "broken_answer", "bad_gateway_after"])
def test_what_arrived_is_found_and_what_did_not_is_absent(box: Sandbox, vendor: UonTravelVendor, fault: str) -> None:
    box.faults.script("uontravel", 42, [fault, "reset_before"])
    delivery = recent()
    assert isinstance(sent(vendor, delivery), Ambiguous)
    assert found(vendor, delivery) == Found("12345")
    other = recent(key="lc-abc123-42-8")
    assert isinstance(sent(vendor, other), Ambiguous)
    assert found(vendor, other) == Absent()
    assert box.judge.by_lead("uontravel") == {"42": 1}


@pytest.mark.parametrize("by_arrival", [False, True])
@pytest.mark.parametrize("keeps_number", [False, True])
@pytest.mark.parametrize("cyrillic_is_lost", [False, True])
def test_it_is_found_however_the_account_keeps_it(
    vendor: UonTravelVendor, by_arrival: bool, keeps_number: bool, cyrillic_is_lost: bool
) -> None:
    vendor.by_arrival, vendor.keeps_number, vendor.cyrillic_is_lost = by_arrival, keeps_number, cyrillic_is_lost
    for number in range(1, 6):
        sent(vendor, make_delivery(make_lead(id=number)))
    vendor.page = 2
    assert isinstance(sent(vendor, delivery := recent()), Done)
    assert found(vendor, delivery) == Found("12350")
    vendor.empty_is_200 = True
    assert found(vendor, recent(key="lc-abc123-6-7")) == Absent()


def test_a_lead_behind_the_index_is_found_at_the_second_look(box: Sandbox, vendor: UonTravelVendor) -> None:
    vendor.lag = 0.3
    box.faults.script("uontravel", 42, ["reset"])
    assert isinstance(sent(vendor, delivery := recent()), Ambiguous)
    assert found(vendor, delivery) == Absent()
    time.sleep(0.35)
    assert found(vendor, delivery) == Found("12345")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("rate_limit", Throttled), ("unauthorized", Unusable), ("server_error", Transient), ("bad_gateway", Transient),
     ("reset_before", Transient)],
)  # fmt: skip
def test_an_outage_is_one_for_look_ups_and_checks_too(
    box: Sandbox, vendor: UonTravelVendor, fault: str, kind: type[DeliveryError]
) -> None:
    box.faults.always("uontravel", fault)
    with pytest.raises(kind):
        found(vendor, recent())
    with pytest.raises(kind):
        checked(vendor)
    box.faults.always("uontravel", "reject")
    assert found(vendor, recent()) == Absent()
    assert "3 managers" in checked(vendor)


def test_the_boxes_of_the_key(box: Sandbox, vendor: UonTravelVendor) -> None:
    vendor.may_post = False
    refused = sent(vendor, make_delivery())
    assert isinstance(refused, Unusable)
    assert "POST is not allowed" in refused.message
    assert found(vendor, recent()) == Absent()
    vendor.may_post, vendor.may_get = True, False
    with pytest.raises(Unusable, match="GET is not allowed"):
        checked(vendor)
    assert box.judge.creations() == []


def test_a_white_list_is_silence(vendor: UonTravelVendor) -> None:
    vendor.locked_out = True
    cut = sent(vendor, make_delivery())
    assert isinstance(cut, Ambiguous)
    assert "white list" in cut.message
    with pytest.raises(Transient, match="white list"):
        checked(vendor)


def test_a_lead_that_is_refused_is_named(box: Sandbox, vendor: UonTravelVendor) -> None:
    refused = sent(vendor, make_delivery(), {"fields": {"date_from": "{{ lead.comment }}"}})
    assert isinstance(refused, Rejected)
    assert refused.path == "date_from"
    of_all = sent(vendor, make_delivery(), {"fields": {"status_id": "99"}})
    assert isinstance(of_all, Unusable)
    assert of_all.path == "status_id"
    assert box.judge.creations() == []


def test_a_wrong_address_is_told_without_the_key(box: Sandbox, vendor: UonTravelVendor) -> None:
    async def run() -> Receipt:
        channel = uon({}, {**vendor.credential(), "base_url": f"{vendor.url}/{API_KEY}"}, clock=SystemClock())
        try:
            return (await channel.send(channel.steps[0], [make_delivery()])).receipts["lc-abc123-42-7"]
        except DeliveryError as error:
            return error
        finally:
            await channel.close()

    receipt = asyncio.run(run())
    assert isinstance(receipt, Unusable)
    assert "base_url" in receipt.message
    assert API_KEY not in receipt.message + receipt.answer
    assert "***" in receipt.answer
    assert box.judge.creations() == []


# How strict the account is


def create(http: httpx.Client, form: Mapping[str, Any]) -> httpx.Response:
    return http.post("/lead/create.json", data=dict(form))


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ({}, "u_phone"),
        ({"u_name": "Anna", "u_phone": " "}, "u_phone"),
        ({**GOOD, "r_u_id": "9"}, "r_u_id"),
        ({**GOOD, "r_co_id": "x"}, "r_co_id"),
        ({**GOOD, "r_ci_id": "2"}, "r_ci_id"),
        ({**GOOD, "status_id": "99"}, "status_id"),
        ({**GOOD, "budget": "much"}, "budget"),
        ({**GOOD, "r_dat": "2026-03-01"}, "r_dat"),
        ({**GOOD, "r_dat": "2026-3-1 10:00:00"}, "r_dat"),
        ({**GOOD, "date_from": "01.03.2026"}, "date_from"),
        ({**GOOD, "reminder_datetime": "2026-03-01 10:00:00"}, "reminder_datetime"),
        ({**GOOD, "extended_fields[199890]": "a field of requests"}, "extended_fields[199890]"),
        ({**GOOD, "extended_fields[5]": "x"}, "extended_fields[5]"),
    ],
)
def test_wrong_parameters_are_refused(box: Sandbox, http: httpx.Client, form: Mapping[str, Any], name: str) -> None:
    answer = create(http, form)
    assert (answer.status_code, answer.json()) == (404, {"error": {"message": f"Parameter {name} is wrong"}})
    assert box.judge.creations() == []


def test_a_body_that_is_no_form_is_refused(box: Sandbox, http: httpx.Client) -> None:
    for content, kind in ((b"u_phone=1", "text/plain"), (b"[]", "application/json"), (b"{", "application/json")):
        answer = http.post("/lead/create.json", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 404
    assert box.judge.creations() == []


def test_every_contact_alone_is_enough_and_nothing_is_deduplicated(box: Sandbox, http: httpx.Client) -> None:
    for name in ("u_phone", "u_email", "u_telegram", "u_social_vk", "u_viber"):
        assert create(http, {name: "x", "no_such_field": "y"}).json()["result"] == 200
    first, second = (create(http, {**GOOD, "r_id_internal": "lc-abc123-1-7"}).json() for _ in range(2))
    assert (first["id"], second["id"]) == ("12350", "12351")
    assert box.judge.by_lead("uontravel")["1"] == 2
    assert box.judge.twins("uontravel") == []


def test_a_json_body_is_taken(vendor: UonTravelVendor, http: httpx.Client) -> None:
    body = {"u_email": "anna@example.com", "note": "[lc-abc123-8-7]", "extended_fields": {"199889": "кот"}}
    assert http.post("/lead/create.json", json=body).json() == {"result": 200, "id": "12345", "comment": ""}
    assert vendor.base.leads[12345].body["extended_fields"] == [{"id": 199889, "value": "кот"}]
    assert vendor.judge.by_lead("uontravel") == {"8": 1}


def test_a_plus_is_stored_as_a_space(vendor: UonTravelVendor, http: httpx.Client) -> None:
    create(http, {"u_phone": "+79990000001", "u_name": "Анна"})
    vendor.plus_is_lost, vendor.cyrillic_is_lost = False, True
    create(http, {"u_phone": "+79990000001", "u_name": "Анна"})
    shown = [(lead.body["client_phone"], lead.body["client_name"]) for lead in vendor.base.leads.values()]
    assert shown == [(" 79990000001", "Анна"), ("+79990000001", "????")]


def test_questions(vendor: UonTravelVendor, http: httpx.Client) -> None:
    form = {**GOOD, "u_email": "anna@example.com", "r_dat": "2026-03-01 10:00:00", "r_id_internal": "4711", "note": "x"}
    create(http, form)
    create(http, {**form, "u_phone": "79990000002"})
    today = f"{vendor.base.leads[12345].arrived:%Y-%m-%d}"
    (shown,) = http.get("/lead/12345.json").json()["lead"]
    assert (shown["id"], shown["id_internal"], shown["notes"], shown["dat"]) == ("12345", "4711", "x", form["r_dat"])
    page = http.get("/leads/2026-03-01/2026-03-01/1.json").json()
    assert ([lead["id"] for lead in page["leads"]], page["pages_all"]) == (["12346", "12345"], 1)
    for path in (f"/leads/updated/{today}/{today}/1.json", "/lead-by-client/10/1.json",
                 "/leads/2026-02-01/2026-03-01/1/1.json"):  # fmt: skip
        assert [lead["id"] for lead in http.get(path).json()["leads"]] == ["12346", "12345"], path
    assert http.get("/user/phone/79990000001.json").json() == {"users": [{"u_id": 10}], "result": 200}
    assert http.post("/user/email.json", data={"email": "Anna@example.com"}).json()["users"] == [{"u_id": 10}]
    searched = http.post("/lead/search.json", data={"date_create_from": today, "manager_ids": "2"}).json()
    assert len(searched["leads"]) == 2
    assert http.post("/lead/search.json", data={"manager_ids": "3"}).status_code == 404
    assert http.get("/manager.json").json()["users"][0] == {"u_id": 2, "u_email": "olga@example.com"}
    for path in ("status_lead", "company-office", "company", "source", "extended_field/1"):
        assert http.get(f"/{path}.json").json()["records"]


def test_nothing_found_and_no_route(vendor: UonTravelVendor, http: httpx.Client) -> None:
    empty = ("/lead/5.json", "/leads/2026-03-01/2026-03-01/1.json", "/lead-by-client/5/1.json", "/user/phone/5.json")
    for path in empty:
        answer = http.get(path)
        assert (answer.status_code, answer.json()["result"]) == (404, 404)
    vendor.empty_is_200 = True
    assert http.get(empty[0]).status_code == 200
    for method, path in (("POST", "/lead/update/5.json"), ("POST", "/lead/add.json"), ("GET", "/lead/create.json")):
        answer = http.request(method, path)
        assert answer.status_code == 404
        assert "No route found" in answer.json()["error"]["message"]
    assert http.get("/leads/yesterday/today/1.json").json() == {"error": {"message": "Parameter date_from is wrong"}}


def test_a_wrong_key_is_refused(vendor: UonTravelVendor) -> None:
    answer = httpx.post(f"{vendor.url}/wrong0Key/lead/create.json", data=GOOD)
    assert (answer.status_code, answer.json()) == (403, {"error": {"message": "API key is wrong"}})


def test_the_eleventh_request_of_a_second_is_too_fast() -> None:
    with running_sandbox(["uontravel"], scale=0.1) as box:
        vendor = box.vendor("uontravel")
        assert isinstance(vendor, UonTravelVendor)
        with httpx.Client(base_url=f"{vendor.url}/{API_KEY}") as http:
            assert [http.get("/manager.json").status_code for _ in range(11)] == [200] * 10 + [429]
            refused = create(http, GOOD)
            assert (refused.status_code, "retry-after" in refused.headers) == (429, False)
        assert box.judge.creations() == []
