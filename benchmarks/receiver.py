"""A webhook receiver with no latency, as a process of its own: counts what arrives, and when.

``python -m benchmarks.receiver`` prints its port. ``GET`` gives the account since the last one, and begins anew.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Account:
    """What has arrived."""

    times: list[float] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    size: int = 0

    def summary(self) -> dict[str, Any]:
        """``rate``: requests a second from the first to the last; its middle part alone, where a ramp is over."""
        count = len(self.times)
        middle = self.times[count // 4 : count - count // 4]
        return {
            "count": count,
            "distinct": len(self.ids),
            "size": self.size // max(1, count),
            "rate": _rate(self.times),
            "middle_rate": _rate(middle),
        }


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


class Receiver:
    """Answers everything with 204."""

    def __init__(self) -> None:
        self.account = Account()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The low-level server's handler: no router, no middleware."""
        if request.method == "GET":
            summary, self.account = self.account.summary(), Account()
            return web.Response(text=json.dumps(summary))
        body = await request.read()
        account = self.account
        account.times.append(time.perf_counter())
        account.ids.add(request.headers["webhook-id"])
        account.size += len(body)
        return web.Response(status=204)


async def main() -> None:
    """Serve until the process is ended."""
    runner = web.ServerRunner(web.Server(Receiver().handle, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
