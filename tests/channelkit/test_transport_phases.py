"""Over real sockets: whoever says "not sent" must be right about it, whatever the server does.

In every case: Transient and Unusable mean that the server has received no byte of the request; an answer whose
status line is there is an Answer; all else is Ambiguous.
"""

import asyncio
import random
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from leadctl.channelkit import http
from leadctl.channelkit.http import Answer
from leadctl.channelkit.network import Resolver
from leadctl.domain.errors import Ambiguous, DeliveryError, Transient, Unusable
from tests.channelkit.probe import Peer, Probe, Script, Server, open_probe, serving

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"id": 7}'
BIG = 8 * 1024 * 1024


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MIN_TIMEOUT", 0.1)


async def loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def unsent(server: Server) -> bool:
    """No byte of a request has arrived (a TLS client hello is none)."""
    return b"POST" not in server.received and not server.complete


async def against(
    script: Script,
    *,
    size: int = 0,
    header_size: int = 0,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    seconds: float = 5.0,
) -> tuple[Answer | DeliveryError, Server]:
    """One exchange with a server of that script; checks the promise."""
    async with serving(script, tls, host) as server:
        channel = open_probe(server.url, resolver=loopback)
        outcome = await channel.outcome(channel.request("m1", size, header_size), seconds)
        await channel.close()
        assert not isinstance(outcome, (Transient, Unusable)) or unsent(server), f"{outcome!r}, yet it arrived"
        return outcome, server


# The scripts: what a server can do to a request


async def answer(peer: Peer) -> None:
    while await peer.request() is not None:
        await peer.say(OK)


async def reset_at_once(peer: Peer) -> None:
    peer.reset()


async def reset_while_sending(peer: Peer) -> None:
    await peer.some(1000)
    peer.reset()


async def reset_after_request(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def close_at_once(peer: Peer) -> None:
    return


async def close_without_answer(peer: Peer) -> None:
    await peer.request()


async def half_status_line(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 20")


async def half_headers(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nContent-Le")


async def garbage(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"\x00\xff220 mail.example ESMTP\r\n" * 3)


async def endless_headers(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\n", *[b"X-More: " + b"y" * 1000 + b"\r\n"] * 10_000)


async def endless_interim(peer: Peer) -> None:
    await peer.request()
    while True:
        await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01)


async def slow_headers(peer: Peer) -> None:
    await peer.request()
    await peer.say(*[bytes([byte]) for byte in OK], pause=0.05)


async def silence(peer: Peer) -> None:
    await peer.request()
    await peer.some()


async def never_reads(peer: Peer) -> None:
    await asyncio.sleep(60)


AMBIGUOUS = [
    reset_at_once, reset_after_request, close_at_once, close_without_answer, half_status_line, half_headers, garbage,
    endless_headers,
]  # fmt: skip
AMBIGUOUS_IN_TIME = [endless_interim, slow_headers, silence]


@pytest.mark.parametrize("script", AMBIGUOUS)
def test_no_whole_status_line_is_ambiguous(script: Script) -> None:
    outcome, server = asyncio.run(against(script))
    assert isinstance(outcome, Ambiguous), repr(outcome)
    assert server.connections == 1


@pytest.mark.parametrize("script", AMBIGUOUS_IN_TIME)
def test_no_answer_in_time_is_ambiguous(script: Script) -> None:
    outcome, server = asyncio.run(against(script, seconds=0.3))
    assert isinstance(outcome, Ambiguous), repr(outcome)
    assert server.complete == ["m1"]


@pytest.mark.parametrize(("script", "seconds"), [(reset_while_sending, 5.0), (never_reads, 0.3)])
@pytest.mark.parametrize("part", ["size", "header_size"])
def test_a_large_request_that_is_cut_is_ambiguous(script: Script, seconds: float, part: str) -> None:
    """The very first write does not end: bytes of it have left all the same."""
    size, header_size = (BIG, 0) if part == "size" else (0, BIG)
    outcome, server = asyncio.run(against(script, size=size, header_size=header_size, seconds=seconds))
    assert isinstance(outcome, Ambiguous), repr(outcome)
    assert not server.complete


# Once the status line is there, it is an answer


async def half_body(peer: Peer) -> None:
    await peer.request()
    await peer.say(OK[:-4])


async def broken_chunk(peer: Peer) -> None:
    await peer.request()
    await peer.say(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"id"\r\nzz\r\n')


async def reset_in_body(peer: Peer) -> None:
    await peer.request()
    await peer.say(OK[:-4], pause=0.05)
    peer.reset()


async def slow_body(peer: Peer) -> None:
    await peer.request()
    await peer.say(OK[:-9], *[bytes([byte]) for byte in OK[-9:]], pause=0.1)


async def endless_body(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        await peer.say(b"z" * 65_536)


@pytest.mark.parametrize(
    ("script", "seconds"),
    [(half_body, 5.0), (broken_chunk, 5.0), (reset_in_body, 5.0), (slow_body, 0.4), (endless_body, 20.0)],
)
def test_a_body_that_breaks_off_keeps_its_status(script: Script, seconds: float) -> None:
    outcome, server = asyncio.run(against(script, seconds=seconds))
    assert isinstance(outcome, Answer), repr(outcome)
    assert (outcome.status, outcome.complete) == (200, False)
    assert len(outcome.body) <= Probe.max_answer
    with pytest.raises(Ambiguous):
        outcome.json()
    assert server.complete == ["m1"]


async def refuse_before_reading(peer: Peer) -> None:
    await peer.some(1000)
    await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    while await peer.some():  # an unread body would turn the close into a reset
        continue


def test_an_early_refusal_is_read_although_the_body_was_not_taken() -> None:
    outcome, _ = asyncio.run(against(refuse_before_reading, size=BIG))
    assert isinstance(outcome, Answer), repr(outcome)
    assert outcome.status == 413


async def elsewhere(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 307 Go\r\nLocation: /other\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    await answer(peer)


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    outcome, server = asyncio.run(against(elsewhere))
    assert isinstance(outcome, Answer), repr(outcome)
    assert outcome.status == 307
    assert server.complete == ["m1"]


# Before the first byte


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_refused_is_transient() -> None:
    async def run() -> Answer | DeliveryError:
        channel = open_probe(f"http://127.0.0.1:{free_port()}/")
        outcome = await channel.outcome(channel.request("m1"))
        await channel.close()
        return outcome

    assert isinstance(asyncio.run(run()), Transient)


async def unknown_host(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def slow_resolver(host: str, port: int) -> Sequence[str]:
    await asyncio.sleep(60)
    return []


@pytest.mark.parametrize("resolver", [unknown_host, slow_resolver])
def test_dns_failure_is_transient(resolver: Resolver) -> None:
    async def run() -> Answer | DeliveryError:
        channel = open_probe("https://vendor.test/", resolver=resolver)
        outcome = await channel.outcome(channel.request("m1"), 0.3)
        await channel.close()
        return outcome

    outcome = asyncio.run(run())
    assert isinstance(outcome, Transient), repr(outcome)
    assert "vendor.test" in outcome.message


def test_no_free_connection_is_transient() -> None:
    """The pool is full of requests that hang: the next one has sent nothing."""

    async def run() -> None:
        async with serving(silence) as server:
            channel = open_probe(server.url)
            hanging = [asyncio.create_task(channel.outcome(channel.request(f"h{n}"), 1.0)) for n in range(2)]
            await asyncio.wait_for(server.arrived(2), 5)
            waiting = await channel.outcome(channel.request("m1"), 0.2)
            assert isinstance(waiting, Transient), repr(waiting)
            assert all(isinstance(outcome, Ambiguous) for outcome in await asyncio.gather(*hanging))
            await channel.close()
            assert sorted(server.complete) == ["h0", "h1"]

    asyncio.run(run())


# TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def served_with(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_tls_goes_to_the_checked_address_under_the_name(authority: trustme.CA) -> None:
    context = served_with(authority.issue_cert("vendor.test"))
    outcome, server = asyncio.run(against(answer, tls=context, host="vendor.test"))
    assert isinstance(outcome, Answer), repr(outcome)
    assert outcome.json() == {"id": 7}
    assert b"\r\nHost: vendor.test" in server.received


@pytest.mark.parametrize("script", [reset_after_request, close_without_answer, garbage])
def test_cut_over_tls_is_ambiguous(authority: trustme.CA, script: Script) -> None:
    context = served_with(authority.issue_cert("vendor.test"))
    outcome, server = asyncio.run(against(script, tls=context, host="vendor.test"))
    assert isinstance(outcome, Ambiguous), repr(outcome)
    assert server.complete == ["m1"]


def test_a_certificate_that_is_not_accepted_parks(authority: trustme.CA) -> None:
    certificates = [
        trustme.CA().issue_cert("vendor.test"),
        authority.issue_cert("other.test"),
        authority.issue_cert("vendor.test", not_after=datetime(2020, 1, 1, tzinfo=UTC)),
    ]
    for certificate in certificates:
        outcome, server = asyncio.run(against(answer, tls=served_with(certificate), host="vendor.test"))
        assert isinstance(outcome, Unusable), repr(outcome)
        assert "certificate" in outcome.message
        assert server.received == b""


async def close_on_hello(peer: Peer) -> None:
    await peer.some()


async def reset_on_hello(peer: Peer) -> None:
    await peer.some()
    peer.reset()


async def no_tls(peer: Peer) -> None:
    await peer.some()
    await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def hang_on_hello(peer: Peer) -> None:
    await peer.some()
    await asyncio.sleep(60)


@pytest.mark.parametrize("script", [close_on_hello, reset_on_hello, no_tls, hang_on_hello])
def test_a_failed_handshake_is_transient(script: Script) -> None:
    async def run() -> None:
        async with serving(script) as server:
            channel = open_probe(server.url.replace("http:", "https:"))
            outcome = await channel.outcome(channel.request("m1"), 0.4)
            await channel.close()
            assert isinstance(outcome, Transient), repr(outcome)
            assert unsent(server)

    asyncio.run(run())


# A kept connection that went stale


async def close_after_first(peer: Peer) -> None:
    await peer.request()
    await peer.say(OK)


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def run() -> None:
        async with serving(close_after_first) as server:
            channel = open_probe(server.url)
            for mark in ("m1", "m2", "m3"):
                outcome = await channel.outcome(channel.request(mark))
                assert isinstance(outcome, Answer), repr(outcome)
                await asyncio.sleep(0.03)  # the FIN arrives
            await channel.close()
            assert server.complete == ["m1", "m2", "m3"]
            assert server.connections == 3

    asyncio.run(run())


def test_a_connection_that_is_kept_is_used_again() -> None:
    async def run() -> None:
        async with serving(answer) as server:
            channel = open_probe(server.url)
            for mark in ("m1", "m2", "m3"):
                assert isinstance(await channel.outcome(channel.request(mark)), Answer)
            await channel.close()
            assert server.connections == 1

    asyncio.run(run())


def test_closing_while_the_next_request_leaves_never_lies() -> None:
    """The close races the second request, 50 times: nothing is sent twice, nothing that arrived is "not sent"."""
    dice = random.Random(20260301)
    seen: list[str] = []

    async def racing(peer: Peer) -> None:
        await close_after_first(peer)
        await asyncio.sleep(dice.random() * 0.002)
        if dice.random() < 0.5:
            peer.reset()

    async def run() -> None:
        async with serving(racing) as server:
            for round_ in range(50):
                channel = open_probe(server.url)
                for mark in (f"a{round_}", f"b{round_}"):
                    outcome = await channel.outcome(channel.request(mark))
                    seen.append(type(outcome).__name__)
                    arrived = server.complete.count(mark)
                    assert arrived <= 1, "sent twice"
                    assert not isinstance(outcome, Answer) or arrived == 1
                    assert not isinstance(outcome, (Transient, Unusable)) or mark.encode() not in server.received
                    await asyncio.sleep(dice.random() * 0.003)
                await channel.close()

    asyncio.run(run())
    assert seen.count("Answer") >= 50, f"every first request is answered: {seen}"
