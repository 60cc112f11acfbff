"""A scripted GetResponse, and builders of channels, deliveries and answers for tests."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from leadctl.channels.getresponse import GetResponse
from leadctl.domain.errors import DeliveryError
from leadctl.domain.model import Delivery, Receipt, Verdict
from tests.support.channels import make_delivery, make_lead, open_channel

KEY = "canary-0123456789"
DATA = {"api_key": KEY, "campaign_id": "p86zQ"}
BUDGET = {"fields": {"budget": "{{ lead.answers.budget }}"}}
#: Custom fields of the account: name → id.
CUSTOMS = {
    "lead_id": "z9Kgt", "leadctl_key": "kL6Nh", "phone": "n", "comment": "pVyRW", "utm_source": "u1", "budget": "bQ7",
}  # fmt: skip
TAKEN = "1008"


class Api:
    """The vendor: an answer, or several in turn, for each route; ``calls`` are routes and JSON bodies. An answer is a
    body with HTTP 200, or status and body, or status, body and headers."""

    def __init__(self, *, names: Mapping[str, str] = CUSTOMS, opt_in: str = "single", **answers: Any) -> None:
        listed = [{"customFieldId": identity, "name": name, "type": "text"} for name, identity in names.items()]
        self.answers: dict[str, Any] = {
            "account": {"accountId": "VfEj6", "email": "owner@acme.example"},
            "list": {"campaignId": "p86zQ", "name": "Leads\x1b[1m", "optinTypes": {"api": opt_in}},
            "customs": listed,
            "add": (202, ""),
            "contacts": [contact()],
            "details": details("lc-abc123-42-7"),
            "upsert": [],
            **answers,
        }
        self.calls: list[tuple[str, Any]] = []
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["X-Auth-Token"] == f"api-key {KEY}"
        route = self.route(request)
        self.requests.append(request)
        self.calls.append((route, json.loads(request.content) if request.content else None))
        answer = self.answers[route]
        several = isinstance(answer, list) and bool(answer) and not isinstance(answer[0], dict)
        status, body, headers = whole(answer.pop(0) if several else answer)
        if isinstance(body, str):
            return httpx.Response(status, text=body, headers=headers)
        return httpx.Response(status, json=body, headers=headers)

    def route(self, request: httpx.Request) -> str:
        path = request.url.path.partition("/v3")[2]
        if request.method == "POST":
            assert request.headers["Content-Type"] == "application/json"
            return "add" if path == "/contacts" else "upsert"
        routes = {"/accounts": "account", "/campaigns/p86zQ": "list", "/custom-fields": "customs"}
        return {**routes, "/contacts": "contacts"}.get(path, "details")

    def sent(self, route: str) -> list[Any]:
        return [body for name, body in self.calls if name == route]

    def routes(self) -> list[str]:
        """Without those that are asked once, before the first lead."""
        return [name for name, _ in self.calls if name not in ("list", "customs")]


def whole(answer: Any) -> tuple[int, Any, Mapping[str, str]]:
    if not isinstance(answer, tuple):
        return 200, answer, {}
    status, body, *headers = answer
    return status, body, headers[0] if headers else {}


def gr(
    api: Callable[[httpx.Request], httpx.Response] | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    **more: Any,
) -> GetResponse:
    channel = open_channel("getresponse", DATA if data is None else data, settings, handler=api or Api(), **more)
    assert isinstance(channel, GetResponse)
    return channel


def one(number: int = 42, *, doubt: bool = False, **changes: Any) -> Delivery:
    lead = make_lead(**{"id": number, "email": f"a{number}@example.com", "phone": f"+790000000{number:02}", **changes})
    return make_delivery(lead, context={"in_doubt": "1"} if doubt else {})


def verdict(channel: GetResponse, delivery: Delivery | None = None) -> Verdict:
    return asyncio.run(channel.send(channel.steps[0], [delivery or one()]))


def send(channel: GetResponse, delivery: Delivery | None = None) -> Receipt:
    (receipt,) = verdict(channel, delivery).receipts.values()
    return receipt


def failure(channel: GetResponse, delivery: Delivery | None = None) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(channel, delivery)
    return caught.value


def error(code: int, status: int = 400, context: Any = None, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
    body = {"httpStatus": status, "code": code, "codeDescription": "words", "message": "said",
            "context": {} if context is None else context, "uuid": "b89a0d53"}  # fmt: skip
    return status, body, {name.replace("_", "-"): text for name, text in headers.items()}


def blame(name: str, code: int = 1000, **more: Any) -> tuple[int, Any, Mapping[str, str]]:
    """A refusal that names the field at fault."""
    return error(code, 400, {"fieldName": name, "originalName": name, "errorDescription": "wrong", **more})


def contact(email: str = "a42@example.com", identity: str = "pVx", campaign: str = "p86zQ") -> dict[str, Any]:
    return {"contactId": identity, "email": email, "name": "Anna", "campaign": {"campaignId": campaign}}


def details(key: str | None) -> dict[str, Any]:
    values = [] if key is None else [{"customFieldId": "kL6Nh", "name": "leadctl_key", "value": [key]}]
    return {**contact(), "customFieldValues": values, "tags": []}
