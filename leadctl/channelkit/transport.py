"""The HTTP transport: guarded, without redirects, proxies or cookies, and honest about the phase of a failure.

Whether a lead may have arrived is decided by one fact: was a byte of the request handed to the connection? It
is recorded at the socket's ``write``, below httpcore, and not taken from an exception's class, which several
transports get wrong.
"""

import ssl
import typing
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass

import httpcore
import httpx

from leadctl.channelkit.network import NetworkGuard


@dataclass(slots=True)
class Phase:
    """How far one request came."""

    bytes_sent: bool = False


_phase: ContextVar[Phase | None] = ContextVar("leadctl_http_phase", default=None)


class _MarkedStream(httpcore.AsyncNetworkStream):
    """A connection that notes when the first byte of a request is written to it."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 httpcore's interface
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 httpcore's interface
        phase = _phase.get()
        if phase is not None and buffer:
            phase.bytes_sent = True
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 httpcore's interface
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _MarkedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            await self._inner.aclose()  # httpcore does so for errors, but not when a deadline cancels the handshake
            raise

    def get_extra_info(self, info: str) -> typing.Any:
        return self._inner.get_extra_info(info)


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that the guard allows, and to the very address that it checked."""

    def __init__(self, guard: NetworkGuard, *, clear: bool) -> None:
        self._guard = guard
        self._clear = clear
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[typing.Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._guard.addresses(host, port, clear=self._clear)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error.strerror or error}") from error
        failure: Exception | None = None
        for address in addresses:
            try:
                stream = await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _MarkedStream(stream)
        raise failure or httpcore.ConnectError(f"{host}: no address")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Body(httpx.AsyncByteStream):
    def __init__(self, inner: typing.Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpcore's pool over the guarded backend. Failures keep httpcore's classes."""

    def __init__(self, guard: NetworkGuard, *, connections: int = 4, keepalive: float = 30.0) -> None:
        # The system's own trust store; SSL_CERT_FILE and SSL_CERT_DIR are honoured.
        context = ssl.create_default_context()
        self._pools = {
            clear: httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=keepalive,
                retries=0,
                network_backend=_GuardedBackend(guard, clear=clear),
            )
            for clear in (False, True)
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        stream = typing.cast("httpx.AsyncByteStream", request.stream)
        core = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=stream,
            extensions=request.extensions,
        )
        response = await self._pools[request.url.scheme == "http"].handle_async_request(core)
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()


def begin_phase() -> Phase:
    """Start recording the phase of the request that this task makes next."""
    phase = Phase()
    _phase.set(phase)
    return phase
