"""LPTracker: the credential, and exactly what is sent."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from leadctl.channels.lptracker import COMMENT, CONTACT, LEAD, MAX_FIELDS
from leadctl.domain.errors import InvalidCredential, Unusable
from leadctl.domain.model import Answer
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.testing.checks import assert_well_formed
from leadctl.testing.contract import ChannelContract
from leadctl.testing.driver import VENDOR_SCALE
from leadctl.testing.hostile import HOSTILE_LEADS
from tests.support.channels import make_delivery, make_lead
from tests.support.lptracker import CONTACT_DONE, DATA, LEAD_DONE, Account, body_of, failed, lpt, ok, send

KEY = "lc-abc123-42-7"
CUSTOMS = [
    {"id": 11, "name": " Бюджет ", "type": "text"},
    {"id": 12, "name": "Город", "type": "cats", "is_multi_select": True},
    {"id": 13, "name": "Тема", "type": "cats", "is_multi_select": False},
    {"id": 14, "name": "Дубль", "type": "text"},
    {"id": 15, "name": "дубль", "type": "text"},
]
DIRECTORIES = {
    "GET /project/41823/customs": ok(CUSTOMS),
    "GET /project/41823/funnel": ok([{"id": 456, "name": "New"}]),
    "GET /staff": ok([{"id": 0, "name": "Main"}, {"id": 7301, "name": "Olga"}]),
}


class TestContract(ChannelContract):
    name = "lptracker"
    data: ClassVar[Mapping[str, Any]] = DATA
    bad_data: ClassVar[Mapping[str, Any]] = {"password": "wrong-0123456789"}
    done: ClassVar[Mapping[str, str]] = LEAD_DONE

    @pytest.fixture
    def sandbox(self) -> Iterator[Sandbox]:
        """The suite has no limiter, and a lead takes up to five requests: so the vendor's limit is out of its reach."""
        with running_sandbox([self.name], scale=100 * VENDOR_SCALE) as box:
            yield box


# The credential


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"login": ""}, "data.login"), ({"login": "a\nb"}, "data.login"), ({"login": " a"}, "data.login"),
        ({"password": ""}, "data.password"), ({"project_id": 0}, "data.project_id"),
        ({"project_id": "Site"}, "data.project_id"), ({"service": ""}, "data.service"),
        ({"base_url": "http://10.0.0.1"}, "10.0.0.1"),
    ],
)  # fmt: skip
def test_a_wrong_credential_is_refused(data: Mapping[str, Any], named: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        lpt(data=data)
    assert named in str(caught.value)
    assert str(DATA["password"]) not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"callback": "often"}, "settings.callback"), ({"funnel": 0}, "settings.funnel"),
        ({"owner": -1}, "settings.owner"), ({"fields": {"Бюджет": "{{ lead."}}, "settings.fields.Бюджет"),
        ({"fields": {"a\nb": "x"}}, "settings.fields"),
        ({"fields": {str(number): "x" for number in range(MAX_FIELDS + 1)}}, "settings.fields"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: Mapping[str, Any], named: str) -> None:
    with pytest.raises(InvalidCredential, match=named):
        lpt(settings=settings)


def test_the_destination_is_login_and_project() -> None:
    destination = lpt(data={"login": "You@Example.com", "project_id": "41823"}).destination()
    assert destination.parts == ("you@example.com", "41823")
    assert destination.account == ("direct.lptracker.ru", "you@example.com")
    assert destination.target == "41823"


def test_the_limit_is_one_of_the_account() -> None:
    site, shop = lpt().buckets(), lpt(data={"project_id": 41824, "login": "YOU@example.com"}).buckets()
    assert site == shop
    assert site[0].limit.documented == 3
    assert lpt(data={"login": "other@example.com"}).buckets() != site
    assert "you@" not in site[0].scope


# The lead


@pytest.mark.parametrize(
    ("changes", "fine"),
    [
        ({"phone": ""}, True), ({"email": ""}, True), ({"phone": "ask Anna"}, True),
        ({"phone": "", "email": ""}, False), ({"phone": "123", "email": "no at"}, False),
    ],
)  # fmt: skip
def test_a_lead_needs_a_phone_or_an_address(changes: Mapping[str, Any], fine: bool) -> None:
    problems = lpt().problems(make_lead(**changes))
    assert list(problems) == ([] if fine else ["it has neither a phone number nor an e-mail address that can be used"])


def test_a_template_that_fails_is_a_problem_of_the_lead() -> None:
    (problem,) = lpt(settings={"fields": {"11": "{{ 1 // (lead.phone | length) }}"}}).problems(make_lead(phone=""))
    assert problem == "the template in settings fails for this lead: ZeroDivisionError"


def test_a_plan_reads_only_what_decides() -> None:
    assert lpt(settings={"fields": {"11": "{{ lead.answers.budget }}"}}).judged == {"phone", "email"}
    assert lpt(settings={"fields": {"11": "{{ lead.answers.budget | int }}"}}).judged > {"phone", "email", "answers"}


def test_the_contact_is_exactly_this() -> None:
    channel = lpt()
    request = channel.build(CONTACT, [make_delivery()])
    assert (request.method, request.url) == ("POST", "https://direct.lptracker.ru/contact")
    assert body_of(channel, CONTACT, make_delivery()) == {
        "project_id": 41823,
        "name": "Анна Ким",
        "details": [{"type": "phone", "data": "+79000000001"}, {"type": "email", "data": "anna@example.com"}],
    }


@pytest.mark.parametrize(("phone", "name"), [("8 900 000-00-01", "+79000000001"), ("", "anna@example.com")])
def test_a_contact_without_a_name_gets_its_phone_or_address(phone: str, name: str) -> None:
    assert body_of(lpt(), CONTACT, make_delivery(make_lead(name="", phone=phone)))["name"] == name


def test_the_lead_is_exactly_this() -> None:
    account = Account(DIRECTORIES)
    fields = {"бюджет": "{{ lead.answers.budget }}", "Город": "Казань", "13": "Покупка", "12": ""}
    channel = lpt(account, {"funnel": 456, "owner": 7301, "fields": fields})
    lead = make_lead(utm={"utm_source": "yandex", "utm_campaign": "sale", "utm_term": "wood", "utm_medium": "cpc"})
    send(channel, LEAD, make_delivery(lead, done=CONTACT_DONE))
    assert account.bodies("/lead") == [{
        "contact_id": 555,
        "name": f"Новый лид 42: Анна Ким [{KEY}]",
        "callback": False,
        "funnel": 456,
        "owner": 7301,
        "view": {"source": "yandex", "campaign": "sale", "keyword": "wood", "page": "https://example.com/p"},
        "custom": {"11": "100 000", "12": ["Казань"], "13": "Покупка"},
    }]  # fmt: skip
    headers = account.requests[-1].headers
    assert (headers["token"], headers["content-type"]) == ("canary-token-0001", "application/json")
    assert "authorization" not in headers


def test_a_bare_lead_has_only_what_it_needs() -> None:
    lead = make_lead(name="", page_url="", utm={})
    assert body_of(lpt(), LEAD, make_delivery(lead, done=CONTACT_DONE)) == {
        "contact_id": 555, "name": f"Новый лид 42 [{KEY}]", "callback": False,
    }  # fmt: skip


def test_a_call_is_made_only_where_it_is_asked_for() -> None:
    delivery = make_delivery(done=CONTACT_DONE)
    assert body_of(lpt(), LEAD, delivery)["callback"] is False
    assert body_of(lpt(settings={"callback": "0"}), LEAD, delivery)["callback"] is False
    assert body_of(lpt(settings={"callback": True}), LEAD, delivery)["callback"] is True
    assert body_of(lpt(settings={"owner": 0}), LEAD, delivery)["owner"] == 0


def test_the_name_may_be_a_template_and_a_repeat_is_said() -> None:
    channel = lpt(settings={"fields": {"name": "Сайт: {{ lead.name }}"}})
    delivery = make_delivery(make_lead(name="{{ 7*7 }} [x]"), possible_repeat=True, done=CONTACT_DONE)
    assert body_of(channel, LEAD, delivery)["name"] == f"Возможный повтор: Сайт: {{{{ 7*7 }}}} [x] [{KEY}]"


def test_a_long_name_leaves_room_for_the_key() -> None:
    name = body_of(lpt(), LEAD, make_delivery(make_lead(name="Ж" * 500), done=CONTACT_DONE))["name"]
    assert name.endswith(f"… [{KEY}]")
    assert len(name) < 255


def test_the_comment_is_exactly_this() -> None:
    channel = lpt()
    lead = make_lead(comment="a\r\nb\x00", utm={"utm_medium": "cpc", "yclid": "1"}, answers=(Answer("Бюджет", "<b>"),))
    request = channel.build(COMMENT, [make_delivery(lead, done=LEAD_DONE)])
    assert request.url == "https://direct.lptracker.ru/lead/77/comment"
    assert body_of(channel, COMMENT, make_delivery(lead, done=LEAD_DONE)) == {
        "text": "a\nb\n\nБюджет: <b>\n\nТелефон: +7 900 000-00-01\nE-mail: anna@example.com\n"
        f"Метки: utm_medium=cpc, yclid=1\n\nНомер: 42 [{KEY}]"
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None), ({"email": "anna@example.com"}, "E-mail: anna@example.com"), ({"email": "no at"}, "E-mail: no at"),
        ({"phone": "ask Anna", "email": "anna@example.com"}, "Телефон: ask Anna"), ({"comment": "hello"}, "hello"),
        ({"utm": {"utm_source": "x", "utm_content": "b"}}, "Метки: utm_content=b"),
    ],
)  # fmt: skip
def test_a_comment_says_what_has_no_place_of_its_own(changes: Mapping[str, Any], said: str | None) -> None:
    bare = {"email": "", "comment": "", "answers": (), "utm": {"utm_source": "x"}}
    channel, delivery = lpt(), make_delivery(make_lead(**{**bare, **changes}), done=LEAD_DONE)
    assert channel.needs(COMMENT, delivery) is (said is not None)
    if said:
        assert said in body_of(channel, COMMENT, delivery)["text"]


def test_what_is_there_is_not_asked_for_again() -> None:
    channel = lpt()
    assert channel.needs(CONTACT, make_delivery())
    assert not channel.needs(CONTACT, make_delivery(done={"lead": "77"}))
    assert channel.needs(LEAD, make_delivery())


@pytest.mark.parametrize("hostile", HOSTILE_LEADS)
def test_a_hostile_name_stays_a_text_of_the_contact(hostile: str) -> None:
    channel, lead = lpt(), make_lead(**HOSTILE_LEADS[hostile])
    if not channel.problems(lead):
        assert_well_formed(channel.build(CONTACT, [make_delivery(lead)]))


# The project


@pytest.mark.parametrize(
    ("settings", "data", "code"),
    [
        ({}, {"project_id": 5}, "project_id"), ({"funnel": 5}, {}, "settings.funnel"),
        ({"owner": 5}, {}, "settings.owner"), ({"fields": {"Цвет": "x"}}, {}, "settings.fields"),
        ({"fields": {"16": "x"}}, {}, "settings.fields"), ({"fields": {"ДУБЛЬ": "x"}}, {}, "fields"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_before_anything_is_made(
    settings: Mapping[str, Any], data: Mapping[str, Any], code: str
) -> None:
    account = Account(DIRECTORIES)
    with pytest.raises(Unusable) as caught:
        send(lpt(account, settings, data), CONTACT, make_delivery())
    assert caught.value.vendor_code == code
    assert {path for path in account.paths() if path.startswith("POST")} == {"POST /login"}


def test_the_project_is_looked_at_once_an_hour() -> None:
    account = Account({**DIRECTORIES, "GET /projects": [ok([{"id": "41823", "name": "Site"}]), failed(401)]})
    channel = lpt(account, {"owner": 0, "fields": {"name": "x"}})
    for _ in range(3):
        send(channel, COMMENT)
    assert account.paths().count("GET /projects") == 1
    assert "GET /staff" not in account.paths()
    channel.toolbox.clock.elapsed += 3600  # type: ignore[attr-defined]  # FakeClock
    with pytest.raises(Unusable):
        send(channel, COMMENT)
