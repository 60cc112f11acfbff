"""Progress of a run: an observer of events. On a terminal a bar per channel, elsewhere a plain line every 10 s."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from leadctl.cli.context import Context
from leadctl.domain.events import Event, Finished, Parked, RunEvent, Throttling

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

INTERVAL = 10.0
#: The title of the bar that counts ``--delay`` down; no channel is called so.
DELAY = "delay"
Monotonic = Callable[[], float]


class Tally:
    """What is known of the run so far. Written by the engine's thread, read by any."""

    def __init__(self, clock: Monotonic = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._waits: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self.totals: dict[str, int] = {}
        self.done: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.parked: Counter[str] = Counter()
        #: Seconds that are left of ``--delay``; None: it is over, or there is none.
        self.delay: float | None = None

    def take(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            match event:
                case RunEvent(name="run_started", fields=fields):
                    self.delay = None
                    self._started = self._clock()
                    self.totals = {str(name): int(n) for name, n in fields.get("by_channel", {}).items()}
                case RunEvent(name="waiting", fields=fields):
                    self.delay = float(fields.get("seconds", 0)) or None
                    self._started = self._clock()
                case Finished(channel=channel, outcome=outcome):
                    self.done[channel] += 1
                    self._last[channel] = self._clock()
                    self.outcomes[str(outcome)] += 1
                    self._waits.pop(channel, None)
                case Throttling(channel=channel, seconds=seconds):
                    self._waits[channel] = self._clock() + seconds
                case Parked(channel=channel):
                    self.parked[channel] += 1

    def snapshot(self, channel: str | None = None) -> dict[str, Any]:
        """Numbers of one channel, or of all: done, total, rate a second, seconds to the end, seconds of waiting."""
        with self._lock:
            names = [channel] if channel else [*self.totals, *(n for n in self.done if n not in self.totals)]
            done = sum(self.done[name] for name in names)
            total = max(done, sum(self.totals.get(name, 0) for name in names))
            now = self._clock()
            until = now if done < total else max((self._last.get(name, now) for name in names), default=now)
            elapsed = max(until - self._started, 0.001)
            rate = done / elapsed
            waits = [self._waits.get(name, 0.0) - now for name in names]
            return {
                "done": done,
                "total": total,
                "rate": round(rate, 1),
                "eta_s": round(max((total - done) / rate, *self._lefts(names, elapsed)))
                if rate and total > done
                else None,
                "waiting_s": round(max([0.0, *waits])),
            }

    def _lefts(self, names: list[str], elapsed: float) -> list[float]:
        """Seconds to the end of each channel: they run side by side, so the slowest one ends the run."""
        moving = [name for name in names if self.done[name] and not self.parked[name]]
        return [0.0, *((self.totals.get(name, 0) - self.done[name]) * elapsed / self.done[name] for name in moving)]

    def channels(self) -> list[str]:
        with self._lock:
            return [*self.totals, *(name for name in self.done if name not in self.totals)]


class Display(Protocol):
    """How progress is shown."""

    def __call__(self, event: Event, /) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """``--quiet``."""

    def __call__(self, event: Event, /) -> None:
        del event

    def start(self) -> None:
        """Shows nothing."""

    def stop(self) -> None:
        """Shows nothing."""


class Periodic:
    """A line, or a ``progress`` event, every ten seconds, whether anything happens or not."""

    def __init__(self, context: Context, tally: Tally, interval: float = INTERVAL) -> None:
        self._context = context
        self._tally = tally
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick_for_ever, name="progress", daemon=True)

    def __call__(self, event: Event, /) -> None:
        self._tally.take(event)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(1.0)

    def tick(self) -> None:
        """Say where the run is; nothing before it has begun."""
        delay, channels = self._tally.delay, self._tally.channels()
        if delay is None and not channels:
            return
        if self._context.log_format == "json":
            self._context.logs.write("info", "progress", **self._as_fields(delay, channels))
        else:
            self._context.say(self._as_line(delay, channels))

    def _tick_for_ever(self) -> None:
        while not self._over.wait(self._interval):
            self.tick()

    def _as_fields(self, delay: float | None, channels: list[str]) -> dict[str, Any]:
        return {
            **self._tally.snapshot(),
            "delay_s": delay,
            "outcomes": dict(self._tally.outcomes),
            "by_channel": {name: self._tally.snapshot(name) for name in channels},
        }

    def _as_line(self, delay: float | None, channels: list[str]) -> str:
        if delay is not None:
            return f"progress: waiting, {duration(delay)} left"
        whole = self._tally.snapshot()
        parts = [f"{whole['done']:,}/{whole['total']:,}", f"{whole['rate']:g}/s"]
        if whole["eta_s"] is not None:
            parts.append(f"{duration(whole['eta_s'])} left")
        for name in channels:
            one = self._tally.snapshot(name)
            waits = f" (waits {duration(one['waiting_s'])})" if one["waiting_s"] else ""
            parts.append(f"{name} {one['done']:,}/{one['total']:,}{waits}")
        return f"progress: {', '.join(parts)}"


class Bars:
    """A Rich progress display on stderr, a bar per channel."""

    def __init__(self, context: Context, tally: Tally) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._context = context
        self._tally = tally
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._begun = False
        console = context.console(context.err)
        self._progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20 if console.width < 100 else 40),
            _numbers_column(tally),
            console=console,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __call__(self, event: Event, /) -> None:
        self._tally.take(event)
        if isinstance(event, Finished):
            self._update(event.channel)
        elif isinstance(event, RunEvent) and event.name in {"run_started", "waiting"}:
            self._begin()
            self._update_all()

    def start(self) -> None:
        """Draws nothing before the first event: until then a question may stand on the terminal."""

    def _begin(self) -> None:
        if self._begun:
            return
        from rich.text import Text

        self._begun = True
        self._context.above = lambda line: self._progress.console.print(Text.from_ansi(line))
        self._progress.start()

    def stop(self) -> None:
        if self._begun:
            self._progress.stop()
        self._context.above = None

    def _update_all(self) -> None:
        for channel in self._tally.channels():
            self._update(channel)
        if self._tally.delay is not None:
            self._show(DELAY, 0, None)
        elif DELAY in self._tasks:
            with self._lock:
                self._progress.remove_task(self._tasks.pop(DELAY))

    def _update(self, channel: str) -> None:
        snapshot = self._tally.snapshot(channel)
        self._show(channel, snapshot["done"], snapshot["total"])

    def _show(self, title: str, done: int, total: int | None) -> None:
        with self._lock:
            if title not in self._tasks:
                self._tasks[title] = self._progress.add_task(title)
            self._progress.update(self._tasks[title], completed=done, total=total)


def _numbers_column(tally: Tally) -> "ProgressColumn":
    """Done, rate, what is left and what is waited for: read anew at every refresh, so that waits count down."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class NumbersColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            if task.description == DELAY:
                return Text(f"{duration(tally.delay or 0)} left")
            return Text(numbers(tally, task.description))

    return NumbersColumn()


def numbers(tally: Tally, channel: str) -> str:
    """What stands beside a channel's bar."""
    snapshot = tally.snapshot(channel)
    parts = [f"{snapshot['done']:,}/{snapshot['total']:,}", f"{snapshot['rate']:g}/s"]
    if snapshot["eta_s"] is not None:
        parts.append(f"{duration(snapshot['eta_s'])} left")
    if snapshot["waiting_s"]:
        parts.append(f"waits {duration(snapshot['waiting_s'])}")
    if parked := tally.parked[channel]:
        parts.append(f"{parked} parked")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def observing(context: Context, *, bulk: bool) -> Iterator[Callable[[Event], None]]:
    """Show and log everything that happens while the block runs."""
    context.logs.bulk = bulk
    display = _display(context)
    display.start()

    def observe(event: Event) -> None:
        display(event)
        context.logs.observe(event)

    try:
        yield observe
    finally:
        display.stop()


@contextmanager
def displaying(context: Context) -> Iterator[Callable[[Event], None]]:
    """Show, and do not log, what happens elsewhere."""
    display = _display(context)
    display.start()
    try:
        yield display
    finally:
        display.stop()


def _display(context: Context) -> Display:
    if context.quiet:
        return Silent()
    if context.log_format == "json" or not context.err.is_terminal or context.environ.get("TERM") in {None, "", "dumb"}:
        return Periodic(context, Tally())
    return Bars(context, Tally())
