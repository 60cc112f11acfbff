"""amoCRM is asked: the highest id before a send, and which leads and notes it has."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from leadctl.channels.amocrm import GUIDED_PAGES, LOOK_PAUSE, UNGUIDED_PAGES, AmoCrm
from leadctl.domain.errors import DeliveryError, LimitReached, Throttled, Transient, Unusable
from leadctl.domain.model import Absent, CannotTell, Delivery, Finding, Found
from tests.support.amocrm import DATA, amo, batch_of, line, problem, reply, send
from tests.support.channels import FakeClock, make_delivery, make_lead


class Pages:
    """An account whose leads have these ids and texts, newest first."""

    def __init__(self, leads: Sequence[tuple[int, str]], *, size: int = 250) -> None:
        self.leads = sorted(leads, reverse=True)
        self.size = size
        self.urls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(str(request.url))
        page, limit = int(request.url.params.get("page", "1")), int(request.url.params["limit"])
        assert request.url.params["order[id]"] == "desc"
        assert request.headers["Authorization"] == f"Bearer {DATA['access_token']}"
        begin = (page - 1) * limit
        shown = [
            {"id": number, "name": text, "custom_fields_values": None, "_embedded": {"contacts": [{"id": number + 1}]}}
            for number, text in self.leads[begin : begin + limit]
        ]
        if not shown:
            return httpx.Response(204)
        links = {"next": {"href": "x"}} if begin + limit < len(self.leads) else {}
        return httpx.Response(200, json={"_links": links, "_embedded": {"leads": shown}})


def find(channel: AmoCrm, *batch: Delivery, step: int = 0) -> list[Finding]:
    findings = asyncio.run(channel.find(channel.steps[step], batch))
    return [findings[delivery.key] for delivery in batch]


def doubt(number: int, floor: int | None) -> Delivery:
    return make_delivery(make_lead(id=number), context={} if floor is None else {"max_lead_id": str(floor)})


def test_the_highest_lead_id_is_asked_for_once() -> None:
    pages = Pages([(5, "a"), (9, "b")])
    channel = amo(pages)
    step, note = channel.steps
    assert asyncio.run(channel.prepare(note)) == {}
    assert asyncio.run(channel.prepare(step)) == {"max_lead_id": "9"}
    channel.use_transport(
        httpx.MockTransport(reply(200, [line(12, "lc-abc123-1-7"), line(8, "lc-abc123-2-7", merged=True)]))
    )
    send(channel, batch_of(2))
    assert asyncio.run(channel.prepare(step)) == {"max_lead_id": "12"}
    assert pages.urls == ["https://acme.amocrm.ru/api/v4/leads?order[id]=desc&limit=1"]


def test_an_empty_account_has_the_floor_zero() -> None:
    channel = amo(Pages([]))
    assert asyncio.run(channel.prepare(channel.steps[0])) == {"max_lead_id": "0"}
    assert find(channel, doubt(1, 0)) == [Absent()]


@pytest.mark.parametrize(
    ("status", "body"), [(500, ""), (200, "<html>"), (200, []), (200, {"_embedded": {"leads": [{}]}})]
)
def test_a_failed_question_is_no_answer(status: int, body: object) -> None:
    channel = amo(reply(status, body))
    with pytest.raises(Transient):
        asyncio.run(channel.prepare(channel.steps[0]))
    for step, delivery in enumerate((doubt(1, 5), make_delivery(done={"lead": "9"}))):
        with pytest.raises(Transient):
            find(channel, delivery, step=step)


@pytest.mark.parametrize(("status", "expected"), [(401, Unusable), (403, LimitReached), (429, Throttled)])
def test_a_refused_question_stops_like_a_refused_lead(status: int, expected: type[DeliveryError]) -> None:
    channel = amo(reply(status, "<html>"))
    for step, delivery in enumerate((doubt(1, 5), make_delivery(done={"lead": "9"}))):
        with pytest.raises(expected):
            find(channel, delivery, step=step)


def test_a_lead_is_found_by_its_name_or_by_its_field() -> None:
    leads = [
        {"id": 12, "name": "x", "custom_fields_values": [{"field_id": 5, "values": [{"value": "lc-abc123-1-7"}]}],
         "_embedded": {"contacts": [{"id": 33}]}},
        {"id": 11, "name": "x [lc-abc123-2-7] edited", "custom_fields_values": None},
        {"id": 10, "name": "lc-abc123-3-7", "custom_fields_values": [{"values": None}, 7]},
    ]  # fmt: skip
    channel = amo(reply(200, {"_embedded": {"leads": leads}}))
    url = "https://acme.amocrm.ru/leads/detail/"
    assert find(channel, doubt(1, 9), doubt(2, 9), doubt(3, 9), doubt(12, 9)) == [
        Found("12", {"contact": "33"}, f"{url}12"), Found("11", {}, f"{url}11"), Absent(), Absent(),
    ]  # fmt: skip


def test_pages_are_walked_to_the_floor_and_not_further() -> None:
    clock = FakeClock()
    pages = Pages([(number, "x [lc-abc123-1-7]" if number in (701, 420) else "x") for number in range(1, 1001)])
    found, absent = find(amo(pages, clock=clock), doubt(1, 700), doubt(2, 400))
    assert found == Found("420", {"contact": "421"}, "https://acme.amocrm.ru/leads/detail/420", ("701",))
    assert absent == Absent()
    query = "https://acme.amocrm.ru/api/v4/leads?order[id]=desc&with=contacts&limit=250&page="
    assert pages.urls == [f"{query}{number}" for number in (1, 2, 3)]
    assert clock.sleeps == [LOOK_PAUSE] * 2


def test_a_full_page_without_a_link_is_not_the_end() -> None:
    pages = Pages([(number, "x") for number in range(1, 501)])

    def unlinked(request: httpx.Request) -> httpx.Response:
        answer = pages(request)
        return httpx.Response(200, json={**answer.json(), "_links": {}}) if answer.status_code == 200 else answer

    assert find(amo(unlinked), doubt(1, None)) == [Absent()]
    assert len(pages.urls) == 3


def test_a_look_up_raises_the_floor_of_later_sends() -> None:
    pages = Pages([(5, "x"), (9, "x")])
    channel = amo(pages)
    find(channel, doubt(1, 3))
    assert asyncio.run(channel.prepare(channel.steps[0])) == {"max_lead_id": "9"}
    assert len(pages.urls) == 1


def test_without_a_floor_only_the_newest_are_walked() -> None:
    pages = Pages([(number, "x") for number in range(1, 5001)])
    too_many = CannotTell("there are too many newer entries to look through", final=True)
    assert find(amo(pages), doubt(1, None)) == [too_many], "and tomorrow there are more"
    assert len(pages.urls) == UNGUIDED_PAGES
    assert find(amo(Pages([(1, "x"), (2, "x")])), doubt(1, None)) == [Absent()]
    assert find(amo(Pages([(7, "x [lc-abc123-1-7]")])), doubt(1, None))[0] == Found(
        "7", {"contact": "8"}, "https://acme.amocrm.ru/leads/detail/7"
    )


def test_a_floor_too_far_away_is_not_reached() -> None:
    pages = Pages([(number, "x") for number in range(1, 10_600)])
    (finding,) = find(amo(pages), doubt(1, 3))
    assert isinstance(finding, CannotTell)
    assert finding.final
    assert len(pages.urls) == GUIDED_PAGES


def test_what_has_no_floor_is_looked_for_further_when_the_others_are_settled() -> None:
    leads = Pages([(number, "x") for number in range(1, 300)])
    absent, later = find(amo(leads), doubt(1, 290), doubt(2, None))
    assert absent == Absent()
    assert isinstance(later, CannotTell)
    assert not later.final
    assert find(amo(leads), doubt(2, None)) == [Absent()]


def test_a_list_in_another_order_proves_nothing() -> None:
    leads = [{"id": 1, "name": "x"}, {"id": 900, "name": "x"}]
    assert find(amo(reply(200, {"_embedded": {"leads": leads}})), doubt(1, 5))[0] == CannotTell(
        "the list is not in the order asked for", final=True
    )


def test_what_was_found_before_a_page_failed_is_found() -> None:
    pages = Pages([(number, f"x [lc-abc123-{number}-7]") for number in range(1, 1001)])

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(502) if request.url.params["page"] == "2" else pages(request)

    found, unknown = find(amo(handler), doubt(1000, 100), doubt(200, 100))
    assert isinstance(found, Found)
    assert isinstance(unknown, CannotTell)
    assert not unknown.final, "the next run may read that page"


def test_a_note_is_found_in_its_lead_by_its_key() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        if request.url.path.endswith("/13/notes"):
            return httpx.Response(404, json=problem(404))
        if request.url.path.endswith("/12/notes"):
            return httpx.Response(204)
        notes = [{"id": 3, "params": None}, {"id": 2, "params": {"text": "a [lc-abc123-1-7]"}}]
        return httpx.Response(200, json={"_embedded": {"notes": notes}})

    clock = FakeClock()
    batch = [make_delivery(make_lead(id=n), done={"lead": str(10 + n)}) for n in (1, 2, 3)]
    assert find(amo(handler, clock=clock), *batch, step=1) == [Found("2"), Absent(), Absent()]
    assert seen == [f"/api/v4/leads/{number}/notes" for number in (11, 12, 13)]
    assert clock.sleeps == [LOOK_PAUSE] * 2
