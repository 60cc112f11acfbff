"""LPTracker over real sockets against the emulated account, and how strict that is."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from leadctl.channelkit.spec import Step
from leadctl.channels.lptracker import COMMENT, CONTACT, LEAD, LpTracker
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.model import Absent, Delivery, Done, Found
from leadctl.sandbox.lptracker import LOGIN, PASSWORD, LpTrackerVendor
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.testing.driver import with_done
from tests.support.channels import make_delivery, make_lead, open_channel

SCALE = 100.0
CONTACT_BODY = {"project_id": 41823, "name": "Anna", "details": [{"type": "phone", "data": "+7 900 000-00-01"}]}


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["lptracker"], scale=1e5) as running:
        yield running


@pytest.fixture
def vendor(box: Sandbox) -> LpTrackerVendor:
    found = box.vendor("lptracker")
    assert isinstance(found, LpTrackerVendor)
    return found


@pytest.fixture
def http(vendor: LpTrackerVendor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=vendor.url) as client:
        client.headers["token"] = login(client)["result"]["token"]
        yield client


def login(client: httpx.Client, **changes: Any) -> Any:
    body = {"login": LOGIN, "password": PASSWORD, "service": "test", "version": "1.0", **changes}
    return client.post("/login", json={key: value for key, value in body.items() if value is not None}).json()


def connected(vendor: LpTrackerVendor, **settings: Any) -> LpTracker:
    data, settings = vendor.credential(), {**vendor.settings(), **settings}
    channel = open_channel("lptracker", data, settings, clock=SystemClock(), scale=SCALE)
    assert isinstance(channel, LpTracker)
    return channel


async def carried(channel: LpTracker, delivery: Delivery, *steps: Step) -> Delivery:
    """The delivery with these steps done. Raises DeliveryError."""
    for step in steps:
        delivery = replace(delivery, context=await channel.prepare(step))
        receipt = (await channel.send(step, [delivery])).receipts[delivery.key]
        assert isinstance(receipt, Done), repr(receipt)
        delivery = with_done(delivery, step, receipt)
    return delivery


def carry(channel: LpTracker, delivery: Delivery, *steps: Step) -> Delivery:
    async def run() -> Delivery:
        try:
            return await carried(channel, delivery, *steps)
        finally:
            await channel.close()

    return asyncio.run(run())


def code(answer: httpx.Response) -> int | None:
    """The code of an error in the body; None: a success."""
    body = answer.json()
    return None if body["status"] == "success" else int(body["errors"][0]["code"])


# leadctl against the account


def test_a_lead_takes_five_requests_and_one_login(box: Sandbox, vendor: LpTrackerVendor) -> None:
    channel = connected(vendor, fields={"бюджет": "{{ lead.answers.budget }}", "Город": "Казань"})
    done = carry(channel, make_delivery(), CONTACT, LEAD, COMMENT).done
    assert box.judge.requests("lptracker") == 5 + 5, "login, project, funnel, staff and customs come once"
    (lead,) = vendor.leads.values()
    assert lead.body["custom"] == [
        {"id": 2079688, "type": "text", "name": "Бюджет", "value": "100 000"},
        {"id": 2098950, "type": "cats", "name": "Город", "value": ["Казань"]},
    ]
    assert (str(lead.body["contact_id"]), str(lead.body["id"])) == (done["contact"], done["lead"])
    assert (lead.body["owner"], lead.body["funnel"]) == (7301, 1230456)
    assert vendor.contacts[int(done["contact"])]["details"][0]["data"] == "79000000001"
    assert [comment["text"].splitlines()[-1] for comment in vendor.comments()] == ["Номер: 42 [lc-abc123-42-7]"]
    assert box.judge.by_lead("lptracker") == {"42": 1}
    assert (vendor.logins, vendor.calls) == (1, [])


def test_two_leads_of_a_person_have_one_contact(vendor: LpTrackerVendor) -> None:
    first = carry(connected(vendor), make_delivery(), CONTACT, LEAD)
    again = make_delivery(make_lead(id=43, phone=""))
    assert carry(connected(vendor), again, CONTACT, LEAD).done["contact"] == first.done["contact"]
    vendor.lag = 60.0
    other = make_lead(id=44, phone="+7 900 000-00-44", email="b@example.com")

    async def run() -> list[str]:
        channel = connected(vendor)
        both = [make_delivery(other), make_delivery(replace(other, id=45))]
        found = [(await carried(channel, delivery, CONTACT)).done["contact"] for delivery in both]
        await channel.close()
        return found

    assert len(set(asyncio.run(run()))) == 1, "although the search does not show it yet"
    assert len(vendor.contacts) == 2


def test_a_call_is_made_where_it_is_asked_for(vendor: LpTrackerVendor) -> None:
    done = carry(connected(vendor, callback=True), make_delivery(), CONTACT, LEAD).done
    assert vendor.calls == [int(done["lead"])]


@pytest.mark.parametrize("fault", ["reset", "broken_answer", "bad_gateway_after", "bad_gateway", "reset_before"])
def test_what_is_in_doubt_is_asked_for_in_each_step(box: Sandbox, vendor: LpTrackerVendor, fault: str) -> None:
    there = fault not in ("bad_gateway", "reset_before")

    async def run() -> None:
        channel = connected(vendor)
        delivery = make_delivery(make_lead(email="lead42@example.com"))
        for step, made in ((CONTACT, vendor.contacts), (LEAD, vendor.leads), (COMMENT, None)):
            box.faults.script("lptracker", 42, [fault])
            delivery = replace(delivery, context=await channel.prepare(step))
            with pytest.raises(Ambiguous):
                await channel.send(step, [delivery])
            finding = (await channel.find(step, [delivery]))[delivery.key]
            if not there:
                assert finding == Absent()
                delivery = await carried(channel, delivery, step)
                continue
            assert isinstance(finding, Found)
            expected = [comment["id"] for comment in vendor.comments()] if made is None else list(made)
            assert [finding.remote_id] == list(map(str, expected))
            delivery = with_done(delivery, step, Done(finding.remote_id))
        await channel.close()

    asyncio.run(run())
    assert box.judge.by_lead("lptracker") == {"42": 1}
    assert (len(vendor.contacts), len(vendor.comments())) == (1, 1)


def test_a_new_lead_takes_no_comment_and_stands_in_no_list_yet(vendor: LpTrackerVendor) -> None:
    vendor.lag = 0.3

    async def run() -> None:
        channel = connected(vendor)
        delivery = await carried(channel, make_delivery(), CONTACT, LEAD)
        assert (await channel.find(LEAD, [delivery]))[delivery.key] == Absent()
        with pytest.raises(Transient) as caught:
            await channel.send(COMMENT, [delivery])
        assert caught.value.retry_after
        await asyncio.sleep(0.4)
        await carried(channel, delivery, COMMENT)
        assert (await channel.find(LEAD, [delivery]))[delivery.key] == Found(delivery.done["lead"])
        await channel.close()

    asyncio.run(run())


def test_a_token_that_died_is_renewed_without_a_second_lead(box: Sandbox, vendor: LpTrackerVendor) -> None:
    async def run() -> None:
        channel = connected(vendor)
        delivery = await carried(channel, make_delivery(), CONTACT)
        vendor.tokens.clear()
        delivery = await carried(channel, delivery, LEAD)
        vendor.tokens.clear()
        await carried(channel, delivery, COMMENT)
        await channel.close()

    asyncio.run(run())
    assert vendor.logins == 3
    assert box.judge.by_lead("lptracker") == {"42": 1}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("rate_limit", Throttled), ("server_error", Transient), ("unauthorized", Unusable), ("bad_gateway", Transient),
        ("reset_before", Transient), ("reject", Rejected), ("error_body", Ambiguous), ("reset", Transient),
    ],
)  # fmt: skip
def test_an_outage_of_everything_makes_nothing(
    box: Sandbox, vendor: LpTrackerVendor, fault: str, expected: type[DeliveryError]
) -> None:
    """A login and a question that fail leave nothing in doubt; a refusal of what is made is no outage."""
    box.faults.always("lptracker", fault)
    with pytest.raises(DeliveryError) as caught:
        carry(connected(vendor), make_delivery(), CONTACT)
    assert type(caught.value) is expected
    assert vendor.contacts == {}


@pytest.mark.parametrize("bare", [False, True])
def test_the_check_names_the_project(box: Sandbox, vendor: LpTrackerVendor, bare: bool) -> None:
    vendor.bare_lists = bare

    async def run(**changes: Any) -> str:
        channel = open_channel("lptracker", {**vendor.credential(), **changes}, vendor.settings(), scale=SCALE)
        try:
            return await channel.check()
        finally:
            await channel.close()

    assert asyncio.run(run()) == f"project Site (41823) at {vendor.url.removeprefix('http://')}"
    for wrong in ({"password": "wrong-password"}, {"project_id": 5}):
        with pytest.raises(Unusable):
            asyncio.run(run(**wrong))
    assert box.judge.creations() == []


# How strict the account is


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"password": "x"}, 401), ({"login": "x"}, 401), ({"service": None}, 400), ({"version": None}, 400),
        ({"version": "2.0"}, 400), ({"service": ""}, 400),
    ],
)  # fmt: skip
def test_a_wrong_login_is_told_in_the_body(http: httpx.Client, changes: Mapping[str, Any], expected: int) -> None:
    assert login(http, **changes)["errors"][0]["code"] == expected


def test_tokens_die_of_idleness_and_of_logout(vendor: LpTrackerVendor, http: httpx.Client) -> None:
    assert code(http.get("/projects")) is None
    assert code(http.get("/projects", headers={"token": "unknown"})) == 401
    vendor.idle = 0.05
    time.sleep(0.06)
    assert code(http.get("/projects")) == 401
    vendor.idle = 60.0
    assert code(http.post("/logout")) is None
    assert code(http.get("/projects")) == 401


@pytest.mark.parametrize(
    "contact",
    [
        {"project_id": 5}, {"project_id": "41823"}, {"details": []}, {"details": [{"type": "skype", "data": "x"}]},
        {"details": [{"type": "phone", "data": "12"}]}, {"details": [{"type": "email", "data": "x"}]},
        {"details": [{"type": "fax", "data": "+79000000001"}]}, {"details": "x"}, {"name": "x" * 256},
        {"fields": {"13": "x"}}, {"colour": "red"},
    ],
)  # fmt: skip
def test_a_wrong_contact_is_refused(vendor: LpTrackerVendor, http: httpx.Client, contact: Mapping[str, Any]) -> None:
    answer = http.post("/contact", json={**CONTACT_BODY, **contact})
    assert (answer.status_code, code(answer)) == (200, 400)
    assert vendor.contacts == {}


@pytest.mark.parametrize(
    "lead",
    [
        {"contact_id": 5}, {"contact_id": None}, {"funnel": 1230466}, {"funnel": "1230456"}, {"owner": 5},
        {"name": 5}, {"name": "x" * 256}, {"callback": "no"}, {"custom": {"5": "x"}}, {"custom": {"2079688": ["x"]}},
        {"custom": []}, {"custom": {"2098950": "Казань"}}, {"custom": {"2098950": ["Тула"]}},
        {"custom": {"2098951": ["Покупка"]}}, {"view": {"medium": "cpc"}}, {"view": {"source": 5}}, {"colour": "red"},
        {"contact": {}},
    ],
)  # fmt: skip
def test_a_wrong_lead_is_refused(box: Sandbox, http: httpx.Client, lead: Mapping[str, Any]) -> None:
    contact = http.post("/contact", json=CONTACT_BODY).json()["result"]["id"]
    answer = http.post("/lead", json={"contact_id": contact, **lead})
    assert (answer.status_code, code(answer)) == (200, 400)
    assert box.judge.creations() == []


def test_a_nested_contact_is_always_a_new_one_and_nothing_is_merged(
    box: Sandbox, vendor: LpTrackerVendor, http: httpx.Client
) -> None:
    body = {"contact": CONTACT_BODY, "name": "x [lc-abc123-9-7]", "custom": {"2098951": "Покупка"}}
    first, second = (http.post("/lead", json=body).json()["result"] for _ in range(2))
    assert first["contact"]["id"] != second["contact"]["id"]
    assert first["custom"] == [{"id": 2098951, "type": "cats", "name": "Тема", "value": "Покупка"}]
    assert box.judge.by_lead("lptracker") == {"9": 2}
    found = http.get("/contact/search?project_id=41823&phone=79000000001").json()["result"]
    assert [contact["id"] for contact in found] == list(vendor.contacts)
    (lead,) = http.get(f"/contact/{first['contact_id']}/leads").json()["result"]
    assert (lead["id"], "custom" in lead) == (first["id"], False)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/contact/search?project_id=41823", 400), ("/contact/search?project_id=41824&phone=79000000001", None),
        ("/contact/5", 404), ("/contact/5/leads", 404), ("/lead/5", 404), ("/lead/5/comments", 404),
        ("/lead/5/list", 404), ("/lead/41823/list?limit=201", 400), ("/lead/41823/list?limit=x", 400),
        ("/lead/41823/list?offset=-1", 400), ("/project/5", 404), ("/project/41823", None), ("/staff", None),
        ("/project/41823/fields", None), ("/project/41823/funnel", None), ("/project/5/customs", 404),
        ("/unknown", 404),
    ],
)  # fmt: skip
def test_questions_are_answered_with_http_200(http: httpx.Client, path: str, expected: int | None) -> None:
    answer = http.get(path)
    assert (answer.status_code, code(answer)) == (200, expected)


def test_lists_are_sorted_paged_and_filtered(http: httpx.Client) -> None:
    contact = http.post("/contact", json=CONTACT_BODY).json()["result"]["id"]
    ids = [http.post("/lead", json={"contact_id": contact}).json()["result"]["id"] for _ in range(3)]

    def listed(**query: Any) -> list[int]:
        return [lead["id"] for lead in http.get("/lead/41823/list", params=query).json()["result"]]

    assert listed(offset=0, limit=2, **{"sort[created_at]": 3}) == [ids[2], ids[1]]
    assert listed(offset=2, limit=2, **{"sort[created_at]": 3}) == [ids[0]]
    assert listed() == ids
    assert listed(**{"filter[created_at_from]": int(time.time()) + 60}) == []


@pytest.mark.parametrize("text", ["", " ", 5, None])
def test_a_wrong_comment_is_refused(vendor: LpTrackerVendor, http: httpx.Client, text: object) -> None:
    lead = http.post("/lead", json={"contact": CONTACT_BODY}).json()["result"]["id"]
    assert code(http.post(f"/lead/{lead}/comment", json={"text": text})) == 400
    assert http.post("/lead/5/comment", json={"text": "x"}).json()["errors"][0]["message"] == "Invalid lead id"
    assert vendor.comments() == []


def test_the_fourth_request_in_a_second_is_refused_logins_too() -> None:
    with running_sandbox(["lptracker"], scale=0.1) as box:
        vendor = box.vendor("lptracker")
        assert isinstance(vendor, LpTrackerVendor)
        with httpx.Client(base_url=vendor.url) as client:
            assert [login(client)["status"] for _ in range(4)] == ["success"] * 3 + ["error"]
            refused = client.get("/projects")
            assert (refused.status_code, code(refused)) == (200, 503)
            vendor.status_503 = True
            assert client.get("/projects").status_code == 503
