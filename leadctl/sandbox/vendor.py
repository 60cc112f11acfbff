"""The base of an emulated vendor that speaks HTTP."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox.judge import AFTER, Faults, Judge

#: How long a "timeout" fault keeps the client waiting before the connection is cut.
HANG_SECONDS = 30.0


class Vendor(ABC):
    """One emulated account. ``name`` is the channel's name; ``scale`` multiplies the vendor's limits."""

    name: ClassVar[str]
    #: Where a ``resend`` ends otherwise than leadctl.testing.fault_matrix expects of a channel of its kind: fault → the
    #: words of its legend, for the fault met once, and by each of three tries.
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        self.judge = judge
        self.faults = faults
        self.scale = scale

    @abstractmethod
    async def start(self, host: str) -> None:
        """Listen on a free port."""

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    def credential(self) -> Mapping[str, Any]:
        """``data`` of a credential that works here."""

    def settings(self) -> Mapping[str, Any]:
        """``settings`` that go with it."""
        return {}


class HttpVendor(Vendor):
    """A vendor behind aiohttp, at ``self.url`` (``http://127.0.0.1:PORT``)."""

    url: str = ""
    _runner: web.AppRunner | None = None

    @abstractmethod
    def routes(self) -> Iterable[web.AbstractRouteDef]: ...

    @abstractmethod
    def refusal(self, kind: str) -> web.Response:
        """The vendor's own answer for a fault of BEFORE that has one (rate_limit, server_error, …)."""

    async def start(self, host: str) -> None:
        app = web.Application(client_max_size=4 * 1024 * 1024, middlewares=[self._count])
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _count(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.judge.request(self.name)
        return await handler(request)

    async def with_faults(
        self,
        request: web.Request,
        leads: Sequence[str],
        execute: Callable[[str | None], Awaitable[web.Response]],
    ) -> web.StreamResponse:
        """Run ``execute`` (which stores and answers) under the fault that these leads meet.

        ``execute`` gets the kind where it must take part itself (``half_batch``), else None.
        """
        kind = self.faults.take(self.name, leads)
        if kind is None:
            return await execute(None)
        if kind == "reset_before":
            return self._cut(request)
        if kind == "bad_gateway":
            return bad_gateway()
        if kind in AFTER:
            return await self._spoil(kind, request, await execute(None))
        if kind == "half_batch":
            return await execute(kind)
        return self.refusal(kind)

    async def _spoil(self, kind: str, request: web.Request, response: web.Response) -> web.StreamResponse:
        if kind == "timeout":
            await self._hang(request)
            return self._cut(request)
        if kind == "reset":
            return self._cut(request)
        if kind == "bad_gateway_after":
            return bad_gateway()
        body = response.body if isinstance(response.body, bytes) else b"{}"
        broken = web.StreamResponse(status=response.status, headers={"Content-Type": response.content_type})
        broken.content_length = len(body) + 10
        await broken.prepare(request)
        await broken.write(body[: len(body) // 2])
        return self._cut(request, broken)

    async def _hang(self, request: web.Request) -> None:
        waited = 0.0
        while waited < HANG_SECONDS and request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(0.05)
            waited += 0.05

    def _cut(self, request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return response or web.Response()


def bad_gateway() -> web.Response:
    """What a front end answers."""
    return web.Response(
        status=502, text="<html><head><title>502 Bad Gateway</title></head></html>", content_type="text/html"
    )
