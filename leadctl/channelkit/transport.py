"""The HTTP transport: guarded, without redirects, proxies or cookies, and honest about the phase of a failure.

Whether a lead may have arrived is decided by one fact: was a request handed to a connection? It is recorded here,
before the socket's first ``write``, and not taken from an exception's class, which several transports get wrong.
A request is written once: nothing here sends anything again.

The connections are asyncio's own; httpcore takes six times the CPU.
"""

import asyncio
import os
import select
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, cast

import h11

from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.wire import Answering, Outgoing, Reply, plain_answer

if TYPE_CHECKING:
    import httpx

#: A connection that was used within so many seconds is not asked whether it is still open: the system call would let
#: another thread have the interpreter, at each request of a busy lane.
IN_USE = 0.01
#: How many URLs are kept taken apart: most channels have one to three.
MAX_PLACES = 64
#: Methods whose requests say that their body is empty.
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class InvalidAddress(Exception):
    """Not a URL that a request can go to. Nothing was sent."""


#: What goes wrong on the way: with :class:`Phase` it says enough. (``TimeoutError`` is an OSError.)
FAILURES = (OSError, h11.ProtocolError)


@dataclass(slots=True)
class Phase:
    """How far one request came."""

    bytes_sent: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a request may take, and how much of its answer is read."""

    #: When all of it must be over, in the loop's time.
    deadline: float
    #: Seconds for the connection to one address, TLS included.
    connect: float
    #: Bytes of the body.
    body: int


class Transport(Protocol):
    """Carries one request."""

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes, bounds: Bounds, phase: Phase
    ) -> Reply:
        """Raises one of :data:`FAILURES`, InvalidAddress or AddressNotAllowed. What runs out of time after the
        headers is a Reply whose body broke off."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL, taken apart."""

    host: str
    port: int
    tls: bool
    #: As the Host header has it.
    name: str
    target: str

    @classmethod
    def of(cls, url: str) -> "_Place":
        import httpx

        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL:
            raise InvalidAddress from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise InvalidAddress
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        return cls(
            parts.raw_host.decode("ascii"), port, tls, parts.netloc.decode("ascii"), parts.raw_path.decode("ascii")
        )

    def same_server(self, other: "_Place") -> bool:
        return (self.host, self.port, self.tls) == (other.host, other.port, other.tls)


class _Connection(asyncio.Protocol):
    """One connection. It carries one request at a time."""

    def __init__(self, place: _Place) -> None:
        loop = asyncio.get_running_loop()
        self.place = place
        #: When it was last in use, in the loop's time.
        self.used = loop.time()
        #: Done when the socket is closed.
        self.lost: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._socket: asyncio.Transport | None = None
        self._idle = select.poll()
        self._answered: asyncio.Future[None] | None = None
        self._request: Outgoing | None = None
        self._most = 0
        self._plain: Reply | None = None
        self._other: Answering | None = None

    # --- one request -----------------------------------------------------------------------------------------

    async def exchange(self, request: Outgoing, most: int) -> Reply:
        """Write the request, and wait for the answer; at most ``most`` bytes of its body are read."""
        self._request, self._most = request, most
        answered = self._answered = self._loop.create_future()
        if self._socket is None or self.lost.done():
            raise ConnectionError("the server closed the connection")
        self._socket.write(request.encoded)
        await answered
        return cast("Reply", self.so_far())

    def so_far(self) -> Reply | None:
        """The answer, if its headers are there."""
        return self._plain or (self._other.reply() if self._other is not None else None)

    def renew(self) -> bool:
        """Make ready for the next request; False: it can carry none."""
        unsent = self._socket is None or self._socket.is_closing() or self._socket.get_write_buffer_size() > 0
        if unsent or not (self._plain if self._other is None else self._other.may_go_on()):
            return False
        self._answered = self._request = self._plain = self._other = None
        self.used = self._loop.time()
        return True

    def is_fresh(self, keepalive: float) -> bool:
        """Whether the next request may go over it. What can be read now, while nothing is asked for, is its end."""
        gone = self._socket is None or self._socket.is_closing() or self.lost.done()
        idle = self._loop.time() - self.used
        return not gone and idle <= keepalive and (idle < IN_USE or not self._idle.poll(0))

    def abort(self) -> None:
        """Close at once; what was not written yet is not."""
        if self._socket is not None:
            self._socket.abort()

    # --- what the socket says --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.Transport", transport)
        self._idle.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            self.abort()  # nobody has asked for it
        else:
            self._read(data)

    def eof_received(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._read(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)
        self._over(exc or ConnectionError("the server closed the connection"))

    def _read(self, data: bytes) -> None:
        request = cast("Outgoing", self._request)
        if self._other is None:
            self._plain = plain_answer(data, self._most) if request.method != "HEAD" else None
            if self._plain is not None:
                self._over(None)
                return
            self._other = Answering(request, self._most)
        try:
            if self._other.read(data):
                self._over(None)
        except (h11.RemoteProtocolError, ConnectionError) as error:
            self._over(error)

    def _over(self, error: Exception | None) -> None:
        """The answer is whole, or will never be: with its headers there it is an answer all the same."""
        if self._answered is None or self._answered.done():
            return
        if error is None or self.so_far() is not None:
            self._answered.set_result(None)
        else:
            self._answered.set_exception(error)


class GuardedTransport:
    """Connects only to addresses that the guard allows, and to the very address that it checked; keeps connections."""

    def __init__(self, guard: NetworkGuard, *, connections: int = 4, keepalive: float = 30.0) -> None:
        self._guard = guard
        self._connections = connections
        self._keepalive = keepalive
        self._free = asyncio.Semaphore(connections)
        self._kept: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._places: dict[str, _Place] = {}

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes, bounds: Bounds, phase: Phase
    ) -> Reply:
        """See :class:`Transport`."""
        place = self._place(url)
        lines = [("Host", place.name), *headers.items()]
        if content or method in _WITH_BODY:
            lines.append(("Content-Length", str(len(content))))
        request = Outgoing.of(method, place.target, lines, content)
        connection: _Connection | None = None
        try:
            async with asyncio.timeout_at(bounds.deadline), self._free:
                connection = self._take(place) or await self._connect(place, bounds.connect)
                self._busy.add(connection)
                phase.bytes_sent = True
                return await connection.exchange(request, bounds.body)
        except TimeoutError:
            if connection is None or (reply := connection.so_far()) is None:
                raise
            connection.abort()
            return reply
        finally:
            if connection is not None:
                self._give_back(connection)

    async def aclose(self) -> None:
        """Close all connections; requests under way fail."""
        connections = [*self._kept, *self._busy]
        self._kept.clear()
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.lost

    def _place(self, url: str) -> _Place:
        place = self._places.get(url)
        if place is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            place = self._places[url] = _Place.of(url)
        return place

    def _take(self, place: _Place) -> _Connection | None:
        """A kept connection to the same server, the one that was used last."""
        for connection in reversed(self._kept):
            if connection.place.same_server(place):
                self._kept.remove(connection)
                if connection.is_fresh(self._keepalive):
                    return connection
                connection.abort()
        return None

    def _give_back(self, connection: _Connection) -> None:
        self._busy.discard(connection)
        if not connection.renew():
            connection.abort()
            return
        self._kept.append(connection)
        if len(self._kept) > self._connections:
            self._kept.pop(0).abort()

    async def _connect(self, place: _Place, seconds: float) -> _Connection:
        addresses = await self._guard.addresses(place.host, place.port, clear=not place.tls)
        failure: OSError = ConnectionError("no address")
        for address in addresses:
            try:
                async with asyncio.timeout(seconds):
                    return await self._open(place, address)
            except ssl.SSLError:
                raise
            except TimeoutError:
                failure = ConnectionError(f"no connection within {seconds:g} s")
            except OSError as error:
                failure = error
        raise failure

    async def _open(self, place: _Place, address: str) -> _Connection:
        """Connect to this address; under TLS, the certificate must be the host's."""
        context = trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if place.tls else None
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(place), address, place.port, ssl=context,
            server_hostname=place.host if context else None,
        )  # fmt: skip
        return connection


@lru_cache(maxsize=4)
def trusted(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The system's own trust store, or what these two variables name; it is read once, which takes 20 ms."""
    del file, folder  # OpenSSL reads them itself
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class HttpxTransport:
    """A transport of httpx (``httpx.MockTransport`` in tests) as ours."""

    def __init__(self, inner: "httpx.AsyncBaseTransport") -> None:
        self._inner = inner

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes, bounds: Bounds, phase: Phase
    ) -> Reply:
        """See :class:`Transport`. Its phase is not known: a failure counts as one before the first byte."""
        import httpx

        del phase
        try:
            outgoing = httpx.Request(method, url, headers=dict(headers), content=content)
        except httpx.InvalidURL:
            raise InvalidAddress from None
        try:
            async with asyncio.timeout_at(bounds.deadline):
                response = await self._inner.handle_async_request(outgoing)
        except httpx.HTTPError as error:
            raise ConnectionError(str(error)) from None
        body, complete = b"", False
        with suppress(httpx.HTTPError, OSError):
            async with asyncio.timeout_at(bounds.deadline):
                # Not aiter_raw(): a response that was made whole counts as consumed there.
                async for chunk in cast("httpx.AsyncByteStream", response.stream):
                    body += chunk
                    if len(body) > bounds.body:
                        break
                else:
                    complete = True
        await response.aclose()
        kept = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status_code, kept, body[: bounds.body], complete)

    async def aclose(self) -> None:
        await self._inner.aclose()
