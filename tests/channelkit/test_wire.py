"""The short way of reading an answer says what h11 says, or leaves the answer to it."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.channelkit.wire import Answering, Outgoing, Reply, plain_answer

MOST = 1000


def asked(method: str = "POST") -> Outgoing:
    return Outgoing.of(method, "/leads", [("Host", "vendor.test"), ("Content-Length", "2")], b"{}")


def by_h11(data: bytes) -> Reply | None:
    """What h11 makes of it; None where it refuses, or waits for more."""
    answering = Answering(asked(), MOST)
    try:
        whole = answering.read(data)
    except h11.RemoteProtocolError:
        return None
    return answering.reply() if whole and answering.may_go_on() else None


PLAIN = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nDate: Tue, 24 Nov 2026 09:00:00 GMT\r\nServer: nginx\r\n\r\n",
    b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\nX-Empty: \r\ncontent-length: 3\r\n\r\n\xff\x00\n",
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1\r\n\r\nx",
]


@pytest.mark.parametrize("data", PLAIN)
def test_a_plain_answer_is_read_as_h11_reads_it(data: bytes) -> None:
    found = plain_answer(data, MOST)
    assert found is not None
    assert found == by_h11(data)


ODD = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",  # not all of it
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}",  # more than all of it
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX-Other: caf\xc3\xa9\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    b"HTTP/1.1 200 OK\r\n\r\n",  # ends where the connection does
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
    b"220 mail.example ESMTP\r\n",
    b"",
]


@pytest.mark.parametrize("data", ODD)
def test_anything_else_is_left_to_h11(data: bytes) -> None:
    assert plain_answer(data, MOST) is None


NAMES = st.sampled_from(
    ["Content-Length", "content-length", "Connection", "Transfer-Encoding", "Date", "X-A", "X A", "", "Upgrade"]
)
VALUES = st.sampled_from(["0", "2", " 2", "2 ", "close", "keep-alive", "chunked", "a, b", "", "\tx", "é", "2\r", "-1"])


@given(
    st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.1 204 ", "HTTP/1.1 404", "HTTP/1.0 200 OK", "HTTP/1.1 101 Up"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
    st.binary(max_size=3),
)
def test_the_short_way_never_disagrees_with_h11(status: str, fields: list[tuple[str, str]], body: bytes) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    data = f"{status}\r\n{head}\r\n".encode() + body
    found = plain_answer(data, MOST)
    assert found is None or found == by_h11(data)


def test_a_request_is_what_h11_would_send() -> None:
    headers = [("Host", "vendor.test"), ("webhook-id", "msg_1"), ("X-Empty", ""), ("Content-Length", "2")]
    http = h11.Connection(h11.CLIENT)
    expected = http.send(h11.Request(method="POST", target="/leads?a=b%20c", headers=headers)) or b""
    assert Outgoing.of("POST", "/leads?a=b%20c", headers, b"{}").encoded == expected + b"{}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-A", "a\r\nX-B: b"), ("X A", "a"), ("X:A", "a"), ("", "a"), ("X-A", " a"), ("X-A", "a "), ("X-A", "\x00")],
)
def test_what_is_no_header_is_not_sent(name: str, value: str) -> None:
    with pytest.raises(h11.LocalProtocolError):
        Outgoing.of("POST", "/", [("Host", "vendor.test"), (name, value)], b"")
