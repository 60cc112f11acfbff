"""UniSender against scripted answers: how each answer of the sheet is read."""

from collections.abc import Mapping

import httpx
import pytest

from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Done, Receipt
from tests.support.unisender import (
    DONE,
    KEY,
    NOT_THERE,
    Api,
    Body,
    contact,
    error,
    failure,
    imported,
    one,
    send,
    uni,
    whole,
)

# What is answered

TABLE = [
    (error("invalid_api_key"), Unusable, "invalid_api_key"),
    (error("access_denied"), Unusable, "access_denied"),
    (error("unknown_method"), Unusable, "unknown_method"),
    (error("not_enough_money"), Unusable, "not_enough_money"),
    (error("invalid_arg"), Rejected, "invalid_arg"),
    (error("unspecified"), Rejected, "unspecified"),
    (error("too_many_double_optins"), Rejected, "too_many_double_optins"),
    (error("retry_later"), Transient, "retry_later"),
    (error("api_call_limit_exceeded_for_api_key"), Throttled, "api_call_limit_exceeded_for_api_key"),
    (error("api_call_limit_exceeded_for_ip"), Throttled, "api_call_limit_exceeded_for_ip"),
    (error("something_new"), Ambiguous, "something_new"),
    ({"error": "words"}, Ambiguous, None),
    ({"error": "", "code": "", "result": {"person_id": 1}}, Ambiguous, None),
    (error("unspecified", 'These list ids="134" has no confirmation letters'), Unusable, "unspecified"),
    ({"error": "Call to a member function getMessage() on boolean"}, Unusable, None),
    (error("something_new", 'These list ids="134" has no confirmation letters'), Ambiguous, "something_new"),
    (error("invalid_arg", 'comment "list has no confirmation letters" is refused'), Rejected, "invalid_arg"),
    ((302, ""), Unusable, "302"),
    ((400, "<html>"), Rejected, "400"),
    ((401, ""), Unusable, "401"),
    ((403, "<html>"), Unusable, "403"),
    ((404, "<html>"), Unusable, "404"),
    ((405, ""), Unusable, "405"),
    ((403, error("retry_later")), Transient, "retry_later"),
    ((413, ""), Rejected, "413"),
    ((408, ""), Ambiguous, "408"),
    ((429, ""), Throttled, "429"),
    ((500, "<html>"), Ambiguous, "500"),
    ((502, error("invalid_arg")), Ambiguous, "invalid_arg"),
    ("<html>", Ambiguous, None),
    ('{"result": {"person', Ambiguous, None),
    ((204, ""), Ambiguous, None),
    ({"result": {}}, Ambiguous, None),
    ({"result": {"person_id": None}}, Ambiguous, None),
    ({"result": {"person_id": True}}, Ambiguous, None),
    ({"result": []}, Ambiguous, None),
    ({"warnings": []}, Ambiguous, None),
]


@pytest.mark.parametrize(("body", "expected", "vendor_code"), TABLE)
def test_the_error_table(body: Body, expected: type[DeliveryError], vendor_code: str | None) -> None:
    caught = failure(uni(Api(subscribe=body)))
    assert type(caught) is expected
    assert (caught.http_status, caught.vendor_code) == (whole(body)[0], vendor_code)
    assert caught.request_digest


@pytest.mark.parametrize(("body", "expected", "vendor_code"), [row for row in TABLE if "result" not in str(row[0])])
def test_the_error_table_of_an_import(body: Body, expected: type[DeliveryError], vendor_code: str | None) -> None:
    """What refuses one lead refuses nobody by name in an import: it goes again in halves."""
    caught = failure(uni(Api(importContacts=body)), one(1), one(2))
    assert type(caught) is (Split if expected is Rejected else expected)
    assert caught.vendor_code == vendor_code
    if isinstance(caught, Split):
        assert (caught.refused, caught.executed_maybe) == ({}, False)


def test_words_lose_their_mark_and_their_secrets() -> None:
    caught = failure(uni(Api(subscribe=error("invalid_api_key", f"no \x1b[31mlogin by {KEY}"))))
    assert caught.message == "UniSender: the API key is wrong (no [31mlogin by ***)"


@pytest.mark.parametrize(
    ("body", "headers", "wait", "scope"),
    [
        (error("api_call_limit_exceeded_for_api_key"), {}, 60.0, 1),
        (error("api_call_limit_exceeded_for_ip"), {}, 60.0, 0),
        ((429, ""), {}, 60.0, 1),
        ((429, ""), {"Retry-After": "7"}, 7.0, 1),
    ],
)
def test_a_limit_pauses_its_bucket(body: Body, headers: Mapping[str, str], wait: float, scope: int) -> None:
    api = Api(subscribe=body)

    def handler(request: httpx.Request) -> httpx.Response:
        response = api(request)
        response.headers.update(headers)
        return response

    channel = uni(handler)
    caught = failure(channel)
    assert isinstance(caught, Throttled)
    assert (caught.retry_after, caught.scope) == (wait, channel.buckets()[scope].scope)
    quick = failure(uni(Api(subscribe=error("api_call_limit_exceeded_for_ip")), scale=10.0))
    assert isinstance(quick, Throttled)
    assert quick.retry_after == 6.0


def test_a_warning_is_a_success_that_is_told() -> None:
    events: list[Event] = []
    api = Api(subscribe={**DONE, "warnings": [{"warning": "anna@example.com is odd"}]})
    assert isinstance(send(uni(api, events=events), one())["lc-abc123-42-7"], Done)
    (notice,) = events
    assert isinstance(notice, Notice)
    assert (notice.code, notice.message) == ("warnings", "UniSender warns: [{'warning': '*** is odd'}]")


# E-mail and phone of two people

CONFLICT = "Contacts a42@example.com and +79000000042 already exist but owned by different subscribers"


def test_a_phone_of_another_contact_is_left_out_and_told() -> None:
    events: list[Event] = []
    api = Api(subscribe=[error("unspecified", CONFLICT), DONE])
    assert send(uni(api, events=events), one()) == {"lc-abc123-42-7": Done("2500767342", parts={"phone": "conflict"})}
    first, second = api.sent("subscribe")
    assert {name for name in first if name not in second} == {"fields[phone]"}
    assert [event.code for event in events if isinstance(event, Notice)] == ["phone_conflict"]


def test_a_conflict_without_an_address_or_twice_is_refused() -> None:
    assert isinstance(failure(uni(Api(subscribe=error("unspecified", CONFLICT))), one(email="")), Rejected)
    api = Api(subscribe=error("invalid_arg", CONFLICT))
    assert isinstance(failure(uni(api)), Rejected)
    assert len(api.sent("subscribe")) == 2


# The log of an import


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (NOT_THERE, Rejected),
        (contact("lc-abc123-2-7", 134, 135), Done),
        (contact("lc-abc123-2-7", 134), Rejected),
        (contact("lc-abc123-9-9", 134, 135), Rejected),
        ({"result": {"email": {"lists": [{"id": "134"}, {"id": "135"}], "fields": {"leadctl_key": "lc-abc123-2-7"}}}},
         Done),
        ({"result": []}, Ambiguous),
        (error("retry_later"), Ambiguous),
        (error("api_call_limit_exceeded_for_ip"), Ambiguous),
        ((502, ""), Ambiguous),
    ],
)  # fmt: skip
def test_a_row_in_the_log_is_asked_for(asked: Body, expected: type[Receipt]) -> None:
    counts = {"inserted": 2, "invalid": 1}
    api = Api(importContacts=imported(3, (1, "spam", "OB1 [it is a trap]"), (1, "x", "y"), **counts), getContact=asked)
    receipts = send(uni(api), one(1), one(2), one(3))
    assert [type(receipt) for receipt in receipts.values()] == [Done, expected, Done]
    assert api.sent("getContact") == [{"email": "a2@example.com", "include_lists": "1", "include_fields": "1"}]
    assert not api.sent("subscribe")
    refusal = receipts["lc-abc123-2-7"]
    if isinstance(refusal, Rejected):
        assert (refusal.vendor_code, refusal.message) == ("spam", "UniSender does not import it: it is a trap")


@pytest.mark.parametrize(
    ("log", "asked", "alone", "expected"),
    [
        # It is in the lists, and nothing says since when.
        ((1, "warn", "x"), contact(None, 134, 135), DONE, Done("2500767342")),
        # Only its phone is wrong.
        ((1, "conflict", CONFLICT), NOT_THERE, DONE, Done("2500767342")),
        ((1, "warn", "x"), contact(None, 134, 135), error("invalid_arg"), Rejected),
        ((1, "warn", "x"), contact(None, 134, 135), error("api_call_limit_exceeded_for_api_key"), Ambiguous),
    ],
)
def test_a_row_that_stays_unclear_goes_alone(
    log: tuple[int, str, str], asked: Body, alone: Body, expected: Done | type[DeliveryError]
) -> None:
    api = Api(importContacts=imported(2, log), getContact=asked, subscribe=alone)
    receipt = send(uni(api), one(1), one(2))["lc-abc123-2-7"]
    assert receipt == expected if isinstance(expected, Done) else type(receipt) is expected
    assert [form["fields[email]"] for form in api.sent("subscribe")] == ["a2@example.com"]


@pytest.mark.parametrize(
    "answer",
    [
        imported(3, inserted=0, updated=2),
        # A warning is in the log of a row that is counted; one of the others is not.
        imported(3, (0, "warn", "x"), inserted=2, invalid=0),
    ],
)
def test_a_row_that_is_neither_counted_nor_named_is_no_success(answer: Body) -> None:
    api = Api(
        importContacts=answer,
        getContact=[contact("lc-abc123-1-7", 134, 135), NOT_THERE, contact("lc-abc123-3-7", 134, 135)],
    )
    receipts = send(uni(api), one(1), one(2), one(3))
    assert receipts == {"lc-abc123-1-7": Done(), "lc-abc123-2-7": Done("2500767342"), "lc-abc123-3-7": Done()}
    assert [form["fields[email]"] for form in api.sent("subscribe")] == ["a2@example.com"]


@pytest.mark.parametrize("log", [{"4": {"index": "1", "code": 3, "message": None}}, []])
def test_php_writes_numbers_as_text_and_lists_as_maps(log: object) -> None:
    api = Api(
        importContacts={
            "result": {"total": "2", "inserted": "1", "updated": "1", "deleted": 0, "invalid": 0, "log": log}
        },
        getContact=NOT_THERE,
    )
    receipts = send(uni(api), one(1), one(2))
    assert [type(receipt) for receipt in receipts.values()] == [Done, Rejected if log else Done]


@pytest.mark.parametrize(
    "result",
    [
        {},
        imported(1)["result"],
        imported(3)["result"],
        imported(2, (2, "x", "y"))["result"],
        imported(2, (-1, "x", "y"))["result"],
        imported(2, log="none")["result"],
        imported(2, log=[1])["result"],
        imported(2, inserted=None)["result"],
        [],
        None,
    ],
)
def test_an_import_that_does_not_account_for_its_rows_is_no_answer(result: object) -> None:
    caught = failure(uni(Api(importContacts={"result": result})), one(1), one(2))
    assert isinstance(caught, Ambiguous)
    assert caught.http_status == 200


def test_what_was_imported_before_a_failure_is_kept() -> None:
    api = Api(importContacts=imported(2), subscribe=error("api_call_limit_exceeded_for_api_key"))
    receipts = send(uni(api), one(1), one(2), one(3, phone=""), one(4, name=""))
    assert [type(receipt) for receipt in receipts.values()] == [Done, Done, Throttled, Throttled]
    assert len(api.sent("subscribe")) == 1


# What is in doubt, where letters are sent


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (contact("lc-abc123-42-7", 134, 135), 0),
        (contact("lc-abc123-1-7", 134, 135), 1),
        (contact(None, 134, 135), 1),
        (NOT_THERE, 1),
    ],
)
def test_a_letter_in_doubt_is_asked_for_first(asked: Body, sent: int) -> None:
    api = Api(getContact=asked)
    assert isinstance(send(uni(api, {"double_optin": 0}), one(doubt=True))["lc-abc123-42-7"], Done)
    assert (len(api.sent("getContact")), len(api.sent("subscribe"))) == (1, sent)


def test_without_letters_or_an_address_what_is_in_doubt_is_sent_again() -> None:
    api = Api()
    send(uni(api), one(doubt=True))
    send(uni(api, {"double_optin": 0}), one(doubt=True, email=""))
    assert [name for name, _ in api.calls if not name.startswith("getL") and name != "getFields"] == ["subscribe"] * 2
