"""Making amoCRM channels, deliveries and answers for tests."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from leadctl.channels.amocrm import AmoCrm
from leadctl.domain.model import Delivery, Verdict
from tests.support.channels import make_delivery, make_lead, open_channel

DATA = {"subdomain": "acme", "access_token": "canary-access-0123456789"}
Handler = Callable[[httpx.Request], httpx.Response]


def amo(
    handler: Handler | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    **more: Any,
) -> AmoCrm:
    channel = open_channel("amocrm", data or DATA, settings, handler=handler, **more)
    assert isinstance(channel, AmoCrm)
    return channel


def batch_of(count: int, **changes: Any) -> list[Delivery]:
    return [make_delivery(make_lead(id=number), **changes) for number in range(1, count + 1)]


def body_of(channel: AmoCrm, delivery: Delivery, step: int = 0) -> dict[str, Any]:
    (body,) = json.loads(channel.build(channel.steps[step], [delivery]).content)
    assert isinstance(body, dict)
    return body


def reply(status: int, body: object = None) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        del request
        return (
            httpx.Response(status, content=body)
            if isinstance(body, (str, bytes))
            else httpx.Response(status, json=body)
        )

    return handler


def send(channel: AmoCrm, batch: Sequence[Delivery], step: int = 0) -> Verdict:
    return asyncio.run(channel.send(channel.steps[step], batch))


def line(number: int, *keys: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "contact_id": number + 1,
        "company_id": None,
        "request_id": list(keys),
        "merged": False,
        **more,
    }


def problem(status: int, **more: Any) -> dict[str, Any]:
    return {"title": "x", "type": "y", "status": status, "detail": "z", **more}
