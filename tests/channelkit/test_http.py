"""Requests, answers and the exchange of HTTP channels, without sockets."""

import asyncio
import json

import httpx
import pytest

from leadctl.channelkit.http import Answer, HttpRequest, with_status
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Transient, Unusable
from leadctl.domain.model import Done
from leadctl.testing.checks import everything_of
from tests.channelkit.probe import TOKEN, Probe, open_probe
from tests.support.channels import make_delivery

URL = "https://vendor.test/leads"
NOW = 1_772_359_200.0  # 2026-03-01T10:00:00Z


def answer(body: bytes = b"", *, complete: bool = True, **headers: str) -> Answer:
    return Answer(200, {name.replace("_", "-"): value for name, value in headers.items()}, body, complete)


def over(handler: httpx.MockTransport, token: str = TOKEN) -> Probe:
    channel = open_probe(URL, token=token)
    channel.use_transport(handler)
    return channel


# The request


def test_a_json_request_is_compact_utf8_and_stable() -> None:
    first = HttpRequest.json("POST", URL, {"name": "Анна", "n": 1}, {"X-Key": "k"})
    assert first.content == '{"name":"Анна","n":1}'.encode()
    assert first.headers == {"Content-Type": "application/json", "X-Key": "k"}
    assert first.digest == HttpRequest.json("POST", URL, {"name": "Анна", "n": 1}).digest
    assert first.digest != HttpRequest.json("POST", URL, {"name": "Анна", "n": 2}).digest


def test_half_a_surrogate_pair_does_not_stop_a_request() -> None:
    assert json.loads(HttpRequest.json("POST", URL, {"name": "A\ud800"}).content) == {"name": "A?"}


def test_a_request_does_not_show_what_it_carries() -> None:
    assert "canary" not in repr(HttpRequest.json("POST", f"{URL}/canary", {"a": "canary"}, {"X-Key": "canary"}))


# The answer


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0), (" 1.5 ", 1.5), ("0", 0.0), ("-3", 0.0), ("Sun, 01 Mar 2026 10:02:00 GMT", 120.0),
        ("Sun, 01 Mar 2026 10:02:00 -0000", 120.0), ("Sun, 01 Mar 2026 13:02:00 +0300", 120.0),
        ("Sun, 01 Mar 2026 09:00:00 GMT", 0.0), ("", None), ("soon", None), ("inf", None), ("nan", None),
        ("1e999", None), ("Mon, 99 Foo 2026 10:00:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    assert answer(retry_after=value).retry_after(NOW) == seconds


def test_no_retry_after() -> None:
    assert answer().retry_after(NOW) is None


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"id": ', b"\xff\xfe\x00", b"[" * 200_000, b'{"a": ' * 100_000, b"1" * 5000]
)
def test_what_cannot_be_read_is_ambiguous(body: bytes) -> None:
    with pytest.raises(Ambiguous, match="not JSON") as caught:
        answer(body).json()
    assert caught.value.http_status == 200
    assert len(caught.value.answer) <= 300
    assert answer(body).json_or_none() is None


def test_a_whole_looking_body_that_broke_off_is_ambiguous() -> None:
    with pytest.raises(Ambiguous, match="broke off"):
        answer(b'{"id": 7}', complete=False).json()


def test_the_excerpt_is_one_clean_short_line() -> None:
    excerpt = answer(b"<b>\x1b[31mred\r\n\xff" + b"z" * 1000).excerpt
    assert excerpt.startswith("<b> [31mred")
    assert excerpt.isprintable()
    assert len(excerpt) == 300


def test_with_status_fills_only_what_is_missing() -> None:
    said = with_status(Rejected("no", answer="kept"), Answer(422, {}, b"body"))
    assert (said.http_status, said.answer) == (422, "kept")
    assert with_status(Rejected("no", http_status=1), Answer(422, {}, b"body")).http_status == 1


# The exchange


def test_send_keeps_status_excerpt_and_digest() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"id": 7}, headers={"X-One": "1"})

    channel = over(httpx.MockTransport(handler))
    delivery = make_delivery()
    verdict = asyncio.run(channel.send(channel.steps[0], [delivery]))
    assert verdict.receipts == {delivery.key: Done("7")}
    assert (verdict.http_status, verdict.request_digest) == (200, channel.request(delivery.key).digest)
    assert seen[0].headers["user-agent"].startswith("leadctl/")
    assert seen[0].headers["accept-encoding"] == "identity"


def test_an_error_of_parse_keeps_the_digest() -> None:
    channel = over(httpx.MockTransport(lambda request: httpx.Response(200, text="<html>")))
    with pytest.raises(Ambiguous) as caught:
        asyncio.run(channel.send(channel.steps[0], [make_delivery()]))
    assert caught.value.request_digest == channel.request(make_delivery().key).digest


@pytest.mark.parametrize(
    "token", ["caña-secret-token", "secret-token\r\nX-Evil: 1", "secret-token\x00", "ключ-secret-token"]
)
def test_a_secret_that_is_no_header_parks_without_being_shown(token: str) -> None:
    """h11 and httpx would quote the value in their errors."""
    channel = over(httpx.MockTransport(lambda request: httpx.Response(200, json={"id": 1})), token)
    with pytest.raises(Unusable, match="Authorization") as caught:
        asyncio.run(channel.exchange(channel.request("m1")))
    assert "secret-token" not in everything_of(caught.value)


def test_an_address_that_httpx_cannot_take_parks() -> None:
    channel = over(httpx.MockTransport(lambda request: httpx.Response(200)))
    with pytest.raises(Unusable, match="not a valid URL"):
        asyncio.run(channel.exchange(HttpRequest("GET", "https://vendor.test:port/secret")))


@pytest.mark.parametrize("failure", [
    httpx.ConnectError("https://vendor.test/secret-path"), httpx.ReadTimeout("secret-path/x"),
    OSError(5, "I/O error", "/secret-path"), TimeoutError(),
])  # fmt: skip
def test_without_a_written_byte_a_failure_is_transient_and_shows_no_path(failure: Exception) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise failure

    channel = over(httpx.MockTransport(handler))
    with pytest.raises(Transient, match=r"vendor\.test") as caught:
        asyncio.run(channel.exchange(channel.request("m1")))
    assert "secret-path" not in everything_of(caught.value)


def test_a_programming_error_is_not_taken_for_a_vendor_failure() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise KeyError("bug")

    channel = over(httpx.MockTransport(handler))
    with pytest.raises(KeyError):
        asyncio.run(channel.exchange(channel.request("m1")))


def test_close_can_be_repeated() -> None:
    async def run() -> None:
        channel = open_probe(URL)
        await channel.close()
        with pytest.raises(DeliveryError):
            await channel.exchange(HttpRequest("GET", "http://127.0.0.1:9/"))
        await channel.close()
        await channel.close()

    asyncio.run(run())
