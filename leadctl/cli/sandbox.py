"""``leadctl sandbox``: the emulated vendors, in the foreground."""

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.domain.errors import ConfigError

if TYPE_CHECKING:
    import asyncio

    from leadctl.sandbox.server import Sandbox


def sandbox(
    context: Context,
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="Of the page; 0: a free one.")] = 0,
    scale: Annotated[float, typer.Option("--scale", metavar="X", help="Multiplies the vendors' limits.")] = 1.0,
    json_output: JsonFlag = False,
) -> int:
    """Run the emulated vendors on loopback until it is stopped. Prints their credentials as JSON.

    \b
    Example:
      leadctl sandbox --port 8025
    """
    import asyncio

    del json_output
    if not scale > 0:
        raise ConfigError(f"--scale: {scale:g} is not above 0")
    return asyncio.run(_serve(context, port, scale))


async def _serve(context: Context, port: int, scale: float) -> int:
    import asyncio

    from leadctl.sandbox.server import Sandbox

    loop = asyncio.get_running_loop()
    box = Sandbox(scale=scale, port=port)
    stopped: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _stop, stopped, number)
    try:
        try:
            await box.start()
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror or error}", hint="--port 0 takes a free one") from None
        context.print_json(description(box))
        context.out.flush()
        context.say(f"what arrives is shown at {box.url} (Ctrl-C ends it)")
        return 128 + await stopped
    finally:
        await box.stop()


def _stop(stopped: "asyncio.Future[int]", number: int) -> None:
    if not stopped.done():
        stopped.set_result(number)


def description(box: "Sandbox") -> dict[str, Any]:
    """Every vendor with ``data`` and ``settings`` of a credential that works there."""
    return {
        "schema": "leadctl.sandbox/1",
        "page": box.url,
        "vendors": [
            {
                "channel": vendor.name,
                "base_url": getattr(vendor, "url", "") or None,
                "data": dict(vendor.credential()),
                "settings": dict(vendor.settings()),
            }
            for vendor in box.vendors
        ],
    }
