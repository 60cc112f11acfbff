"""A webhook receiver, as a process of its own: counts what arrives, and when.

``python -m benchmarks.receiver [--hosts N] [--latency S]`` prints its port; it listens on N addresses of loopback.
``GET`` gives the account since the last one, and begins anew; ``GET …?slow=ADDRESS&throttled=ADDRESS`` also says which
of them answer after two seconds, and with 429, from then on.
"""

import argparse
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
    by_host: dict[str, list[float]] = field(default_factory=dict)

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
            "hosts": {host: [len(times), times[0], times[-1]] for host, times in self.by_host.items()},
        }


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


#: Seconds after which a slow address answers.
SLOW = 2.0


class Receiver:
    """Answers with 204, after ``latency`` seconds."""

    def __init__(self, latency: float) -> None:
        self.account = Account()
        self._latency = latency
        self._slow = self._throttled = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The low-level server's handler: no router, no middleware."""
        if request.method == "GET":
            self._slow, self._throttled = (request.query.get(name, "") for name in ("slow", "throttled"))
            summary, self.account = self.account.summary(), Account()
            return web.Response(text=json.dumps(summary))
        body = await request.read()
        host = request.headers["Host"].partition(":")[0]
        if host == self._throttled:
            return web.Response(status=429, headers={"Retry-After": "1"})
        if self._latency or host == self._slow:
            await asyncio.sleep(SLOW if host == self._slow else self._latency)
        account = self.account
        account.times.append(time.perf_counter())
        account.by_host.setdefault(host, []).append(account.times[-1])
        account.ids.add(request.headers.get("webhook-id") or body.decode())  # Apprise's texts are numbered
        account.size += len(body)
        return web.Response(status=204)


async def main(hosts: int, latency: float) -> None:
    """Serve until the process is ended."""
    runner = web.ServerRunner(web.Server(Receiver(latency).handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    for number in range(2, hosts + 1):
        await web.TCPSite(runner, f"127.0.0.{number}", port).start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.0)
    given = parser.parse_args()
    asyncio.run(main(given.hosts, given.latency))
