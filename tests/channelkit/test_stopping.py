"""A wait before anything is sent ends with the run; what was sent is not cut off by it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from leadctl.channelkit.auth import BearerAuth, OAuthClient, Tokens
from leadctl.channelkit.channel import Toolbox
from leadctl.channelkit.http import Answer, HttpRequest
from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.stopping import Stopping
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Stopped
from leadctl.domain.model import CredentialId
from leadctl.testing.fakes import MemoryCredentials

REQUEST = HttpRequest("GET", "https://acme.example/api")
CLIENT = OAuthClient("https://acme.example/token", "client-1", "client-secret-1", "https://example.com/oauth")


class Frozen(MemoryCredentials):
    """Another process refreshes, and does not come to an end."""

    def __init__(self) -> None:
        super().__init__({7: {"access_token": "access-1", "refresh_token": "refresh-1"}})
        self.waiting = asyncio.Event()
        self.left = 0

    @asynccontextmanager
    async def lease(self, credential_id: CredentialId) -> AsyncIterator[None]:
        try:
            self.waiting.set()
            await asyncio.Event().wait()
            yield
        finally:
            self.left += 1


def test_what_is_waited_for_is_what_is_answered() -> None:
    async def main() -> None:
        stopping = Stopping()
        assert await stopping.unless(lambda: asyncio.sleep(0, "done")) == "done"
        with pytest.raises(KeyError):
            await stopping.unless(failing)
        stopping.stop()
        with pytest.raises(Stopped):
            await stopping.unless(lambda: asyncio.sleep(0))
        stopping.begin()
        assert await stopping.unless(lambda: asyncio.sleep(0, "the next run")) == "the next run"

    async def failing() -> None:
        raise KeyError("its own error")

    asyncio.run(main())


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_wait_that_ends_leaves_nothing_behind(cancelled: bool) -> None:
    async def main() -> None:
        stopping, frozen = Stopping(), Frozen()

        async def taken() -> None:
            async with frozen.lease(7):
                pass

        waiting = asyncio.create_task(stopping.unless(taken))
        await frozen.waiting.wait()
        if cancelled:
            waiting.cancel()
        else:
            stopping.stop()
        with pytest.raises(asyncio.CancelledError if cancelled else Stopped):
            await waiting
        assert frozen.left == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_refresh_by_another_process_is_not_waited_for_once_the_run_is_stopped() -> None:
    """Nor by the requests behind it; and nothing more is asked of the vendor."""
    asked: list[str] = []

    async def exchange(request: HttpRequest, timeout: float | None) -> Answer:  # noqa: ASYNC109
        asked.append(request.url)
        return Answer(401, {}, b"")

    async def main() -> None:
        frozen = Frozen()
        toolbox = Toolbox(7, NetworkGuard(), SystemClock(), frozen)
        auth = BearerAuth("acme", toolbox, exchange, Tokens("access-1", "refresh-1"), CLIENT)
        sends = [asyncio.create_task(auth.send(REQUEST)) for _ in range(3)]
        await frozen.waiting.wait()
        toolbox.stopping.stop()
        for outcome in await asyncio.gather(*sends, return_exceptions=True):
            assert isinstance(outcome, Stopped)
        assert frozen.left == 1

    asyncio.run(main())
    assert asked == [REQUEST.url] * 3


def test_a_refused_refresh_token_is_not_waited_for_either() -> None:
    async def exchange(request: HttpRequest, timeout: float | None) -> Answer:  # noqa: ASYNC109
        if request.url == CLIENT.token_url:
            asyncio.get_running_loop().call_later(0.01, toolbox.stopping.stop)
        return Answer(401, {}, b"{}")

    toolbox = Toolbox(7, NetworkGuard(), SystemClock(), MemoryCredentials({7: {"access_token": "a"}}))
    auth = BearerAuth("acme", toolbox, exchange, Tokens("access-1", "refresh-1"), CLIENT)
    with pytest.raises(Stopped):
        asyncio.run(auth.send(REQUEST))
