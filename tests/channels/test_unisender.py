"""UniSender against scripted answers: what is sent, and what a credential may be."""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from leadctl.domain.errors import (
    DeliveryError,
    InvalidCredential,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.model import Done
from leadctl.testing.contract import ChannelContract
from tests.support.channels import make_lead
from tests.support.unisender import (
    BUDGET,
    DATA,
    KEY,
    Api,
    error,
    failure,
    imported,
    one,
    send,
    uni,
)


class TestContract(ChannelContract):
    name = "unisender"
    data: ClassVar[Mapping[str, Any]] = {**DATA, "lang": "ru", "base_url": "https://api.unisender.com"}
    settings: ClassVar[Mapping[str, Any]] = {"double_optin": 3, **BUDGET}
    bad_data: ClassVar[Mapping[str, Any]] = {"api_key": "wrong-0123456789"}


# What is sent


def test_one_lead_is_exactly_this() -> None:
    api = Api()
    receipts = send(uni(api, BUDGET), one())
    assert receipts == {"lc-abc123-42-7": Done("2500767342")}
    assert [name for name, _ in api.calls] == ["getLists", "getFields", "subscribe"]
    assert api.calls[-1][1] == {
        "list_ids": "134,135", "double_optin": "3", "overwrite": "2",
        "fields[email]": "a42@example.com", "fields[phone]": "+79000000042", "fields[Name]": "Анна Ким",
        "fields[lead_id]": "42", "fields[leadctl_key]": "lc-abc123-42-7",
        "fields[comment]": "Перезвоните после 18:00\n\nbudget: 100 000", "fields[page_url]": "https://example.com/p",
        "fields[utm_source]": "yandex", "fields[utm_term]": "", "fields[budget]": "100 000",
    }  # fmt: skip


def test_the_form_is_encoded_and_the_key_is_in_the_body_alone() -> None:
    channel = uni(data={**DATA, "lang": "ru", "base_url": "https://us.example/"})
    request = channel.build(channel.steps[0], [one(name="A&fields[x]=1")])
    assert request.url == "https://us.example/ru/api/subscribe"
    assert request.content.decode() == (
        f"format=json&api_key={KEY}&list_ids=134%2C135&double_optin=3&overwrite=2&fields%5Bemail%5D=a42%40example.com"
        "&fields%5Bphone%5D=%2B79000000042&fields%5BName%5D=A%26fields%5Bx%5D%3D1"
    )


def test_an_import_is_exactly_this() -> None:
    api = Api(names=["leadctl_key"], importContacts=imported(2))
    first, second = one(1), one(2, name="Bob")
    assert send(uni(api), first, second) == {first.key: Done(), second.key: Done()}
    assert api.sent("importContacts") == [{
        "overwrite_tags": "0", "overwrite_lists": "0",
        "field_names[0]": "email", "field_names[1]": "phone", "field_names[2]": "Name", "field_names[3]": "leadctl_key",
        "field_names[4]": "email_list_ids", "field_names[5]": "phone_list_ids",
        "data[0][0]": "a1@example.com", "data[0][1]": "+79000000001", "data[0][2]": "Анна Ким",
        "data[0][3]": "lc-abc123-1-7", "data[0][4]": "134,135", "data[0][5]": "134,135",
        "data[1][0]": "a2@example.com", "data[1][1]": "+79000000002", "data[1][2]": "Bob",
        "data[1][3]": "lc-abc123-2-7", "data[1][4]": "134,135", "data[1][5]": "134,135",
    }]  # fmt: skip


def test_no_cell_of_a_person_is_ever_empty() -> None:
    """Those without a phone, or a name, travel in an import of their own."""
    api = Api(importContacts=[imported(2), imported(2)])
    batch = [one(1), one(2, phone=""), one(3), one(4, phone="")]
    assert send(uni(api), *batch) == {delivery.key: Done() for delivery in batch}
    whole, without = api.sent("importContacts")
    assert [whole["data[0][0]"], whole["data[1][0]"]] == ["a1@example.com", "a3@example.com"]
    assert [without["data[0][0]"], without["data[1][0]"]] == ["a2@example.com", "a4@example.com"]
    assert "phone" not in without.values()


def test_what_belongs_to_an_earlier_lead_is_replaced_and_a_name_is_kept() -> None:
    api = Api()
    send(uni(api), one(name="", phone="", comment="", answers=(), page_url="", utm={}))
    form = api.sent("subscribe")[0]
    assert (form["fields[comment]"], form["fields[page_url]"], form["fields[utm_source]"]) == ("", "", "")
    assert not {"fields[Name]", "fields[phone]"} & form.keys()


def test_a_field_that_the_account_does_not_have_is_not_sent() -> None:
    api = Api(names=[])
    send(uni(api), one())
    assert {name for name in api.sent("subscribe")[0] if name.startswith("fields")} == {
        "fields[email]", "fields[phone]", "fields[Name]",
    }  # fmt: skip


def test_an_unreadable_phone_or_address_is_not_lost() -> None:
    api = Api()
    send(uni(api), one(phone="ask Anna", comment="c", answers=()))
    send(uni(api), one(email="no at", comment="c", answers=()))
    first, second = api.sent("subscribe")
    assert (first.get("fields[phone]"), first["fields[comment]"]) == (None, "c\n\nPhone: ask Anna")
    assert (second.get("fields[email]"), second["fields[comment]"]) == (None, "c\n\nE-mail: no at")


def test_the_settings_map_fields_and_may_replace_ours() -> None:
    api = Api()
    send(uni(api, {"fields": {"Name": "{{ lead.name }}!", "comment": "{{ lead.id }}"}}), one(name="{{ 7 * 7 }}"))
    form = api.sent("subscribe")[0]
    assert (form["fields[Name]"], form["fields[comment]"]) == ("{{ 7 * 7 }}!", "42")


def test_a_template_that_fails_takes_only_its_lead_out() -> None:
    channel = uni(Api(), {"fields": {"budget": "{{ 1 // (lead.id - 2) }}"}})
    split = failure(channel, one(1), one(2), one(3))
    assert isinstance(split, Split)
    assert {key: type(reason) for key, reason in split.refused.items()} == {"lc-abc123-2-7": Rejected}
    assert isinstance(failure(channel, one(2)), Rejected)


@pytest.mark.parametrize("double_optin", [0, 4, "0"])
def test_letters_go_one_by_one(double_optin: object) -> None:
    api = Api()
    channel = uni(api, {"double_optin": double_optin})
    assert [step.batch for step in channel.steps] == [1]
    send(channel, one())
    assert api.sent("subscribe")[0]["double_optin"] == str(double_optin)


def test_rows_times_columns_stay_below_phps_limit() -> None:
    channel = uni(Api(names=[]))
    step = channel.steps[0]
    assert channel.batch_size(step) == 5000 // 14  # before the account was asked
    send(channel, one())
    assert channel.batch_size(step) == 500
    wide = uni(settings={"fields": {f"f{number}": "x" for number in range(40)}})
    assert wide.batch_size(step) == 5000 // 54


def test_who_travels_alone() -> None:
    channel = uni()
    alone = [
        channel.batch_alone(channel.steps[0], delivery) for delivery in (one(), one(email=""), one(comment="Ж" * 2000))
    ]
    assert alone == [False, True, True]


def test_two_leads_of_one_person_share_no_import() -> None:
    channel = uni()
    leads = [one(email="Anna@Example.com"), one(email=" anna@example.com"), one(email="", phone="8 900 0000042"), one()]
    assert [channel.batch_key(channel.steps[0], lead) for lead in leads] == [
        "anna@example.com", "anna@example.com", "+79000000042", "a42@example.com",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"email": "", "phone": ""}, {}, "neither"),
        ({"email": "no at", "phone": "call me"}, {}, "neither"),
        *(({"email": f"{box}@acme.example"}, {}, "role") for box in ("info", "Sales", "noreply", "no-reply", "all+x")),
        ({"email": "info@acme.example"}, {"double_optin": 0}, ""),
        ({"email": ""}, {}, ""),
        ({"email": "informer@acme.example", "phone": ""}, {}, ""),
    ],
)
def test_problems(changes: Mapping[str, Any], settings: Mapping[str, Any], said: str) -> None:
    problems = list(uni(settings=settings).problems(make_lead(**changes)))
    assert len(problems) == bool(said)
    assert said in "".join(problems)


# The account


@pytest.mark.parametrize(
    ("answers", "expected", "said"),
    [
        ({"getLists": {"result": [{"id": 134, "title": "x"}]}}, Unusable, "the account has no list 135"),
        ({"getFields": {"result": []}}, Unusable, "the account has no field budget"),
        ({"getLists": error("invalid_api_key")}, Unusable, "the API key is wrong"),
        ({"getLists": error("invalid_arg")}, Unusable, "refused"),
        ({"getLists": error("retry_later")}, Transient, "temporary"),
        ({"getLists": error("something_new")}, Transient, "unknown code"),
        ({"getLists": error("api_call_limit_exceeded_for_ip")}, Throttled, "too many"),
        ({"getFields": "<html>"}, Transient, "not JSON"),
        ({"getFields": (500, "")}, Transient, "HTTP 500"),
        ({"getLists": {"result": {"id": 134}}}, Transient, "documented form"),
        ({"getLists": {"result": [134]}}, Transient, "documented form"),
    ],
)
def test_lists_and_fields_are_verified_before_anything_is_sent(
    answers: Mapping[str, Any], expected: type[DeliveryError], said: str
) -> None:
    api = Api(**answers)
    caught = failure(uni(api, BUDGET))
    assert type(caught) is expected
    assert said in caught.message
    assert not api.sent("subscribe")
    with pytest.raises(expected):
        asyncio.run(uni(Api(**answers), BUDGET).check())


def test_the_account_is_asked_once() -> None:
    api = Api()
    channel = uni(api)
    for number in (1, 2):
        send(channel, one(number))
    assert [name for name, _ in api.calls] == ["getLists", "getFields", "subscribe", "subscribe"]


def test_check_names_the_lists() -> None:
    api = Api()
    assert asyncio.run(uni(api).check()) == "lists 134 (Leads), 135 (B2B [1m)"
    assert api.calls == [("getLists", {})]
    asyncio.run(uni(api, {"fields": {"Name": "x", "budget": "y"}}).check())
    assert [name for name, _ in api.calls[1:]] == ["getLists", "getFields"]


def test_destination_is_the_key_and_the_lists_in_any_order() -> None:
    destination = uni().destination()
    assert (destination.parts, destination.account, destination.target) == ((KEY, "134,135"), ("7",), "134,135")
    assert uni(data={**DATA, "list_ids": " 134; 135,134"}).destination() == destination
    assert uni(data={**DATA, "list_ids": 134}).destination().target == "134"


def test_keys_of_one_address_share_its_limit() -> None:
    first, second = uni().buckets(), uni(data={**DATA, "api_key": "another-0123456789"}).buckets()
    assert first[0] == second[0]
    assert first[1].scope != second[1].scope
    assert [bucket.limit.documented for bucket in first] == [None, 5]


@pytest.mark.parametrize(
    ("data", "settings", "named"),
    [
        ({"list_ids": [1]}, {}, "data.api_key"),
        ({**DATA, "api_key": "two words"}, {}, "data.api_key"),
        ({**DATA, "api_key": ""}, {}, "data.api_key"),
        ({"api_key": KEY}, {}, "data.list_ids"),
        *(({**DATA, "list_ids": wrong}, {}, "data.list_ids") for wrong in ([], "", "x", [0], [True], -1, 1.5, None)),
        ({**DATA, "lang": "de"}, {}, "data.lang"),
        *((DATA, {"double_optin": wrong}, "settings.double_optin") for wrong in (1, 2, "yes", None)),
        (DATA, {"fields": {"budget": "{{ lead."}}, "settings.fields.budget: not a valid template"),
        (DATA, {"fields": {"a b": "x"}}, "settings.fields"),
        *((DATA, {"fields": {name: "x"}}, "settings.fields")
          for name in ("email", "Phone", "tags", "delete", "email_list_ids", "phone_status", "leadctl_key")),
        (DATA, {"fields": {f"f{number}": "x" for number in range(41)}}, "settings.fields"),
        (DATA, {"on_unknown": "ask"}, "settings.on_unknown"),
    ],
)  # fmt: skip
def test_a_wrong_credential_names_its_key(data: Mapping[str, Any], settings: Mapping[str, Any], named: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        uni(data=data, settings=settings)
    assert str(caught.value).startswith(named)


def test_a_field_may_be_named_like_a_system_column_but_for_its_end() -> None:
    assert uni(settings={"fields": {"email_2": "x", "phone_work": "{{ lead.phone }}"}}).settings.fields
