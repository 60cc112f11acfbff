"""HTTP/1.1 on the wire: the bytes of a request, and what the bytes of an answer say.

h11 reads answers. Most are plain, and come in one piece: those are read without it, which takes a third of the time; a
test holds both together.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import h11

#: The most bytes of a status line and headers.
MAX_HEAD = 100 * 1024
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = r"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?"
#: The header lines of a request.
_FIELDS = re.compile(rf"(?:{_NAME}: {_VALUE}\r\n)*")
#: The head of an answer without oddities.
_PLAIN_HEAD = re.compile(
    rf"HTTP/1\.1 ([2-5][0-9][0-9]) [\x20-\x7e]*\r\n((?:{_NAME}: ?{_VALUE}\r\n)*)\r\n".encode(),
)
#: Headers that say how an answer ends, or what becomes of its connection, and are left to h11.
_FRAMING = frozenset({"transfer-encoding", "connection", "upgrade", "keep-alive", "proxy-connection"})


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole status line and whole headers, their names in lower case; the body may have broken off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request, and its bytes as they travel."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    content: bytes
    encoded: bytes

    @classmethod
    def of(cls, method: str, target: str, headers: list[tuple[str, str]], content: bytes) -> "Outgoing":
        """Raises h11.LocalProtocolError."""
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
        if _FIELDS.fullmatch(fields) is None or fields.count("\r\n") != len(headers):
            raise h11.LocalProtocolError("a header is not one that HTTP allows")
        head = f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode("ascii")
        return cls(method, target, headers, content, head + content)


def plain_answer(data: bytes, most: int) -> Reply | None:
    """The answer, if ``data`` is the whole of it and says its length in the simplest way. None: let h11 read it."""
    match = _PLAIN_HEAD.match(data)
    if match is None:
        return None
    status = int(match[1])
    headers: dict[str, str] = {}
    for line in match[2].decode("ascii").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name = name.lower()
        if name in headers or name in _FRAMING:
            return None
        headers[name] = value.strip()
    length = headers.get("content-length", "")
    body = data[match.end() :]
    if status in (204, 304):
        return None if body or length else Reply(status, headers, body, complete=True)
    whole = length.isdecimal() and int(length) == len(body) <= most
    return Reply(status, headers, body, complete=True) if whole else None


class Answering:
    """An answer that comes in pieces, or is not plain: h11 reads it."""

    def __init__(self, request: Outgoing, most: int) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._http.send(h11.Request(method=request.method, target=request.target, headers=request.headers))
        if request.content:
            self._http.send(h11.Data(data=request.content))
        self._http.send(h11.EndOfMessage())
        self._head: h11.Response | None = None
        self._body: list[bytes] = []
        self._left = most
        self._complete = False

    def read(self, data: bytes) -> bool:
        """More of it; nothing: its end. True: no more is wanted. Raises h11.RemoteProtocolError or ConnectionError."""
        if not data and self._head is None:
            raise ConnectionError("the server closed the connection without a whole answer")
        self._http.receive_data(data)
        while True:
            event = self._http.next_event()
            match event:
                case h11.Data():
                    self._left -= len(event.data)
                    if self._left < 0:
                        return True
                    self._body.append(bytes(event.data))
                case h11.Response():
                    self._head = event
                case h11.InformationalResponse():
                    pass
                case h11.EndOfMessage():
                    self._complete = True
                    return True
                case _:  # NEED_DATA, PAUSED, ConnectionClosed
                    return False

    def reply(self) -> Reply | None:
        """It, as far as it came, if its headers are there."""
        if self._head is None:
            return None
        return Reply(self._head.status_code, _headers(self._head), b"".join(self._body), self._complete)

    def may_go_on(self) -> bool:
        """Whether the connection may carry another request."""
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        return done and not self._http.trailing_data[0]


def _headers(head: h11.Response) -> dict[str, str]:
    """Lower-case names; values of one name are joined."""
    found: dict[str, str] = {}
    for raw_name, raw in head.headers:
        name = raw_name.decode("ascii")
        value = _text(raw)
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
