"""How strict the emulated GetResponse account is."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from leadctl.sandbox.getresponse import API_KEY, CODES, GetResponseVendor
from leadctl.sandbox.server import Sandbox, running_sandbox


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


GOOD: Mapping[str, Any] = {"email": "a@example.com", "campaign": {"campaignId": "p86zQ"}}


def custom(identity: str, *values: Any) -> dict[str, Any]:
    return {"customFieldValues": [{"customFieldId": identity, "value": list(values)}]}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"campaign": {"campaignId": "p86zQ"}}, 1000),
        ({"email": "a@example.com"}, 1000),
        ({**GOOD, "campaign": {"campaignId": "p86zq"}}, 1001),
        ({**GOOD, "campaign": "p86zQ"}, 1006),
        ({**GOOD, "email": "no at"}, 1003),
        ({**GOOD, "name": ""}, 1000),
        ({**GOOD, "name": "x" * 129}, 1000),
        ({**GOOD, "note": "x"}, 1000),
        ({**GOOD, "dayOfCycle": 0}, 1006),
        ({**GOOD, "ipAddress": "10.0.0.1"}, 1003),
        ({**GOOD, "tags": [{"tagId": "nope"}]}, 1001),
        ({**GOOD, **custom("nope", "x")}, 1001),
        ({**GOOD, **custom("n", "89000000001")}, 1003),
        ({**GOOD, **custom("rAd10", "gold")}, 1000),
        ({**GOOD, **custom("bQ7dx", "x" * 256)}, 1007),
        ({**GOOD, **custom("bQ7dx", "")}, 1005),
        ({**GOOD, **custom("bQ7dx", 5)}, 1006),
        ({**GOOD, "customFieldValues": [{"customFieldId": "bQ7dx", "value": "x"}]}, 1006),
        ({**GOOD, "customFieldValues": {}}, 1006),
        ([], 1006),
    ],
)
def test_what_the_account_refuses(body: Any, code: int, http: httpx.Client, vendor: GetResponseVendor) -> None:
    answer = http.post("/contacts", json=body)
    said = answer.json()
    assert (said["code"], said["httpStatus"], answer.status_code) == (code, CODES[code][0], CODES[code][0])
    assert {"codeDescription", "message", "moreInfo", "context", "uuid"} <= said.keys()
    assert not vendor.base.contacts


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"X-Auth-Token": API_KEY}, 1014),
        ({"X-Auth-Token": "api-key nope"}, 1014),
        ({"X-Domain": "acme.example"}, 1021),
        ({"Content-Type": "text/plain"}, 1021),
        ({"Content-Type": "application/json"}, 1000),
    ],
)
def test_headers_and_json(headers: dict[str, str], code: int, http: httpx.Client) -> None:
    assert http.post("/contacts", content="{", headers=headers).json()["code"] == code


def test_202_has_no_body_and_three_headers(http: httpx.Client) -> None:
    answer = http.post("/contacts", json={**GOOD, "tags": [{"tagId": "m7E2"}], "dayOfCycle": "0"})
    assert (answer.status_code, answer.content) == (202, b"")
    rates = [answer.headers[f"X-RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")]
    assert rates == ["30000", "29999", "432 seconds"]
    assert http.post("/contacts", json=GOOD).status_code == 409


def test_a_search_finds_what_is_like_it(http: httpx.Client) -> None:
    for email in ("anna@example.com", "joanna@example.com"):
        http.post("/contacts", json={**GOOD, "email": email})

    def found(**query: str) -> list[str]:
        params = {(f"query[{name}]" if name != "additionalFlags" else name): text for name, text in query.items()}
        return [item["email"] for item in http.get("/contacts", params=params).json()]

    assert found(email="Anna@example.com") == ["anna@example.com", "joanna@example.com"]
    assert found(email="Anna@example.com", additionalFlags="exactMatch") == ["anna@example.com"]
    assert found(email="anna@example.com", campaignId="V") == []
    assert http.get("/contacts?query[phone]=1").json()["code"] == 1000


def test_an_update_replaces_and_an_addition_does_not(http: httpx.Client) -> None:
    http.post("/contacts", json={**GOOD, **custom("bQ7dx", "1")})
    (item,) = http.get("/contacts").json()
    path = f"/contacts/{item['contactId']}"
    assert http.post(f"{path}/custom-fields", json=custom("pVyRW", "2")).status_code == 200
    assert http.post(f"{path}/tags", json={"tags": [{"tagId": "m7E2"}]}).json() == {"tags": [{"tagId": "m7E2"}]}
    details = http.get(path).json()
    assert [custom["name"] for custom in details["customFieldValues"]] == ["budget", "comment"]
    http.post(path, json=custom("pVyRW", "3"))
    assert [custom["value"] for custom in http.get(path).json()["customFieldValues"]] == [["3"]]
    assert http.post(f"{path}/custom-fields", json={"customFieldValues": []}).json()["code"] == 1004
    assert http.get("/contacts/nope").json()["code"] == 1013
    assert http.get("/nothing").json()["code"] == 1013


def test_lists_fields_and_people_who_wait(http: httpx.Client) -> None:
    assert [item["campaignId"] for item in http.get("/campaigns").json()] == ["p86zQ", "V"]
    assert http.get("/campaigns/nope").json()["code"] == 1013
    assert http.get("/tags").json() == [{"tagId": "m7E2", "name": "site"}]
    whole = {"name": "city", "type": "string", "format": "text", "hidden": "false", "values": []}
    assert http.post("/custom-fields", json=whole).status_code == 201
    refused = [{**whole, "name": "Город"}, {**whole, "name": "email"}, {**whole, "type": "text"}, whole, {"name": "x"}]
    assert [http.post("/custom-fields", json=body).json()["code"] for body in refused] == [1003, 1003, 1000, 1008, 1000]
    assert http.get("/custom-fields?perPage=5&page=3").json()[-1]["name"] == "city"
    assert http.get("/custom-fields?page=9").json() == []
    http.post("/contacts", json={**GOOD, "campaign": {"campaignId": "V"}})
    assert http.get("/contacts").json() == []
    waiting = http.post("/search-contacts/contacts", json={"subscribersType": ["unconfirmed"]}).json()
    assert [item["email"] for item in waiting] == ["a@example.com"]
    assert http.post("/search-contacts/contacts", json={"subscribersType": ["all"]}).json()["code"] == 1000


def test_a_batch_is_all_or_none_and_slow(box: Sandbox, http: httpx.Client, vendor: GetResponseVendor) -> None:
    def post(contacts: list[Any]) -> httpx.Response:
        time.sleep(0.002)
        return http.post("/contacts/batch", json={"campaignId": "p86zQ", "contacts": contacts})

    assert post([{"email": "a@example.com", "tags": {"ids": ["m7E2"]}}, {"email": "b@example.com"}]).status_code == 202
    codes = [
        post(contacts).json()["code"]
        for contacts in ([], [{"email": "c@example.com"}] * 1001, [{"email": "c@example.com"}, {"email": "no at"}],
                         [{"email": "c@example.com"}, {"email": "A@example.com"}])
    ]  # fmt: skip
    assert (codes, len(vendor.base.contacts)) == ([1004, 1004, 1003, 1008], 2)
    box.faults.script("getresponse", "d@example.com", ["half_batch"])
    post([{"email": "d@example.com"}, {"email": "e@example.com"}])
    assert len(vendor.base.contacts) == 3


def test_the_limits_of_a_second() -> None:
    headers = {"X-Auth-Token": f"api-key {API_KEY}"}
    with running_sandbox(["getresponse"], scale=0.1) as box:
        vendor = box.vendor("getresponse")
        assert isinstance(vendor, GetResponseVendor)
        with httpx.Client(base_url=f"{vendor.url}/v3", headers=headers) as http:
            answers = [http.get("/tags") for _ in range(81)]
            assert [answer.status_code for answer in answers] == [200] * 80 + [429]
            last = answers[-1]
            assert (last.json()["code"], last.json()["context"]["timeToReset"]) == (1015, "10 seconds")
            assert (last.headers["X-RateLimit-Remaining"], last.headers["X-RateLimit-Reset"]) == ("0", "10 seconds")
            assert last.headers["Retry-After"] == "10.0"


def test_ten_requests_at_once_and_no_more(box: Sandbox, vendor: GetResponseVendor) -> None:
    box.faults.always("getresponse", "timeout")
    headers = {"X-Auth-Token": f"api-key {API_KEY}"}

    async def run() -> list[int]:
        async with httpx.AsyncClient(base_url=f"{vendor.url}/v3", headers=headers, timeout=0.6) as http:
            waiting = [asyncio.ensure_future(http.get("/tags")) for _ in range(10)]
            await asyncio.sleep(0.3)
            status = (await http.get("/tags")).status_code
            ended = await asyncio.gather(*waiting, return_exceptions=True)
        return [status, sum(isinstance(result, httpx.TimeoutException) for result in ended)]

    assert asyncio.run(run()) == [429, 10]
