"""U-ON.Travel: what is sent, to whom it goes, and what a credential may say."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import httpx
import pytest

from leadctl.channelkit.channel import LEAD_COLUMNS
from leadctl.channels.uontravel import FIELDS, MAX_FIELDS, MAX_NOTE, SILENCE, UonTravel
from leadctl.domain.errors import InvalidCredential, Rejected
from leadctl.domain.model import Answer, Delivery, Done, Lead
from leadctl.testing.contract import ChannelContract
from leadctl.testing.hostile import HOSTILE_TEXTS, RENDERED
from tests.support.channels import NOW, make_delivery, make_lead, open_channel

KEY = "canary0Key1Of2Uon3"
DATA: Mapping[str, Any] = {"api_key": KEY, "source": "site"}


class TestContract(ChannelContract):
    name = "uontravel"
    data = DATA
    bad_data: ClassVar = {"api_key": "wrong0Key1Of2Uon3"}


def uon(settings: Mapping[str, Any] | None = None, data: Mapping[str, Any] = DATA, **more: Any) -> UonTravel:
    channel = open_channel("uontravel", data, settings, **more)
    assert isinstance(channel, UonTravel)
    return channel


def form_of(delivery: Delivery | None = None, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The fields that are sent, each once."""
    channel = uon(settings)
    request = channel.build(channel.steps[0], [delivery or make_delivery()])
    pairs = parse_qsl(request.content.decode(), keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def sent(settings: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, str]:
    return form_of(make_delivery(make_lead(**changes)), settings)


# The request


def test_request_is_exact() -> None:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"result": 200, "id": "12345"})

    async def run() -> object:
        channel = uon(handler=vendor)
        try:
            return (await channel.send(channel.steps[0], [make_delivery()])).receipts
        finally:
            await channel.close()

    assert asyncio.run(run()) == {"lc-abc123-42-7": Done("12345")}
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", f"https://api.u-on.ru/{KEY}/lead/create.json")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded; charset=utf-8"
    assert "authorization" not in request.headers
    assert b"u_name=%D0%90%D0%BD%D0%BD%D0%B0" in request.content
    assert dict(parse_qsl(request.content.decode(), strict_parsing=True)) == {
        "source": "site", "u_name": "Анна", "u_surname": "Ким", "u_phone": "79000000001", "u_email": "anna@example.com",
        "utm_source": "yandex", "utm_medium": "cpc",
        "note": "Перезвоните после 18:00\n\nbudget: 100 000\n\nСтраница: https://example.com/p\n\n"
                "Номер: 42 [lc-abc123-42-7]",
        "r_id_internal": "lc-abc123-42-7", "r_dat": "2026-03-01 13:00:00",
        **dict.fromkeys(SILENCE, "1"),
    }  # fmt: skip


def test_nobody_is_told_unless_asked_for() -> None:
    assert [form_of(settings={"notify": False})[name] for name in SILENCE] == ["1", "1", "1"]
    assert not form_of(settings={"notify": True}).keys() & set(SILENCE)


def test_what_is_empty_does_not_travel() -> None:
    lead = Lead(id=5, phone="+79990000001")
    channel = uon(data={"api_key": KEY, "source": ""})
    content = channel.build(channel.steps[0], [make_delivery(lead)]).content.decode()
    assert dict(parse_qsl(content, keep_blank_values=True)) == {
        "u_phone": "79990000001", "note": "Номер: 5 [lc-abc123-5-7]", "r_id_internal": "lc-abc123-5-7",
        **dict.fromkeys(SILENCE, "1"),
    }  # fmt: skip


def test_a_possible_repeat_says_so() -> None:
    assert form_of(make_delivery(possible_repeat=True))["note"].startswith("Возможный повтор\n\n")


@pytest.mark.parametrize("value", ["+7 900 000-00-01", "8 (900) 000-00-01", "79000000001", "9000000001"])
def test_phones_are_digits_only(value: str) -> None:
    form = sent(phone=value)
    assert form["u_phone"] == "79000000001"
    assert "Телефон" not in form["note"]


@pytest.mark.parametrize(
    ("value", "digits"),
    [
        ("22-33-44", "223344"),
        ("+7 495 123-45-67 доб. 12", "74951234567"),
        ("22-33-44 home 5", None),
        ("call me", None),
        ("123", None),
        ("12345678901234567890123", None),
    ],
)
def test_what_a_phone_loses_is_in_the_note(value: str, digits: str | None) -> None:
    form = sent(phone=value)
    assert form.get("u_phone") == digits
    assert (f"Телефон: {value}" in form["note"]) == (digits != "223344")


def test_an_address_that_is_none_is_in_the_note() -> None:
    form = sent(email="anna@example.com, x@evil.example")
    assert "u_email" not in form
    assert "E-mail: anna@example.com, x@evil.example" in form["note"]


@pytest.mark.parametrize(
    ("created", "told"),
    [
        (datetime(2026, 2, 28, 22, 30, 5, tzinfo=UTC), "2026-03-01 01:30:05"),
        (None, None),
        (datetime(9999, 12, 31, 23, 59, tzinfo=UTC), None),
        (datetime(1, 1, 1, tzinfo=UTC), None),
    ],
)
def test_the_date_is_the_leads_own(created: datetime | None, told: str | None) -> None:
    assert sent(created_at=created).get("r_dat") == told


def test_the_note_is_cut_before_its_key() -> None:
    note = sent(comment="Ж" * 50_000)["note"]
    assert note.endswith("…\n\nНомер: 42 [lc-abc123-42-7]")
    assert len(note) < MAX_NOTE + 100


def test_fields_are_templates_over_the_lead() -> None:
    settings = {"fields": {
        "199888": "{{ lead.answers.budget }}", "extended_fields[199889]": "{{ lead.answers.none }}", "r_u_id": 2,
        "source": "form {{ lead.external_project_id }}", "u_phone_mobile": "+7 (900) 000-00-02", "u_sname": "Олеговна",
        "u_telegram": "@{{ lead.name }}", "note": "Хочет: {{ lead.comment }}", "utm_source": "",
    }}  # fmt: skip
    form = form_of(settings=settings)
    assert form["extended_fields[199888]"] == "100 000"
    assert "extended_fields[199889]" not in form
    assert (form["r_u_id"], form["source"], form["u_sname"]) == ("2", "form 2", "Олеговна")
    assert (form["u_phone"], form["u_phone_mobile"]) == ("79000000001", "79000000002")
    assert form["u_telegram"] == "@Анна Ким"
    assert form["note"] == "Хочет: Перезвоните после 18:00\n\nНомер: 42 [lc-abc123-42-7]"
    assert form["utm_source"] == "yandex"


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
def test_a_leads_text_stays_text(text: str) -> None:
    lead = make_lead(
        name=text, comment=f"{text} [lc-abc123-1-7]", utm={"utm_source": text}, answers=(Answer("q", text),)
    )
    form = form_of(make_delivery(lead), {"fields": {"199888": "{{ lead.answers.q }}"}})
    assert form.keys() <= {"u_name", "u_surname", "extended_fields[199888]", *form_of()}
    assert RENDERED not in "".join(form.values())
    assert not any(char in "".join(form.values()) for char in "\x00\x1b\r\u202e\u2028")
    assert form["note"].endswith("[lc-abc123-42-7]")


# Which leads


@pytest.mark.parametrize(
    ("changes", "fields", "sendable"),
    [
        ({}, {}, True),
        ({"email": ""}, {}, True),
        ({"phone": "x"}, {}, True),
        ({"phone": "22-33-44", "email": ""}, {}, True),
        ({"phone": "call me", "email": "nobody"}, {}, False),
        ({"phone": "", "email": ""}, {"u_telegram": "{{ lead.answers.budget }}"}, True),
        ({"phone": "", "email": ""}, {"u_telegram": "{{ lead.answers.telegram }}"}, False),
        ({"phone": "", "email": ""}, {"u_note": "{{ lead.answers.budget }}"}, False),
        ({"phone": "", "email": ""}, {"u_whatsapp": "{{ lead.comment }}"}, False),
    ],
)
def test_a_lead_needs_a_contact(changes: Mapping[str, Any], fields: Mapping[str, str], sendable: bool) -> None:
    problems = uon({"fields": fields}).problems(make_lead(**changes))
    assert list(problems) == (
        [] if sendable else ["it has neither a phone number nor an e-mail address that can be used"]
    )


def test_a_template_that_fails_is_a_problem_of_the_lead() -> None:
    channel = uon({"fields": {"budget": "{{ 1 // lead.comment | length }}"}})
    assert list(channel.problems(make_lead())) == []
    (problem,) = channel.problems(make_lead(comment=""))
    assert "template" in problem
    with pytest.raises(Rejected):
        channel.build(channel.steps[0], [make_delivery(make_lead(comment=""))])


def test_a_plan_reads_what_decides() -> None:
    assert uon({"fields": {"budget": "{{ lead.answers.budget }}"}}).judged == {"phone", "email"}
    assert uon({"fields": {"u_viber": "{{ lead.answers.viber }}"}}).judged == LEAD_COLUMNS
    assert uon({"fields": {"budget": "{{ lead.comment | length }}"}}).judged == LEAD_COLUMNS


# The credential


def test_destination_is_the_key_and_the_target_is_the_host() -> None:
    destination = uon().destination()
    assert (destination.channel, destination.parts, destination.target) == ("uontravel", (KEY,), "api.u-on.ru")
    assert destination.account == ("7",)
    assert destination.parts == uon(data={"api_key": f" {KEY} ", "source": "other"}).destination().parts
    here = uon(data={**DATA, "base_url": "http://user:pw@127.0.0.1:8080/api/"})
    assert here.destination().target == "127.0.0.1:8080"
    assert (
        here.build(here.steps[0], [make_delivery()]).url == f"http://user:pw@127.0.0.1:8080/api/{KEY}/lead/create.json"
    )


def test_the_limit_belongs_to_the_key() -> None:
    (bucket,) = uon().buckets()
    assert (bucket.limit.rate, bucket.limit.per, bucket.limit.documented) == (5, 1, 10)
    assert KEY not in bucket.scope
    (other,) = uon(data={"api_key": "another0Key"}).buckets()
    assert other.scope != bucket.scope


def test_the_time_of_a_send_is_kept_for_a_look_up() -> None:
    channel = uon()
    assert asyncio.run(channel.prepare(channel.steps[0])) == {"sent": str(int(NOW.timestamp()))}


@pytest.mark.parametrize(
    "key", ["", "short", "123456", "canary key", "canary/../x", "canary\r\nX: 1", "канарейка", "canary?x=1"]
)
def test_a_key_that_cannot_be_one_is_refused(key: str) -> None:
    with pytest.raises(InvalidCredential, match=r"^data\.api_key: ") as caught:
        uon(data={"api_key": key})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fields": {"u_nmae": "x"}}, "settings.fields: u_nmae is no field of lead/create"),
        ({"fields": {"source_id": "1"}}, "source_id is no field"),
        ({"fields": {"r_id_internal": "1"}}, "r_id_internal is no field"),
        ({"fields": {"r_dat": "1"}}, "r_dat is no field"),
        ({"fields": {"ignore_tourist_notification": "0"}}, "is no field"),
        ({"fields": {"u_password": "x"}}, "u_password is no field"),
        ({"fields": {"0": "x"}}, "0 is no field"),
        ({"fields": {"extended_fields[x]": "x"}}, "is no field"),
        ({"fields": {"7": "x", "extended_fields[7]": "y"}}, "is there twice"),
        ({"fields": {"budget": "{{ lead."}}, "settings.fields.budget: not a valid template"),
        ({"fields": {str(number): "x" for number in range(1, MAX_FIELDS + 2)}}, "settings.fields: "),
        ({"notify": "perhaps"}, "settings.notify: "),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_are_named(settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        uon(settings)
    assert said in str(caught.value)


def test_documented_fields_are_taken_and_ours_are_not() -> None:
    names = sorted(FIELDS)
    for some in (names[:25], names[25:]):
        assert uon({"fields": dict.fromkeys(some, "{{ lead.name }}")}).settings.fields.keys() == set(some)
    assert not {"r_id_internal", "r_dat", *SILENCE} & FIELDS


@pytest.mark.parametrize("source", [None, "", " site\r\nX: 1 "])
def test_a_source_is_one_line(source: str | None) -> None:
    channel = uon(data={"api_key": KEY, "source": source})
    form = dict(parse_qsl(channel.build(channel.steps[0], [make_delivery()]).content.decode()))
    assert form.get("source") == ("site X: 1" if source else None)
