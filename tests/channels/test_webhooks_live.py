"""Webhooks over real sockets: where a URL may lead to, TLS, and the emulated receiver."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from leadctl.channelkit.channel import Channel, Toolbox
from leadctl.channelkit.network import NetworkGuard, Resolver
from leadctl.channels.webhooks import WebhooksChannel, message_id
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, InvalidCredential, Rejected, Throttled, Transient, Unusable
from leadctl.domain.model import Account, Delivery, Done, Receipt
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.sandbox.webhooks import WebhooksVendor
from tests.support.channels import FakeClock, MemoryCredentials, make_delivery, make_lead, open_channel

KEY = "lc-abc123-42-7"
OTHER = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
OK = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"

# Where a URL may lead to


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1",
     "10.0.0.8", "[fd00::1]", "[64:ff9b::7f00:1]", "0.0.0.0", "u:p@192.168.1.1"],
)  # fmt: skip
def test_inner_addresses_are_refused(host: str) -> None:
    for scheme in ("https", "http"):
        with pytest.raises(InvalidCredential, match="not allowed"):
            open_channel("webhooks", {"url": f"{scheme}://{host}/hook"}, allow_private=())


def test_clear_text_to_a_public_literal_is_refused() -> None:
    with pytest.raises(InvalidCredential, match="without TLS"):
        open_channel("webhooks", {"url": "http://8.8.8.8/hook"})


def guarded(url: str, allow: Sequence[str], resolver: Resolver, **data: Any) -> Channel[Any, Any]:
    toolbox = Toolbox(7, NetworkGuard(allow, resolver), SystemClock(), MemoryCredentials())
    return WebhooksChannel.open(Account(7, "webhooks", data={"url": url, **data}), toolbox)


def test_clear_text_to_a_public_name_is_refused() -> None:
    async def public(host: str, port: int) -> Sequence[str]:
        return ["8.8.8.8"]

    async def run() -> None:
        channel = guarded("http://crm.example/hook", ["127.0.0.0/8"], public)
        with pytest.raises(Unusable, match="without TLS") as caught:
            await channel.send(channel.steps[0], [make_delivery()])
        await channel.close()
        assert caught.value.address_not_allowed

    asyncio.run(run())


@asynccontextmanager
async def listening(
    host: str, answer: bytes, port: int = 0, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that reads one request, gives this answer and hangs up: its port, and what it read."""
    read: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            read.append(head + await reader.readexactly(length))
            writer.write(answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, port, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], read
    finally:
        server.close()
        await server.wait_closed()


def test_a_name_that_flips_to_an_inner_address_reaches_nothing() -> None:
    """The address that was checked is the one connected to, and every new connection is checked anew."""
    asked: list[str] = []

    async def flipping(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

    async def run() -> None:
        async with listening("127.0.0.2", OK) as (port, outer), listening("127.0.0.1", OK, port) as (_, inner):
            channel = guarded(f"http://crm.example:{port}/hook", ["127.0.0.2/32"], flipping)
            try:
                await channel.send(channel.steps[0], [make_delivery()])
                with pytest.raises(Unusable) as caught:
                    await channel.send(channel.steps[0], [make_delivery(make_lead(id=43))])
                with pytest.raises(Unusable, match=r"127\.0\.0\.1"):
                    await channel.check()
            finally:
                await channel.close()
            assert caught.value.address_not_allowed
            assert (len(outer), inner, asked) == (1, [], ["crm.example"] * 3)

    asyncio.run(run())


def test_of_several_addresses_only_the_allowed_ones_are_used() -> None:
    async def mixed(host: str, port: int) -> Sequence[str]:
        return ["169.254.169.254", "127.0.0.2"]

    async def run() -> None:
        async with listening("127.0.0.2", OK) as (port, outer):
            channel = guarded(f"http://crm.example:{port}/hook", ["127.0.0.2/32"], mixed)
            try:
                await channel.send(channel.steps[0], [make_delivery()])
            finally:
                await channel.close()
            assert len(outer) == 1
            assert b"Host: crm.example:" in outer[0]

    asyncio.run(run())


def test_a_redirect_is_not_followed() -> None:
    async def run() -> None:
        async with listening("127.0.0.1", OK) as (inner_port, inner):
            moved = f"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{inner_port}/\r\nContent-Length: 0\r\n\r\n"
            async with listening("127.0.0.1", moved.encode()) as (port, outer):
                channel = open_channel("webhooks", {"url": f"http://127.0.0.1:{port}/hook"})
                try:
                    with pytest.raises(Unusable, match=r"redirects to 127\.0\.0\.1"):
                        await channel.send(channel.steps[0], [make_delivery()])
                finally:
                    await channel.close()
                assert (len(outer), inner) == (1, [])

    asyncio.run(run())


@pytest.mark.parametrize("status", [200, 500])
def test_an_endless_answer_is_cut(status: int) -> None:
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 9000000\r\n\r\n".encode() + b"x" * 9_000_000

    async def run() -> Receipt:
        async with listening("127.0.0.1", answer) as (port, _):
            channel = open_channel("webhooks", {"url": f"http://127.0.0.1:{port}/hook"}, clock=SystemClock())
            try:
                verdict = await channel.send(channel.steps[0], [make_delivery()])
                return verdict.receipts[KEY]
            except DeliveryError as error:
                return error
            finally:
                await channel.close()

    receipt = asyncio.run(run())
    assert isinstance(receipt, Done if status == 200 else Ambiguous)


# TLS and the check


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that this test's process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def over_tls(context: ssl.SSLContext, allow: Sequence[str] = ("127.0.0.0/8",)) -> tuple[Any, Any, list[bytes]]:
    """What ``check`` and ``send`` say against that server, and what the server read."""

    async def run() -> tuple[Any, Any, list[bytes]]:
        async with listening("127.0.0.1", OK, context=context) as (port, read):
            channel = guarded(f"https://crm.example:{port}/hook", allow, loopback)
            found: list[Any] = []
            for call in (channel.check(), channel.send(channel.steps[0], [make_delivery()])):
                try:
                    found.append(await call)
                except DeliveryError as error:
                    found.append(error)
            await channel.close()
            return found[0], found[1], read

    return asyncio.run(run())


def test_check_and_send_over_tls(authority: trustme.CA) -> None:
    said, verdict, read = over_tls(server_context(authority, "crm.example"))
    assert said.startswith("crm.example:")
    assert "its certificate valid until 3000-01-01" in said
    assert "nothing was posted" in said
    assert isinstance(verdict.receipts[KEY], Done)
    assert len(read) == 1, "the check posts nothing"


def test_a_certificate_for_another_name_is_refused(authority: trustme.CA) -> None:
    said, sent, read = over_tls(server_context(authority, "other.example"))
    assert isinstance(said, Unusable)
    assert isinstance(sent, Unusable)
    assert read == []


def test_a_certificate_of_nobody_is_refused() -> None:
    said, sent, read = over_tls(server_context(trustme.CA(), "crm.example"))
    assert isinstance(said, Unusable)
    assert isinstance(sent, Unusable)
    assert read == []


def test_check_finds_a_dead_and_a_forbidden_host(authority: trustme.CA) -> None:
    said, sent, read = over_tls(server_context(authority, "crm.example"), allow=())
    assert isinstance(said, Unusable)
    assert said.address_not_allowed
    assert isinstance(sent, Unusable)
    assert read == []

    async def run() -> None:
        async with listening("127.0.0.1", OK) as (port, _):
            pass
        with pytest.raises(Transient):
            await guarded(f"http://crm.example:{port}/", ["127.0.0.0/8"], loopback).check()

    asyncio.run(run())


# The emulated receiver


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["webhooks"], scale=1000) as box:
        yield box


def vendor_of(box: Sandbox) -> WebhooksVendor:
    vendor = box.vendor("webhooks")
    assert isinstance(vendor, WebhooksVendor)
    return vendor


def sent(box: Sandbox, *deliveries: Delivery, clock: FakeClock | None = None, **data: Any) -> list[Receipt]:
    """Each delivery after the other, through one channel."""

    async def run() -> list[Receipt]:
        values = {**vendor_of(box).credential(), **data}
        channel = open_channel("webhooks", values, clock=clock or SystemClock(), scale=60)
        receipts: list[Receipt] = []
        for delivery in deliveries:
            try:
                receipts.extend((await channel.send(channel.steps[0], [delivery])).receipts.values())
            except DeliveryError as error:
                receipts.append(error)
        await channel.close()
        return receipts

    return asyncio.run(run())


@pytest.mark.parametrize("body", ["json", "form"])
def test_an_event_is_verified_and_a_repeat_is_a_twin(box: Sandbox, body: str) -> None:
    first, second = sent(box, make_delivery(), make_delivery(), body=body)
    assert isinstance(first, Done)
    assert first == second
    (creation,) = box.judge.creations("webhooks")
    assert (creation.lead, creation.key, creation.remote_id) == ("42", message_id(KEY, "lead.created"), first.remote_id)
    assert len(box.judge.twins("webhooks")) == 1
    assert vendor_of(box).alarms == []


def test_another_body_under_the_same_id_is_an_alarm(box: Sandbox) -> None:
    sent(box, make_delivery(), make_delivery(make_lead(name="Someone else")))
    assert "another body" in vendor_of(box).alarms[0]


def test_old_and_new_secret_are_both_accepted(box: Sandbox) -> None:
    own = vendor_of(box).secrets[0]
    assert isinstance(sent(box, make_delivery(), secrets=[OTHER, own])[0], Done)
    assert isinstance(sent(box, make_delivery(), secrets=[OTHER])[0], Unusable)
    assert isinstance(sent(box, make_delivery(), secrets=[])[0], Unusable)
    vendor_of(box).secrets.clear()
    assert isinstance(sent(box, make_delivery(), secrets=[])[0], Done)


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_clock_that_is_off_is_refused(box: Sandbox, minutes: int) -> None:
    clock = FakeClock(datetime.now(UTC) + timedelta(minutes=minutes))
    assert isinstance(sent(box, make_delivery(), clock=clock)[0], Unusable)
    assert box.judge.creations("webhooks") == []


def test_another_path_is_unusable(box: Sandbox) -> None:
    assert isinstance(sent(box, make_delivery(), url=f"{vendor_of(box).url}/hooks/other")[0], Unusable)


@pytest.mark.parametrize("fault", ["timeout", "reset", "bad_gateway_after"])
def test_what_is_in_doubt_is_settled_by_a_repeat(box: Sandbox, fault: str) -> None:
    box.faults.script("webhooks", 42, [fault])
    first, second = sent(box, make_delivery(), make_delivery(context={"in_doubt": "1"}))
    assert isinstance(first, Ambiguous)
    assert isinstance(second, Done)
    assert box.judge.by_lead("webhooks") == {"42": 1}
    assert vendor_of(box).alarms == []


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("redirect", Unusable), ("400", Rejected), ("404", Unusable), ("409", Rejected), ("410", Unusable),
        ("413", Rejected), ("rate_limit_without_time", Throttled), ("rate_limit_date", Throttled), ("503", Ambiguous),
        ("overloaded", Throttled), ("504", Ambiguous), ("abort-message", Rejected), ("disable", Unusable),
    ],
)  # fmt: skip
def test_scripted_answers(box: Sandbox, kind: str, error: type[DeliveryError]) -> None:
    box.faults.script("webhooks", 42, [kind])
    assert type(sent(box, make_delivery())[0]) is error
    assert box.judge.creations("webhooks") == []


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b'{"data":{"id":1}}', 401),
        ({"webhook-id": "a", "webhook-timestamp": "soon", "webhook-signature": "v1,x"}, b'{"data":{"id":1}}', 401),
        ({"Content-Type": "text/plain"}, b'{"data":{"id":1}}', 415),
        ({}, b"{}", 400),
    ],
)
def test_emulated_receiver_is_strict(box: Sandbox, headers: Mapping[str, str], body: bytes, status: int) -> None:
    vendor = vendor_of(box)
    url = vendor.credential()["url"]
    assert httpx.get(url).status_code == 405
    answer = httpx.post(url, content=body, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == status
    assert box.judge.creations("webhooks") == []


def test_emulated_receiver_sounds_the_alarm(box: Sandbox) -> None:
    vendor = vendor_of(box)
    vendor.secrets.clear()
    headers = [("Content-Type", "application/json"), ("webhook-id", "a.b"),
               ("webhook-timestamp", str(int(vendor.now()))), ("webhook-signature", "v1,x"),
               ("webhook-signature", "v1,y")]  # fmt: skip
    chunks = iter([b'{"data":', b'{"id":1}}'])
    assert httpx.post(vendor.credential()["url"], content=chunks, headers=headers).status_code == 200
    assert vendor.alarms == [
        "Content-Length is missing or wrong", "webhook-signature is there more than once",
        "webhook-id holds a full stop",
    ]  # fmt: skip
