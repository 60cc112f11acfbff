"""A scripted SendPulse, and builders of channels and deliveries for tests."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from leadctl.channels.sendpulse import SendPulse
from leadctl.domain.model import Delivery, Receipt
from tests.support.channels import make_delivery, make_lead, open_channel

KEY = "canary-0123456789"
DATA = {"api_key": KEY, "address_book_id": 88123}
CLIENT = {"client_id": "c11ent", "client_secret": "canary-secret-1", "address_book_id": 88123}
CRM = {"crm": {"pipeline_id": 10, "step_id": 11, "responsible_id": 123}}
PIPELINES = {"data": [{"id": 10, "name": "Sales", "steps": [{"id": 11, "name": "New"}]}]}
ATTRIBUTES = {"data": [{"id": 7, "name": "Budget"}]}
TOKEN = {"access_token": "token-abcdef", "token_type": "Bearer", "expires_in": 3600}
RESULT = {"result": True}

Body = Any


class Turns(list[Body]):
    """Answers, one for each request."""


class Api:
    """The vendor: an answer, or several in turn, by method and path; ``calls`` are those and the bodies."""

    def __init__(self, answers: Mapping[str, Body] | None = None) -> None:
        self.answers: dict[str, Body] = {
            "POST /addressbooks/88123/emails": RESULT,
            "GET /crm/v1/pipelines": PIPELINES,
            "GET /crm/v1/pipelines/10/attributes": ATTRIBUTES,
            **(answers or {}),
        }
        self.calls: list[tuple[str, Any]] = []
        self.tokens: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = f"{request.method} {request.url.path}"
        self.calls.append((name, json.loads(request.content) if request.content else None))
        self.tokens.append(request.headers.get("Authorization", ""))
        answer = self.answers[name]
        if isinstance(answer, Turns):
            answer = answer.pop(0)
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return httpx.Response(status, text=body) if isinstance(body, str) else httpx.Response(status, json=body)

    def sent(self, name: str) -> list[Any]:
        return [body for called, body in self.calls if called == name]


def pulse(
    api: Callable[[httpx.Request], httpx.Response] | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    **more: Any,
) -> SendPulse:
    channel = open_channel("sendpulse", DATA if data is None else data, settings, handler=api or Api(), **more)
    assert isinstance(channel, SendPulse)
    return channel


def one(number: int = 42, done: Mapping[str, str] | None = None, **changes: Any) -> Delivery:
    phone = f"+7 900 000-{number // 100:02}-{number % 100:02}"
    lead = make_lead(**{"id": number, "email": f"lead{number}@example.com", "phone": phone, **changes})
    return make_delivery(lead, done=done or {})


def send(channel: SendPulse, batch: Sequence[Delivery], step: int = 0) -> Mapping[str, Receipt]:
    return asyncio.run(channel.send(channel.steps[step], batch)).receipts
