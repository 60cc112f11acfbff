"""LPTracker against scripted answers: how each row of the sheet's error table is read, sessions, and look-ups."""

import asyncio
from typing import Any

import httpx
import pytest

from leadctl.channelkit.lptracker_api import PAUSE, SESSION
from leadctl.channelkit.spec import Step
from leadctl.channels import lptracker
from leadctl.channels.lptracker import CLOCKS_DIFFER, COMMENT, CONTACT, EARLY_WAIT, LEAD, MAX_PAGES, PAGE
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.model import Absent, CannotTell, Done, Found
from leadctl.testing.checks import everything_of
from tests.support.channels import NOW, FakeClock, make_delivery, make_lead
from tests.support.lptracker import CONTACT_DONE, DATA, LEAD_DONE, Account, Scripted, failed, find, lpt, ok, send

PATHS = {CONTACT.name: "POST /contact", LEAD.name: "POST /lead", COMMENT.name: "POST /lead/77/comment"}
SEARCH, LEADS, LIST = "GET /contact/search", "GET /contact/555/leads", "GET /lead/41823/list"
COMMENTS = "GET /lead/77/comments"
WRITES = (CONTACT, LEAD, COMMENT)
TOO_EARLY = failed(400, "Invalid lead id")

#: What is answered → what it means to a request that makes something, and its code.
ROWS: list[tuple[Scripted, type[DeliveryError], str | None]] = [
    (failed(400), Rejected, "400"),
    (failed(404), Rejected, "404"),
    (failed("400"), Rejected, "400"),
    ((200, {"code": 400, "message": "Bad"}), Rejected, "400"),
    ((200, {"status": "error", "code": 404, "message": "No"}), Rejected, "404"),
    ((404, "<html>no</html>"), Rejected, "404"),
    (failed(401), Unusable, "401"),
    ((401, ""), Unusable, "401"),
    (failed(402), Unusable, "402"),
    (failed(403), Unusable, "403"),
    (failed(405), Unusable, "405"),
    ((301, ""), Unusable, "301"),
    (failed(503), Throttled, "503"),
    (failed(503, status=503), Throttled, "503"),
    ((503, "<html>busy</html>"), Throttled, "503"),
    ((429, ""), Ambiguous, "429"),
    (failed(500), Ambiguous, "500"),
    ((500, ""), Ambiguous, "500"),
    ((502, "<html>"), Ambiguous, "502"),
    ((504, {"status": "error", "errors": [{"code": 400, "message": "x"}]}), Ambiguous, "504"),
    (failed(7), Ambiguous, "7"),
    (failed(3), Ambiguous, "3"),
    ((200, {"status": "error", "errors": ["Unknown error"]}), Ambiguous, None),
    ((200, {"status": "error"}), Ambiguous, None),
    ((200, "<html>hello</html>"), Ambiguous, None),
    ((200, ""), Ambiguous, None),
    ((200, {"result": {"id": 77}}), Ambiguous, None),
    ((200, {"status": "pending", "result": {"id": 77}}), Ambiguous, None),
    ((200, [{"id": 77}]), Ambiguous, None),
    (ok([]), Ambiguous, None),
    (ok({"id": "new"}), Ambiguous, None),
    (ok(None), Ambiguous, None),
]


def failure(account: Account, step: Step, done: dict[str, str] | None = None, **more: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(lpt(account, **more), step, make_delivery(done=LEAD_DONE if done is None else done))
    return caught.value


# The error table


@pytest.mark.parametrize("step", WRITES, ids=lambda step: step.name)
@pytest.mark.parametrize(("scripted", "expected", "code"), ROWS)
def test_an_answer_is_read_by_its_body(
    scripted: Scripted, expected: type[DeliveryError], code: str | None, step: Step
) -> None:
    error = failure(Account({PATHS[step.name]: scripted}), step)
    assert (type(error), error.vendor_code, error.http_status) == (expected, code, scripted[0])
    assert error.request_digest


def test_every_row_of_the_spec_is_a_row_here() -> None:
    kinds = {kind.__name__ for _, kind, _ in ROWS} | {"Transient"}
    assert set(lptracker.LpTracker.spec.errors.values()) == kinds


def test_a_limit_pauses_the_account() -> None:
    account = Account({"POST /lead": lambda _: failed(503, status=503)})
    error = failure(account, LEAD)
    assert isinstance(error, Throttled)
    assert error.retry_after is None
    assert error.scope == lpt().buckets()[0].scope


def test_the_vendors_words_are_told_without_secrets() -> None:
    error = failure(Account({"POST /lead": failed(400, f"bad\r\nvalue {DATA['password']}")}), LEAD)
    assert error.message == "LPTracker: a value is refused (bad value ***)"
    assert str(DATA["password"]) not in str(error)


def test_a_comment_that_comes_too_early_is_tried_again() -> None:
    for answer in (TOO_EARLY, (200, {"status": "error", "errors": ["invalid lead id: 77"]})):
        error = failure(Account({PATHS["comment"]: answer}), COMMENT, scale=2)
        assert isinstance(error, Transient)
        assert (error.vendor_code, error.retry_after) == ("invalid lead id", EARLY_WAIT / 2)
    assert type(failure(Account({PATHS["lead"]: TOO_EARLY}), LEAD)) is Rejected


@pytest.mark.parametrize(("step", "remote_id"), [(CONTACT, "555"), (LEAD, "77"), (COMMENT, "9")], ids=str)
def test_a_success_names_what_was_made(step: Step, remote_id: str) -> None:
    assert send(lpt(Account({})), step) == Done(remote_id)


# The session


def test_one_login_serves_all_and_ends_after_half_a_day() -> None:
    account, clock = Account({}), FakeClock()
    channel = lpt(account, clock=clock)
    send(channel, COMMENT)
    send(channel, COMMENT)
    assert account.bodies("/login") == [
        {"login": "you@example.com", "password": "canary-password-0123", "service": "leadctl", "version": "1.0"}
    ]
    assert "token" not in account.requests[0].headers
    assert clock.sleeps == [PAUSE, PAUSE], "the login and the look at the projects count against the limit"
    clock.elapsed += SESSION
    send(channel, COMMENT)
    assert len(account.bodies("/login")) == 2


@pytest.mark.parametrize("step", [CONTACT, COMMENT], ids=lambda step: step.name)
def test_a_refused_token_is_renewed_once(step: Step) -> None:
    account = Account(
        {
            "POST /login": [ok({"token": "old-token-0001"}), ok({"token": "new-token-0002"})],
            PATHS[step.name]: [failed(401), ok({"id": 5})],
        }
    )
    assert send(lpt(account), step) == Done("5")
    assert [request.headers.get("token") for request in account.requests][-1] == "new-token-0002"
    assert len(account.bodies("/login")) == 2


def test_a_lead_whose_token_is_refused_is_looked_for_first() -> None:
    account = Account({"POST /lead": [failed(401), ok({"id": 78})]})
    assert send(lpt(account), LEAD, make_delivery(done=CONTACT_DONE)) == Done("78")
    assert account.paths()[-5:] == ["POST /lead", "POST /login", LEADS, LIST, "POST /lead"]


def test_a_lead_that_is_there_although_the_token_was_refused_is_not_repeated() -> None:
    account = Account({"POST /lead": failed(401), LEADS: ok([{"id": 70, "name": "x [lc-abc123-42-7]"}])})
    assert send(lpt(account), LEAD, make_delivery(done=CONTACT_DONE)) == Done("70")
    assert account.paths().count("POST /lead") == 1


@pytest.mark.parametrize("answer", [failed(500), failed(503), (200, "<html>")])
def test_a_lead_that_cannot_be_looked_for_is_not_repeated(answer: Scripted) -> None:
    account = Account({"POST /lead": failed(401), LIST: answer})
    error = failure(account, LEAD)
    assert type(error) is Ambiguous
    assert account.paths().count("POST /lead") == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (failed(401, "Invalid login or password"), Unusable), (failed(400), Unusable), (failed(404), Unusable),
        (failed(503), Throttled), ((502, ""), Transient), (ok({}), Transient), (ok([]), Transient),
        (ok({"token": ""}), Transient),
    ],
)  # fmt: skip
def test_a_login_that_fails_sends_no_lead(answer: Scripted, expected: type[DeliveryError]) -> None:
    account = Account({"POST /login": answer})
    error = failure(account, LEAD)
    assert type(error) is expected
    assert account.paths() == ["POST /login"], "a wrong password is never tried twice"
    assert str(DATA["password"]) not in everything_of(error)


# The contact


def contact(number: int, kind: str, data: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "details": [{"id": "1", "type": kind, "data": data}], **more}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([contact(9, "phone", "79000000001")], "9"),
        ([contact(9, "phone", "+7 (900) 000-00-01")], "9"),
        ([contact(9, "phone", "89000000001")], "9"),
        ([contact(9, "phone", "79000000001"), contact(8, "phone", "79000000001")], "8"),
        ([contact(9, "email", " Anna@Example.com")], "9"),
        ([contact(9, "phone", "790000000011"), contact(8, "skype", "79000000001"), {"id": 7}], "555"),
        ([contact(9, "email", "hanna@example.com")], "555"),
        ([], "555"),
    ],
)  # fmt: skip
def test_a_contact_is_made_only_where_none_has_that_phone_or_address(found: list[Any], expected: str) -> None:
    account = Account({SEARCH: lambda request: ok([c for c in found if _has(c, *[*request.url.params][1:])])})
    assert send(lpt(account), CONTACT, make_delivery()) == Done(expected)
    assert account.paths().count("POST /contact") == (expected == "555")


def _has(item: dict[str, Any], kind: str) -> bool:
    return any(detail["type"] in (kind, "skype") for detail in item.get("details", [{"type": kind}]))


def test_phones_are_searched_by_their_digits_and_then_addresses() -> None:
    account, clock = Account({}), FakeClock()
    send(lpt(account, clock=clock), CONTACT, make_delivery(make_lead(email="Anna@Example.com")))
    assert [dict(request.url.params) for request in account.requests if request.url.path == "/contact/search"] == [
        {"project_id": "41823", "phone": "79000000001"}, {"project_id": "41823", "email": "anna@example.com"},
    ]  # fmt: skip
    assert clock.sleeps == [PAUSE] * 4, "login, projects and both searches"


def test_a_contact_of_this_run_is_not_made_twice_although_the_search_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lptracker, "MAX_MET", 2)
    account = Account({"POST /contact": [ok({"id": 5}), ok({"id": 6}), ok({"id": 7})]})
    channel = lpt(account)
    anna = make_delivery(make_lead())
    assert send(channel, CONTACT, anna) == Done("5")
    assert send(channel, CONTACT, make_delivery(make_lead(id=43, phone=""))) == Done("5")
    assert send(channel, CONTACT, make_delivery(make_lead(id=44, phone="", email="b@example.com"))) == Done("6")
    assert send(channel, CONTACT, make_delivery(make_lead(id=45, email=""))) == Done("7"), "the oldest is forgotten"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (failed(400), Rejected), (failed(404), Rejected), (failed(403), Unusable), (failed(503), Throttled),
        ((429, ""), Throttled), ((500, ""), Transient), ((200, "<html>"), Transient), (ok({"id": 5}), Transient),
        (ok([{"name": "x"}]), Transient),
    ],
)  # fmt: skip
def test_a_search_that_fails_makes_no_contact(answer: Scripted, expected: type[DeliveryError]) -> None:
    account = Account({SEARCH: answer})
    assert type(failure(account, CONTACT)) is expected
    assert "POST /contact" not in account.paths()


def test_a_contact_in_doubt_is_searched_for() -> None:
    delivery = make_delivery()
    there = Account({SEARCH: ok([contact(9, "phone", "79000000001")])})
    assert find(lpt(there), CONTACT, delivery) == Found("9")
    assert find(lpt(Account({})), CONTACT, delivery) == Absent()
    refused = find(lpt(Account({SEARCH: failed(400)})), CONTACT, delivery)
    assert isinstance(refused, CannotTell)
    assert refused.final
    with pytest.raises(Transient):
        find(lpt(Account({SEARCH: failed(500)})), CONTACT, delivery)


# Looking for leads and comments


def named(number: int, name: str | None) -> dict[str, Any]:
    return {"id": number, "name": name}


def doubtful(**context: str) -> Any:
    return make_delivery(done=CONTACT_DONE, context=context)


def test_a_lead_is_found_by_the_last_key_in_its_name() -> None:
    leads = [
        named(70, "x [lc-abc123-42-7] edited [hot]"),
        named(71, "Anna [lc-abc123-42-7] [lc-abc123-43-7]"),
        named(72, "lc-abc123-42-7"),
        named(73, "x [lc-abc123-42-7-1]"),
        named(74, "x [LC-ABC123-42-7]"),
        named(75, None),
    ]
    assert find(lpt(Account({LEADS: ok(leads)})), LEAD, doubtful()) == Found("70")
    assert find(lpt(Account({LEADS: ok(leads[1:])})), LEAD, doubtful()) == Absent()


def test_the_project_is_looked_through_from_the_time_of_the_send() -> None:
    account = Account({})
    channel = lpt(account)
    context = asyncio.run(channel.prepare(LEAD))
    assert context == {"since": str(int(NOW.timestamp()))}
    assert asyncio.run(channel.prepare(COMMENT)) == asyncio.run(channel.prepare(CONTACT)) == {}
    assert find(channel, LEAD, doubtful(since="1772360000")) == Absent()
    assert find(channel, LEAD, doubtful(restored="1")) == Absent()
    lists = [dict(r.url.params) for r in account.requests if r.url.path == "/lead/41823/list"]
    since = 1772360000 - CLOCKS_DIFFER
    assert lists[0] == {
        "offset": "0", "limit": str(PAGE), "sort[created_at]": "3", "filter[created_at_from]": str(since),
    }  # fmt: skip
    assert lists[1]["filter[created_at_from]"] == str(int(NOW.timestamp()) - CLOCKS_DIFFER)


def pages(total: int, size: int, ours: tuple[int, ...] = ()) -> Any:
    """A project of so many leads, newest first, in pages of at most ``size``."""
    leads = [named(n, "x [lc-abc123-42-7]" if n in ours else "x") for n in range(total, 0, -1)]

    def answer(request: httpx.Request) -> Scripted:
        begin = int(request.url.params["offset"])
        return ok(leads[begin : begin + size])

    return answer


def test_pages_are_walked_to_the_end_however_long_they_are() -> None:
    account = Account({LIST: pages(45, 20, (3, 30)), LEADS: ok([named(30, "x [lc-abc123-42-7]")])})
    assert find(lpt(account), LEAD, doubtful()) == Found("3", duplicates=("30",))
    assert [r.url.params["offset"] for r in account.requests if "offset" in r.url.params] == ["0", "20", "40", "45"]


def test_too_many_new_leads_prove_nothing() -> None:
    account = Account({LIST: pages(10_000, PAGE)})
    told = find(lpt(account), LEAD, doubtful())
    assert isinstance(told, CannotTell)
    assert told.final
    assert account.paths().count(LIST) == MAX_PAGES
    known = Account({LIST: pages(10_000, PAGE), LEADS: ok([named(30, "x [lc-abc123-42-7]")])})
    assert find(lpt(known), LEAD, doubtful()) == Found("30")


def test_a_list_without_the_envelope_is_a_list() -> None:
    account = Account({LEADS: (200, []), LIST: [(200, [named(70, "x [lc-abc123-42-7]")]), (200, [])]})
    assert find(lpt(account), LEAD, doubtful()) == Found("70")


def test_a_contact_that_is_gone_leaves_the_project() -> None:
    account = Account({LEADS: failed(404), LIST: [ok([named(70, "x [lc-abc123-42-7]")]), ok([])]})
    assert find(lpt(account), LEAD, doubtful()) == Found("70")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (failed(400), Unusable), (failed(403), Unusable), (failed(503), Throttled), ((429, ""), Throttled),
        ((500, ""), Transient), ((200, "<html>"), Transient), (ok(None), Transient), (ok([{}]), Transient),
        ((200, {"result": []}), Transient),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [LEADS, LIST, COMMENTS])
def test_a_failed_question_is_no_answer(path: str, answer: Scripted, expected: type[DeliveryError]) -> None:
    step = COMMENT if path == COMMENTS else LEAD
    with pytest.raises(DeliveryError) as caught:
        find(lpt(Account({path: answer})), step, make_delivery(done=LEAD_DONE))
    assert type(caught.value) is expected


def test_a_later_page_that_fails_is_no_absence() -> None:
    account = Account({LIST: [ok([named(90, "x")]), failed(500)]})
    told = find(lpt(account), LEAD, doubtful())
    assert isinstance(told, CannotTell)
    assert not told.final


def test_a_comment_is_found_by_its_key() -> None:
    comments = [{"id": 4, "text": "hello"}, {"id": 6, "text": "x\n\nНомер: 42 [lc-abc123-42-7]"}]
    delivery = make_delivery(done=LEAD_DONE)
    assert find(lpt(Account({COMMENTS: ok(comments)})), COMMENT, delivery) == Found("6")
    assert find(lpt(Account({})), COMMENT, delivery) == Absent()
    assert find(lpt(Account({COMMENTS: failed(404)})), COMMENT, delivery) == Absent()


# The check


def test_the_check_names_the_project_and_makes_nothing() -> None:
    account = Account({"GET /projects": ok([{"id": 41823, "name": "Site\x1b[31m"}])})
    assert asyncio.run(lpt(account).check()) == "project Site [31m (41823) at direct.lptracker.ru"
    assert account.paths() == ["POST /login", "GET /projects"]
