"""A minimal HTTP channel, and a server that follows a script byte by byte."""

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr

from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Toolbox
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest
from leadctl.channelkit.network import NetworkGuard, Resolver, resolve
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.domain.errors import DeliveryError
from leadctl.domain.model import Account, Delivery, Destination, Done, Receipt
from tests.support.channels import FakeClock, MemoryCredentials

TOKEN = "canary-token-77aa"


class ProbeConfig(ChannelConfig):
    url: str
    token: SecretStr = SecretStr(TOKEN)


class Probe(HttpChannel[ProbeConfig, ChannelSettings]):
    """POSTs the delivery's key as JSON; any JSON answer is Done."""

    spec = ChannelSpec(
        "probe", "Probe", "https://example.com", (Step("send", Retransmit.IDEMPOTENT),), "none", "nothing"
    )
    Config = ProbeConfig
    Settings = ChannelSettings

    def destination(self) -> Destination:
        return Destination("probe", (self.config.url,), (self.config.url,), "probe")

    def endpoints(self) -> Sequence[str]:
        return (self.config.url,)

    def buckets(self) -> Sequence[Bucket]:
        return (Bucket("probe", Limit(1.0, documented=1.0)),)

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        return self.request(batch[0].key)

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        return {batch[0].key: Done(str(answer.json()["id"]))}

    async def check(self) -> str:
        return "probe"

    def request(self, mark: str, size: int = 0, header_size: int = 0) -> HttpRequest:
        headers = {"Authorization": f"Bearer {self.config.token.get_secret_value()}", "X-Filler": "x" * header_size}
        return HttpRequest.json("POST", self.config.url, {"mark": mark, "filler": "x" * size}, headers)

    async def outcome(self, request: HttpRequest, timeout: float | None = None) -> Answer | DeliveryError:  # noqa: ASYNC109 passed on
        """What ``exchange`` says, errors as values."""
        try:
            return await self.exchange(request, timeout)
        except DeliveryError as error:
            return error


def open_probe(url: str, *, resolver: Resolver = resolve, scale: float = 1.0, token: str = TOKEN) -> Probe:
    toolbox = Toolbox(
        7, NetworkGuard(["127.0.0.0/8"], resolver), FakeClock(), MemoryCredentials({7: {}}), scale=scale
    )  # fmt: skip
    channel = Probe.open(Account(7, "probe", data={"url": url, "token": token}), toolbox)
    assert isinstance(channel, Probe)
    return channel


class Peer:
    """One connection, as the script sees it."""

    def __init__(self, server: "Server", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes | None:
        """Read one whole request; its body, or None where the client closed. Everything is recorded."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := await self.some()):
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        while len(body) < int(length[1] if length else 0):
            if not (piece := await self.some()):
                return None
            body += piece
        self.server.complete.append(json.loads(body)["mark"])
        self.server.progress.set()
        return body

    async def some(self, most: int = 65_536) -> bytes:
        """Some bytes, recorded."""
        piece = await self.reader.read(most)
        self.server.received += piece
        return piece

    async def say(self, *pieces: bytes, pause: float = 0) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause)

    def reset(self) -> None:
        """End with RST instead of FIN."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """Follows ``script`` on every connection, and keeps what was received."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.received = b""
        #: Marks of the requests that arrived whole.
        self.complete: list[str] = []
        self.progress = asyncio.Event()
        self.connections = 0
        self.url = ""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._script(Peer(self, reader, writer))
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
        self._tasks.discard(task)

    async def arrived(self, count: int) -> None:
        """Wait until so many whole requests are there."""
        while len(self.complete) < count:
            self.progress.clear()
            await self.progress.wait()

    async def finish(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A server with that script on a free port; its ``url`` names ``host``."""
    server = Server(script)
    listener = await asyncio.start_server(server, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://{host}:{port}/leads"
    try:
        yield server
    finally:
        listener.close()
        await server.finish()
        await listener.wait_closed()
