"""Webhooks: the event, its signature, the error table, the network guard, and a receiver over real sockets."""

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import httpx
import pytest
import svix.webhooks
from standardwebhooks.webhooks import Webhook

from leadctl.channelkit.channel import Channel
from leadctl.channels.webhooks import COMMENT_BYTES, MAX_BYTES, USUAL_BYTES, decoded, message_id, sign
from leadctl.domain.errors import Ambiguous, DeliveryError, InvalidCredential, Rejected, Throttled, Unusable
from leadctl.domain.model import Answer, Delivery, Done, Receipt
from leadctl.sandbox.webhooks import signature
from leadctl.testing.contract import ChannelContract
from tests.support.channels import NOW, FakeClock, make_delivery, make_lead, open_channel

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
URL = "https://crm.example/hooks/canary9-path?token=canary-query"
DATA: Mapping[str, Any] = {"url": URL, "secret": SECRET}
KEY = "lc-abc123-42-7"


class TestContract(ChannelContract):
    name = "webhooks"
    data = DATA
    bad_data: ClassVar = {"secrets": [OTHER]}
    broken_answer_is_done = True  # a 2xx is one, whatever follows
    check_sees_secret = False  # nothing is posted by a check


class Receiver:
    """One answer for every request; keeps what was asked."""

    def __init__(self, answer: httpx.Response | None = None) -> None:
        self.answer = answer or httpx.Response(204)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer


def send(channel: Channel[Any, Any], delivery: Delivery | None = None) -> Receipt:
    delivery = delivery or make_delivery()

    async def run() -> Receipt:
        try:
            return (await channel.send(channel.steps[0], [delivery])).receipts[delivery.key]
        except DeliveryError as error:
            return error
        finally:
            await channel.close()

    return asyncio.run(run())


def posted(
    data: Mapping[str, Any] = DATA,
    delivery: Delivery | None = None,
    settings: Mapping[str, Any] | None = None,
    clock: FakeClock | None = None,
) -> httpx.Request:
    """The request that the channel sends."""
    receiver = Receiver()
    receipt = send(open_channel("webhooks", data, settings, handler=receiver, clock=clock), delivery)
    assert isinstance(receipt, Done), receipt
    (request,) = receiver.requests
    return request


def answered(answer: httpx.Response, delivery: Delivery | None = None) -> Receipt:
    return send(open_channel("webhooks", DATA, handler=Receiver(answer)), delivery)


# The request


def test_request_is_exact() -> None:
    request = posted()
    assert (request.method, str(request.url)) == ("POST", URL)
    assert json.loads(request.content) == {
        "type": "lead.created",
        "timestamp": "2026-03-01T10:00:00Z",
        "data": {
            "id": 42, "created_at": "2026-03-01T10:00:00Z", "name": "Анна Ким", "phone": "+7 900 000-00-01",
            "email": "anna@example.com", "comment": "Перезвоните после 18:00", "page_url": "https://example.com/p",
            "utm": {"source": "yandex", "medium": "cpc", "campaign": "", "term": "", "content": ""},
            "answers": [{"question": "budget", "answer": "100 000"}],
        },
    }  # fmt: skip
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(request.content))
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("leadctl/")
    assert request.headers["webhook-id"] == message_id(KEY, "lead.created")
    assert request.headers["webhook-timestamp"] == "1772359200"
    assert request.headers["webhook-signature"].startswith("v1,")


def test_message_id_is_a_pure_function_without_full_stops() -> None:
    found = message_id(KEY, "lead.created")
    assert found == message_id(KEY, "lead.created")
    assert len({found, message_id(f"{KEY}-1", "lead.created"), message_id(KEY, "lead.resent")}) == 3
    assert found.startswith("msg_")
    assert found.removeprefix("msg_").isalnum()
    assert len(found) == 30


def test_body_is_byte_equal_over_attempts_and_the_time_is_not() -> None:
    clock = FakeClock()
    first = posted(clock=clock)
    clock.elapsed = 3600.0
    second = posted(clock=clock)
    assert first.content == second.content
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 3600
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_time_of_an_event_without_a_date_is_its_first_attempt() -> None:
    delivery = make_delivery(make_lead(created_at=None), first_at=NOW + timedelta(days=1, microseconds=5))
    event = json.loads(posted(delivery=delivery).content)
    assert event["timestamp"] == "2026-03-02T10:00:00.000005Z"
    assert event["data"]["created_at"] is None


def test_form_body_has_flat_keys() -> None:
    request = posted({**DATA, "body": "form", "method": "put"})
    assert request.method == "PUT"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(request.content.decode(), keep_blank_values=True) == [
        ("type", "lead.created"), ("timestamp", "2026-03-01T10:00:00Z"), ("id", "42"),
        ("created_at", "2026-03-01T10:00:00Z"), ("name", "Анна Ким"), ("phone", "+7 900 000-00-01"),
        ("email", "anna@example.com"), ("comment", "Перезвоните после 18:00"), ("page_url", "https://example.com/p"),
        ("utm_source", "yandex"), ("utm_medium", "cpc"), ("utm_campaign", ""), ("utm_term", ""), ("utm_content", ""),
        ("answer[0][question]", "budget"), ("answer[0][answer]", "100 000"),
    ]  # fmt: skip


def test_user_of_the_url_becomes_basic_auth() -> None:
    request = posted({**DATA, "url": "https://user:p%40ss@crm.example/hooks"})
    assert str(request.url) == "https://crm.example/hooks"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()


def test_own_headers_travel_once() -> None:
    request = posted({**DATA, "headers": {"authorization": "Bearer x", "user-agent": "crm/1", "X-Count": 3}})
    assert request.headers["authorization"] == "Bearer x"
    assert request.headers.get_list("user-agent") == ["crm/1"]
    assert request.headers["x-count"] == "3"


def test_nul_and_lone_surrogates_do_not_travel() -> None:
    bad = "a\x00b\ud800c"
    lead = make_lead(name=bad, comment=bad, utm={f"utm_{bad}": bad}, answers=(Answer(bad, bad),), id=bad)
    data = json.loads(posted(delivery=make_delivery(lead, key=KEY)).content)["data"]
    assert data["name"] == data["comment"] == data["id"] == data["answers"][0]["question"] == "a\ufffdb\ufffdc"
    assert data["utm"]["a\ufffdb\ufffdc"] == "a\ufffdb\ufffdc"


def test_long_comment_is_cut() -> None:
    for body in ("json", "form"):
        content = posted({**DATA, "body": body}, make_delivery(make_lead(comment="Ж" * 100_000))).content
        assert USUAL_BYTES - 10 < len(content) <= USUAL_BYTES
        assert "100+000" in content.decode() or "100 000" in content.decode(), "the answers are whole"


def test_a_comment_keeps_a_part_beside_long_answers() -> None:
    answers = tuple(Answer(f"q{n}", "x" * 1000) for n in range(40))
    content = posted(delivery=make_delivery(make_lead(comment="c" * 50_000, answers=answers))).content
    comment = json.loads(content)["data"]["comment"]
    assert len(json.loads(content)["data"]["answers"]) == 40
    assert COMMENT_BYTES - 10 < len(comment.encode()) <= COMMENT_BYTES


def test_an_event_over_256_kb_is_rejected() -> None:
    lead = make_lead(answers=(Answer("q", "x" * MAX_BYTES),))
    receiver = Receiver()
    assert isinstance(send(open_channel("webhooks", DATA, handler=receiver), make_delivery(lead)), Rejected)
    assert receiver.requests == []


# The signature

VECTORS = [
    (SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}',
     "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    (SECRET, "msg_lead-1", 1772359200,
     b'{"type":"lead.created","timestamp":"2026-03-01T10:00:00Z","data":{"id":"lead-1"}}',
     "v1,nBEwmIo7RTtYaBC0cvMTkHkTXDpKWBOVpbSkg2jPrkw="),
    (OTHER, "msg_lead-1", 1772359200,
     b'{"type":"lead.created","timestamp":"2026-03-01T10:00:00Z","data":{"id":"lead-1"}}',
     "v1,Ry7Llz4PG0BooZYw3MWy/gi3rP5JhDpGja8CUOxjjgk="),
]  # fmt: skip


@pytest.mark.parametrize(("secret", "identity", "timestamp", "body", "expected"), VECTORS)
def test_vectors(secret: str, identity: str, timestamp: int, body: bytes, expected: str) -> None:
    now = datetime.fromtimestamp(timestamp, UTC)
    assert sign([Webhook(decoded(secret))], identity, now, body) == expected
    assert f"v1,{signature(secret, f'{identity}.{timestamp}.'.encode() + body)}" == expected, "the sandbox's own"


@pytest.mark.parametrize("body", ["json", "form"])
def test_receivers_library_accepts_every_secret(body: str) -> None:
    clock = FakeClock(datetime.now(UTC))
    request = posted({"url": URL, "body": body, "secrets": f"{SECRET}, {OTHER}"}, clock=clock)
    items = request.headers["webhook-signature"].split(" ")
    assert len(items) == 2
    for secret, item in ((SECRET, items[0]), (OTHER, items[1])):
        svix.webhooks.Webhook(secret).verify(request.content, dict(request.headers))
        alone = {**dict(request.headers), "webhook-signature": item}
        svix.webhooks.Webhook(secret).verify(request.content, alone)
    with pytest.raises(svix.webhooks.WebhookVerificationError):
        svix.webhooks.Webhook(SECRET).verify(request.content + b" ", dict(request.headers))


def test_secret_comes_before_secrets_and_repeats_sign_once() -> None:
    bare = SECRET.removeprefix("whsec_")
    both = posted({"url": URL, "secret": SECRET, "secrets": [OTHER, bare]}).headers["webhook-signature"]
    assert both == posted({"url": URL, "secrets": [SECRET, OTHER]}).headers["webhook-signature"]


def test_without_a_secret_it_is_unsigned() -> None:
    ways: list[dict[str, Any]] = [{}, {"secret": "", "secrets": None, "headers": []}, {"secrets": ""}]
    for empty in ways:
        request = posted({"url": URL, **empty})
        assert "webhook-signature" not in request.headers
        assert request.headers["webhook-id"]
        assert request.headers["webhook-timestamp"] == "1772359200"


# The error table of the sheet

ROWS: list[tuple[httpx.Response, type[DeliveryError]]] = [
    *((httpx.Response(status), Unusable) for status in (301, 302, 303, 304, 307, 308)),
    *((httpx.Response(status), Rejected) for status in (400, 413, 422, 409, 418)),
    *((httpx.Response(status), Unusable) for status in (401, 402, 403, 404, 405, 410, 415)),
    *((httpx.Response(status), Ambiguous) for status in (408, 425, 500, 501, 502, 503, 504, 599)),
    (httpx.Response(429), Throttled),
    (httpx.Response(503, headers={"Retry-After": "5"}), Throttled),
    (httpx.Response(500, headers={"Retry-After": "5"}), Ambiguous),
    (httpx.Response(500, headers={"webhook-delivery": "abort-message"}), Rejected),
    (httpx.Response(429, headers={"Webhook-Delivery": "Disable"}), Unusable),
]


@pytest.mark.parametrize(("answer", "kind"), ROWS)
def test_error_table(answer: httpx.Response, kind: type[DeliveryError]) -> None:
    receipt = answered(answer)
    assert type(receipt) is kind
    assert receipt.message.startswith("crm.example answers ")
    assert receipt.http_status == answer.status_code
    assert receipt.vendor_code
    assert receipt.request_digest


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_done_whatever_the_body(status: int) -> None:
    answer = httpx.Response(status, text='{"error": "no"}', headers={"webhook-delivery": "disable"})
    assert answered(answer) == Done(message_id(KEY, "lead.created"))


def test_409_is_done_only_where_an_attempt_is_in_doubt() -> None:
    answer = httpx.Response(409)
    refused = answered(answer)
    assert isinstance(refused, Rejected)
    assert refused.vendor_code == "409"
    assert isinstance(answered(answer, make_delivery(context={"in_doubt": "0"})), Rejected)
    assert isinstance(answered(answer, make_delivery(context={"in_doubt": "1"})), Done)
    assert isinstance(answered(answer, make_delivery(possible_repeat=True)), Done)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("Sun, 01 Mar 2026 10:00:30 GMT", 30.0), ("Sun, 01 Mar 2026 09:00:00 GMT", 0.0),
     ("soon", None), ("", None)],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    receipt = answered(httpx.Response(429, headers={"Retry-After": value}))
    assert isinstance(receipt, Throttled)
    assert receipt.retry_after == seconds


def test_redirect_shows_only_the_host() -> None:
    receipt = answered(httpx.Response(301, headers={"Location": "https://user:pw@new.example/canary?x=canary"}))
    assert isinstance(receipt, Unusable)
    assert "new.example" in receipt.message
    assert "canary" not in receipt.message
    for location in ("/other", "http://[", ""):
        assert "another path" in str(answered(httpx.Response(302, headers={"Location": location})))


def test_what_the_receiver_says_is_shown_without_our_secrets() -> None:
    text = f"phone is missing (POST {URL}, hooks/canary9-path, canary-query)\x1b[31m"
    receipt = answered(httpx.Response(422, text=text))
    assert isinstance(receipt, Rejected)
    assert "phone is missing" in receipt.message
    assert "canary" not in receipt.message
    assert "\x1b" not in receipt.message


# The credential


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"url": None}, "data.url"),
        ({"url": "canary"}, "data.url"),
        ({"url": "ftp://canary.example/"}, "data.url"),
        ({"url": "smtp://canary.example/"}, "data.url"),
        ({"url": "https:///canary"}, "data.url"),
        ({"url": "https://crm.example/canary x"}, "data.url"),
        ({"url": "https://crm.example/\r\ncanary: 1"}, "data.url"),
        ({"url": "http://127.0.0.1\\@canary.example/"}, "data.url"),
        ({"url": "https://crm.example:canary/"}, "data.url"),
        ({"url": "https://0177.0.0.1/canary"}, "data.url"),
        ({"url": ["canary"]}, "data.url"),
        ({"method": "GET"}, "data.method"),
        ({"body": "xml"}, "data.body"),
        ({"secret": "canary!"}, "data.secret"),
        ({"secret": "whsec_whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "data.secret"),
        ({"secret": f'"{SECRET}"'}, "data.secret"),
        ({"secret": "whsec_" + base64.b64encode(b"x" * 23).decode()}, "data.secret"),
        ({"secret": "whsec_" + base64.b64encode(b"x" * 65).decode()}, "data.secret"),
        ({"secret": "whsk_" + base64.b64encode(b"x" * 64).decode()}, "data.secret"),
        ({"secret": "whsec_" + "-_" * 20}, "data.secret"),
        ({"secrets": [SECRET, "canary"]}, "data.secrets.1"),
        ({"secrets": {"a": "canary"}}, "data.secrets"),
        ({"headers": "X: canary"}, "data.headers"),
        ({"headers": ["canary"]}, "data.headers"),
        ({"headers": {"X": "canary\r\nHost: x"}}, "data.headers"),
        ({"headers": {"X": "canary ж"}}, "data.headers"),
        ({"headers": {"X": ["canary"]}}, "data.headers"),
        ({"headers": {"canary name": "x"}}, "data.headers"),
        ({"headers": {"": "x"}}, "data.headers"),
        *(({"headers": {name: "x"}}, "data.headers") for name in (
            "Content-Type", "content-length", "Host", "Webhook-Id", "webhook-anything", "Transfer-Encoding",
            "Connection", "Accept-Encoding", "Content-Encoding",
        )),
        ({"url": "https://u:p@crm.example/", "headers": {"authorization": "x"}}, "data.headers"),
    ],
)  # fmt: skip
def test_bad_data_names_the_key_and_hides_the_value(change: Mapping[str, Any], key: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        open_channel("webhooks", {**DATA, **change})
    assert str(caught.value).startswith(key)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("event_type", ["", "lead created", "lead.", ".lead", "lead\n", 5])
def test_bad_event_type(event_type: object) -> None:
    with pytest.raises(InvalidCredential, match=r"^settings\.event_type"):
        open_channel("webhooks", DATA, {"event_type": event_type})


def test_own_event_type() -> None:
    request = posted(settings={"event_type": "crm.lead_v2"})
    assert json.loads(request.content)["type"] == "crm.lead_v2"
    assert request.headers["webhook-id"] == message_id(KEY, "crm.lead_v2")


def test_destination() -> None:
    destination = open_channel("webhooks", DATA).destination()
    assert destination.parts == ("POST", URL)
    assert destination.account == ("crm.example",)
    assert destination.target == "crm.example"
    with_port = {"url": "HTTPS://CRM.example:8443", "method": "patch"}
    assert open_channel("webhooks", with_port).destination().target == "crm.example:8443"
    assert open_channel("webhooks", with_port).destination().parts == ("PATCH", "https://crm.example:8443/")
    same = {"url": f"{URL}#part".replace("crm.example", "CRM.example:443"), "secret": OTHER}
    assert open_channel("webhooks", same).destination() == destination
