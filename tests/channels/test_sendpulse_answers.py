"""What SendPulse's answers mean, and what the channel does with them."""

import asyncio
from typing import Any

import httpx
import pytest

from leadctl.channelkit.http import Answer
from leadctl.channelkit.sendpulse_crm import source_id
from leadctl.channels.sendpulse import BOOK, BY_EMAIL, BY_PHONE, COMMENT, CONTACT, DEAL, EMAIL, PHONE
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.model import Absent, CannotTell, Done, Finding, Found
from tests.support.sendpulse import CLIENT, CRM, KEY, PIPELINES, RESULT, TOKEN, Api, Turns, one, pulse, send

EMAILS = "POST /addressbooks/88123/emails"
LOGIN = "POST /oauth/access_token"
DEALS = "POST /crm/v1/deals/get-list"


def error(code: int | None, text: str = "words") -> dict[str, Any]:
    return {"message": text, **({} if code is None else {"error_code": code})}


ARGUMENTS = [
    "emails missing", "emails must be array", "emails is invalid", "email is invalid", "emails.*.variables is invalid",
    "confirmation is invalid", "sender_email missing", "sender_email is invalid", "tags must be array",
    "dont_update must be boolean",
]  # fmt: skip
#: HTTP status and body → the type for one lead; Rejected ones are Split for several.
ERRORS: list[tuple[int, Any, type[DeliveryError]]] = [
    (401, error(401, "Unauthorized!"), Unusable),
    (403, error(3030303030, "Access denied! Please change your tariff plan"), Unusable),
    (403, error(None), Unusable),
    (404, error(213, "Book not found"), Unusable),
    (404, error(299, "Variable not found"), Unusable),
    (404, error(None), Unusable),
    (404, {"data": {"code": 213, "message": "Book not found"}}, Unusable),
    *((422, error(422, f"Argument {words}"), Rejected) for words in ARGUMENTS),
    (422, error(1003, "Sender not found"), Unusable),
    (422, error(422, "Phone is not valid"), Rejected),
    *((422, error(code), Rejected) for code in (14, 17, 20, 97, 502, 904, 906)),
    *((422, error(code), Unusable) for code in (707, 708)),
    (429, error(None), Throttled),
    (429, error(2020202020), Throttled),
    # which status carries this code is not documented
    *((status, error(2020202020), Throttled) for status in (200, 400, 403, 500)),
    (200, error(422), Rejected),
    (200, error(8), Ambiguous),
    (200, {"success": False, "data": {}}, Ambiguous),
    (200, {"result": False}, Ambiguous),
    (200, {}, Ambiguous),
    (200, [], Ambiguous),
    (200, "<html>", Ambiguous),
    (400, error(None), Rejected),
    (413, "<html>", Rejected),
    (402, error(None), Unusable),
    (405, "", Unusable),
    (410, "", Unusable),
    (302, "", Unusable),
    (408, "", Ambiguous),
    (500, "<html>", Ambiguous),
    (502, "<html>", Ambiguous),
    (504, error(None), Ambiguous),
]


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
def test_what_an_answer_means(status: int, body: Any, kind: type[DeliveryError]) -> None:
    for batch in ([one()], [one(1), one(2)]):
        with pytest.raises(DeliveryError) as caught:
            send(pulse(Api({EMAILS: (status, body)})), batch)
        expected = Split if kind is Rejected and len(batch) > 1 else kind
        assert type(caught.value) is expected
        assert caught.value.http_status == status
        assert caught.value.request_digest
        if isinstance(caught.value, Split):
            assert not caught.value.refused
            assert not caught.value.executed_maybe


def test_an_error_names_code_argument_and_words() -> None:
    with pytest.raises(Rejected) as caught:
        send(pulse(Api({EMAILS: (422, error(422, f"Argument email is invalid {KEY}"))})), [one()])
    assert (caught.value.vendor_code, caught.value.path) == ("422", "email")
    assert caught.value.message == "SendPulse: a value is refused (Argument email is invalid ***)"


def test_a_named_wait_counts() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(429, json=error(2020202020), headers={"Retry-After": "7"})

    with pytest.raises(Throttled) as caught:
        send(pulse(answer), [one()])
    assert caught.value.retry_after == 7
    with pytest.raises(Throttled) as unnamed:
        send(pulse(Api({EMAILS: (429, error(None))})), [one()])
    assert unnamed.value.retry_after is None


def test_all_of_a_batch_are_done_by_one_word() -> None:
    batch = [one(1), one(2)]
    assert send(pulse(), batch) == {delivery.key: Done() for delivery in batch}


def test_a_broken_answer_is_no_success() -> None:
    with pytest.raises(Ambiguous):
        pulse().parse(BOOK, [one()], Answer(200, {}, b'{"result":true}', complete=False))


# Tokens


def test_a_static_key_never_logs_in() -> None:
    api = Api()
    send(pulse(api), [one()])
    assert api.tokens == [f"Bearer {KEY}"]


def test_a_token_is_fetched_once_without_a_header_of_its_own() -> None:
    api = Api({LOGIN: TOKEN})
    channel = pulse(api, data=CLIENT)
    send(channel, [one(1)])
    send(channel, [one(2)])
    assert api.sent(LOGIN) == [
        {"grant_type": "client_credentials", "client_id": "c11ent", "client_secret": "canary-secret-1"}
    ]
    assert api.tokens == ["", "Bearer token-abcdef", "Bearer token-abcdef"]
    assert channel.toolbox.secrets.hide("token-abcdef") == "***"


def test_a_refused_token_is_replaced_once() -> None:
    second = {**TOKEN, "access_token": "token-second"}
    api = Api({LOGIN: Turns([TOKEN, second]), EMAILS: Turns([(401, error(401)), RESULT])})
    assert send(pulse(api, data=CLIENT), [one()])
    assert api.tokens == ["", "Bearer token-abcdef", "", "Bearer token-second"]
    stubborn = Api({LOGIN: TOKEN, EMAILS: (401, error(401))})
    with pytest.raises(Unusable):
        send(pulse(stubborn, data=CLIENT), [one()])
    assert len(stubborn.sent(LOGIN)) == 2


def test_a_token_is_replaced_before_it_ends() -> None:
    api = Api({LOGIN: TOKEN})
    channel = pulse(api, data=CLIENT)
    for seconds in (3_299, 2):
        send(channel, [one()])
        asyncio.run(channel.toolbox.clock.sleep(seconds))
    assert len(api.sent(LOGIN)) == 1
    send(channel, [one()])
    assert len(api.sent(LOGIN)) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((401, {"error": "invalid_client", "error_description": "Client authentication failed"}), Unusable),
        ((400, {"error": "unsupported_grant_type"}), Unusable),
        ((404, ""), Unusable),
        ((429, error(2020202020)), Throttled),
        ((500, "<html>"), Transient),
        ((200, "<html>"), Transient),
        ((200, {"token_type": "Bearer"}), Transient),
    ],
)
def test_a_login_that_fails_sends_no_lead(answer: tuple[int, Any], kind: type[DeliveryError]) -> None:
    api = Api({LOGIN: answer})
    with pytest.raises(DeliveryError) as caught:
        send(pulse(api, data=CLIENT), [one()])
    assert type(caught.value) is kind
    assert not api.sent(EMAILS)


# The CRM


def crm_error(status: int, text: str = "words") -> tuple[int, Any]:
    return status, {"data": {"code": status, "message": text}}


@pytest.mark.parametrize(
    ("step", "path", "body", "remote_id"),
    [
        (BY_PHONE, "POST /crm/v1/contacts/get-list", {"data": {"list": [], "total": 0}}, None),
        (BY_EMAIL, "POST /crm/v1/contacts/get-list-by-email", {"data": {"list": [], "total": 0}}, None),
        (CONTACT, "POST /crm/v1/contacts/create", {"data": {"id": 555}}, "555"),
        (PHONE, "POST /crm/v1/contacts/5/phones", {"data": {"id": 9, "phone": "+79000000042"}}, "9"),
        (EMAIL, "POST /crm/v1/contacts/5/emails", {"data": [{"id": 8, "email": "lead42@example.com"}]}, "8"),
        (DEAL, "POST /crm/v1/deals", {"data": {"id": 600, "sourceId": 1}}, "600"),
        (COMMENT, "POST /crm/v1/deals/6/comments", {"data": {"id": 70}}, "70"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_step_of_a_deal(step: Any, path: str, body: Any, remote_id: str | None) -> None:
    delivery = one(done={"contact": "5", "deal": "6"})
    question = step in (BY_PHONE, BY_EMAIL)
    table: list[tuple[Any, type[DeliveryError] | None]] = [
        (body, None),
        (crm_error(404), Rejected),
        ((422, error(422)), Rejected),
        ((403, error(None)), Unusable),
        ((429, error(None)), Throttled),
        ((500, "<html>"), Transient if question else Ambiguous),
        ((200, {"data": {}}), Transient if question else Ambiguous),
        ((200, {"data": []}), None if question else Ambiguous),
        ((200, {}), Transient if question else Ambiguous),
    ]
    for answer, kind in table:
        channel = pulse(Api({path: answer}), CRM)
        if kind is None:
            assert send(channel, [delivery], channel.steps.index(step)) == {delivery.key: Done(remote_id)}
            continue
        with pytest.raises(DeliveryError) as caught:
            send(channel, [delivery], channel.steps.index(step))
        assert type(caught.value) is kind, answer


def contact(number: int, *phones: str, emails: tuple[str, ...] = ()) -> dict[str, Any]:
    ways = {"phones": [{"id": 1, "phone": p} for p in phones], "emails": [{"id": 2, "email": e} for e in emails]}
    return {"id": number, **ways}


@pytest.mark.parametrize(
    ("contacts", "found"),
    [
        ([contact(9, "+79000000042"), contact(8, "8 (900) 000-00-42"), contact(7, "+790000000421")], "8"),
        ([contact(9, "79000000042")], "9"),
        ([contact(9, "+79000000043"), contact(8), {"id": 7}], None),
    ],
)
def test_a_contact_is_found_by_exactly_its_phone(contacts: list[Any], found: str | None) -> None:
    api = Api({"POST /crm/v1/contacts/get-list": {"data": {"list": contacts, "total": len(contacts)}}})
    (receipt,) = send(pulse(api, CRM), [one()]).values()
    assert receipt == Done(found)


def test_a_contact_is_found_by_exactly_its_address() -> None:
    listed = [contact(9, emails=("xlead42@example.com",)), contact(8, emails=("b@c.example", "LEAD42@example.com"))]
    api = Api({"POST /crm/v1/contacts/get-list-by-email": {"data": {"list": listed}}})
    (receipt,) = send(pulse(api, CRM), [one()], 1).values()
    assert receipt == Done("8")


def test_one_contact_for_two_leads_of_a_person() -> None:
    api = Api({"POST /crm/v1/contacts/create": {"data": {"id": 555}}})
    channel = pulse(api, CRM)
    first, second, third = one(1), one(2, phone="+7 900 000-00-01"), one(3, email="LEAD1@example.com", phone="")
    receipts = [next(iter(send(channel, [lead], 2).values())) for lead in (first, second, third)]
    assert receipts == [
        Done("555"), Done("555", parts={"by_phone": "555"}), Done("555", parts={"by_email": "555"}),
    ]  # fmt: skip
    assert len(api.sent("POST /crm/v1/contacts/create")) == 1


@pytest.mark.parametrize(
    ("answers", "settings", "named"),
    [
        ({"GET /crm/v1/pipelines": {"data": []}}, CRM, "settings.crm.pipeline_id"),
        ({}, {"crm": {**CRM["crm"], "step_id": 12}}, "settings.crm.step_id"),
        ({}, {**CRM, "fields": {"8": "x"}}, "settings.fields"),
        ({"GET /crm/v1/pipelines": (403, error(3030303030))}, CRM, "plan"),
    ],
)
def test_a_wrong_setting_parks_before_anything_is_made(
    answers: dict[str, Any], settings: dict[str, Any], named: str
) -> None:
    api = Api(answers)
    with pytest.raises(Unusable, match=named):
        send(pulse(api, settings), [one()], 2)
    assert not api.sent("POST /crm/v1/contacts/create")


def test_the_pipeline_is_looked_at_once_an_hour() -> None:
    api = Api({"POST /crm/v1/deals": {"data": {"id": 1}}})
    channel = pulse(api, {**CRM, "fields": {"7": "x", "name": "y"}})
    for seconds in (1, 3_700, 1):
        send(channel, [one(done={"contact": "5"})], 5)
        asyncio.run(channel.toolbox.clock.sleep(seconds))
    assert len(api.sent("GET /crm/v1/pipelines")) == 2


def test_a_pipeline_that_cannot_be_read_leaves_nothing_in_doubt() -> None:
    for answer in ((500, "<html>"), {"data": "x"}, {}):
        with pytest.raises(Transient):
            send(pulse(Api({"GET /crm/v1/pipelines": answer}), CRM), [one(done={"contact": "5"})], 5)


# Look-ups

NUMBER = source_id("lc-abc123-42-7")
OURS = {"id": 600, "name": "Новый лид 42 [lc-abc123-42-7]", "sourceId": NUMBER}
RENAMED = {"id": 600, "name": "Ivan, hot", "sourceId": NUMBER}
SAME_NUMBER = {"id": 500, "name": "Новый лид 9 [lc-abc123-9-7]", "sourceId": NUMBER}
OTHER = {"id": 400, "name": "Ivan", "sourceId": 5}
GONE = crm_error(404)


def find(step: Any, answers: dict[str, Any]) -> Finding:
    delivery = one(done={"contact": "5", "deal": "6"})
    return asyncio.run(pulse(Api(answers), CRM).find(step, [delivery]))[delivery.key]


@pytest.mark.parametrize(
    ("by_source", "of_contact", "finding"),
    [
        ([OURS], [], Found("600")),
        ([RENAMED, OTHER], [], Found("600")),
        ([{**OURS, "id": 601}, OURS], [], Found("600", duplicates=("601",))),
        ([], [OTHER, OURS], Found("600")),  # the filter finds nothing, whatever there is
        ([OTHER, SAME_NUMBER], [RENAMED], Found("600")),  # the filter is ignored
        ([SAME_NUMBER], [OTHER], Absent()),
        ([], [], Absent()),
        ((422, error(422)), [OURS], Found("600")),
        ((422, error(422)), [], Absent()),
        ([], GONE, CannotTell("the deal's contact has been deleted", final=True)),
        ([], {"data": {}}, CannotTell("SendPulse's answer is not of the documented form")),
    ],
)
def test_a_deal_is_looked_for(by_source: Any, of_contact: Any, finding: Finding) -> None:
    first = by_source if isinstance(by_source, tuple) else (200, {"data": by_source, "meta": {"total": 1}})
    second = (200, {"data": of_contact}) if isinstance(of_contact, list) else of_contact
    assert find(DEAL, {DEALS: first, "GET /crm/v1/contacts/5/deals": second}) == finding


def test_the_question_for_a_deal() -> None:
    api = Api({DEALS: {"data": [OURS]}})
    asyncio.run(pulse(api, CRM).find(DEAL, [one(done={"contact": "5"})]))
    condition = {"name": "sourceId", "expression": "eq", "value": str(NUMBER)}
    assert api.sent(DEALS) == [{"filter": [condition], "limit": 100, "offset": 0}]


@pytest.mark.parametrize(
    ("step", "path", "answer", "finding"),
    [
        (CONTACT, "external", {"data": {"id": 5, "externalContactId": str(NUMBER)}}, Found("5")),
        (CONTACT, "external", {"data": {"id": 5, "externalContactId": "77"}}, Absent()),
        (CONTACT, "external", GONE, Absent()),
        (PHONE, "5", {"data": contact(5, "+79000000042")}, Found("1")),
        (PHONE, "5", {"data": contact(5, "+79000000043")}, Absent()),
        (PHONE, "5", GONE, Absent()),
        (EMAIL, "5", {"data": contact(5, emails=("Lead42@Example.com",))}, Found("2")),
        (EMAIL, "5", (422, error(422)), CannotTell("SendPulse: a value is refused (words)", final=True)),
        (COMMENT, "comments", {"data": [{"id": 3, "eventData": {"text": "x [lc-abc123-42-7]"}}]}, Found("3")),
        (COMMENT, "comments", {"data": [{"id": 3, "text": "x [lc-abc123-42-7-1]"}]}, Absent()),
        (COMMENT, "comments", GONE, Absent()),
    ],
)
def test_the_other_steps_are_looked_for(step: Any, path: str, answer: Any, finding: Finding) -> None:
    paths = {"external": f"/contacts/external/{NUMBER}", "5": "/contacts/5", "comments": "/deals/6/comments"}
    assert find(step, {f"GET /crm/v1{paths[path]}": answer}) == finding


def test_a_look_up_that_fails_proves_nothing() -> None:
    with pytest.raises(Transient):
        find(DEAL, {DEALS: (500, "<html>")})
    with pytest.raises(Throttled):
        find(COMMENT, {"GET /crm/v1/deals/6/comments": (429, error(2020202020))})
    assert isinstance(asyncio.run(pulse().find(BOOK, [one()]))[one().key], CannotTell)


# The check

USER = {"id": 100, "email": "owner@example.com", "name": "Owner"}


@pytest.mark.parametrize(
    ("user", "book", "said"),
    [
        (USER, [{"id": 88123, "name": "Leads", "status": 0}], "owner@example.com: address book Leads (88123)"),
        ({}, {"id": 88123, "name": "Le\x1bads", "status": 3}, "the account: address book Le ads (88123)"),
        (USER, [{"id": 88123, "name": "Leads", "status": 1}], Unusable),
        (USER, [{"id": 88123, "name": "Leads", "status": 4}], Unusable),
        (USER, [{"id": 88123, "name": "Leads", "status": 5}], Unusable),
        (USER, [], Unusable),
        (USER, (404, error(213, "Book not found")), Unusable),
        (USER, (404, error(None)), Unusable),
        (USER, (422, error(422)), Unusable),
        ((401, error(401)), [], Unusable),
        ((400, error(None)), [], Unusable),
        ((500, "<html>"), [], Transient),
        (USER, "<html>", Transient),
    ],
)
def test_check_of_a_book(user: Any, book: Any, said: str | type[DeliveryError]) -> None:
    channel = pulse(Api({"GET /user/info": user, "GET /addressbooks/88123": book}))
    if isinstance(said, str):
        assert asyncio.run(channel.check()) == said
        return
    with pytest.raises(said):
        asyncio.run(channel.check())


def test_check_of_a_pipeline() -> None:
    api = Api({"GET /user/info": USER, "GET /crm/v1/pipelines": PIPELINES})
    assert asyncio.run(pulse(api, CRM).check()) == "owner@example.com: pipeline Sales (10)"
