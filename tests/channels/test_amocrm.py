"""amoCRM against scripted answers: what is sent, and how each answer of the sheet is read."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import httpx
import pytest

from leadctl.channels.amocrm import LEGACY
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    InvalidCredential,
    LimitReached,
    Rejected,
    Split,
    Throttled,
    Unusable,
)
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Answer, Done
from leadctl.testing.contract import ChannelContract
from tests.support.amocrm import DATA, Handler, amo, batch_of, body_of, line, problem, reply, send
from tests.support.channels import make_delivery, make_lead

SETTINGS = {
    "pipeline_id": 3383152, "status_id": 33929749, "responsible_user_id": 504141, "external_id_field_id": 771001,
    "tags": "leadctl, web",
    "fields": {"771002": "{{ lead.answers.budget }}", "ROISTAT": "{{ lead.utm.roistat }}"},
}  # fmt: skip
EMPTY_LEAD = {"name": "", "phone": "", "email": "", "comment": "", "page_url": "", "utm": {}, "answers": ()}


class TestContract(ChannelContract):
    name = "amocrm"
    data: ClassVar[Mapping[str, Any]] = {
        **DATA,
        "refresh_token": "canary-refresh-0123456789",
        "client_id": "canary-client",
        "client_secret": "canary-secret-0123456789",
        "redirect_uri": "https://example.com/oauth",
    }
    settings: ClassVar[Mapping[str, Any]] = {
        "pipeline_id": 3383152,
        "status_id": 33929749,
        "external_id_field_id": 771001,
    }
    bad_data: ClassVar[Mapping[str, Any]] = {"access_token": "wrong-0123456789"}
    done: ClassVar[Mapping[str, Any]] = {"lead": "9774766"}


def failure(
    handler: Handler, count: int = 1, step: int = 0, settings: Mapping[str, Any] | None = None
) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(amo(handler, settings), batch_of(count, done={"lead": "9"} if step else {}), step)
    return caught.value


# What is sent


def test_the_lead_is_exactly_this() -> None:
    channel = amo(settings=SETTINGS)
    lead = make_lead(utm={"utm_source": "yandex", "utm_term": "flat", "roistat": "r-1"})
    request = channel.build(channel.steps[0], [make_delivery(lead)])
    assert (request.method, request.url) == ("POST", "https://acme.amocrm.ru/api/v4/leads/complex")
    assert json.loads(request.content) == [{
        "name": "Новый лид 42: Анна Ким",
        "request_id": "lc-abc123-42-7",
        "pipeline_id": 3383152, "status_id": 33929749, "responsible_user_id": 504141,
        "custom_fields_values": [
            {"field_code": "UTM_SOURCE", "values": [{"value": "yandex"}]},
            {"field_code": "UTM_TERM", "values": [{"value": "flat"}]},
            {"field_id": 771002, "values": [{"value": "100 000"}]},
            {"field_code": "ROISTAT", "values": [{"value": "r-1"}]},
            {"field_id": 771001, "values": [{"value": "lc-abc123-42-7"}]},
        ],
        "_embedded": {
            "tags": [{"name": "leadctl"}, {"name": "web"}],
            "contacts": [{
                "first_name": "Анна", "last_name": "Ким",
                "custom_fields_values": [
                    {"field_code": "PHONE", "values": [{"value": "+79000000001", "enum_code": "WORK"}]},
                    {"field_code": "EMAIL", "values": [{"value": "anna@example.com", "enum_code": "WORK"}]},
                ],
            }],
        },
    }]  # fmt: skip


def test_without_a_field_the_key_ends_the_name() -> None:
    body = body_of(amo(), make_delivery(make_lead(name="Я" * 500)))
    assert body["name"].endswith("… [lc-abc123-42-7]")
    assert len(body["name"]) < 230
    assert "pipeline_id" not in body


def test_an_empty_lead_is_a_lead_without_a_contact_and_without_a_note() -> None:
    channel = amo(settings={"external_id_field_id": 771001})
    delivery = make_delivery(make_lead(**EMPTY_LEAD))
    assert body_of(channel, delivery) == {
        "name": "Новый лид 42",
        "request_id": delivery.key,
        "custom_fields_values": [{"field_id": 771001, "values": [{"value": delivery.key}]}],
    }
    assert not channel.needs(channel.steps[1], delivery)


def test_the_name_may_be_a_template_and_a_repeat_is_said() -> None:
    channel = amo(settings={"fields": {"name": "Сайт: {{ lead.name }}"}})
    delivery = make_delivery(make_lead(name="{{ 7*7 }} [x]"), possible_repeat=True)
    assert body_of(channel, delivery)["name"] == "Возможный повтор: Сайт: {{ 7*7 }} [x] [lc-abc123-42-7]"
    kommo = amo(data={**DATA, "subdomain": "acme.kommo.com"})
    assert body_of(kommo, make_delivery())["name"].startswith("New lead 42: ")


def test_an_unreadable_phone_and_address_are_not_lost() -> None:
    channel = amo()
    delivery = make_delivery(make_lead(phone="ask Anna", email="no at", comment="", answers=(), page_url=""),
                             done={"lead": "9"})  # fmt: skip
    values = body_of(channel, delivery)["_embedded"]["contacts"][0]["custom_fields_values"]
    assert values == [{"field_code": "PHONE", "values": [{"value": "ask Anna", "enum_code": "WORK"}]}]
    assert body_of(channel, delivery, 1)["params"]["text"] == "E-mail: no at\n\nНомер: 42 [lc-abc123-42-7]"


def test_the_note_is_exactly_this() -> None:
    channel = amo()
    lead = make_lead(comment="a\r\nb\x00", utm={"utm_source": "x", "yclid": "1"}, answers=(Answer("Бюджет", "<b>"),))
    delivery = make_delivery(lead, done={"lead": "9774766"})
    request = channel.build(channel.steps[1], [delivery])
    assert request.url == "https://acme.amocrm.ru/api/v4/leads/notes"
    text = "a\nb\n\nБюджет: <b>\n\nСтраница: https://example.com/p\n\nМетки: yclid=1\n\nНомер: 42 [lc-abc123-42-7]"
    assert json.loads(request.content) == [
        {"entity_id": 9774766, "note_type": "common", "params": {"text": text}, "request_id": "lc-abc123-42-7"}
    ]


def test_a_long_note_keeps_its_key() -> None:
    delivery = make_delivery(make_lead(comment="Ж" * 100_000), done={"lead": "9"})
    text = body_of(amo(), delivery, 1)["params"]["text"]
    assert text.endswith("…\n\nНомер: 42 [lc-abc123-42-7]")
    assert len(text) < 15_100


def test_a_template_that_fails_takes_only_its_lead_out() -> None:
    settings = {"fields": {"771002": "{{ 1 // (lead.id - 2) }}"}}
    with pytest.raises(Split) as caught:
        send(amo(reply(500), settings), batch_of(3))
    assert {key: type(error) for key, error in caught.value.refused.items()} == {"lc-abc123-2-7": Rejected}
    assert not caught.value.executed_maybe
    with pytest.raises(Rejected):
        send(amo(reply(500), settings), batch_of(2)[1:])


# What is answered


def test_answers_are_mapped_by_request_id_and_merges_are_told() -> None:
    first, second, third = batch_of(3)
    events: list[Event] = []
    handler = reply(200, [line(70, third.key, first.key, merged=True), line(9, "lc-other")])
    verdict = send(amo(handler, events=events), [first, second, third])
    done = Done("70", "https://acme.amocrm.ru/leads/detail/70", {"contact": "71", "merged": "70"})
    assert verdict.receipts == {first.key: done, third.key: done}
    assert [(event.code, event.message) for event in events if isinstance(event, Notice)] == [
        ("merged", f"lead {number} was merged by duplicate control into lead 70") for number in (1, 3)
    ]


def test_a_note_is_done_by_its_request_id() -> None:
    first, second = batch_of(2, done={"lead": "9"})
    notes = {"_embedded": {"notes": [{"id": 5, "entity_id": 9, "request_id": second.key}]}}
    assert send(amo(reply(200, notes)), [first, second], 1).receipts == {second.key: Done("5")}


@pytest.mark.parametrize(
    ("status", "body", "expected", "vendor_code"),
    [
        (400, problem(400, detail="Request data can not be empty"), Rejected, "400"),
        (400, problem(400, detail="Код ошибки 244. В случае повторного"), Unusable, "244"),
        (401, problem(401), Unusable, "401"),
        *((401, {"response": {"error_code": code}}, Unusable, code) for code in ("110", "111", "112", "101")),
        (402, problem(402), Unusable, "402"),
        (403, "<html><title>403 Forbidden</title>", LimitReached, "403"),
        (403, problem(403), Unusable, "403"),
        (403, problem(403, error_code=113), Unusable, "113"),
        (404, problem(404, detail="Pipeline not found"), Unusable, "404"),
        (405, problem(405), Unusable, "405"),
        (302, "", Unusable, "302"),
        (422, problem(422, detail="Limit 50 per page"), Rejected, "422"),
        (429, problem(429, retry_after=300), Throttled, "429"),
        (429, "<html>429</html>", Throttled, "429"),
        (500, problem(500, trace_id="1"), Ambiguous, "500"),
        (502, "<html>", Ambiguous, "502"),
        (503, "", Ambiguous, "503"),
        (504, "", Ambiguous, "504"),
        (200, "<html>", Ambiguous, None),
        (200, '[{"id":', Ambiguous, None),
        (200, {"_embedded": {"leads": []}}, Ambiguous, None),
        (200, [{"request_id": ["lc-abc123-1-7"]}], Ambiguous, None),
        (200, [1], Ambiguous, None),
        (204, "", Ambiguous, None),
    ],
)  # fmt: skip
def test_the_error_table(status: int, body: object, expected: type[DeliveryError], vendor_code: str | None) -> None:
    error = failure(reply(status, body))
    assert type(error) is expected
    assert (error.http_status, error.vendor_code) == (status, vendor_code)
    assert error.request_digest
    assert LEGACY.get(vendor_code or "", "") in error.message


@pytest.mark.parametrize(("code", "refreshes"), [("112", 0), ("999", 1)])
def test_a_disabled_user_is_no_reason_to_refresh(code: str, refreshes: int) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(401, json={"response": {"error_code": code}})

    with pytest.raises(Unusable):
        send(amo(handler, data=TestContract.data), batch_of(1))
    assert asked.count("/oauth2/access_token") == refreshes


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (problem(429, retry_after=300), {"Retry-After": "7"}, 300),
        ("<html>", {"Retry-After": "7"}, 7),
        (problem(429, retry_after="soon"), {}, None),
        ("<html>", {}, None),
    ],
)
def test_the_wait_of_a_429(body: object, headers: Mapping[str, str], expected: float | None) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    error = failure(lambda request: httpx.Response(429, content=content, headers=headers))
    assert isinstance(error, Throttled)
    assert (error.retry_after, error.scope) == (expected, "amocrm:acme.amocrm.ru")


def invalid(*items: tuple[str, str]) -> Handler:
    errors = [
        {"request_id": key, "errors": [{"code": "NotSupportedChoice", "path": path, "detail": "not a valid choice"}]}
        for key, path in items
    ]
    return reply(400, problem(400, **{"validation-errors": errors}))


def test_validation_errors_take_the_named_leads_out() -> None:
    error = failure(invalid(("lc-abc123-2-7", "name"), ("lc-unknown", "name")), 3)
    assert isinstance(error, Split)
    assert error.executed_maybe
    (refused,) = error.refused.values()
    assert [*error.refused] == ["lc-abc123-2-7"]
    assert isinstance(refused, Rejected)
    assert (refused.vendor_code, refused.path) == ("NotSupportedChoice", "name")
    assert refused.message == "amoCRM refuses name: not a valid choice"


@pytest.mark.parametrize(
    ("path", "expected", "said"),
    [
        ("pipeline_id", Unusable, "pipeline_id of the settings"),
        ("status_id", Unusable, "status_id"),
        ("responsible_user_id", Unusable, "responsible_user_id"),
        ("custom_fields_values.2.field_id", Unusable, "the field 771002"),
        ("custom_fields_values.3.field_id", Unusable, r"external_id_field_id \(771001\)"),
        ("custom_fields_values.0.field_code", Rejected, "field_code"),
        ("custom_fields_values.2.values.0.value", Rejected, "value"),
        ("custom_fields_values.99.field_id", Rejected, "99"),
        ("_embedded.contacts.0.custom_fields_values.2.field_id", Rejected, "contacts"),
        ("_embedded.contacts.0.responsible_user_id", Rejected, "contacts"),
        ("created_by", Rejected, "created_by"),
    ],
)
def test_a_wrong_setting_parks_and_a_wrong_lead_does_not(path: str, expected: type[DeliveryError], said: str) -> None:
    key = "lc-abc123-1-7"
    single = failure(invalid((key, path)), settings=SETTINGS)
    assert type(single) is expected
    with pytest.raises(expected, match=said):
        raise single
    whole = failure(invalid((key, path), ("lc-abc123-2-7", path)), 2, settings=SETTINGS)
    assert type(whole) is (Unusable if expected is Unusable else Split)
    half = failure(invalid((key, path)), 2, settings=SETTINGS)
    assert isinstance(half, Split)
    assert type(half.refused[key]) is expected


def test_the_worst_error_of_a_lead_counts() -> None:
    errors = [{"code": "InvalidType", "path": "name"}, {"code": "NotSupportedChoice", "path": "status_id"}]
    body = problem(400, **{"validation-errors": [{"request_id": "lc-abc123-1-7", "errors": errors}]})
    assert isinstance(failure(reply(400, body), settings=SETTINGS), Unusable)


@pytest.mark.parametrize("errors", [None, [], "x", [1], [{"request_id": "0", "errors": []}], [{"errors": None}]])
def test_a_refusal_that_names_nobody_is_halved(errors: object) -> None:
    channel = amo(reply(400, problem(400, **{"validation-errors": errors})))
    with pytest.raises(Split) as caught:
        send(channel, batch_of(8))
    assert caught.value.refused == {}
    assert caught.value.executed_maybe
    assert channel.batch_size(channel.steps[0]) == 4


def test_too_many_are_halved_and_were_not_stored() -> None:
    error = failure(reply(422, problem(422)), 2)
    assert isinstance(error, Split)
    assert (error.refused, error.executed_maybe) == ({}, False)


def test_a_504_halves_the_next_request_and_successes_raise_it_slowly() -> None:
    answers = [httpx.Response(504), httpx.Response(200, json=[]), httpx.Response(200, json=[])]
    channel = amo(lambda request: answers.pop(0))
    step, note = channel.steps
    with pytest.raises(Ambiguous):
        send(channel, batch_of(50))
    assert (channel.batch_size(step), channel.batch_size(note)) == (25, 50)
    send(channel, batch_of(1))
    send(channel, batch_of(1))
    assert channel.batch_size(step) == 27


def test_a_missing_lead_refuses_only_its_note() -> None:
    assert isinstance(failure(reply(404, problem(404)), step=1), Rejected)
    assert isinstance(failure(reply(404, problem(404)), 2, step=1), Split)
    error = failure(invalid(("lc-abc123-1-7", "entity_id")), 2, step=1)
    assert isinstance(error, Split)
    assert isinstance(error.refused["lc-abc123-1-7"], Rejected)


# Where it leads to


@pytest.mark.parametrize(
    ("data", "host", "base"),
    [
        ({"subdomain": "acme"}, "acme.amocrm.ru", "https://acme.amocrm.ru"),
        ({"subdomain": "Acme.Kommo.com"}, "acme.kommo.com", "https://acme.kommo.com"),
        ({"subdomain": "https://acme.amocrm.ru/"}, "acme.amocrm.ru", "https://acme.amocrm.ru"),
        ({"base_url": "http://127.0.0.1:8080/"}, "127.0.0.1:8080", "http://127.0.0.1:8080"),
        ({"subdomain": "acme", "base_url": "https://crm.example"}, "crm.example", "https://crm.example"),
    ],
)
def test_the_destination(data: Mapping[str, str], host: str, base: str) -> None:
    channel = amo(data={**data, "access_token": "canary-1"}, settings={"pipeline_id": "12"})
    destination = channel.destination()
    assert (destination.account, destination.parts, destination.target) == ((host,), (host, "12"), host)
    assert channel.endpoints() == (base,)
    assert [bucket.scope for bucket in channel.buckets()] == [f"amocrm:{host}"]
    assert amo(data={**data, "access_token": "canary-1"}).destination().parts == (host, "")


@pytest.mark.parametrize(
    ("data", "settings", "named"),
    [
        ({"access_token": "canary-1"}, {}, "data.subdomain: is needed"),
        ({"subdomain": "acme"}, {}, "data.access_token"),
        ({**DATA, "subdomain": "evil.example"}, {}, "data.subdomain"),
        ({**DATA, "subdomain": "a/../b"}, {}, "data.subdomain"),
        ({**DATA, "subdomain": 5}, {}, "data.subdomain"),
        ({**DATA, "refresh_token": "r"}, {}, "data.client_id: is needed with refresh_token"),
        ({**DATA, "expires_at": "soon"}, {}, "data.expires_at"),
        (DATA, {"pipeline_id": "main"}, "settings.pipeline_id"),
        (DATA, {"status_id": 0}, "settings.status_id"),
        (DATA, {"tags": 5}, "settings.tags"),
        (DATA, {"fields": {"771002": "{{ lead."}}, "settings.fields.771002: not a valid template"),
        (DATA, {"fields": {"a b": "x"}}, "settings.fields"),
        (DATA, {"fields": {str(n): "x" for n in range(35)}}, "settings.fields"),
        (DATA, {"on_unknown": "ask"}, "settings.on_unknown"),
    ],
)
def test_a_wrong_credential_names_its_key(data: Mapping[str, Any], settings: Mapping[str, Any], named: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        amo(data=data, settings=settings)
    assert str(caught.value).startswith(named)


def test_check_names_the_account() -> None:
    handler = reply(200, {"id": 3, "name": "Acme\x1b[31m", "subdomain": "acme"})
    assert asyncio.run(amo(handler).check()) == "Acme [31m (acme.amocrm.ru, account 3)"
