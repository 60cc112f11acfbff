"""How far the plan of a run is written: what is written is sent while the rest is still planned."""

import asyncio
import threading
from collections.abc import Iterable

from leadctl.domain.model import CredentialId


class Written:
    """Between the thread that writes the plan and the loop that sends. Made in the loop.

    The writer calls :meth:`page` after each page whose rows are in the ledger, and :meth:`end` in every case.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last: dict[CredentialId, int] = {}
        self._whole = False
        self._waiting: list[asyncio.Future[None]] = []
        self._abandoned = threading.Event()

    # In the writer's thread

    @property
    def abandoned(self) -> bool:
        """Nobody sends any more, because the ledger failed: the rest need not be written now."""
        return self._abandoned.is_set()

    def page(self, pending: Iterable[tuple[CredentialId, int]]) -> None:
        """These credentials have deliveries to send, up to that place."""
        self._loop.call_soon_threadsafe(self._add, dict(pending))

    def end(self) -> None:
        """No page follows: all are written, or the writer has failed."""
        self._loop.call_soon_threadsafe(self.release)

    # In the loop

    async def beyond(self, credential_id: CredentialId, after: int) -> int | None:
        """Wait until the credential has deliveries behind that place, and return the last one's; None: all that it will
        ever have are written."""
        while not self._whole:
            last = self._last.get(credential_id, -1)
            if last > after:
                return last
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter
        return None

    def release(self) -> None:
        """Whoever waits for more waits no longer."""
        self._whole = True
        self._wake()

    def abandon(self) -> None:
        """The sending has failed."""
        self._abandoned.set()
        self.release()

    def _add(self, last: dict[CredentialId, int]) -> None:
        self._last |= last
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
