"""Async work from synchronous services, whether or not the caller runs an event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Have the loop make the call, from any thread or signal handler; a loop that is closed makes none."""
    if not loop.is_closed():
        with suppress(RuntimeError):  # it has just been closed
            loop.call_soon_threadsafe(call)


def in_own_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main()`` in a thread and loop of its own, and wait for it so that signal handlers run meanwhile."""
    outcome: list[tuple[T | None, BaseException | None]] = []

    def body() -> None:
        try:
            outcome.append((asyncio.run(main()), None))
        except BaseException as error:  # noqa: BLE001 handed to the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=body, name="leadctl-loop", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where T is None
