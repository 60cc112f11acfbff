"""How a run is asked to stop: from a signal handler, another thread, or never."""

import threading
from collections.abc import Callable

from leadctl.domain.errors import Interrupted


class StopSwitch:
    """First request: drain. Second: leave at once. ``signal`` is the first one's number."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.hard = False
        self._event = threading.Event()
        self._listeners: list[Callable[[], None]] = []

    def request(self, signal_number: int) -> None:
        """Safe to be called from a signal handler."""
        if self.signal is not None:
            self.hard = True
            return
        self.signal = signal_number
        self._event.set()
        for listener in self._listeners:
            listener()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """While nothing is sent yet. Raises Interrupted once a stop is asked for."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def wait(self, seconds: float) -> bool:
        """Sleep at most that long; True as soon as a stop is asked for."""
        return self._event.wait(seconds)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call it at the first request, or now if that has been."""
        self._listeners.append(listener)
        if self.requested:
            listener()
