"""SIGINT, SIGTERM, SIGHUP: the first one drains, the second leaves at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop(Protocol):
    """What is told of a signal (the services' ``StopSwitch``)."""

    def request(self, signal_number: int) -> None: ...


class Interrupted(Exception):
    """A signal came while a person was being asked."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


Handler = Callable[[int, FrameType | None], None]


@contextmanager
def draining(stop: Stop, restore: Callable[[], None], leave: Callable[[int], object] = os._exit) -> Iterator[None]:
    """Hand the first signal to ``stop``; on the second, ``restore`` the terminal and leave."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        stop.request(number)
        if len(received) > 1:
            restore()
            leave(128 + number)

    with _handlers(handle):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Any signal raises :class:`Interrupted` here: a question must not swallow it."""

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        raise Interrupted(number)

    with _handlers(handle):
        yield


@contextmanager
def _handlers(handle: Handler) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]  # started by nohup: meant to outlive its terminal
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)
