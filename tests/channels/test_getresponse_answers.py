"""GetResponse against scripted answers: how each answer of the sheet is read."""

import asyncio
from typing import Any

import pytest

from leadctl.channels.getresponse import UNSEEN
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Absent, CannotTell, Done, Finding, Found
from leadctl.testing.checks import everything_of
from tests.support.channels import NOW, FakeClock
from tests.support.getresponse import (
    BUDGET,
    KEY,
    Api,
    blame,
    contact,
    details,
    error,
    failure,
    gr,
    one,
    send,
)

TABLE = [
    (error(1, 500), Ambiguous, "1"),
    (error(1000), Rejected, "1000"),
    (error(1001), Unusable, "1001"),
    (error(1002), Rejected, "1002"),
    (error(1003), Rejected, "1003"),
    (error(1004), Rejected, "1004"),
    (error(1005), Rejected, "1005"),
    (error(1006), Rejected, "1006"),
    (error(1007), Rejected, "1007"),
    (error(1009), Rejected, "1009"),
    (error(1010), Rejected, "1010"),
    (error(1011), Rejected, "1011"),
    (error(1012), Rejected, "1012"),
    (error(1013, 404), Unusable, "1013"),
    (error(1014, 401), Unusable, "1014"),
    (error(1014, 403), Unusable, "1014"),
    (error(1015, 429), Throttled, "1015"),
    (error(1016, 403), LimitReached, "1016"),
    (error(1017, 403), Unusable, "1017"),
    (error(1018, 403), Unusable, "1018"),
    (error(1019, 503), Transient, "1019"),
    (error(1021), Unusable, "1021"),
    (error(1023, 403), Unusable, "1023"),
    (error(1024, 404), Unusable, "1024"),
    (error(1027), Unusable, "1027"),
    (error(1028), Rejected, "1028"),
    (error(1029), Rejected, "1029"),
    (error(4711), Rejected, "4711"),
    (error(1002, 200), Rejected, "1002"),
    (error(1002, 502), Ambiguous, "1002"),
    ((302, ""), Unusable, "302"),
    ((400, "<html>"), Rejected, "400"),
    ((401, "<html>"), Unusable, "401"),
    ((402, ""), Unusable, "402"),
    ((403, "<html>blocked by the firewall</html>"), Unusable, "403"),
    ((404, ""), Unusable, "404"),
    ((405, ""), Unusable, "405"),
    ((407, ""), Unusable, "407"),
    ((408, ""), Ambiguous, "408"),
    ((410, ""), Unusable, "410"),
    ((413, ""), Rejected, "413"),
    ((415, ""), Unusable, "415"),
    ((429, "<html>"), Throttled, "429"),
    ((500, ""), Ambiguous, "500"),
    ((502, "<html>"), Ambiguous, "502"),
    ((504, "<html>"), Ambiguous, "504"),
    ((200, "<html>welcome to the hotel</html>"), Ambiguous, "200"),
    ((200, {"contactId": "x"}), Ambiguous, "200"),
    ((204, ""), Ambiguous, "204"),
]


@pytest.mark.parametrize(("answer", "expected", "code"), TABLE)
def test_the_error_table(answer: Any, expected: type[DeliveryError], code: str) -> None:
    caught = failure(gr(Api(add=answer)))
    assert type(caught) is expected
    assert (caught.http_status, caught.vendor_code) == (answer[0], code)
    assert caught.request_digest
    assert caught.message.startswith("GetResponse: ")


@pytest.mark.parametrize(("answer", "expected", "code"), [row for row in TABLE if row[0][0] not in (200, 404)])
def test_the_error_table_of_an_addition(answer: Any, expected: type[DeliveryError], code: str) -> None:
    caught = failure(gr(Api(add=error(1008, 409), upsert=answer)))
    assert (type(caught), caught.vendor_code) == (expected, code)


@pytest.mark.parametrize("answer", [(202, ""), (202, "<html>"), (202, "{"), (202, {"code": 5})])
def test_202_is_a_success_whatever_stands_below_it(answer: Any) -> None:
    assert send(gr(Api(add=answer))) == Done(accepted=True)


def test_parse_reads_the_first_request() -> None:
    channel = gr(scale=10.0)
    (step,) = channel.steps

    async def answered(api: Api) -> Any:
        return await gr(api).exchange(channel.build(step, [one()]))

    assert channel.parse(step, [one()], asyncio.run(answered(Api()))) == {"lc-abc123-42-7": Done(accepted=True)}
    with pytest.raises(Rejected):
        channel.parse(step, [one()], asyncio.run(answered(Api(add=error(1002)))))


def test_words_name_the_reason_and_no_secret() -> None:
    """1014 may quote the key (``context.sentToken``)."""
    context = {
        "authenticationType": "auth_token",
        "sentToken": f"api-key {KEY}",
        "errorDescription": f"no\x1b[31m {KEY}",
    }
    caught = failure(gr(Api(add=error(1014, 401, context))))
    assert caught.message.endswith("(said: no [31m ***)")
    assert KEY not in everything_of(caught)
    several = failure(gr(Api(add=error(1002, 400, [{"errorDescription": "one"}, {"errorDescription": "two"}, 3]))))
    assert several.message.endswith("(said: one: two)")
    named = failure(gr(Api(add=blame("email", 1003))))
    assert named.path == "email"


@pytest.mark.parametrize(
    ("context", "headers", "wait"),
    [
        ({}, {}, 0.1),
        ({}, {"Retry_After": "7", "X_RateLimit_Reset": "432 seconds"}, 7.0),
        ({"timeToReset": "100 seconds"}, {"X_RateLimit_Reset": "432 seconds"}, 432.0),
        ({"timeToReset": "100 seconds"}, {"X_RateLimit_Reset": "soon"}, 100.0),
        ({"timeToReset": 5}, {}, 5.0),
        ([{"timeToReset": "5 seconds"}], {}, 5.0),
        ({"timeToReset": None}, {}, 0.1),
        ({}, {"X_RateLimit_Reset": "1 seconds"}, 1.0),
        ({}, {"X_RateLimit_Reset": str(int(NOW.timestamp()) + 30)}, 30.0),
        ({}, {"X_RateLimit_Reset": str(int(NOW.timestamp()) - 30)}, 0.0),
        ({}, {"Retry_After": "Sun, 01 Mar 2026 10:00:09 GMT"}, 9.0),
    ],
)
def test_a_limit_says_how_long(context: Any, headers: dict[str, str], wait: float) -> None:
    channel = gr(Api(add=error(1015, 429, context, **headers)), scale=10.0)
    caught = failure(channel)
    assert isinstance(caught, Throttled)
    assert (caught.retry_after, caught.scope) == (wait, channel.buckets()[-1].scope)


def test_a_block_ends_in_a_quarter_of_an_hour() -> None:
    caught = failure(gr(Api(add=error(1016, 403))))
    assert isinstance(caught, LimitReached)
    assert caught.until == NOW.timestamp() + 900


# A value that is refused by its name


@pytest.mark.parametrize(
    ("refusal", "lost", "what"),
    [
        (blame("name"), "name", {"name"}),
        (blame("comment"), "comment", {"pVyRW"}),
        (blame("pVyRW"), "comment", {"pVyRW"}),
        (blame("customFieldValues[2].value"), "phone", {"n"}),
        (error(1003, 400, {"customFieldId": "n"}), "phone", {"n"}),
        (error(1003, 400, [{"fieldName": "phone"}, {"fieldName": "budget"}]), "phone, budget", {"n", "bQ7"}),
    ],
)
def test_it_goes_once_without_it(refusal: Any, lost: str, what: set[str]) -> None:
    events: list[Event] = []
    api = Api(add=[refusal, (202, "")])
    assert send(gr(api, BUDGET, events=events)) == Done(accepted=True, parts={"left_out": lost})
    first, second = api.sent("add")
    ids = [
        {"name"} & body.keys() | {entry["customFieldId"] for entry in body["customFieldValues"]}
        for body in (first, second)
    ]
    assert ids[0] - ids[1] == what
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert (notice.code, notice.message) == ("left_out", f"lead 42 went without what GetResponse refuses: {lost}")


@pytest.mark.parametrize(
    ("refusal", "length"),
    [
        (blame("comment", 1007, maxLength=20), 20),
        (blame("comment", 1007, max="20"), 20),
        (error(1000, 400, {"fieldName": "comment", "errorDescription": "Expected string length between 1 and 20"}), 20),
    ],
)
def test_what_is_too_long_is_cut(refusal: Any, length: int) -> None:
    api = Api(add=[refusal, (202, "")])
    assert send(gr(api)) == Done(accepted=True, parts={"left_out": "comment"})
    values = {entry["customFieldId"]: entry["value"][0] for entry in api.sent("add")[1]["customFieldValues"]}
    assert (len(values["pVyRW"]), values["pVyRW"][-1], values["kL6Nh"]) == (length, "…", "lc-abc123-42-7")


@pytest.mark.parametrize(
    ("refusal", "tries"),
    [
        (blame("email", 1003), 1),
        (blame("customFieldValues[77]"), 1),
        (error(1000, 400, "words"), 1),
        (error(1002, 400, {"fieldName": "comment"}), 1),
        (blame("comment"), 2),
        (error(1010), 2),
    ],
)
def test_what_stays_refused_is_rejected(refusal: Any, tries: int) -> None:
    api = Api(add=refusal)
    assert isinstance(failure(gr(api)), Rejected)
    assert len(api.sent("add")) == tries


def test_a_check_outside_that_fails_is_tried_once_more() -> None:
    api = Api(add=[error(1010), (202, "")])
    assert send(gr(api)) == Done(accepted=True)
    first, second = api.sent("add")
    assert first == second


def test_ids_that_changed_are_looked_up_again() -> None:
    events: list[Event] = []
    api = Api(add=[error(1001), (202, "")], customs=[
        (200, [{"customFieldId": "old", "name": "budget"}]), (200, [{"customFieldId": "new", "name": "budget"}]),
    ])  # fmt: skip
    assert send(gr(api, BUDGET, events=events)) == Done(accepted=True)
    assert [body["customFieldValues"][0]["customFieldId"] for body in api.sent("add")] == ["old", "new"]
    assert events == []


def test_a_list_that_is_not_there_is_configuration() -> None:
    api = Api(add=error(1001))
    assert isinstance(failure(gr(api)), Unusable)
    assert [name for name, _ in api.calls] == ["list", "customs", "add", "list", "customs"]


# An address that is there already


def test_the_data_of_a_lead_are_added_to_the_contact() -> None:
    api = Api(add=error(1008, 409), contacts=[contact("xa42@example.com", "other"), contact("A42@Example.com", "pVx")])
    assert send(gr(api, BUDGET)) == Done("pVx")
    assert api.routes() == ["add", "contacts", "upsert"]
    assert str(api.requests[-1].url) == "https://api.getresponse.com/v3/contacts/pVx/custom-fields"
    assert api.sent("upsert") == [{"customFieldValues": api.sent("add")[0]["customFieldValues"]}]


def test_a_contact_of_another_list_is_not_ours() -> None:
    api = Api(add=error(1008, 409), contacts=[contact(campaign="V")])
    assert isinstance(failure(gr(api)), Transient)
    assert not api.sent("upsert")


def test_without_custom_fields_there_is_nothing_to_add() -> None:
    api = Api(names={}, add=(409, "<html>"))
    assert send(gr(api)) == Done("pVx")
    assert api.routes() == ["add", "contacts"]


@pytest.mark.parametrize(
    ("opt_in", "doubt", "expected"),
    [
        ("single", True, Done(accepted=True)),
        ("double", True, Done(accepted=True)),
        ("single", False, Transient),
        ("double", False, Rejected),
    ],
)
def test_a_contact_that_is_not_shown(opt_in: str, doubt: bool, expected: Any) -> None:
    """In doubt: our own attempt queued it. Else somebody did, and this lead's data would be lost."""
    api = Api(opt_in=opt_in, add=error(1008, 409), contacts=[])
    channel = gr(api, scale=10.0)
    if isinstance(expected, Done):
        assert send(channel, one(doubt=doubt)) == expected
        return
    caught = failure(channel, one(doubt=doubt))
    assert (type(caught), caught.http_status, caught.vendor_code) == (expected, 409, "1008")
    if isinstance(caught, Transient):
        assert caught.retry_after == UNSEEN / 10


def test_two_leads_of_one_person_are_never_in_the_queue_together() -> None:
    """The vendor might merge them, and keep the data of one."""
    api = Api(contacts=[[], []])
    channel = gr(api)

    async def both() -> list[Any]:
        leads = [one(1, email="anna@example.com"), one(2, email="Anna@example.com")]
        return await asyncio.gather(*(channel.send(channel.steps[0], [lead]) for lead in leads), return_exceptions=True)

    first, second = asyncio.run(both())
    assert first.receipts == {"lc-abc123-1-7": Done(accepted=True)}
    assert isinstance(second, Transient)
    assert api.routes() == ["add", "contacts"]
    # An attempt in doubt was not ours: the address was skipped.
    assert isinstance(failure(channel, one(2, email="anna@example.com", doubt=True)), Transient)
    api.answers["contacts"] = [contact("anna@example.com")]
    assert send(channel, one(2, email="anna@example.com")) == Done("pVx")
    assert api.routes()[-2:] == ["contacts", "upsert"]
    # The contact is shown: the next one is sent as any other.
    send(channel, one(3, email="anna@example.com"))
    assert api.routes()[-1] == "add"


def test_a_repeat_of_the_same_lead_is_sent() -> None:
    api = Api()
    channel = gr(api)
    for _ in range(2):
        assert send(channel) == Done(accepted=True)
    assert api.routes() == ["add", "add"]


def test_only_the_last_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadctl.channels.getresponse.MAX_QUEUED", 2)
    api = Api()
    channel = gr(api)
    for number in (1, 2, 3):
        send(channel, one(number))
    assert send(channel, one(9, email="a1@example.com")) == Done(accepted=True)
    assert api.routes() == ["add"] * 4


def test_leads_of_one_person_keep_their_order() -> None:
    channel = gr()
    leads = [one(email="Anna@Example.com"), one(email=" anna@example.com"), one()]
    keys = [channel.batch_key(channel.steps[0], lead) for lead in leads]
    assert keys == ["anna@example.com", "anna@example.com", "a42@example.com"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((500, ""), Transient),
        ((502, "<html>"), Transient),
        ("<html>", Transient),
        ({"contactId": "x"}, Transient),
        (error(1015, 429), Throttled),
        (error(1003), Rejected),
        (error(1014, 401), Unusable),
        (error(1013, 404), Transient),
    ],
)
def test_the_question_about_a_contact_leaves_nothing_in_doubt(asked: Any, expected: type[DeliveryError]) -> None:
    api = Api(add=error(1008, 409), contacts=asked)
    assert type(failure(gr(api))) is expected
    assert not api.sent("upsert")


def test_a_contact_that_goes_meanwhile_is_made_again() -> None:
    caught = failure(gr(Api(add=error(1008, 409), upsert=error(1013, 404))))
    assert (type(caught), caught.http_status, bool(caught.request_digest)) == (Transient, 404, True)


# Looking for what was accepted


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, Found("pVx")),
        ({"contacts": []}, Absent()),
        ({"contacts": [contact("ba42@example.com")]}, Absent()),
        ({"contacts": [contact(campaign="V")]}, Absent()),
        ({"opt_in": "double", "contacts": []}, CannotTell),
        ({"opt_in": "double"}, Found("pVx")),
        ({"details": details("lc-abc123-9-7")}, CannotTell),
        ({"details": details(None)}, Absent()),
        ({"details": error(1013, 404)}, Absent()),
        ({"names": {}, "details": details(None)}, Found("pVx")),
    ],
)
def test_find(answers: dict[str, Any], expected: Any) -> None:
    clock = FakeClock()
    api = Api(**answers)
    channel = gr(api, clock=clock)
    findings: dict[str, Finding] = dict(asyncio.run(channel.find(channel.steps[0], [one()])))
    finding = findings["lc-abc123-42-7"]
    assert isinstance(finding, expected) if isinstance(expected, type) else finding == expected
    assert {request.method for request in api.requests} == {"GET"}
    # Eight at a time stay below 80 requests a second.
    assert all(8 * 2 / pause < 80 for pause in clock.sleeps)
    assert bool(clock.sleeps) == ("details" in api.routes())


@pytest.mark.parametrize("answer", [{"customFieldValues": "x"}, {"customFieldValues": [1]}, [], "<html>", (500, "")])
def test_details_that_cannot_be_read_tell_nothing(answer: Any) -> None:
    channel = gr(Api(details=answer))
    if answer == []:
        channel = gr(Api(details=(200, [3])))
    with pytest.raises(Transient):
        asyncio.run(channel.find(channel.steps[0], [one()]))
