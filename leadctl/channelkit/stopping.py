"""Waits that end when the run is stopped: those before a request begins."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from leadctl.domain.errors import Stopped

T = TypeVar("T")


class Stopping:
    """Whether the run was stopped. Used in one event loop at a time; :meth:`begin` is its beginning."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def begin(self) -> None:
        """Another run begins, perhaps in another event loop."""
        self._event = asyncio.Event()

    def stop(self) -> None:
        """Call it in the loop."""
        self._event.set()

    async def unless(self, wait: Callable[[], Awaitable[T]]) -> T:
        """What is waited for. Raises Stopped once the run is stopped: for waits before anything is sent only."""
        if self._event.is_set():
            raise Stopped("the run was stopped before anything was sent")
        waiting = asyncio.ensure_future(wait())
        stopped = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            raise Stopped("the run was stopped before anything was sent")
        finally:
            for task in (waiting, stopped):
                task.cancel()
            await asyncio.gather(waiting, stopped, return_exceptions=True)
