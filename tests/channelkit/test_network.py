"""The network guard: every range, every spelling of an address, and what is resolved."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import pytest

from leadctl.channelkit.http import Answer
from leadctl.channelkit.network import AddressNotAllowed, NetworkGuard, host_and_port
from leadctl.domain.errors import InvalidCredential, Unusable
from tests.channelkit.probe import Peer, open_probe, serving

REFUSED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::1",
    "3fff::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "febf::1", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
]  # fmt: skip

#: The neighbours of those ranges, and ordinary hosts.
ALLOWED = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.1", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1", "192.167.255.255",
    "192.169.0.0", "198.17.255.255", "198.20.0.0", "203.0.114.0", "223.255.255.255", "2606:4700:4700::1111",
    "2a00:1450:4001::1", "2001:4860:4860::8888", "2003::1", "::ffff:8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_refused_addresses(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not NetworkGuard().allows(address)
    assert not NetworkGuard().allows(address, clear=True)
    assert NetworkGuard(["0.0.0.0/0", "::/0"]).allows(address, clear=True)


@pytest.mark.parametrize("text", ALLOWED)
def test_allowed_addresses_need_encryption(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert NetworkGuard().allows(address)
    assert not NetworkGuard().allows(address, clear=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0",
        "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "user@127.0.0.1",
        "example.com@127.0.0.1", "user:pass@10.0.0.1:8443", "127.0.0.1:8443",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["https", "http", "smtp", "smtps", "smtp+starttls"])
def test_every_spelling_of_an_inner_address_is_refused(scheme: str, host: str) -> None:
    with pytest.raises(InvalidCredential, match="not allowed"):
        NetworkGuard().check_url(f"{scheme}://{host}/path")


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("https://example.com\\@127.0.0.1/", "backslash"), ("https://example.com/\r\nX: 1", "control"),
        ("https://exam ple.com/", "space"), ("https://example.com/\x00", "control"),
        ("https://example.com/\x7f", "control"), ("\thttps://example.com/", "control"),
        ("https://[::1/", "not a valid URL"),
        ("https://example.com:99999/", "not a valid URL"), ("https://example.com:x/", "not a valid URL"),
        ("https:///path", "no host"), ("https://", "no host"), ("example.com", "nothing"), ("", "nothing"),
        ("ftp://example.com/", "ftp"), ("file:///etc/passwd", "file"), ("javascript:alert(1)", "javascript"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_words(url: str, wrong: str) -> None:
    with pytest.raises(InvalidCredential, match=wrong):
        NetworkGuard(["127.0.0.0/8"]).check_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://hooks.example/secret-path-1", "https://u:secret-path-1@10.0.0.1/", "gopher://x/secret-path-1",
     "https://a b/secret-path-1", "https://[secret-path-1/"],
)  # fmt: skip
def test_an_error_never_shows_the_url(url: str) -> None:
    try:
        NetworkGuard().check_url(url)
    except InvalidCredential as error:
        said = str(error)
    else:
        said = ""
    assert "secret-path-1" not in said


@pytest.mark.parametrize(
    "url",
    ["https://example.com", "HTTPS://EXAMPLE.COM/x?y=1#z", "https://8.8.8.8/", "https://xn--e1afmkfd.xn--p1ai/",
     "https://пример.рф/", "https://[2606:4700:4700::1111]:8443/", "smtp+starttls://mail.example:587",
     "smtps://mail.example:465", "http://not-resolved-yet.example/", "https://1.2.3.4.example/"],
)  # fmt: skip
def test_ordinary_addresses_pass(url: str) -> None:
    NetworkGuard().check_url(url)


def test_clear_text_goes_only_where_it_was_opened() -> None:
    guard = NetworkGuard(["192.168.5.0/24"])
    guard.check_url("http://192.168.5.7/")
    guard.check_url("http://[::ffff:192.168.5.7]/")
    for url in ("http://192.168.6.7/", "http://8.8.8.8/", "smtp://8.8.8.8:25"):
        with pytest.raises(InvalidCredential, match="without TLS"):
            guard.check_url(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/x", ("example.com", 443)), ("http://127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("smtp://mail.example", ("mail.example", 25)), ("smtps://mail.example", ("mail.example", 465)),
        ("smtp+starttls://mail.example", ("mail.example", 587)), ("https://[::1]:9/", ("::1", 9)),
    ],
)  # fmt: skip
def test_host_and_port(url: str, expected: tuple[str, int]) -> None:
    assert host_and_port(url) == expected


def answering(*answers: Sequence[str]) -> tuple[NetworkGuard, list[str]]:
    """A guard of 127.0.0.0/8 whose resolver gives these answers, one a call, and what was asked."""
    asked: list[str] = []
    left = list(answers)

    async def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(f"{host}:{port}")
        return left.pop(0)

    return NetworkGuard(["127.0.0.0/8"], resolver), asked


def test_only_the_allowed_of_the_resolved_addresses_are_used() -> None:
    guard, asked = answering(["10.0.0.1", "127.0.0.1", "8.8.8.8", "fe80::1%eth0"], ["8.8.8.8", "127.0.0.1"])
    assert asyncio.run(guard.addresses("vendor.test", 443, clear=False)) == ["127.0.0.1", "8.8.8.8"]
    assert asyncio.run(guard.addresses("vendor.test", 80, clear=True)) == ["127.0.0.1"]
    assert asked == ["vendor.test:443", "vendor.test:80"]


@pytest.mark.parametrize("found", [["10.0.0.1"], ["::1", "169.254.169.254"], []])
def test_nothing_allowed_is_said_with_the_way_out(found: list[str]) -> None:
    guard, _ = answering(found)
    with pytest.raises(AddressNotAllowed, match=r"vendor\.test resolves to .*allow_private"):
        asyncio.run(guard.addresses("vendor.test", 443, clear=False))


def test_inside_means_every_address() -> None:
    guard, _ = answering(["127.0.0.1"], ["127.0.0.1", "8.8.8.8"], [], ["::ffff:127.0.0.1"])
    assert [asyncio.run(guard.inside("vendor.test", 443)) for _ in range(4)] == [True, False, False, True]


def test_inside_is_false_where_nothing_resolves() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert asyncio.run(NetworkGuard(["0.0.0.0/0"], unknown).inside("vendor.test", 443)) is False


def test_a_name_that_turns_inward_is_not_followed() -> None:
    """DNS rebinding: the second answer is checked like the first, and each connection goes to what was checked."""

    async def greet(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")

    turned = iter([["127.0.0.1"], ["10.1.2.3"], ["0.0.0.0"]])

    async def resolver(host: str, port: int) -> Sequence[str]:
        return next(turned)

    async def run() -> None:
        async with serving(greet, host="vendor.test") as server:
            channel = open_probe(server.url, resolver=resolver)
            outcomes = [await channel.outcome(channel.request(f"m{n}")) for n in range(3)]
            await channel.close()
            assert isinstance(outcomes[0], Answer), repr(outcomes[0])
            for outcome in outcomes[1:]:
                assert isinstance(outcome, Unusable), repr(outcome)
                assert outcome.address_not_allowed
            assert server.complete == ["m0"]

    asyncio.run(run())


def test_the_next_address_is_tried_where_one_refuses() -> None:
    async def greet(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the server listens on the second one only

    async def run() -> None:
        async with serving(greet, host="vendor.test") as server:
            channel = open_probe(server.url, resolver=resolver)
            outcome = await channel.outcome(channel.request("m1"))
            await channel.close()
            assert isinstance(outcome, Answer), repr(outcome)

    asyncio.run(run())


def test_a_wrong_network_is_no_network() -> None:
    with pytest.raises(ValueError, match="not-a-network"):
        NetworkGuard(["not-a-network"])
