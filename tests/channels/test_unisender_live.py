"""UniSender over real sockets against the emulated account, and how strict that is."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from leadctl.channels.unisender import UniSender
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Split, Throttled, Unusable
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Delivery, Done, Receipt
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.sandbox.unisender import API_KEY, UniSenderVendor
from tests.support.channels import make_delivery, make_lead, open_channel


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["unisender"], scale=1000) as running:
        yield running


@pytest.fixture
def vendor(box: Sandbox) -> UniSenderVendor:
    found = box.vendor("unisender")
    assert isinstance(found, UniSenderVendor)
    return found


@pytest.fixture
def http(vendor: UniSenderVendor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=vendor.url) as client:
        yield client


def connected(vendor: UniSenderVendor, settings: Mapping[str, Any] | None = None, **more: Any) -> UniSender:
    data = {**vendor.credential(), **more.pop("data", {})}
    chosen = vendor.settings() if settings is None else settings
    channel = open_channel("unisender", data, chosen, clock=SystemClock(), scale=100, **more)
    assert isinstance(channel, UniSender)
    return channel


def one(number: int, *, doubt: bool = False, **changes: Any) -> Delivery:
    own = {"id": number, "email": f"lead{number}@example.com", "phone": f"+7900{number:07d}"}
    return make_delivery(make_lead(**{**own, **changes}), context={"in_doubt": "1"} if doubt else {})


def sent(channel: UniSender, *batches: list[Delivery]) -> list[Receipt]:
    """The receipts of one batch after another; an error of a whole request counts for each."""

    async def run() -> list[Receipt]:
        receipts: list[Receipt] = []
        try:
            for batch in batches:
                try:
                    answered = (await channel.send(channel.steps[0], batch)).receipts
                    receipts += [answered[delivery.key] for delivery in batch]
                except DeliveryError as error:
                    receipts += [error] * len(batch)
        finally:
            await channel.close()
        return receipts

    return asyncio.run(run())


def kinds(receipts: list[Receipt]) -> list[type]:
    return [type(receipt) for receipt in receipts]


# leadctl against the account


def test_hundreds_of_leads_travel_in_one_request(box: Sandbox, vendor: UniSenderVendor) -> None:
    channel = connected(vendor)
    batch = [one(number) for number in range(1, channel.batch_size(channel.steps[0]) + 1)]
    assert kinds(sent(channel, batch)) == [Done] * len(batch)
    assert len(batch) > 300
    assert box.judge.requests("unisender") == 3
    assert box.judge.by_lead("unisender") == {str(delivery.lead.id): 1 for delivery in batch}
    stored = vendor.base.find("lead7@example.com", "")
    assert stored is not None
    assert (stored.phone, stored.lists, stored.phone_lists) == (
        "+79000000007", {"134": "new", "135": "new"}, {"134": "active", "135": "active"},
    )  # fmt: skip
    assert (stored.fields["Name"], stored.fields["lead_id"], stored.fields["budget"]) == ("Анна Ким", "7", "100 000")


@pytest.mark.parametrize("fault", ["timeout", "reset", "broken_answer", "bad_gateway_after"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_repeat_makes_no_second_contact(fault: str, count: int, box: Sandbox, vendor: UniSenderVendor) -> None:
    box.faults.script("unisender", 1, [fault])
    batch = [one(number) for number in range(1, count + 1)]
    receipts = sent(connected(vendor), batch, batch)
    assert kinds(receipts) == [Ambiguous] * count + [Done] * count
    assert box.judge.by_lead("unisender") == {str(number): 1 for number in range(1, count + 1)}
    assert len(box.judge.twins("unisender")) == count
    assert len(vendor.base.contacts) == count


def test_half_an_import_is_no_success(box: Sandbox, vendor: UniSenderVendor) -> None:
    box.faults.script("unisender", 1, ["half_batch"])
    batch = [one(number) for number in range(1, 5)]
    assert kinds(sent(connected(vendor), batch, batch)) == [Ambiguous] * 4 + [Done] * 4
    assert box.judge.by_lead("unisender") == {str(number): 1 for number in range(1, 5)}


def test_a_refused_row_takes_nobody_with_it(box: Sandbox, vendor: UniSenderVendor) -> None:
    receipts = sent(connected(vendor), [one(1), one(2, email="all@example.com"), one(3)])
    assert kinds(receipts) == [Done, Rejected, Done]
    assert isinstance(receipts[1], Rejected)
    assert receipts[1].vendor_code == "invalid_email"
    assert box.judge.by_lead("unisender") == {"1": 1, "3": 1}


def test_a_row_that_is_only_warned_of_is_there(box: Sandbox, vendor: UniSenderVendor) -> None:
    vendor.log_warns = True
    assert kinds(sent(connected(vendor), [one(1), one(2)])) == [Done, Done]
    assert box.judge.by_lead("unisender") == {"1": 1, "2": 1}
    assert box.judge.twins("unisender") == []


def test_without_a_key_field_an_unclear_row_goes_alone(box: Sandbox, vendor: UniSenderVendor) -> None:
    vendor.log_warns = True
    vendor.base.field_names.remove("leadctl_key")
    assert kinds(sent(connected(vendor), [one(1), one(2)])) == [Done, Done]
    assert len(vendor.base.contacts) == 2
    assert box.judge.requests("unisender") == 2 + 1 + 2 * 2


def test_two_leads_of_one_address_in_one_import_are_both_sent(box: Sandbox, vendor: UniSenderVendor) -> None:
    """``batch_key`` keeps them apart; if they meet, the one that the vendor drops is noticed."""
    batch = [one(1, email="anna@example.com"), one(2), one(3, email="Anna@example.com", phone="+79000000001")]
    assert kinds(sent(connected(vendor), batch)) == [Done] * 3
    assert box.judge.by_lead("unisender") == {"1": 1, "2": 1, "3": 1}
    assert len(vendor.base.contacts) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_a_phone_of_another_contact(count: int, box: Sandbox, vendor: UniSenderVendor) -> None:
    events: list[Event] = []
    batch = [one(number, phone="+79000000001" if number == 2 else f"+7900111000{number}") for number in (2, 3)][:count]
    receipts = sent(connected(vendor, events=events), [one(1)], batch)
    assert kinds(receipts) == [Done] * (count + 1)
    assert isinstance(receipts[1], Done)
    assert receipts[1].parts == {"phone": "conflict"}
    assert [event.code for event in events if isinstance(event, Notice)] == ["phone_conflict"]
    assert box.judge.by_lead("unisender")["2"] == 1
    stored = vendor.base.find("lead2@example.com", "")
    assert stored is not None
    assert stored.phone == ""


def test_a_lead_with_a_phone_alone(box: Sandbox, vendor: UniSenderVendor) -> None:
    delivery = one(1, email="")
    assert kinds(sent(connected(vendor), [delivery], [delivery])) == [Done, Done]
    (stored,) = vendor.base.contacts.values()
    assert (stored.email, stored.phone, stored.lists) == ("", "+79000000001", {})
    assert set(stored.phone_lists) == {"134", "135"}
    assert len(box.judge.twins("unisender")) == 1


def test_a_later_lead_keeps_the_name_and_the_other_lists(vendor: UniSenderVendor) -> None:
    both, later = connected(vendor), connected(vendor, data={"list_ids": [134]})
    assert kinds(sent(both, [one(1)])) == [Done]
    again = one(2, email="lead1@example.com", phone="", name="", comment="", answers=(), page_url="", utm={})
    assert kinds(sent(later, [again, one(3, name="", phone="")])) == [Done, Done]
    stored = vendor.base.find("lead1@example.com", "")
    assert stored is not None
    assert (stored.fields["Name"], stored.phone) == ("Анна Ким", "+79000000001")
    assert (stored.fields["comment"], stored.fields["utm_source"], stored.fields["lead_id"]) == ("", "", "2")
    assert set(stored.lists) == {"134", "135"}


@pytest.mark.parametrize(("double_optin", "letters"), [(0, 1), (4, 1), (3, 0)])
def test_one_letter_although_the_answer_was_lost(
    double_optin: int, letters: int, box: Sandbox, vendor: UniSenderVendor
) -> None:
    box.faults.script("unisender", 1, ["reset"])
    channel = connected(vendor, {"double_optin": double_optin})
    assert kinds(sent(channel, [one(1)], [one(1, doubt=True)])) == [Ambiguous, Done]
    assert vendor.base.letters == ["lead1@example.com"] * letters
    assert box.judge.by_lead("unisender") == {"1": 1}


def test_a_list_without_a_letter_is_configuration(vendor: UniSenderVendor) -> None:
    channel = connected(vendor, {"double_optin": 0}, data={"list_ids": [136]})
    (receipt,) = sent(channel, [one(1)])
    assert isinstance(receipt, Unusable)
    assert "no confirmation letter" in receipt.message


def test_the_scripted_refusals(box: Sandbox, vendor: UniSenderVendor) -> None:
    box.faults.script("unisender", 1, ["reject", "rate_limit", "unauthorized", "error_body"])
    batch = [one(1), one(2)]
    receipts = sent(connected(vendor), *[batch] * 5)
    assert kinds(receipts)[::2] == [Split, Throttled, Unusable, Split, Done]
    limit = receipts[2]
    assert isinstance(limit, Throttled)
    assert limit.retry_after == 0.6


def test_check_says_what_is_missing(vendor: UniSenderVendor) -> None:
    async def checked(channel: UniSender) -> str:
        try:
            return await channel.check()
        except Unusable as error:
            return error.message
        finally:
            await channel.close()

    assert asyncio.run(checked(connected(vendor))) == "lists 134 (Leads), 135 (Partners)"
    assert "no list 99" in asyncio.run(checked(connected(vendor, data={"list_ids": [99]})))
    assert "no field nope" in asyncio.run(checked(connected(vendor, {"fields": {"nope": "x"}})))
    assert "API key is wrong" in asyncio.run(checked(connected(vendor, data={"api_key": "wrong-0123456789"})))


# How strict the account is


def call(http: httpx.Client, method: str, *pairs: tuple[str, str], query: str = "", **more: Any) -> Any:
    form = urlencode([("format", "json"), ("api_key", API_KEY), *pairs])
    headers = {"Content-Type": more.pop("kind", "application/x-www-form-urlencoded")}
    answer = http.post(f"/en/api/{method}{query}", content=more.pop("content", form), headers=headers)
    assert answer.status_code == 200
    return answer.json()


def row(*cells: str, number: int = 0) -> list[tuple[str, str]]:
    return [(f"data[{number}][{column}]", text) for column, text in enumerate(cells)]


NAMED = [("field_names[0]", "email"), ("field_names[1]", "email_list_ids")]
SUBSCRIBED = [("list_ids", "134"), ("double_optin", "3"), ("overwrite", "2"), ("fields[email]", "a@example.com")]


@pytest.mark.parametrize(
    ("method", "pairs", "code"),
    [
        ("subscribe", [*SUBSCRIBED, ("api_key", "x")], "invalid_api_key"),
        ("nothing", [], "unknown_method"),
        ("Subscribe", SUBSCRIBED, "unknown_method"),
        ("subscribe", [*SUBSCRIBED, ("format", "html")], "invalid_arg"),
        ("subscribe", SUBSCRIBED[1:], "invalid_arg"),
        ("subscribe", SUBSCRIBED[:3], "invalid_arg"),
        *(("subscribe", [*SUBSCRIBED, wrong], "invalid_arg") for wrong in (
            ("list_ids", "99"), ("double_optin", "2"), ("overwrite", "3"), ("fields[nope]", "x"),
            ("fields[email]", "no at"), ("fields[phone]", "89000000001"), ("tags", "a,b,c,d,e,f,g,h,i,j,k"),
        )),
        ("subscribe", [*SUBSCRIBED, ("list_ids", "136"), ("double_optin", "0")], "unspecified"),
        ("importContacts", [("field_names[0]", "Name"), *row("x")], "invalid_arg"),
        ("importContacts", [*NAMED, ("field_names[2]", "nope"), *row("a@example.com", "134", "x")], "invalid_arg"),
        ("importContacts", [*NAMED, *row("a@example.com")], "invalid_arg"),
        ("importContacts",
         [("field_names[0]", "email"), *(pair for n in range(501) for pair in row(f"a{n}@example.com", number=n))],
         "invalid_arg"),
        ("getContact", [("email", "nobody@example.com")], "invalid_arg"),
        ("isContactInLists", [("email", "a@example.com"), ("list_ids", "134"), ("condition", "xor")], "invalid_arg"),
        ("createField", [("name", "Name"), ("type", "text")], "invalid_arg"),
        ("createField", [("name", "x"), ("type", "list")], "invalid_arg"),
        ("async/getTaskResult", [("task_uuid", "x")], "invalid_arg"),
    ],
)  # fmt: skip
def test_what_the_account_refuses(
    method: str, pairs: list[tuple[str, str]], code: str, http: httpx.Client, vendor: UniSenderVendor
) -> None:
    answer = call(http, method, *pairs)
    assert (answer["code"], answer["error"].startswith("OB13012016 [")) == (code, True)
    assert not vendor.base.contacts


def test_parameters_are_a_form_in_one_place(http: httpx.Client, vendor: UniSenderVendor) -> None:
    mixed = call(http, "subscribe", *SUBSCRIBED, query="?lang=en")
    assert mixed["error"].endswith("[Call to a member function getMessage() on boolean]")
    form = urlencode([("format", "json"), ("api_key", API_KEY), *SUBSCRIBED])
    assert call(http, "subscribe", content=form, kind="application/json")["code"] == "invalid_arg"
    assert not vendor.base.contacts


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (("no at", "134"), "invalid_arg"),
        (("", "134"), "invalid_arg"),
        (("info@example.com", "134"), "invalid_email"),
        (("a@example.com", "99"), "invalid_list"),
    ],
)
def test_a_row_of_an_import_is_refused_in_the_log(
    cells: tuple[str, str], code: str, http: httpx.Client, vendor: UniSenderVendor
) -> None:
    result = call(http, "importContacts", *NAMED, *row(*cells), *row("b@example.com", "134", number=1))["result"]
    assert (result["total"], result["inserted"], result["invalid"]) == (2, 1, 1)
    assert [(entry["index"], entry["code"]) for entry in result["log"]] == [(0, code)]
    assert len(vendor.base.contacts) == 1


def test_an_import_does_not_resurrect_nor_count_a_duplicate(http: httpx.Client, vendor: UniSenderVendor) -> None:
    names = [*NAMED, ("field_names[2]", "email_status")]
    call(http, "importContacts", *names, *row("a@example.com", "134", "unsubscribed"))
    again = [*row("a@example.com", "134", "active"), *row("A@example.com", "134", "active", number=1)]
    result = call(http, "importContacts", *names, *again)["result"]
    assert (result["total"], result["updated"], result["log"]) == (2, 1, [])
    stored = vendor.base.find("a@example.com", "")
    assert stored is not None
    assert stored.status == "unsubscribed"
    gone = [("field_names[0]", "email"), ("field_names[1]", "delete"), *row("a@example.com", "1")]
    assert call(http, "importContacts", *gone)["result"]["deleted"] == 1
    assert not vendor.base.contacts


@pytest.mark.parametrize(
    ("overwrite", "name", "lists", "tags"),
    [("0", "Old", {"134", "135"}, ["a", "b"]), ("1", "New", {"134"}, ["b"]), ("2", "New", {"134", "135"}, ["b"])],
)
def test_overwrite(
    overwrite: str, name: str, lists: set[str], tags: list[str], http: httpx.Client, vendor: UniSenderVendor
) -> None:
    first = [*SUBSCRIBED, ("list_ids", "134,135"), ("fields[Name]", "Old"), ("tags", "a")]
    second = [*SUBSCRIBED, ("fields[Name]", "New"), ("overwrite", overwrite), ("tags", "b")]
    ids = [call(http, "subscribe", *pairs)["result"]["person_id"] for pairs in (first, second)]
    assert ids[0] == ids[1]
    stored = vendor.base.contacts[ids[0]]
    assert (stored.fields["Name"], set(stored.lists), stored.tags) == (name, lists, tags)


def test_reading_methods(http: httpx.Client) -> None:
    call(http, "createField", ("name", "city"), ("type", "string"))
    assert "city" in [field["name"] for field in call(http, "getFields")["result"]]
    call(http, "subscribe", *SUBSCRIBED, ("fields[city]", "Tver"))
    asked = [("email", "A@example.com"), ("list_ids", "134,135")]
    member = {how: call(http, "isContactInLists", *asked, ("condition", how))["result"] for how in ("or", "and")}
    assert member == {"or": True, "and": False}
    ways = [("email", "a@example.com"), ("field_names[0]", "email"), ("field_names[1]", "city")]
    task = call(http, "async/exportContacts", *ways)["result"]
    done = call(http, "async/getTaskResult", ("task_uuid", task["task_uuid"]))["result"]
    assert done["status"] == "completed"
    assert http.get(done["file_to_download"]).text == "email,city\na@example.com,Tver"


@pytest.mark.parametrize(("method", "most"), [("subscribe", 300), ("getLists", 1200), ("async/exportContacts", 20)])
def test_the_limits_of_a_minute(method: str, most: int) -> None:
    with running_sandbox(["unisender"]) as box, httpx.Client(base_url=box.vendor("unisender").url) as http:  # type: ignore[attr-defined]
        pairs = SUBSCRIBED if method == "subscribe" else []
        answers = [call(http, method, *pairs) for _ in range(most + 1)]
    assert all("result" in answer for answer in answers[:-1])
    assert answers[-1]["code"] == "api_call_limit_exceeded_for_api_key"


@pytest.mark.parametrize("code", ["access_denied", "not_enough_money", "retry_later", "api_call_limit_exceeded_for_ip"])
def test_the_account_may_fail_by_any_code(code: str, http: httpx.Client, vendor: UniSenderVendor) -> None:
    vendor.failing = (code, "words")
    assert call(http, "getLists") == {"error": "OB13012016 [words]", "code": code}
