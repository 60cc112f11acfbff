"""Making LPTracker channels, deliveries and answers for tests."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from leadctl.channelkit.spec import Step
from leadctl.channels.lptracker import LpTracker
from leadctl.domain.model import Delivery, Finding, Receipt
from tests.support.channels import make_delivery, open_channel

DATA = {"login": "you@example.com", "password": "canary-password-0123", "project_id": 41823}
#: What is done before a lead, and before its comment.
CONTACT_DONE = {"contact": "555"}
LEAD_DONE = {**CONTACT_DONE, "lead": "77"}

#: HTTP status and body; a text is sent as it is.
Scripted = tuple[int, object]


def ok(result: object) -> Scripted:
    return 200, {"status": "success", "result": result}


def failed(code: int | str, message: str = "Something", status: int = 200) -> Scripted:
    return status, {"status": "error", "errors": [{"code": code, "message": message}]}


USUAL: Mapping[str, Scripted] = {
    "POST /login": ok({"token": "canary-token-0001"}),
    "GET /projects": ok([{"id": 41823, "name": "Site"}, {"id": 41824, "name": "Shop"}]),
    "GET /contact/search": ok([]),
    "POST /contact": ok({"id": 555, "project_id": 41823}),
    "POST /lead": ok({"id": 77, "contact": {"id": 555}}),
    "POST /lead/77/comment": ok({"id": 9, "text": "x"}),
    "GET /contact/555/leads": ok([]),
    "GET /lead/41823/list": ok([]),
    "GET /lead/77/comments": ok([]),
}


class Account:
    """Scripted answers by method and path: one for ever, or several in turn, of which the last stays."""

    def __init__(self, answers: Mapping[str, Scripted | list[Scripted] | Callable[[httpx.Request], Scripted]]) -> None:
        self.answers = {**USUAL, **answers}
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        scripted = self.answers[f"{request.method} {request.url.path}"]
        if isinstance(scripted, list):
            scripted = scripted.pop(0) if len(scripted) > 1 else scripted[0]
        status, body = scripted(request) if callable(scripted) else scripted
        if isinstance(body, str):
            return httpx.Response(status, text=body)
        return httpx.Response(status, json=body)

    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(request.content) for request in self.requests if request.url.path == path]


def lpt(
    account: Callable[[httpx.Request], httpx.Response] | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    **more: Any,
) -> LpTracker:
    channel = open_channel("lptracker", {**DATA, **(data or {})}, settings, handler=account, **more)
    assert isinstance(channel, LpTracker)
    return channel


def send(channel: LpTracker, step: Step, delivery: Delivery | None = None) -> Receipt:
    """What became of one delivery. Raises DeliveryError."""
    delivery = delivery or make_delivery(done=LEAD_DONE)
    return asyncio.run(channel.send(step, [delivery])).receipts[delivery.key]


def find(channel: LpTracker, step: Step, delivery: Delivery) -> Finding:
    return asyncio.run(channel.find(step, [delivery]))[delivery.key]


def body_of(channel: LpTracker, step: Step, delivery: Delivery) -> Any:
    return json.loads(channel.build(step, [delivery]).content)
