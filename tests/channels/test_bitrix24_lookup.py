"""Bitrix24 over time: a portal that moves, fields that are dropped, and what is looked up."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from leadctl.channelkit.spec import Step
from leadctl.channels.bitrix24 import LEAD, Bitrix24Channel
from leadctl.domain.errors import Ambiguous, DeliveryError, Throttled, Unusable
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Absent, CannotTell, Delivery, Done, Finding, Found
from tests.support.bitrix24 import ECHO, Portal, batch, opened, reply, sent

MOVED = httpx.Response(302, headers={"Location": "https://new.bitrix24.com/rest/1/canary0123456789/batch"})
REFUSED: list[tuple[str, type[DeliveryError]]] = [
    ("", Ambiguous),
    ("https://acme.bitrix24.com/rest/1/x/batch", Unusable),
    ("https://new.bitrix24.com/auth/", Unusable),
    ("/rest/1/x/batch", Unusable),
    ("http://192.168.0.5/rest/1/x/batch", Unusable),
    ("https://[::1/rest/", Unusable),
]


# A portal that moves


def test_a_renamed_portal_gets_the_same_body_at_its_new_host() -> None:
    portal, events = Portal(MOVED, reply({"d0": {"item": ECHO}})), list[Event]()
    channel = opened(portal, events=events)
    receipts = sent(channel, batch(1))
    assert isinstance(receipts, dict)
    (receipt,) = receipts.values()
    assert receipt == Done("342", "https://new.bitrix24.com/crm/lead/details/342/")
    first, second = portal.requests
    assert (first.method, second.method) == ("POST", "POST")
    assert first.content == second.content
    assert str(second.url) == "https://new.bitrix24.com/rest/1/canary0123456789/batch"
    assert isinstance(sent(channel, batch(2)), dict)
    assert portal.requests[2].url.host == "new.bitrix24.com", "the new host is remembered"
    assert [event.code for event in events if isinstance(event, Notice)] == ["portal_renamed"]
    assert channel.destination().target == "acme.bitrix24.com", "and the destination stays what the ledger knows"


@pytest.mark.parametrize(("location", "expected"), REFUSED)
def test_a_redirect_elsewhere_is_not_followed(location: str, expected: type[DeliveryError]) -> None:
    portal = Portal(httpx.Response(302, headers={"Location": location} if location else {}))
    error = sent(opened(portal, allow_private=()), batch(1))
    assert type(error) is expected
    assert len(portal.requests) == 1


def test_a_portal_that_moves_twice_is_refused() -> None:
    again = httpx.Response(302, headers={"Location": "https://third.bitrix24.com/rest/1/x/batch"})
    portal = Portal(MOVED, again)
    assert isinstance(sent(opened(portal), batch(1)), Unusable)
    assert len(portal.requests) == 2


# Fields that are dropped


def test_a_field_that_is_not_kept_is_said_once() -> None:
    events = list[Event]()
    settings = {"fields": {"UF_CRM_BUDGET": "{{ lead.answers.budget }}", "UF_CRM_TYPO": "x", "post": ""}}
    echo = {"d0": {"item": {**ECHO, "ufCrmBudget": "100 000", "title": "x"}}}
    channel = opened(Portal(reply(echo)), settings, events=events)
    sent(channel, batch(1))
    sent(channel, batch(2))
    (event,) = events
    assert isinstance(event, Notice)
    assert (event.code, event.channel, "UF_CRM_TYPO" in event.message) == ("field_dropped", "bitrix24", True)


# Looking up


def found(channel: Bitrix24Channel, deliveries: Sequence[Delivery], step: Step = LEAD) -> list[Finding]:
    return list(asyncio.run(channel.find(step, deliveries)).values())


def rows(*pairs: tuple[int, int], assigned: int = 1) -> dict[str, Any]:
    """A page of items: (lead id, remote id)."""
    items = [
        {"id": remote, "originId": f"lc-abc123-{lead}-7", "originatorId": "leadctl", "assignedById": assigned}
        for lead, remote in pairs
    ]
    return {"result": {"items": items}, "total": 0}


def test_the_look_up_asks_for_a_whole_batch_at_once() -> None:
    portal = Portal(rows((1, 30), (2, 40), (2, 35)))
    findings = found(opened(portal), batch(1, 2, 3))
    link = "https://acme.bitrix24.com/crm/lead/details/{}/"
    assert findings == [Found("30", {}, link.format(30)), Found("35", {}, link.format(35), ("40",)), Absent()]
    (request,) = portal.requests
    assert request.url.path == "/rest/1/canary0123456789/crm.item.list"
    assert json.loads(request.content) == {
        "entityTypeId": 1,
        "filter": {"=originatorId": "leadctl", "@originId": [d.key for d in batch(1, 2, 3)]},
        "select": ["id", "originatorId", "originId", "assignedById", "createdTime"],
        "order": {"id": "ASC"},
        "start": -1,
    }


def test_strangers_are_no_answer() -> None:
    """A database that ignores case, or a server that ignores the filter, answers with other items."""
    stranger = rows((1, 30))
    stranger["result"]["items"][0]["originId"] = "LC-ABC123-1-7"
    assert found(opened(Portal(stranger)), batch(1)) == [Absent()]


def test_none_means_none_only_if_an_item_of_ours_can_be_read() -> None:
    portal = Portal(rows(), rows((9, 90)), rows())
    channel = opened(portal)
    assert found(channel, batch(1)) == [Absent()]
    assert portal.bodies[1]["filter"] == {"=originatorId": "leadctl"}
    assert found(channel, batch(2)) == [Absent()]
    assert len(portal.requests) == 3, "it is proven once"
    (finding,) = found(opened(Portal(rows())), batch(1))
    assert isinstance(finding, CannotTell)
    assert finding.final


@pytest.mark.parametrize(
    ("configured", "assigned", "provable"), [(None, 1, True), (1, 1, True), (6, 1, False), (6, 6, True), (6, 8, True)]
)
def test_the_owners_own_items_show_nothing_of_others(configured: int | None, assigned: int, provable: bool) -> None:
    channel = opened(Portal(rows(), rows((9, 90), assigned=assigned)), {"assigned_by_id": configured})
    assert isinstance(found(channel, batch(1))[0], Absent if provable else CannotTell)


def test_a_long_list_is_read_to_its_end() -> None:
    full = rows(*((1, number) for number in range(1, 51)))
    portal = Portal(full, rows((2, 60)))
    first, second = found(opened(portal), batch(1, 2))
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert portal.bodies[1]["filter"][">id"] == 50
    with pytest.raises(Ambiguous, match="does not end"):
        found(opened(Portal(full)), batch(1))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"error": "QUERY_LIMIT_EXCEEDED"}, Throttled),
        ({"result": {"items": [{"originId": "lc-abc123-1-7"}]}}, Ambiguous),
        ({"result": []}, Ambiguous),
        ([], Ambiguous),
        (httpx.Response(502, text="<html>"), Ambiguous),
    ],
)
def test_a_look_up_that_fails_tells_nothing(answer: object, expected: type[DeliveryError]) -> None:
    with pytest.raises(expected):
        found(opened(Portal(answer)), batch(1))


def test_a_query_that_is_refused_tells_nothing_and_never_will() -> None:
    refused = {"error": "INVALID_ARG_VALUE", "error_description": "Invalid filter"}
    assert found(opened(Portal(refused)), batch(1)) == [CannotTell("Bitrix24 answers: Invalid filter", final=True)]
    (finding,) = found(opened(Portal(httpx.Response(413, json={"error": "", "error_description": ""}))), batch(1))
    assert finding == CannotTell("Bitrix24 answers: an error without words")


# Checking


@pytest.mark.parametrize(
    ("profile", "scope", "expected"),
    [
        ({"ID": "1", "NAME": "Anna", "LAST_NAME": "Kim"}, ["crm"], "acme.bitrix24.com as Anna Kim"),
        ({"ID": "1"}, ["task", "crm"], "acme.bitrix24.com as user 1"),
        ([], ["crm"], None),
        ({"ID": "1"}, ["task"], None),
    ],
)
def test_check_reads_profile_and_scope(profile: object, scope: object, expected: str | None) -> None:
    portal = Portal(reply({"profile": profile, "scope": scope}))
    channel = opened(portal)
    if expected is None:
        with pytest.raises(Unusable):
            asyncio.run(channel.check())
    else:
        assert asyncio.run(channel.check()) == expected
    assert portal.bodies == [{"halt": 0, "cmd": {"profile": "profile", "scope": "scope"}}]
