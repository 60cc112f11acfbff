"""GetResponse against scripted answers: what is sent, and what a credential may be."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from leadctl.domain.errors import DeliveryError, InvalidCredential, Throttled, Transient, Unusable
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Done
from leadctl.testing.contract import ChannelContract
from tests.support.channels import make_lead
from tests.support.getresponse import BUDGET, DATA, KEY, Api, error, failure, gr, one, send, verdict


class TestContract(ChannelContract):
    name = "getresponse"
    data: ClassVar[Mapping[str, Any]] = {**DATA, "domain": "acme.example", "base_url": "https://api.getresponse.com/v3"}
    settings: ClassVar[Mapping[str, Any]] = {"double_optin": False, **BUDGET}
    bad_data: ClassVar[Mapping[str, Any]] = {"api_key": "wrong-0123456789"}
    #: 202 comes without a body.
    broken_answer_is_done = True


# What is sent


def test_one_lead_is_exactly_this() -> None:
    api = Api()
    said = verdict(gr(api, BUDGET))
    assert dict(said.receipts) == {"lc-abc123-42-7": Done(accepted=True)}
    assert (said.http_status, bool(said.request_digest)) == (202, True)
    assert [name for name, _ in api.calls] == ["list", "customs", "add"]
    assert api.calls[-1][1] == {
        "email": "a42@example.com", "campaign": {"campaignId": "p86zQ"}, "name": "Анна Ким",
        "customFieldValues": [
            {"customFieldId": "z9Kgt", "value": ["42"]},
            {"customFieldId": "kL6Nh", "value": ["lc-abc123-42-7"]},
            {"customFieldId": "n", "value": ["+79000000042"]},
            {"customFieldId": "pVyRW", "value": ["Перезвоните после 18:00\n\nbudget: 100 000"]},
            {"customFieldId": "u1", "value": ["yandex"]},
            {"customFieldId": "bQ7", "value": ["100 000"]},
        ],
    }  # fmt: skip


def test_the_key_travels_in_a_header_alone() -> None:
    api = Api()
    channel = gr(api)
    send(channel)
    asked = api.requests[-1]
    assert str(asked.url) == "https://api.getresponse.com/v3/contacts"
    assert "X-Domain" not in asked.headers
    for request in api.requests:
        assert KEY not in f"{request.url}{request.content.decode()}"
    assert [str(request.url.query, "ascii") for request in api.requests[:2]] == ["", "perPage=1000&page=1"]


@pytest.mark.parametrize(
    ("data", "url"),
    [
        ({"domain": "Acme.example"}, "https://api3.getresponse360.com/v3/contacts"),
        ({"domain": "acme.example", "base_url": "https://api3.getresponse360.pl/v3/"},
         "https://api3.getresponse360.pl/v3/contacts"),
        ({"domain": None}, "https://api.getresponse.com/v3/contacts"),
    ],
)  # fmt: skip
def test_an_account_of_max_names_its_domain(data: Mapping[str, Any], url: str) -> None:
    channel = gr(data={**DATA, **data})
    request = channel.build(channel.steps[0], [one()])
    assert (request.url, request.headers.get("X-Domain")) == (url, "acme.example" if data["domain"] else None)
    assert channel.endpoints() == (url.removesuffix("/contacts"),)


def test_what_is_empty_is_left_out() -> None:
    """The vendor takes neither an empty name nor an empty value."""
    api = Api()
    send(gr(api, BUDGET), one(name=" ", phone="", comment="", answers=(), page_url="", utm={}))
    assert api.sent("add") == [{
        "email": "a42@example.com", "campaign": {"campaignId": "p86zQ"},
        "customFieldValues": [{"customFieldId": "z9Kgt", "value": ["42"]},
                              {"customFieldId": "kL6Nh", "value": ["lc-abc123-42-7"]}],
    }]  # fmt: skip


def test_a_field_that_the_account_does_not_have_is_not_sent() -> None:
    api = Api(names={"city": "c"})
    send(gr(api))
    assert api.sent("add") == [{"email": "a42@example.com", "campaign": {"campaignId": "p86zQ"}, "name": "Анна Ким"}]


def test_an_unreadable_phone_is_not_lost() -> None:
    api = Api()
    send(gr(api), one(phone="ask Anna", comment="c", answers=()))
    values = {entry["customFieldId"]: entry["value"] for entry in api.sent("add")[0]["customFieldValues"]}
    assert ("n" in values, values["pVyRW"]) == (False, ["c\n\nТелефон: ask Anna"])


def test_the_settings_map_fields_by_name_or_id_and_may_replace_ours() -> None:
    api = Api()
    fields = {
        "name": "{{ lead.name }}!",
        "comment": "{{ lead.id }}",
        "bQ7": "b",
        "u1": "from {{ lead.utm.utm_source }}",
    }
    send(gr(api, {"fields": fields}), one(name="{{ 7 * 7 }}"))
    body = api.sent("add")[0]
    values = {entry["customFieldId"]: entry["value"] for entry in body["customFieldValues"]}
    assert body["name"] == "{{ 7 * 7 }}!"
    assert (values["pVyRW"], values["bQ7"], values["u1"]) == (["42"], ["b"], ["from yandex"])


def test_a_name_goes_before_an_id() -> None:
    api = Api(names={"n": "other", "phone": "n"})
    send(gr(api, {"fields": {"n": "x"}}))
    values = {entry["customFieldId"]: entry["value"] for entry in api.sent("add")[0]["customFieldValues"]}
    assert values == {"n": ["+79000000042"], "other": ["x"]}


def test_a_name_has_128_characters_at_most() -> None:
    api = Api()
    send(gr(api), one(name="Ж" * 500))
    assert len(api.sent("add")[0]["name"]) == 128


def test_nothing_of_a_lead_is_rendered_or_becomes_a_query() -> None:
    api = Api(add=error(1008, 409))
    address = "a+b&x=%@example.com"
    failure(gr(api), one(email=address, comment="{{ 7191 * 7193 }}"))
    asked = next(request for request in api.requests if request.method == "GET" and b"exactMatch" in request.url.query)
    assert asked.url.query == (
        b"query%5Bemail%5D=a%2Bb%26x%3D%25%40example.com&query%5BcampaignId%5D=p86zQ&additionalFlags=exactMatch"
    )
    assert "{{ 7191 * 7193 }}" in json.dumps(api.sent("add"))


@pytest.mark.parametrize(
    ("changes", "fields", "said"),
    [
        ({}, {}, ""),
        ({"email": ""}, {}, "no e-mail address"),
        ({"email": "no at"}, {}, "no e-mail address"),
        ({"phone": "", "name": ""}, {}, ""),
        ({}, {"budget": "{{ lead.answers.budget }}"}, ""),
        ({"id": 2}, {"budget": "{{ 1 // (lead.id - 2) }}"}, "template"),
    ],
)
def test_problems(changes: Mapping[str, Any], fields: Mapping[str, str], said: str) -> None:
    problems = list(gr(settings={"fields": fields}).problems(make_lead(**changes)))
    assert len(problems) == bool(said)
    assert said in "".join(problems)


def test_a_plan_reads_no_more_than_it_judges() -> None:
    assert gr(settings=BUDGET).judged == {"email"}
    assert "answers" in gr(settings={"fields": {"budget": "{{ lead.answers.budget | upper }}"}}).judged


# The account


@pytest.mark.parametrize(
    ("answers", "expected", "said"),
    [
        ({"customs": []}, Unusable, "the account has no custom field budget"),
        ({"customs": (404, "")}, Unusable, "the account has no custom field budget"),
        ({"customs": error(1014, 401)}, Unusable, "API key is wrong"),
        ({"list": error(1014, 403)}, Unusable, "API key is wrong"),
        ({"list": error(1003)}, Unusable, "wrong form"),
        ({"list": error(1015, 429)}, Throttled, "too many"),
        ({"customs": "<html>"}, Transient, "not JSON"),
        ({"customs": (500, "")}, Transient, "HTTP 500"),
        ({"customs": error(1, 500)}, Transient, "internal"),
        ({"customs": {"customFieldId": "n"}}, Transient, "documented form"),
        ({"customs": [{"name": "budget"}]}, Transient, "documented form"),
        ({"customs": [{"customFieldId": "../x", "name": "budget"}]}, Transient, "documented form"),
    ],
)
def test_fields_are_resolved_before_anything_is_sent(
    answers: Mapping[str, Any], expected: type[DeliveryError], said: str
) -> None:
    api = Api(**answers)
    caught = failure(gr(api, BUDGET))
    assert type(caught) is expected
    assert said in caught.message
    assert not api.sent("add")
    with pytest.raises(expected):
        asyncio.run(gr(Api(**answers), BUDGET).check())


def test_what_is_not_needed_may_be_missing() -> None:
    """A list that is not shown is left to the request itself, which names it."""
    assert send(gr(Api(list=error(1013, 404), customs=(404, "<html>")))) == Done(accepted=True)


def test_the_account_is_asked_once_even_by_several_at_once() -> None:
    api = Api()
    channel = gr(api)

    async def run() -> None:
        await asyncio.gather(*(channel.send(channel.steps[0], [one(number)]) for number in (1, 2, 3)))

    asyncio.run(run())
    assert sorted(name for name, _ in api.calls) == ["add", "add", "add", "customs", "list"]


def test_custom_fields_come_in_pages() -> None:
    first = [{"customFieldId": f"x{number}", "name": f"f{number}"} for number in range(1000)]
    api = Api()
    pages = {1: first, 2: [{"customFieldId": "bQ7", "name": "budget"}]}

    class Paged(Api):
        def __call__(self, request: Any) -> Any:
            if request.url.path.endswith("/custom-fields"):
                self.answers["customs"] = pages[int(request.url.params["page"])]
            return super().__call__(request)

    api = Paged()
    send(gr(api, BUDGET))
    assert [name for name, _ in api.calls] == ["list", "customs", "customs", "add"]
    assert {"customFieldId": "bQ7", "value": ["100 000"]} in api.sent("add")[0]["customFieldValues"]


@pytest.mark.parametrize(
    ("opt_in", "wanted", "refused", "told"),
    [
        ("single", None, False, False),
        ("single", False, False, False),
        ("single", True, True, False),
        ("double", None, False, True),
        ("double", True, False, False),
        ("double", False, True, False),
        ("new kind", True, False, False),
    ],
)
def test_the_opt_in_of_the_list_is_the_one_asked_for(
    opt_in: str, wanted: bool | None, refused: bool, told: bool
) -> None:
    events: list[Event] = []
    api = Api(opt_in=opt_in)
    channel = gr(api, {} if wanted is None else {"double_optin": wanted}, events=events)
    if refused:
        caught = failure(channel)
        assert (type(caught), caught.vendor_code) == (Unusable, "double_optin")
        with pytest.raises(Unusable, match="change one of them"):
            asyncio.run(channel.check())
    else:
        for number in (1, 2):
            assert send(channel, one(number)) == Done(accepted=True)
    assert len(api.sent("add")) == (0 if refused else 2)
    assert [event.code for event in events if isinstance(event, Notice)] == ["double_optin"] * told


@pytest.mark.parametrize(
    ("opt_in", "said"), [("single", "without confirmation letters"), ("double", "asks each person for confirmation")]
)
def test_check_names_account_and_list(opt_in: str, said: str) -> None:
    api = Api(opt_in=opt_in)
    assert asyncio.run(gr(api, BUDGET).check()) == (
        f"owner@acme.example: list Leads [1m (p86zQ), {said}; fills lead_id, leadctl_key, phone, comment, utm_source"
    )
    assert [name for name, _ in api.calls] == ["account", "list", "customs"]
    assert {request.method for request in api.requests} == {"GET"}


@pytest.mark.parametrize(
    ("answers", "expected", "said"),
    [
        ({"list": error(1013, 404)}, Unusable, "GetResponse has no list p86zQ"),
        ({"account": error(1014, 401)}, Unusable, "API key is wrong"),
        ({"account": error(1023, 403)}, Unusable, "may not use"),
        ({"account": error(1024, 404)}, Unusable, "no such domain"),
        ({"account": (502, "<html>")}, Transient, "HTTP 502"),
    ],
)
def test_check_says_what_is_wrong(answers: Mapping[str, Any], expected: type[DeliveryError], said: str) -> None:
    with pytest.raises(expected, match=said):
        asyncio.run(gr(Api(**answers)).check())


def test_check_of_an_account_without_our_fields() -> None:
    said = asyncio.run(gr(Api(names={}, account={})).check())
    assert said == "api.getresponse.com: list Leads [1m (p86zQ), without confirmation letters; fills none of its own"


def test_destination_is_the_key_and_the_list() -> None:
    destination = gr().destination()
    assert (destination.parts, destination.account, destination.target) == ((KEY, "p86zQ"), ("7",), "p86zQ")
    assert gr(data={**DATA, "campaign_id": "P86zq"}).destination() != destination
    assert gr(data={**DATA, "campaign_id": 123}).destination().target == "123"


def test_credentials_of_one_key_share_its_limits() -> None:
    first, same = gr().buckets(), gr(data={**DATA, "campaign_id": "V"}).buckets()
    other = gr(data={**DATA, "api_key": "another-0123456789"}).buckets()
    assert first == same
    assert not {bucket.scope for bucket in first} & {bucket.scope for bucket in other}
    frame, second = (bucket.limit for bucket in first)
    assert (second.rate, second.per, second.documented, frame.documented) == (70, 1, 80, None)
    assert frame.rate + frame.burst <= 30_000
    assert second.rate + second.burst <= 80


@pytest.mark.parametrize(
    ("data", "settings", "named"),
    [
        ({"campaign_id": "V"}, {}, "data.api_key"),
        *(({**DATA, "api_key": wrong}, {}, "data.api_key") for wrong in ("two words", "", "ключ", 5)),
        ({"api_key": KEY}, {}, "data.campaign_id"),
        *(({**DATA, "campaign_id": wrong}, {}, "data.campaign_id") for wrong in ("", "a/b", "a b", None, True, ["V"])),
        *(({**DATA, "domain": wrong}, {}, "data.domain")
          for wrong in ("https://acme.example", "www.acme.example", "acme", "acme.example/x", "a\r\nb.example", "", 1)),
        ({**DATA, "base_url": "http://192.168.1.1"}, {}, "the address 192.168.1.1"),
        *((DATA, {"double_optin": wrong}, "settings.double_optin") for wrong in (3, "perhaps", 1.5)),
        (DATA, {"fields": {"budget": "{{ lead."}}, "settings.fields.budget: not a valid template"),
        (DATA, {"fields": {"a b": "x"}}, "settings.fields"),
        *((DATA, {"fields": {name: "x"}}, "settings.fields") for name in ("email", "campaign", "leadctl_key")),
        (DATA, {"fields": {f"f{number}": "x" for number in range(51)}}, "settings.fields"),
        (DATA, {"on_unknown": "ask"}, "settings.on_unknown"),
    ],
)  # fmt: skip
def test_a_wrong_credential_names_its_key(data: Mapping[str, Any], settings: Mapping[str, Any], named: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        gr(data=data, settings=settings)
    assert str(caught.value).startswith(named)
