"""A portal that answers as it is told, and the channel that speaks to it."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from leadctl.channelkit.phpquery import php_map
from leadctl.channels.bitrix24 import LEAD, Bitrix24Channel
from leadctl.domain.errors import DeliveryError
from leadctl.domain.model import Delivery, Receipt
from tests.support.channels import make_delivery, make_lead, open_channel

DATA = {"webhook_url": "https://acme.bitrix24.com/rest/1/canary0123456789/"}
ECHO = {"id": 342, "originatorId": "leadctl"}
Handler = Callable[[httpx.Request], httpx.Response]


class Portal:
    """Answers from a list, the last one again and again; keeps the requests."""

    def __init__(self, *answers: object, status: int = 200) -> None:
        self.answers = list(answers)
        self.status = status
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(self.status, json=answer)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]


def opened(handler: Handler | None = None, settings: Mapping[str, Any] | None = None, **more: Any) -> Bitrix24Channel:
    channel = open_channel("bitrix24", more.pop("data", DATA), settings, handler=handler, **more)
    assert isinstance(channel, Bitrix24Channel)
    return channel


def batch(*ids: int) -> list[Delivery]:
    return [make_delivery(make_lead(id=number)) for number in ids or (42,)]


def reply(
    results: object = (), errors: object = (), seconds: float = 0.5, operating: float = 3.0, reset: float = 60.0
) -> dict[str, Any]:
    """The answer of a batch; PHP writes an empty map as a list."""
    timing = {"duration": seconds, "operating": operating, "operating_reset_at": 1000.0 + reset}
    result = {
        "result": results or [], "result_error": errors or [], "result_total": [], "result_next": [],
        "result_time": dict.fromkeys(php_map(results), timing),
    }  # fmt: skip
    return {"result": result, "time": {"finish": 1000.0}}


def sent(channel: Bitrix24Channel, deliveries: Sequence[Delivery]) -> dict[str, Receipt] | DeliveryError:
    async def run() -> dict[str, Receipt] | DeliveryError:
        try:
            return dict((await channel.send(LEAD, deliveries)).receipts)
        except DeliveryError as error:
            return error

    return asyncio.run(run())
