"""A scripted UniSender, and builders of channels, deliveries and answers for tests."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from leadctl.channels.unisender import UniSender
from leadctl.domain.errors import DeliveryError
from leadctl.domain.model import Delivery, Receipt
from tests.support.channels import make_delivery, make_lead, open_channel

KEY = "canary-0123456789"
DATA = {"api_key": KEY, "list_ids": [135, 134]}
BUDGET = {"fields": {"budget": "{{ lead.answers.budget }}"}}
NAMES = ("lead_id", "leadctl_key", "comment", "page_url", "utm_source", "utm_term", "budget")
DONE = {"result": {"person_id": 2500767342}}

Body = Mapping[str, Any] | str | tuple[int, Any]


class Api:
    """The vendor: an answer, or several in turn, for each method; ``calls`` are methods and forms."""

    def __init__(self, *, names: Sequence[str] = NAMES, **answers: Body | list[Body]) -> None:
        self.answers: dict[str, Body | list[Body]] = {
            "getLists": {"result": [{"id": 134, "title": "Leads"}, {"id": "135", "title": "B2B\x1b[1m"}]},
            "getFields": {"result": [{"id": n, "name": name, "type": "text"} for n, name in enumerate(names)]},
            "subscribe": DONE,
            **answers,
        }
        self.calls: list[tuple[str, dict[str, str]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.query) == ("POST", b"")
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded; charset=utf-8"
        method = request.url.path.rpartition("/")[2]
        form = dict(parse_qsl(request.content.decode(), keep_blank_values=True, strict_parsing=True))
        assert (form.pop("api_key"), form.pop("format")) == (KEY, "json")
        self.calls.append((method, form))
        answer = self.answers[method]
        status, body = whole(answer.pop(0) if isinstance(answer, list) else answer)
        return httpx.Response(status, text=body) if isinstance(body, str) else httpx.Response(status, json=body)

    def sent(self, method: str) -> list[dict[str, str]]:
        return [form for name, form in self.calls if name == method]


def whole(answer: Body) -> tuple[int, Any]:
    return answer if isinstance(answer, tuple) else (200, answer)


def uni(
    api: Callable[[httpx.Request], httpx.Response] | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    **more: Any,
) -> UniSender:
    channel = open_channel("unisender", DATA if data is None else data, settings, handler=api or Api(), **more)
    assert isinstance(channel, UniSender)
    return channel


def one(number: int = 42, *, doubt: bool = False, **changes: Any) -> Delivery:
    lead = make_lead(**{"id": number, "email": f"a{number}@example.com", "phone": f"+790000000{number:02}", **changes})
    return make_delivery(lead, context={"in_doubt": "1"} if doubt else {})


def send(channel: UniSender, *batch: Delivery) -> Mapping[str, Receipt]:
    return asyncio.run(channel.send(channel.steps[0], batch)).receipts


def failure(channel: UniSender, *batch: Delivery) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        send(channel, *(batch or (one(),)))
    return caught.value


def imported(total: int, *log: tuple[int, str, str], **more: Any) -> dict[str, Any]:
    entries = [{"index": index, "code": code, "message": text} for index, code, text in log]
    counts: dict[str, Any] = {"inserted": total - len(log), "updated": 0, "deleted": 0, "invalid": len(log)}
    return {"result": {"total": total, **counts, "log": entries, **more}}


def contact(key: str | None, *lists: int) -> dict[str, Any]:
    fields = {} if key is None else {"fields": {"Name": "Anna", "leadctl_key": key}}
    return {"result": {"email": {"email": "x", "status": "new"}, "lists": [{"id": n} for n in lists], **fields}}


def error(code: str, text: str = "words") -> dict[str, Any]:
    return {"error": f"OB13012016 [{text}]", "code": code}


NOT_THERE = error("invalid_arg", "not found")
