"""SendPulse as a channel: the contract in both of its modes, the credential, and what travels."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from leadctl.channelkit.channel import Channel
from leadctl.channelkit.sendpulse_crm import source_id
from leadctl.channels.sendpulse import BOOK, CONTACT, DEAL
from leadctl.domain.errors import InvalidCredential, Split
from leadctl.domain.model import Destination
from leadctl.sandbox.sendpulse import SendPulseVendor
from leadctl.sandbox.server import Sandbox
from leadctl.testing.contract import ChannelContract
from tests.support.sendpulse import CLIENT, CRM, DATA, KEY, one, pulse


class TestBookContract(ChannelContract):
    name = "sendpulse"
    data = {"api_key": KEY, "address_book_id": 88123}  # noqa: RUF012 as the suite has it
    settings = {"fields": {"budget": "{{ lead.answers.budget }}"}}  # noqa: RUF012
    bad_data = {"api_key": "wrong-0123456789"}  # noqa: RUF012


class TestCrmContract(TestBookContract):
    settings = {**CRM, "fields": {"7": "{{ lead.answers.budget }}"}}  # noqa: RUF012
    done = {"by_phone": "", "by_email": "", "contact": "555", "deal": "556"}  # noqa: RUF012

    @asynccontextmanager
    async def connected(self, sandbox: Sandbox) -> AsyncIterator[Channel[Any, Any]]:
        vendor = sandbox.vendor(self.name)
        assert isinstance(vendor, SendPulseVendor)
        async with self.opened(vendor.client_credential(), vendor.crm_settings()) as channel:
            yield channel


# The credential


@pytest.mark.parametrize(
    ("data", "settings", "named"),
    [
        ({"address_book_id": 1}, {}, "data.api_key"),
        ({"client_id": "x", "address_book_id": 1}, {}, "data.client_secret"),
        ({"client_id": "x", "client_secret": "", "address_book_id": 1}, {}, "data.client_secret"),
        ({"api_key": "two words", "address_book_id": 1}, {}, "data.api_key"),
        ({"api_key": KEY}, {}, "data.address_book_id"),
        ({"api_key": KEY, "address_book_id": 0}, {}, "data.address_book_id"),
        ({"api_key": KEY, "address_book_id": "Leads"}, {}, "data.address_book_id"),
        ({"api_key": KEY}, {"crm": {"pipeline_id": 1, "step_id": 2}}, "settings.crm.responsible_id"),
        (DATA, {"fields": {"leadctl_key": "x"}}, "settings.fields"),
        (DATA, {"fields": {"Email": "x"}}, "settings.fields"),
        (DATA, {"fields": {"two\nlines": "x"}}, "settings.fields"),
        (DATA, {"fields": {"budget": "{{ lead.x"}}, "settings.fields"),
        (DATA, {**CRM, "fields": {"budget": "x"}}, "settings.fields"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidCredential, match=named.replace(".", r"\.")) as caught:
        pulse(data=data, settings=settings)
    assert KEY not in str(caught.value)


def test_numbers_may_be_texts_and_a_deal_needs_no_book() -> None:
    settings = {"crm": {"pipeline_id": "10", "step_id": "11", "responsible_id": "123"}}
    assert [step.name for step in pulse(data={"api_key": KEY}, settings=settings).steps][-2:] == ["deal", "comment"]
    assert [step.name for step in pulse(data={"api_key": KEY, "address_book_id": "88123"}).steps] == ["subscriber"]


def test_destination_is_account_and_book_or_pipeline() -> None:
    book, other, deal = pulse(), pulse(data={**DATA, "address_book_id": 10}), pulse(settings=CRM)
    assert book.destination() == Destination("sendpulse", ("7",), (KEY, "book:88123"), "88123")
    assert deal.destination() == Destination("sendpulse", ("7",), (KEY, "pipeline:10"), "10")
    assert len({channel.destination().key for channel in (book, other, deal, pulse(data=CLIENT))}) == 4
    assert pulse(data=CLIENT).destination().parts == ("c11ent", "book:88123")


def test_the_bucket_is_the_accounts() -> None:
    (bucket,) = pulse().buckets()
    assert (bucket.limit.rate, bucket.limit.per, bucket.limit.documented) == (8, 1, 10)
    assert pulse(settings=CRM).buckets()[0].scope == bucket.scope
    assert pulse(data=CLIENT).buckets()[0].scope != bucket.scope


@pytest.mark.parametrize(
    ("changes", "book", "crm"),
    [
        ({}, False, False),
        ({"email": ""}, True, False),
        ({"email": "a@b.example, c@d.example"}, True, False),
        ({"phone": ""}, False, False),
        ({"phone": "call me"}, False, False),
        ({"phone": "", "email": ""}, True, True),
        ({"phone": "", "email": "x" * 40 + "@long.example"}, False, True),
    ],
)
def test_leads_that_cannot_be_sent(changes: dict[str, Any], book: bool, crm: bool) -> None:
    lead = one(**changes).lead
    assert (bool(pulse().problems(lead)), bool(pulse(settings=CRM).problems(lead))) == (book, crm)


def test_a_template_that_fails_is_a_problem() -> None:
    settings = {"fields": {"budget": "{{ lead.id.x.y() }}"}}
    assert "template" in pulse(settings=settings).problems(one().lead)[0]
    batch = [one(1), one(2)]
    with pytest.raises(Split):
        pulse(settings=settings).build(BOOK, batch)


# What travels


def test_a_subscriber() -> None:
    settings = {"fields": {"budget": "{{ lead.answers.budget }}", "name": "{{ lead.name|upper }}", "nothing": ""}}
    channel = pulse(settings=settings, data={**DATA, "base_url": "http://127.0.0.1:1/"})
    request = channel.build(BOOK, [one(), one(43, name="", phone="8 (900) 000-00-07", comment="", answers=(), utm={})])
    assert (request.method, request.url) == ("POST", "http://127.0.0.1:1/addressbooks/88123/emails")
    first, second = json.loads(request.content)["emails"]
    assert first == {
        "email": "lead42@example.com",
        "variables": {
            "name": "АННА КИМ", "Phone": "79000000042", "comment": "Перезвоните после 18:00\n\nbudget: 100 000",
            "page_url": "https://example.com/p", "utm_source": "yandex", "utm_medium": "cpc", "budget": "100 000",
            "lead_id": "42", "leadctl_key": "lc-abc123-42-7",
        },
    }  # fmt: skip
    assert second["variables"] == {
        "Phone": "79000000007", "page_url": "https://example.com/p", "lead_id": "43", "leadctl_key": "lc-abc123-43-7",
    }  # fmt: skip


def test_a_phone_that_is_none_stands_in_the_comment() -> None:
    (item,) = json.loads(pulse().build(BOOK, [one(phone="12 or 13", comment="", answers=())]).content)["emails"]
    assert "Phone" not in item["variables"]
    assert item["variables"]["comment"] == "Телефон: 12 or 13"


def test_who_travels_with_whom() -> None:
    channel = pulse()
    assert channel.batch_size(BOOK) == 100
    keys = [
        channel.batch_key(BOOK, one(email=email)) for email in ("A@example.com", " a@EXAMPLE.com ", "b@example.com", "")
    ]
    assert keys == ["a@example.com", "a@example.com", "b@example.com", None]
    assert pulse(settings=CRM).batch_key(DEAL, one()) is None
    assert [channel.batch_alone(BOOK, one(comment="Ж" * length)) for length in (10, 2_000)] == [False, True]


def test_the_requests_of_a_deal() -> None:
    channel = pulse(settings={**CRM, "fields": {"7": "{{ lead.answers.budget }}", "8": ""}})
    done = {"contact": "555", "deal": "600"}
    sent = {}
    for step in channel.steps:
        request = channel.build(step, [one(done=done)])
        sent[step.name] = (request.url.removeprefix("https://api.sendpulse.com/crm/v1"), json.loads(request.content))
    number = source_id("lc-abc123-42-7")
    assert sent == {
        "by_phone": ("/contacts/get-list", {"phone": "79000000042", "limit": 100, "offset": 0}),
        "by_email": ("/contacts/get-list-by-email", {"email": "lead42@example.com", "isEmailFullSearch": True}),
        "contact": (
            "/contacts/create",
            {"responsibleId": 123, "firstName": "Анна", "lastName": "Ким", "externalContactId": str(number)},
        ),
        "phone": ("/contacts/555/phones", {"phone": "+79000000042"}),
        "email": ("/contacts/555/emails", {"emails": [{"email": "lead42@example.com", "isMain": True}]}),
        "deal": (
            "/deals",
            {
                "pipelineId": 10, "stepId": 11, "responsibleId": 123, "sourceId": number, "contact": [555],
                "name": "Новый лид 42: Анна Ким [lc-abc123-42-7]",
                "attributes": [{"attributeId": 7, "value": "100 000"}],
            },
        ),
        "comment": (
            "/deals/600/comments",
            {
                "message": "Перезвоните после 18:00\n\nbudget: 100 000\n\nСтраница: https://example.com/p\n\n"
                "Телефон: +7 900 000-00-42\nE-mail: lead42@example.com\nМетки: utm_source=yandex, utm_medium=cpc\n\n"
                "Номер: 42 [lc-abc123-42-7]"
            },
        ),
    }  # fmt: skip


def test_a_deals_name() -> None:
    channel = pulse(settings={**CRM, "fields": {"name": "Site: {{ lead.name }}"}})
    repeat = replace(one(done={"contact": "5"}), possible_repeat=True)
    assert (
        json.loads(channel.build(DEAL, [repeat]).content)["name"] == "Возможный повтор: Site: Анна Ким [lc-abc123-42-7]"
    )
    long = json.loads(pulse(settings=CRM).build(DEAL, [one(name="Ж" * 900, done={"contact": "5"})]).content)
    assert len(long["name"]) <= 255
    assert long["name"].endswith("[lc-abc123-42-7]")
    assert "attributes" not in long


def test_a_contact_without_a_name_has_its_phone_as_one() -> None:
    contact = json.loads(pulse(settings=CRM).build(CONTACT, [one(name="")]).content)
    assert (contact["firstName"], contact["lastName"]) == ("+79000000042", "")


def test_source_ids_fit_a_signed_column() -> None:
    numbers = [source_id(f"lc-abc123-{number}-7") for number in range(2_000)]
    assert all(0 < number < 2**31 for number in numbers)
    assert len(set(numbers)) == 2_000
    assert source_id("lc-abc123-42-7") == source_id("lc-abc123-42-7") != source_id("lc-abc123-42-7-1")


@pytest.mark.parametrize(
    ("changes", "done", "steps"),
    [
        ({}, {}, "by_phone by_email contact phone email deal comment"),
        ({"phone": ""}, {}, "by_email contact email deal comment"),
        ({"email": ""}, {}, "by_phone contact phone deal comment"),
        ({}, {"by_phone": "5"}, "deal comment"),
        ({}, {"by_phone": "", "by_email": "5"}, "deal comment"),
        ({}, {"by_phone": "", "by_email": ""}, "contact phone email deal comment"),
        ({}, {"by_phone": "", "by_email": "", "contact": "5"}, "phone email deal comment"),
        ({}, {"contact": "5", "phone": "6"}, "email deal comment"),
        ({}, {"contact": "5", "deal": "6"}, "comment"),
    ],
)
def test_which_steps_a_lead_needs(changes: dict[str, Any], done: dict[str, str], steps: str) -> None:
    channel, delivery = pulse(settings=CRM), one(done=done, **changes)
    left = [step.name for step in channel.steps if step.name not in done and channel.needs(step, delivery)]
    assert left == steps.split()
