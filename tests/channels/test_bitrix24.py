"""Bitrix24: what travels, how each answer is read, and what is there afterwards."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from leadctl.channelkit.phpquery import Value, batch_command, php_map
from leadctl.channels.bitrix24 import CONTACT, DEAL, LEAD, Bitrix24Channel
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
from leadctl.domain.model import Delivery, Done
from leadctl.sandbox._bitrix24_batch import parse_str
from leadctl.testing.contract import ChannelContract
from tests.support.bitrix24 import DATA, ECHO, Portal, batch, opened, reply, sent
from tests.support.channels import FakeClock, make_delivery, make_lead


class TestContract(ChannelContract):
    name = "bitrix24"
    data = DATA

    def spoil(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"webhook_url": f"{data['webhook_url'].rstrip('/')}x/"}


def travelling(channel: Bitrix24Channel, delivery: Delivery, step: Any = LEAD) -> dict[str, Any]:
    """The ``fields`` of one command, as PHP reads them."""
    command = json.loads(channel.build(step, [delivery]).content)["cmd"]["d0"]
    params = parse_str(command.partition("?")[2])
    assert params["entityTypeId"] == {"lead": "1", "deal": "2", "contact": "3"}[step.name]
    fields = params["fields"]
    assert isinstance(fields, dict)
    return fields


# What travels


def test_the_request_is_a_batch_of_encoded_commands() -> None:
    request = opened().build(LEAD, batch(42, 43))
    body = json.loads(request.content)
    assert request.method == "POST"
    assert request.url == "https://acme.bitrix24.com/rest/1/canary0123456789/batch"
    assert request.headers == {"Content-Type": "application/json", "Accept": "application/json"}
    assert (body["halt"], list(body["cmd"])) == (0, ["d0", "d1"])
    command = body["cmd"]["d0"]
    assert command.startswith("crm.item.add?entityTypeId=1&fields[name]=%D0%90%D0%BD%D0%BD%D0%B0&")
    assert "fields[fm][0][value]=%2B79000000001" in command
    assert "fields[originatorId]=leadctl&fields[originId]=lc-abc123-42-7" in command


def test_a_lead_arrives_complete() -> None:
    settings = {"source_id": "WEB", "assigned_by_id": "6", "stage_id": "NEW"}
    assert travelling(opened(settings=settings), batch()[0]) == {
        "title": "Новый лид 42", "name": "Анна", "lastName": "Ким", "sourceId": "WEB", "assignedById": "6",
        "stageId": "NEW", "comments": "Перезвоните после 18:00\nbudget: 100 000",
        "sourceDescription": "https://example.com/p", "utmSource": "yandex", "utmMedium": "cpc",
        "fm": {
            "0": {"typeId": "PHONE", "valueType": "WORK", "value": "+79000000001"},
            "1": {"typeId": "EMAIL", "valueType": "WORK", "value": "anna@example.com"},
        },
        "originatorId": "leadctl", "originId": "lc-abc123-42-7",
    }  # fmt: skip


def test_an_empty_lead_has_a_name_and_a_marker() -> None:
    """A portal without leads converts a lead only if it has a name."""
    lead = make_lead(name="", phone="", email="", comment="", page_url="", utm={}, answers=())
    assert travelling(opened(), make_delivery(lead)) == {
        "title": "Новый лид 42", "name": "Новый лид 42", "originatorId": "leadctl", "originId": "lc-abc123-42-7",
    }  # fmt: skip
    assert travelling(opened(), make_delivery(make_lead(name="")))["name"] == "+79000000001"


def test_a_possible_repeat_says_so() -> None:
    fields = travelling(opened(), make_delivery(possible_repeat=True))
    assert fields["title"] == "Новый лид 42 (возможный повтор)"


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"comment": "[b]x[/b] [URL=http://x]y[/url] [1]"}, "comments", "[ b]x[ /b] [ URL=http://x]y[ /url] [1]"),
        ({"comment": "$result[0] $RESULT[1] US$next $rest"}, "comments", "$ result[0] $ RESULT[1] US$ next $rest"),
        ({"comment": "a & b = c + d # e % f"}, "comments", "a & b = c + d # e % f"),
        ({"comment": "{{ 7 * 7 }}\r\nnext\x00line"}, "comments", "{{ 7 * 7 }}\nnext line"),
        ({"name": "$error[x] \U0001f44d"}, "name", "$ error[x]"),
        ({"name": "$error[x] \U0001f44d"}, "lastName", "\U0001f44d"),
        ({"email": "not an address"}, "comments", "E-mail: not an address"),
        ({"name": "Ж" * 60}, "comments", "Имя: " + "Ж" * 60),
    ],
)  # fmt: skip
def test_a_leads_text_arrives_as_text(changes: dict[str, Any], field: str, expected: str) -> None:
    lead = make_lead(**{"comment": "", "answers": (), **changes})
    assert travelling(opened(), make_delivery(lead))[field] == expected


def test_a_long_text_is_cut_and_travels_alone() -> None:
    channel, delivery = opened(), make_delivery(make_lead(comment="\U0001f44d" * 100_000))
    assert channel.batch_alone(LEAD, delivery)
    assert not channel.batch_alone(LEAD, make_delivery())
    assert len(travelling(channel, delivery)["comments"].encode()) <= 65_535


def test_custom_fields_are_rendered_and_named_as_configured() -> None:
    settings = {"fields": {"UF_CRM_BUDGET": "{{ lead.answers.budget }}", "title": "{{ lead.name }}", "post": ""}}
    channel = opened(settings=settings)
    command = json.loads(channel.build(LEAD, batch()).content)["cmd"]["d0"]
    fields = travelling(channel, batch()[0])
    assert "useOriginalUfNames=Y" in command
    assert (fields["UF_CRM_BUDGET"], fields["title"], "post" in fields) == ("100 000", "Анна Ким", False)
    assert "useOriginalUfNames" not in json.loads(opened().build(LEAD, batch()).content)["cmd"]["d0"]


def test_a_template_that_fails_names_its_lead() -> None:
    channel = opened(settings={"fields": {"post": "{{ 1 / (lead.id - 42) }}"}})
    good, bad = make_lead(id=43), make_lead(id=42)
    assert not channel.problems(good)
    assert channel.problems(bad)
    with pytest.raises(Split) as caught:
        channel.build(LEAD, [make_delivery(good), make_delivery(bad)])
    assert list(caught.value.refused) == [make_delivery(bad).key]


def test_a_deal_is_made_after_its_contact() -> None:
    channel = opened(settings={"entity": "deal", "category_id": 9})
    assert channel.steps == (CONTACT, DEAL)
    assert (CONTACT.preparatory, DEAL.preparatory) == (True, False)
    contact = travelling(channel, batch()[0], CONTACT)
    assert set(contact) == {"name", "lastName", "fm", "originatorId", "originId"}
    deal = travelling(channel, make_delivery(done={"contact": "77"}), DEAL)
    assert (deal["contactIds"], deal["categoryId"], deal["originId"]) == ({"0": "77"}, "9", "lc-abc123-42-7")
    assert not {"fm", "name"} & set(deal)


def test_commands_are_encoded_as_php_reads_them() -> None:
    value: dict[str, Value] = {
        "a": {"b": ["x+y", "50%"]},
        "flag": True,
        "off": False,
        "n": 5,
        "none": None,
        "odd": "\ud800&=",
    }
    command = batch_command("m", value)
    assert command == "m?a[b][0]=x%2By&a[b][1]=50%25&flag=Y&off=N&n=5&odd=%3F%26%3D"
    assert php_map([]) == {}
    assert php_map([1, 2]) == {"0": 1, "1": 2}
    assert php_map("text") == {}


# The credential


@pytest.mark.parametrize("tail", ["", "/", "/profile.json", "/crm.lead.add.json/"])
def test_a_webhook_is_accepted_as_it_is_copied(tail: str) -> None:
    channel = opened(data={"webhook_url": f" https://ACME.bitrix24.com/rest/12/canary0123456789{tail} "})
    assert channel.build(LEAD, batch()).url == "https://acme.bitrix24.com/rest/12/canary0123456789/batch"
    assert channel.endpoints() == ("https://acme.bitrix24.com",)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://acme.bitrix24.com/rest/canary0123456789/", "user id is missing"),
        ("https://acme.bitrix24.com/rest/canary0123456789/profile.json", "user id is missing"),
        ("https://acme.bitrix24.com/rest/1/", "user id is missing"),
        ("https://acme.bitrix24.com/rest/1/canary0123456789/?x=canary", "expected https://"),
        ("https://user:canary0@acme.bitrix24.com/rest/1/canary0123456789/", "expected https://"),
        ("https://acme.bitrix24.com:canary/rest/1/canary0123456789/", "not a valid URL"),
        ("canary0123456789", "expected https://"),
        ("http://127.0.0.9/rest/1/canary0123456789/", "not allowed"),
        (["https://acme.bitrix24.com/rest/1/canary0123456789/"], "string"),
        (None, "string"),
    ],
)
def test_a_wrong_webhook_is_named_without_its_value(url: object, expected: str) -> None:
    with pytest.raises(InvalidCredential, match=expected) as caught:
        opened(data={"webhook_url": url}, allow_private=())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"entity": "company"}, "settings.entity"),
        ({"category_id": "x"}, "settings.category_id"),
        ({"assigned_by_id": 0}, "settings.assigned_by_id"),
        ({"fields": ["title"]}, "settings.fields"),
        ({"fields": {"title": "{{ lead."}}, "not a valid template"),
        ({"fields": {"originId": "x"}}, "none that leadctl sets itself"),
        ({"fields": {"TITLE": "x"}}, "named as crm.item.fields does"),
        ({"fields": {"UF_CRM_1": "x", "ufCrm_2": "x"}}, "one way"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidCredential, match=expected):
        opened(settings=settings)


def test_the_destination_is_host_entity_and_category() -> None:
    data = {"webhook_url": "https://crm.example.com:8443/rest/1/canary0123456789/"}
    lead, deal = opened(data=data).destination(), opened(data=data, settings={"entity": "deal"}).destination()
    assert (lead.account, lead.target) == (("crm.example.com:8443",), "crm.example.com:8443")
    assert lead.parts == ("crm.example.com:8443", "lead", "")
    assert deal.parts == ("crm.example.com:8443", "deal", "0")
    assert opened(data=data, settings={"category_id": 9}).destination() == lead
    other_owner = {"webhook_url": "https://crm.example.com:8443/rest/2/another0123456789"}
    assert opened(data=other_owner).destination() == lead
    (bucket,) = opened(data=data).buckets()
    assert bucket.scope == "bitrix24:crm.example.com:8443"
    assert (bucket.limit.rate, bucket.limit.burst, bucket.limit.documented) == (1.5, 40.0, 2.0)


# Answers


def test_each_lead_gets_its_own_receipt() -> None:
    portal = Portal(
        reply({"d0": {"item": ECHO}, "d2": {"item": {"id": None}}}, {"d1": {"error": "CRM_FIELD_ERROR_REQUIRED"}})
    )
    receipts = sent(opened(portal), batch(1, 2, 3, 4))
    assert isinstance(receipts, dict)
    first, second, third, fourth = receipts.values()
    assert first == Done("342", "https://acme.bitrix24.com/crm/lead/details/342/")
    assert isinstance(second, Rejected)
    assert isinstance(third, Ambiguous), "a success without an id"
    assert isinstance(fourth, Ambiguous), "a key in neither map"


def test_empty_maps_arrive_as_lists() -> None:
    receipts = sent(opened(Portal(reply([], []))), batch(1))
    assert isinstance(receipts, dict)
    assert [type(receipt) for receipt in receipts.values()] == [Ambiguous]


NO_LEAD_NAME = "The required field 'Lead Name' is missing.<br />"
#: Rows of the sheet that are told by their code: (code, text, what it means).
ERRORS: list[tuple[object, str, type[DeliveryError]]] = [
    ("QUERY_LIMIT_EXCEEDED", "Too many requests", Throttled),
    ("OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.", Throttled),
    ("OVERLOAD_LIMIT", "REST API is blocked due to overload", LimitReached),
    ("ERROR_BATCH_METHOD_NOT_ALLOWED", "", Unusable),
    ("expired_token", "The access token provided has expired.", Unusable),
    ("INTERNAL_SERVER_ERROR", "Internal server error", Ambiguous),
    ("ERROR_UNEXPECTED_ANSWER", "", Ambiguous),
    ("NO_AUTH_FOUND", "Wrong authorization data", Unusable),
    ("INVALID_CREDENTIALS", "Invalid request credentials", Unusable),
    ("insufficient_scope", "The request requires higher privileges", Unusable),
    ("INSUFFICIENT_SCOPE", "", Unusable),
    ("ACCESS_DENIED", "REST API is available only on commercial plans", Unusable),
    ("ACCESS_DENIED", "Access denied", Unusable),
    ("user_access_error", "", Unusable),
    ("allowed_only_intranet_user", "", Unusable),
    ("PAYMENT_REQUIRED", "Subscription has been ended", Unusable),
    ("authorization_error", "Unable to authorize user", Unusable),
    ("invalid_token", "", Unusable),
    ("APPLICATION_NOT_FOUND", "", Unusable),
    ("ERROR_OAUTH", "", Unusable),
    ("WRONG_AUTH_TYPE", "", Unusable),
    ("METHOD_CONFIRM_WAITING", "", Unusable),
    ("METHOD_CONFIRM_DENIED", "", Unusable),
    ("PORTAL_DELETED", "Portal was deleted", Unusable),
    ("ERROR_METHOD_NOT_FOUND", "Method not found!", Unusable),
    ("NOT_FOUND", "SPA not found", Unusable),
    ("INVALID_REQUEST", "Https required.", Unusable),
    ("CREATE_DYNAMIC_ITEM_RESTRICTED", "", Unusable),
    ("CRM_FIELD_ERROR_REQUIRED", 'The "Name" field is required', Rejected),
    ("CRM_FIELD_ERROR_VALUE_NOT_VALID", "", Rejected),
    ("CRM_FIELD_ERROR_SOMETHING_NEW", "", Rejected),
    (100, "Expected iterable value for multiple field, but got `string` instead", Rejected),
    ("", NO_LEAD_NAME, Rejected),
    ("", "Access denied.", Rejected),
    ("", "Disk resource exhausted", Unusable),
    ("", "", Ambiguous),
    ("ERROR_CORE", 'The field "E-mail" contains an invalid address', Rejected),
    ("ERROR_CORE", "Поле «E-mail» содержит некорректный адрес", Rejected),
    ("ERROR_CORE", "Parameter 'fields' must be array.", Rejected),
    ("ERROR_CORE", "Mysql query error: (1213) Deadlock found", Ambiguous),
    ("ERROR_ARGUMENT", "", Rejected),
    ("INVALID_ARG_VALUE", "Invalid filter", Rejected),
    ("SOMETHING_NEW", "Nobody knows", Ambiguous),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "expected"), ERRORS)
def test_an_error_is_read_by_its_code(code: object, text: str, expected: type[DeliveryError]) -> None:
    """The same inside a batch and for a whole request of one lead, whatever the status."""
    body = {"error": code, "error_description": text}
    inside = sent(opened(Portal(reply([], {"d0": body}))), batch(1))
    assert isinstance(inside, dict)
    (receipt,) = inside.values()
    assert type(receipt) is expected
    for status in (200, 400, 503) if code not in ("", "ERROR_CORE") else (400,):
        whole = sent(opened(Portal(body, status=status)), batch(1))
        assert type(whole) is expected, status
        assert whole.vendor_code == (str(code) or None)
        assert "<" not in whole.message


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, Ambiguous), (400, Ambiguous), (401, Unusable), (403, Unusable), (404, Unusable), (413, Split),
     (429, Throttled), (500, Ambiguous), (502, Ambiguous), (503, Ambiguous), (504, Ambiguous)],
)  # fmt: skip
@pytest.mark.parametrize("text", ["<html>nginx</html>", "", '{"result":', '"text"'])
def test_without_a_readable_body_the_status_decides(status: int, text: str, expected: type[DeliveryError]) -> None:
    assert type(sent(opened(Portal(httpx.Response(status, text=text))), batch(1))) is expected


def test_a_whole_refusal_of_many_is_split() -> None:
    body = {"error": "CRM_FIELD_ERROR_REQUIRED", "error_description": 'The "Name" field is required'}
    many = sent(opened(Portal(body, status=400)), batch(1, 2))
    assert isinstance(many, Split)
    assert many.executed_maybe
    too_many = sent(opened(Portal({"error": "ERROR_BATCH_LENGTH_EXCEEDED"}, status=400)), batch(1, 2))
    assert isinstance(too_many, Split)
    assert not too_many.executed_maybe
    per_key = sent(opened(Portal(reply([], {"d0": {"error": "ERROR_BATCH_LENGTH_EXCEEDED"}}))), batch(1))
    assert isinstance(per_key, dict)
    assert isinstance(next(iter(per_key.values())), Throttled)


def test_a_database_fault_of_the_whole_request_is_in_doubt() -> None:
    body = {"error": "ERROR_CORE", "error_description": "The field x is invalid"}
    assert isinstance(sent(opened(Portal(body, status=500)), batch(1)), Ambiguous)


def test_the_field_and_the_wait_are_named() -> None:
    body = {"error": "CRM_FIELD_ERROR_REQUIRED", "error_description": 'The "Name" field is required'}
    refused = sent(opened(Portal(body, status=400)), batch(1))
    assert isinstance(refused, Rejected)
    assert (refused.path, refused.vendor_code, refused.http_status) == ("Name", "CRM_FIELD_ERROR_REQUIRED", 400)
    assert refused.request_digest
    limited = httpx.Response(503, json={"error": "QUERY_LIMIT_EXCEEDED"}, headers={"Retry-After": "7"})
    throttled = sent(opened(Portal(limited)), batch(1))
    assert isinstance(throttled, Throttled)
    assert throttled.retry_after == 7


# Pace


def test_the_batch_follows_the_servers_speed() -> None:
    portal = Portal(
        reply({"d0": {"item": ECHO}}, seconds=1.0),
        httpx.Response(504, text="<html>504</html>"),
        httpx.Response(504, text="<html>504</html>"),
        reply({"d0": {"item": ECHO}}, seconds=0.1),
        reply({"d0": {"item": ECHO}}, seconds=0.0),
    )
    channel = opened(portal)
    sizes = [channel.batch_size(LEAD)]
    for _ in range(5):
        sent(channel, batch(1))
        sizes.append(channel.batch_size(LEAD))
    assert sizes == [10, 25, 12, 6, 12, 24]
    for _ in range(10):
        sent(channel, batch(1))
    assert channel.batch_size(LEAD) == 50


def test_it_pauses_before_the_execution_time_is_used_up() -> None:
    clock = FakeClock()
    portal = Portal(reply({"d0": {"item": ECHO}}, operating=337.0, reset=120.0), reply({"d0": {"item": ECHO}}))
    channel = opened(portal, clock=clock)
    assert isinstance(sent(channel, batch(1)), dict)
    paused = sent(channel, batch(2))
    assert isinstance(paused, Throttled)
    assert paused.retry_after == 120.0
    assert len(portal.requests) == 1, "nothing has left"
    clock.elapsed += 120.0
    assert isinstance(sent(channel, batch(2)), dict)
    assert isinstance(sent(channel, batch(3)), dict)


def test_the_refusal_for_execution_time_waits_as_the_last_answer_said() -> None:
    clock = FakeClock()
    refused = {"error": "OPERATION_TIME_LIMIT"}
    portal = Portal(
        reply({"d0": {"item": ECHO}}, reset=90.0), reply([], {"d0": refused}), httpx.Response(429, json=refused)
    )
    channel = opened(portal, clock=clock)
    sent(channel, batch(1))
    clock.elapsed += 30.0
    inside = sent(channel, batch(2))
    assert isinstance(inside, dict)
    (receipt,) = inside.values()
    assert isinstance(receipt, Throttled)
    assert receipt.retry_after == 60.0, "a refusal carries no time of its own"
    clock.elapsed += 70.0
    whole = sent(channel, batch(2))
    assert isinstance(whole, Throttled)
    assert whole.retry_after is None, "past that time our own back-off holds"
