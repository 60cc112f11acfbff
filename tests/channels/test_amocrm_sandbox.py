"""amoCRM over real sockets against the emulated account, and how strict that is."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from leadctl.channels.amocrm import AmoCrm
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, LimitReached, Throttled, Unusable
from leadctl.domain.events import Event, Notice, TokenRefreshed
from leadctl.domain.model import Absent, Delivery, Done, Finding, Found, Verdict
from leadctl.sandbox.amocrm import BAN_AFTER, LONG_LIVED, AmoCrmVendor
from leadctl.sandbox.server import Sandbox, running_sandbox
from tests.support.amocrm import amo, batch_of
from tests.support.channels import MemoryCredentials, make_delivery, make_lead

COMPLEX = "/api/v4/leads/complex"


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["amocrm"], scale=1000) as running:
        yield running


@pytest.fixture
def vendor(box: Sandbox) -> AmoCrmVendor:
    found = box.vendor("amocrm")
    assert isinstance(found, AmoCrmVendor)
    return found


@pytest.fixture
def http(vendor: AmoCrmVendor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=vendor.url, headers={"Authorization": f"Bearer {LONG_LIVED}"}) as client:
        yield client


def connected(vendor: AmoCrmVendor, data: Mapping[str, Any] | None = None, **more: Any) -> AmoCrm:
    return amo(None, vendor.settings(), data or vendor.credential(), clock=SystemClock(), scale=100, **more)


async def sent(channel: AmoCrm, batch: list[Delivery], step: int = 0) -> Verdict:
    try:
        return await channel.send(channel.steps[step], batch)
    finally:
        await channel.close()


async def found(channel: AmoCrm, delivery: Delivery, step: int = 0) -> Finding:
    try:
        return (await channel.find(channel.steps[step], [delivery]))[delivery.key]
    finally:
        await channel.close()


# leadctl against the account


def test_fifty_leads_and_their_notes_travel_in_two_requests(box: Sandbox, vendor: AmoCrmVendor) -> None:
    channel, batch = connected(vendor), batch_of(50)
    receipts = asyncio.run(sent(channel, batch)).receipts
    done = {key: receipt.remote_id for key, receipt in receipts.items() if isinstance(receipt, Done)}
    assert len(done) == 50
    notes = asyncio.run(sent(channel, [replace(d, done={"lead": done[d.key] or ""}) for d in batch], step=1)).receipts
    assert all(isinstance(receipt, Done) for receipt in notes.values())
    assert box.judge.requests("amocrm") == 2
    assert box.judge.by_lead("amocrm") == {str(number): 1 for number in range(1, 51)}
    assert {note["params"]["text"].splitlines()[-1] for note in vendor.notes()} == {
        f"Номер: {number} [lc-abc123-{number}-7]" for number in range(1, 51)
    }


def test_a_lead_behind_the_index_is_found_at_the_second_look(box: Sandbox, vendor: AmoCrmVendor) -> None:
    vendor.index_lag = 0.4
    box.faults.script("amocrm", 42, ["reset"])
    channel = connected(vendor)

    async def run() -> tuple[Finding, Finding]:
        step = channel.steps[0]
        delivery = make_delivery(context=await channel.prepare(step))
        with pytest.raises(Ambiguous):
            await channel.send(step, [delivery])
        first = await found(channel, delivery)
        await asyncio.sleep(0.5)
        return first, await found(channel, delivery)

    first, second = asyncio.run(run())
    assert first == Absent()
    assert isinstance(second, Found)
    assert second.remote_id == box.judge.creations("amocrm")[0].remote_id
    assert second.parts == {"contact": str(vendor.leads[int(second.remote_id)].contact_id)}


def test_a_note_in_doubt_is_found_and_makes_no_second_lead(box: Sandbox, vendor: AmoCrmVendor) -> None:
    box.faults.script("amocrm", 42, ["ok", "timeout"])
    channel = connected(vendor)
    (receipt,) = asyncio.run(sent(channel, [make_delivery()])).receipts.values()
    assert isinstance(receipt, Done)
    delivery = make_delivery(done={"lead": receipt.remote_id or ""})
    assert asyncio.run(found(channel, delivery, step=1)) == Absent()
    with pytest.raises(Ambiguous):
        asyncio.run(sent(channel, [delivery], step=1))
    assert asyncio.run(found(channel, delivery, step=1)) == Found(str(vendor.notes()[0]["id"]))
    assert box.judge.by_lead("amocrm") == {"42": 1}


def test_duplicate_control_merges_and_is_told(box: Sandbox, vendor: AmoCrmVendor) -> None:
    vendor.duplicate_control = True
    events: list[Event] = []
    channel = connected(vendor, events=events)
    asyncio.run(sent(channel, [make_delivery()]))
    receipts = asyncio.run(sent(channel, batch_of(2))).receipts  # the same phone
    assert [receipt.parts["merged"] for receipt in receipts.values() if isinstance(receipt, Done)] == ["9774766"] * 2
    assert [event.code for event in events if isinstance(event, Notice)] == ["merged", "merged"]
    assert box.judge.by_lead("amocrm") == {"42": 1}
    assert [twin.lead for twin in box.judge.twins("amocrm")] == ["1", "2"]


def test_tokens_rotate_in_one_process_after_another(vendor: AmoCrmVendor) -> None:
    vendor.oauth.expire()
    data = dict(vendor.oauth_credential(expires_at=time.time() + 9000))
    rows, events = MemoryCredentials({7: dict(data)}), list[Event]()
    for number in (1, 2):
        channel = connected(vendor, data, credentials=rows, events=events)
        asyncio.run(sent(channel, [make_delivery(make_lead(id=number))]))
    assert vendor.oauth.refreshed == 1
    assert rows.rows[7]["access_token"] == vendor.oauth.access_token
    assert rows.rows[7]["refresh_token"] == vendor.oauth.refresh_token
    assert [event for event in events if isinstance(event, TokenRefreshed)] == [TokenRefreshed("amocrm", 7)]


def test_a_revoked_refresh_token_parks_and_sends_nothing(box: Sandbox, vendor: AmoCrmVendor) -> None:
    data = {**vendor.oauth_credential(), "access_token": "wrong-token", "refresh_token": "wrong-refresh"}
    with pytest.raises(Unusable, match="Token has been revoked"):
        asyncio.run(sent(connected(vendor, data), [make_delivery()]))
    assert box.judge.creations() == []


def test_a_ban_ends_the_credential_and_keeps_its_tokens(vendor: AmoCrmVendor) -> None:
    vendor.banned = True
    data = dict(vendor.oauth_credential(expires_at=1))
    rows = MemoryCredentials({7: dict(data)})
    with pytest.raises(LimitReached):
        asyncio.run(sent(connected(vendor, data, credentials=rows), [make_delivery()]))
    assert rows.rows[7] == data


def test_an_outage_is_an_outage_for_look_ups_too(box: Sandbox, vendor: AmoCrmVendor) -> None:
    box.faults.always("amocrm", "rate_limit")
    with pytest.raises(Throttled):
        asyncio.run(found(connected(vendor), make_delivery()))
    box.faults.always("amocrm", None)
    assert asyncio.run(found(connected(vendor), make_delivery())) == Absent()


# How strict the account is

VALUES = [{"field_id": 771001, "values": [{"value": "x"}]}]


def contact(**changes: Any) -> dict[str, Any]:
    return {"_embedded": {"contacts": [{"first_name": "A", **changes}]}}


@pytest.mark.parametrize(
    ("lead", "code", "path"),
    [
        ({"pipeline_id": 5}, "NotSupportedChoice", "pipeline_id"),
        ({"pipeline_id": 3383155, "status_id": 33929749}, "NotSupportedChoice", "status_id"),
        ({"responsible_user_id": 5}, "NotSupportedChoice", "responsible_user_id"),
        ({"created_by": 5}, "NotSupportedChoice", "created_by"),
        ({"name": 5}, "InvalidType", "name"),
        ({"price": "5"}, "InvalidType", "price"),
        ({"colour": "red"}, "NotExpected", "colour"),
        ({"custom_fields_values": [{"field_id": 5, "values": [{"value": "x"}]}]}, "NotSupportedChoice",
         "custom_fields_values.0.field_id"),
        ({"custom_fields_values": [*VALUES, {"field_code": "UTM_X", "values": [{"value": "x"}]}]}, "NotSupportedChoice",
         "custom_fields_values.1.field_code"),
        ({"custom_fields_values": [{"field_id": 771003, "values": [{"value": "many"}]}]}, "InvalidType",
         "custom_fields_values.0.values.0.value"),
        ({"custom_fields_values": [{"field_id": 771004, "values": [{"value": "warm"}]}]}, "NotSupportedChoice",
         "custom_fields_values.0.values.0.value"),
        ({"custom_fields_values": [{"field_id": 771001, "values": []}]}, "InvalidType",
         "custom_fields_values.0.values"),
        ({"custom_fields_values": [{"values": [{"value": "x"}]}]}, "InvalidType", "custom_fields_values.0"),
        ({"custom_fields_values": {}}, "InvalidType", "custom_fields_values"),
        ({"custom_fields_values": VALUES * 41}, "TooMany", "custom_fields_values"),
        ({"_embedded": {"contacts": [{"first_name": "A"}] * 2}}, "TooMany", "_embedded.contacts"),
        ({"_embedded": {"contacts": [{}]}}, "InvalidType", "_embedded.contacts.0"),
        ({"_embedded": {"tags": [{"name": ""}]}}, "InvalidType", "_embedded.tags.0.name"),
        ({"_embedded": []}, "InvalidType", "_embedded"),
        (contact(first_name=5), "InvalidType", "_embedded.contacts.0.first_name"),
        (contact(custom_fields_values=[{"field_code": "PHONE", "values": [{"value": "1", "enum_code": "CAR"}]}]),
         "NotSupportedChoice", "_embedded.contacts.0.custom_fields_values.0.values.0.enum_code"),
    ],
)  # fmt: skip
def test_one_wrong_lead_refuses_the_request(
    box: Sandbox, http: httpx.Client, lead: Mapping[str, Any], code: str, path: str
) -> None:
    answer = http.post(COMPLEX, json=[{"name": "good"}, {"request_id": "r2", **lead}])
    assert answer.status_code == 400
    (named,) = answer.json()["validation-errors"]
    assert named["request_id"] == "r2"
    assert (named["errors"][0]["code"], named["errors"][0]["path"]) == (code, path)
    assert box.judge.creations() == []


@pytest.mark.parametrize(("body", "status"), [({}, 400), ([], 400), ([1], 400), ([{}] * 51, 422), (None, 400)])
def test_other_bodies_are_refused(box: Sandbox, http: httpx.Client, body: Any, status: int) -> None:
    assert http.post(COMPLEX, json=body).status_code == status
    assert box.judge.creations() == []


@pytest.mark.parametrize(
    ("note", "path"),
    [
        ({"entity_id": 5}, "entity_id"),
        ({"note_type": "call_in"}, "note_type"),
        ({"params": {"text": ""}}, "params.text"),
        ({"text": "x"}, "text"),
    ],
)
def test_a_wrong_note_is_refused(vendor: AmoCrmVendor, http: httpx.Client, note: Mapping[str, Any], path: str) -> None:
    lead_id = http.post(COMPLEX, json=[{}]).json()[0]["id"]
    good = {"entity_id": lead_id, "note_type": "common", "params": {"text": "x"}}
    answer = http.post("/api/v4/leads/notes", json=[good, {**good, **note}])
    assert answer.status_code == 400
    assert path in [error["path"] for error in answer.json()["validation-errors"][0]["errors"]]
    assert vendor.notes() == []


def test_the_answer_is_a_bare_array_and_nothing_is_deduplicated(http: httpx.Client) -> None:
    lead = {"name": "x", "request_id": "r", **contact()}
    first, second = http.post(COMPLEX, json=[lead]), http.post(COMPLEX, json=[lead])
    assert first.json() == [
        {"id": 9774766, "contact_id": 12117258, "company_id": None, "request_id": ["r"], "merged": False}
    ]
    assert second.json()[0]["id"] == 9774767


def test_lists_are_ordered_paged_searched_and_never_filtered(vendor: AmoCrmVendor, http: httpx.Client) -> None:
    assert http.get("/api/v4/leads").status_code == 204
    http.post(COMPLEX, json=[{"name": f"lead {number}", **contact()} for number in range(5)])
    page = http.get("/api/v4/leads?order[id]=desc&limit=2&page=1&filter[id][]=1").json()
    ids = [lead["id"] for lead in page["_embedded"]["leads"]]
    assert ids == [9774770, 9774769]
    assert "contacts" not in page["_embedded"]["leads"][0]["_embedded"]
    following = http.get(page["_links"]["next"]["href"]).json()
    assert [lead["id"] for lead in following["_embedded"]["leads"]] == [9774768, 9774767]
    last = http.get("/api/v4/leads?limit=2&page=3&with=contacts").json()
    assert "next" not in last["_links"]
    assert last["_embedded"]["leads"][0]["_embedded"]["contacts"][0]["id"] == vendor.leads[9774770].contact_id
    assert [lead["name"] for lead in http.get("/api/v4/leads?query=lead 3").json()["_embedded"]["leads"]] == ["lead 3"]
    assert http.get("/api/v4/leads?limit=251").status_code == 422
    assert http.get("/api/v4/leads/5/notes").status_code == 404
    assert http.get(f"/api/v4/leads/{ids[0]}/notes").status_code == 204


def test_unsorted_takes_leads_with_metadata(vendor: AmoCrmVendor, http: httpx.Client) -> None:
    vendor.unsorted_on = True
    http.post(COMPLEX, json=[{"_embedded": {"metadata": {"category": "forms"}}}, {}])
    assert [lead.body["status_id"] for lead in vendor.leads.values()] == [33929746, 33929749]


def test_too_many_requests_are_refused_and_then_banned() -> None:
    with running_sandbox(["amocrm"], scale=0.2) as box:
        vendor = box.vendor("amocrm")
        assert isinstance(vendor, AmoCrmVendor)
        with httpx.Client(base_url=vendor.url, headers={"Authorization": f"Bearer {LONG_LIVED}"}) as http:
            statuses = [http.get("/api/v4/account").status_code for _ in range(7)]
            assert statuses == [200] * 7
            refused = http.get("/api/v4/account")
            assert (refused.status_code, refused.json()["retry_after"]) == (429, 5)
            vendor.html_429 = True
            assert "html" in http.get("/api/v4/account").headers["content-type"]
            for _ in range(BAN_AFTER):
                http.get("/api/v4/account")
            for banned in (http.get("/api/v4/account"), http.post("/oauth2/access_token", json={})):
                assert (banned.status_code, banned.headers["content-type"]) == (403, "text/html; charset=utf-8")


def refresh(http: httpx.Client, vendor: AmoCrmVendor, token: str) -> httpx.Response:
    body = {
        "client_id": vendor.oauth.client_id,
        "client_secret": vendor.oauth.client_secret,
        "redirect_uri": vendor.oauth.redirect_uri,
        "grant_type": "refresh_token",
        "refresh_token": token,
    }
    return http.post("/oauth2/access_token", json=body)


def test_an_old_refresh_token_works_until_the_new_pair_is_used(vendor: AmoCrmVendor, http: httpx.Client) -> None:
    old = vendor.oauth.refresh_token
    refresh(http, vendor, old)
    pair = refresh(http, vendor, old).json()
    assert http.get("/api/v4/account", headers={"Authorization": f"Bearer {pair['access_token']}"}).status_code == 200
    refused = refresh(http, vendor, old)
    assert (refused.status_code, refused.json()["hint"]) == (401, "Token has been revoked")
    assert refresh(http, vendor, pair["refresh_token"]).status_code == 200
    vendor.oauth.strict = True
    current = vendor.oauth.refresh_token
    assert refresh(http, vendor, current).status_code == 200
    assert refresh(http, vendor, current).status_code == 401


def test_a_token_without_rights_or_life_is_refused(vendor: AmoCrmVendor, http: httpx.Client) -> None:
    wrong = http.post("/oauth2/access_token", json={"refresh_token": vendor.oauth.refresh_token})
    assert wrong.status_code == 401
    vendor.oauth.life = 0.0
    spent = refresh(http, vendor, vendor.oauth.refresh_token).json()["access_token"]
    for token in (spent, "unknown"):
        answer = http.get("/api/v4/account", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["detail"]) == (401, "Invalid user name or password")
