"""The e-mail channel against a real Postfix: STARTTLS, log-in, greylisting, limits, refused recipients."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest

from leadctl.channelkit.channel import Channel
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Rejected, Throttled, Transient, Unusable
from leadctl.domain.model import Delivery, Done
from tests.support.channels import make_delivery, make_lead, open_channel
from tests.support.postfix import RATE, Postfix, permit, require_postfix, running_postfix


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    require_postfix()
    with running_postfix() as postfix:
        yield postfix


@pytest.fixture(autouse=True)
def _trust(server: Postfix, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
    yield
    server.policy = permit


@asynccontextmanager
async def opened(
    data: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> AsyncIterator[Channel[Any, Any]]:
    channel = open_channel("email", data, settings, clock=SystemClock())
    try:
        yield channel
    finally:
        await channel.close()


def delivery_of(number: int, **changes: Any) -> Delivery:
    lead = make_lead(id=number, **changes)
    return make_delivery(lead, key=f"lc-pfix01-{number}-7", first_at=datetime(2026, 3, 1, 10, tzinfo=UTC))


async def send(channel: Channel[Any, Any], delivery: Delivery) -> Done:
    verdict = await channel.send(channel.steps[0], [delivery])
    receipt = verdict.receipts[delivery.key]
    assert isinstance(receipt, Done)
    return receipt


def content_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert isinstance(part, EmailMessage)
    return str(part.get_content()).replace("\r\n", "\n")


def test_message_arrives_as_it_was_meant(server: Postfix) -> None:
    delivery = delivery_of(101, name='Анна "A" <b>Ким</b>\r\nBcc: x@evil.example', comment=".\r\n..\nконец")

    async def run() -> Done:
        async with opened(server.credential()) as channel:
            return await send(channel, delivery)

    done = asyncio.run(run())
    (message,) = [m for m in server.received("maria", 101) if m["X-Lead-Id"] == "101"]
    assert message["Message-ID"] == "<lc-pfix01-101-7@example.org>"
    assert message["Date"] == "Sun, 01 Mar 2026 10:00:00 +0000"
    assert message["Reply-To"] == "anna@example.com"
    assert message["Bcc"] is None
    assert message["Subject"] == 'Новый лид 101: Анна "A" <b>Ким</b> Bcc: x@evil.example'
    assert message["From"] == "Заявки <leads@example.org>"
    assert message["Return-Path"] == "<leads@example.org>"
    assert "with ESMTPSA" in message["Received"]  # S: over TLS, A: logged in
    assert "Комментарий: .\n..\nконец" in content_of(message, "plain")
    assert "&lt;b&gt;Ким&lt;/b&gt;" in content_of(message, "html")
    assert done.remote_id is not None
    assert f"{done.remote_id}: " in server.log()


def test_check_logs_in_and_sends_nothing(server: Postfix) -> None:
    async def run() -> str:
        async with opened(server.credential()) as channel:
            return str(await channel.check())

    before = len(server.received("maria"))
    assert asyncio.run(run()) == (
        "127.0.0.1: logged in as leads@example.org, sender leads@example.org accepted; SIZE 100000, SMTPUTF8"
    )
    assert len(server.received("maria")) == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"password": "wrong-password"}, "535 5.7.8"), ({"username": "", "password": ""}, "553 5.7.1")],
)
def test_log_in_is_refused(server: Postfix, changes: dict[str, str], code: str) -> None:
    async def run() -> None:
        async with opened(server.credential(**changes)) as channel:
            await send(channel, delivery_of(102))

    with pytest.raises(Unusable) as caught:
        asyncio.run(run())
    assert caught.value.vendor_code == code


def test_sender_of_somebody_else_is_refused_at_rcpt(server: Postfix) -> None:
    """Postfix delays what it thinks of the sender until RCPT: it is not the recipient's fault."""

    async def run() -> None:
        async with opened(server.credential()) as channel:
            channel._envelope_sender = "boss@example.org"  # type: ignore[attr-defined]  # another's address
            await send(channel, delivery_of(103))

    with pytest.raises(Unusable, match="not owned by user") as caught:
        asyncio.run(run())
    assert caught.value.vendor_code == "553 5.7.1"


def test_clear_text_is_refused_by_us_and_by_it(server: Postfix) -> None:
    async def run() -> None:
        async with opened(server.credential(security="none")) as channel:
            await send(channel, delivery_of(104))

    with pytest.raises(Unusable, match="AUTH PLAIN"):
        asyncio.run(run())


def test_unknown_certificate_is_refused(server: Postfix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    async def run() -> None:
        async with opened(server.credential()) as channel:
            await send(channel, delivery_of(105))

    with pytest.raises(Unusable, match="certificate"):
        asyncio.run(run())


def test_one_refused_among_good_recipients(server: Postfix) -> None:
    to = ["ivan@example.org", "nobody@example.org", "olga@example.org"]

    async def run() -> tuple[Done, Exception]:
        async with opened(server.credential(to=to)) as channel:
            done = await send(channel, delivery_of(106))
            again = replace(delivery_of(106), done=done.parts)
            with pytest.raises(Rejected) as caught:
                await send(channel, again)
            return done, caught.value

    done, error = asyncio.run(run())
    assert set(done.parts) == {"rcpt:ivan@example.org", "rcpt:olga@example.org"}
    assert [type(kind) for kind in done.open.values()] == [Rejected]
    assert "nobody@example.org" in str(error)
    for name in ("ivan", "olga"):
        assert len([m for m in server.received(name, 106) if m["X-Lead-Id"] == "106"]) == 1


def test_greylisted_recipient_is_completed_alone(server: Postfix) -> None:
    asked: list[str] = []

    def greylist(attributes: Mapping[str, str]) -> str:
        asked.append(attributes["recipient"])
        first = asked.count(attributes["recipient"]) == 1
        return "450 4.7.1 Greylisted, try again" if first and attributes["recipient"].startswith("olga") else "DUNNO"

    server.policy = greylist

    async def run() -> tuple[Done, Done]:
        async with opened(server.credential(to=["ivan@example.org", "olga@example.org"])) as channel:
            first = await send(channel, delivery_of(107))
            second = await send(channel, replace(delivery_of(107), done=first.parts))
            return first, second

    first, second = asyncio.run(run())
    assert [(part, type(error)) for part, error in first.open.items()] == [("rcpt:olga@example.org", Transient)]
    assert set(second.parts) == {"rcpt:olga@example.org"}
    assert asked == ["ivan@example.org", "olga@example.org", "olga@example.org"]
    for name in ("ivan", "olga"):
        messages = [m for m in server.received(name, 107) if m["X-Lead-Id"] == "107"]
        assert [m["Message-ID"] for m in messages] == ["<lc-pfix01-107-7@example.org>"]


def test_connection_that_is_used_up_is_replaced(server: Postfix) -> None:
    """A shared host's way: 421 for the third message of a connection."""
    carried: dict[str, set[str]] = {}

    def two_each(attributes: Mapping[str, str]) -> str:
        messages = carried.setdefault(attributes["client_port"], set())
        messages.add(attributes["instance"])
        return "421 4.7.0 Too many messages on this connection" if len(messages) > 2 else "DUNNO"

    server.policy = two_each

    async def run() -> None:
        async with opened(server.credential()) as channel:
            for number in range(111, 116):
                await send(channel, delivery_of(number))

    asyncio.run(run())
    assert [len(messages) for messages in carried.values()] == [3, 3, 1]
    received = [m["X-Lead-Id"] for m in server.received("maria", *range(111, 116))]
    assert sorted(lead for lead in received if lead.startswith("11")) == ["111", "112", "113", "114", "115"]


def test_new_connection_that_is_refused_makes_the_lane_wait(server: Postfix) -> None:
    server.policy = lambda attributes: "421 4.7.0 Try again later, closing connection"

    async def run() -> None:
        async with opened(server.credential()) as channel:
            await send(channel, delivery_of(116))

    with pytest.raises(Throttled):
        asyncio.run(run())


def test_message_rate_of_postfix_makes_the_lane_wait(server: Postfix) -> None:
    async def run() -> None:
        async with opened(server.credential(port=server.limited_port, to=["ivan@example.org"])) as channel:
            for number in range(RATE):
                await send(channel, delivery_of(120 + number))
            with pytest.raises(Throttled):
                await send(channel, delivery_of(129))

    asyncio.run(run())
    assert "129" not in [m["X-Lead-Id"] for m in server.received("ivan", *range(120, 120 + RATE))]


def test_too_large_message_is_rejected_and_the_next_goes(server: Postfix) -> None:
    """Its limit is said at MAIL, from our SIZE; the connection goes on."""

    async def run() -> str:
        async with opened(server.credential(to=["olga@example.org"]), {"template": "{{ lead.comment }}"}) as channel:
            with pytest.raises(Rejected) as caught:
                await send(channel, delivery_of(130, comment="y" * 90_000))
            await send(channel, delivery_of(131))
            return str(caught.value.vendor_code)

    assert asyncio.run(run()) == "552 5.3.4"
    assert "131" in [m["X-Lead-Id"] for m in server.received("olga", 131)]
