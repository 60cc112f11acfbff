"""All emulated vendors together, and a page that shows what arrived."""

import asyncio
import html
import importlib
import pkgutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points

from aiohttp import web

from leadctl import sandbox
from leadctl.sandbox.judge import FAULTS, Faults, Judge
from leadctl.sandbox.vendor import Vendor

HOST = "127.0.0.1"
#: Entry points by which other packages bring emulated vendors: channel name → the Vendor class.
GROUP = "leadctl.sandbox"


@cache
def vendor_classes() -> dict[str, type[Vendor]]:
    """Emulated vendors by channel name: of every module of this package, and of the entry points of :data:`GROUP`."""
    found: dict[str, type[Vendor]] = {point.name: point.load() for point in entry_points(group=GROUP)}
    for module_info in pkgutil.iter_modules(sandbox.__path__):
        module = importlib.import_module(f"{sandbox.__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Vendor) and hasattr(value, "name"):
                found[value.name] = value
    return dict(sorted(found.items()))


class Sandbox:
    """Emulated vendors with one judge and one fault plan. ``vendors`` may be added several times over."""

    def __init__(self, *, scale: float = 1.0, host: str = HOST, port: int = 0) -> None:
        self.judge = Judge()
        self.faults = Faults()
        self.vendors: list[Vendor] = []
        self.url = ""
        self._scale = scale
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self, names: Sequence[str] | None = None) -> None:
        """Start these vendors (all of them by default) and the page."""
        for name in names if names is not None else vendor_classes():
            await self.add(name)
        app = web.Application()
        app.add_routes(
            [web.get("/", self._page), web.get("/arrivals", self._arrivals), web.post("/faults", self._set_fault)]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self.url = f"http://{self._host}:{self._runner.addresses[0][1]}/"

    async def add(self, name: str) -> Vendor:
        """One more account of this vendor, on a port of its own."""
        vendor = vendor_classes()[name](self.judge, self.faults, scale=self._scale)
        await vendor.start(self._host)
        self.vendors.append(vendor)
        return vendor

    async def stop(self) -> None:
        for vendor in self.vendors:
            await vendor.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    def vendor(self, name: str) -> Vendor:
        """The first account of this vendor."""
        return next(vendor for vendor in self.vendors if vendor.name == name)

    async def _arrivals(self, request: web.Request) -> web.Response:
        """Every creation as JSON: vendor, lead, key, remote id, detail, twin."""
        del request
        rows = [
            {"vendor": c.vendor, "lead": c.lead, "key": c.key, "remote_id": c.remote_id, "detail": c.detail}
            for c in self.judge.creations()
        ]
        return web.json_response({"arrivals": rows, "total": len(rows)})

    async def _set_fault(self, request: web.Request) -> web.Response:
        """``{"vendor": "amocrm", "kind": "server_error"}`` switches a fault on, ``"kind": null`` off."""
        try:
            body = await request.json()
            vendor, kind = body["vendor"], body.get("kind")
        except (ValueError, KeyError, TypeError, AttributeError):
            return web.json_response({"error": 'expected {"vendor": NAME, "kind": FAULT or null}'}, status=400)
        if kind is not None and kind not in FAULTS:
            return web.json_response({"error": f"unknown fault; known: {', '.join(FAULTS)}"}, status=400)
        if vendor not in vendor_classes():
            return web.json_response({"error": "unknown vendor"}, status=400)
        self.faults.always(vendor, kind)
        return web.json_response({"vendor": vendor, "kind": kind})

    async def _page(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text=_render_page(self), content_type="text/html")


def _render_page(box: Sandbox) -> str:
    counts = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{len(box.judge.creations(name))}</td>"
        f"<td>{sum(1 for n in box.judge.by_lead(name).values() if n > 1)}</td>"
        f"<td>{box.judge.requests(name)}</td></tr>"
        for name in dict.fromkeys(vendor.name for vendor in box.vendors)
    )
    rows = "".join(
        f"<tr><td>{html.escape(c.vendor)}</td><td>{html.escape(c.lead)}</td><td>{html.escape(c.remote_id)}</td>"
        f"<td>{html.escape(c.detail[:200])}</td></tr>"
        for c in reversed(box.judge.creations()[-200:])
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=3>"
        "<meta name=viewport content='width=device-width'><title>leadctl sandbox</title>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1d2430}"
        "table{border-collapse:collapse;width:100%;margin:0 0 2rem}th,td{text-align:left;padding:.35rem .7rem;"
        "border-bottom:1px solid #dde2ea;vertical-align:top;white-space:nowrap}td:last-child{white-space:normal;"
        "overflow-wrap:anywhere}thead th{color:#5a6577;"
        "font-weight:600}</style><h1>What arrived</h1><table><thead><tr><th>Vendor<th>Creations"
        "<th>Leads there twice<th>Requests</thead>"
        f"{counts}</table><h2>The latest</h2><table><thead><tr><th>Vendor<th>Lead<th>Remote id<th>What"
        f"</thead>{rows}</table></html>"
    )


@contextmanager
def running_sandbox(names: Sequence[str] | None = None, *, scale: float = 1.0, host: str = HOST) -> Iterator[Sandbox]:
    """A sandbox in a thread of its own, for tests and the demo: real sockets, usable from subprocesses."""
    box = Sandbox(scale=scale, host=host)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sandbox", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(box.start(names), loop).result(30)
        yield box
    finally:
        asyncio.run_coroutine_threadsafe(_finish(box), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _finish(box: Sandbox) -> None:
    await box.stop()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
