"""Progress, on a terminal and elsewhere."""

import threading
from typing import Any

import pytest

from leadctl.cli.progress import Bars, Periodic, Silent, Tally, duration, numbers, observing
from leadctl.domain.events import Event, Finished, Parked, RunEvent, Throttling
from leadctl.domain.outcomes import Outcome
from tests.cli.support import world

STARTED = RunEvent(
    "run_started", "info", {"run_id": "r1", "deliveries": 6, "leads": 4, "by_channel": {"amocrm": 4, "email": 2}}
)
DONE = Finished(1, "amocrm", 7, Outcome.DELIVERED, remote_id="5")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tally(*events: Event, seconds: float = 2.0) -> Tally:
    clock = Clock()
    made = Tally(clock)
    for event in events:
        made.take(event)
    clock.now += seconds
    return made


def test_the_tally_counts() -> None:
    made = tally(STARTED, DONE, DONE, Throttling("email", 3, 12.0, "429"), Parked("email", 3, None, "x", "y"))
    assert made.snapshot("amocrm") == {"done": 2, "total": 4, "rate": 1.0, "eta_s": 2, "waiting_s": 0}
    assert made.snapshot("email") == {"done": 0, "total": 2, "rate": 0.0, "eta_s": None, "waiting_s": 10}
    assert made.snapshot()["total"] == 6
    assert numbers(made, "email") == "0/2  0/s  waits 10 s  1 parked"
    assert numbers(made, "amocrm") == "2/4  1/s  2 s left"


def test_the_slowest_channel_ends_the_run() -> None:
    started = RunEvent("run_started", "info", {"by_channel": {"amocrm": 100, "telegram": 100}})
    fast = [Finished(n, "amocrm", 7, Outcome.DELIVERED) for n in range(100)]
    slow = [Finished(n, "telegram", 8, Outcome.DELIVERED) for n in range(2)]
    assert tally(started, *fast, *slow, seconds=10.0).snapshot()["eta_s"] == 490
    assert tally(started, *fast, *slow, Parked("telegram", 8, None, "x", "y"), seconds=10.0).snapshot()["eta_s"] == 10


def test_a_channel_that_was_not_announced_is_counted() -> None:
    made = tally(Finished(1, "telegram", 1, Outcome.FAILED))
    assert made.channels() == ["telegram"]
    assert made.snapshot("telegram")["total"] == 1


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min"), (7500, "2 h 5 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_elsewhere_it_is_a_plain_line() -> None:
    made = world(environ={"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "CLICOLOR_FORCE": "1"})
    Periodic(made.context, tally(STARTED, DONE, Throttling("email", 3, 12.0, "429"))).tick()
    assert made.err == "progress: 1/6, 0.5/s, 10 s left, amocrm 1/4, email 0/2 (waits 10 s)\n"


def test_with_json_logs_it_is_an_event() -> None:
    made = world("plan", "--log-format", "json", environ={"FORCE_COLOR": "1"})
    Periodic(made.context, tally(STARTED, DONE)).tick()
    (record,) = made.records()
    assert record["event"] == "progress"
    assert (record["done"], record["total"], record["by_channel"]["amocrm"]["done"]) == (1, 6, 1)
    assert record["outcomes"] == {"delivered": 1}


def test_before_the_run_has_begun_nothing_is_said() -> None:
    made = world()
    Periodic(made.context, Tally()).tick()
    assert made.err == ""


def test_the_delay_is_counted_down() -> None:
    made = world()
    Periodic(made.context, tally(RunEvent("waiting", "info", {"seconds": 25}))).tick()
    assert made.err == "progress: waiting, 25 s left\n"
    assert tally(RunEvent("waiting", "info", {"seconds": 25}), STARTED).delay is None


def test_the_line_comes_although_nothing_happens() -> None:
    made = world()
    said = threading.Event()
    made.context.above = lambda line: said.set()
    display = Periodic(made.context, tally(STARTED), interval=0.01)
    display.start()
    assert said.wait(5)
    display.stop()


@pytest.mark.parametrize("environ", [{"FORCE_COLOR": "1"}, {"FORCE_COLOR": "3", "TERM": "xterm-256color"}])
def test_a_log_has_no_carriage_return_and_no_escape_code(environ: dict[str, str]) -> None:
    made = world(environ=environ)
    with observing(made.context, bulk=True) as observe:
        for event in (STARTED, DONE, Parked("amocrm", 7, "x", "credential_refused", "refused")):
            observe(event)
    assert "credential_parked" in made.err
    assert "\x1b" not in made.err
    assert "\r" not in made.err


@pytest.mark.parametrize("columns", [80, 160])
def test_on_a_terminal_every_channel_has_a_bar(columns: int) -> None:
    made = world(terminal=True, columns=columns, environ={"NO_COLOR": "1"})
    bars = Bars(made.context, Tally())
    bars.start()
    for event in (RunEvent("waiting", "info", {"seconds": 3}), STARTED, DONE):
        bars(event)
    made.context.say("a log line [red]as it is[/red]")
    bars.stop()
    assert "amocrm" in made.err
    assert "email" in made.err
    assert "1/4" in made.err
    assert "a log line [red]as it is[/red]" in made.err
    assert made.context.above is None
    assert made.out == ""


def test_quiet_shows_nothing() -> None:
    made = world(environ={"LEADCTL_QUIET": "1"}, terminal=True)
    with observing(made.context, bulk=True) as observe:
        observe(STARTED)
        observe(DONE)
    assert made.err == ""
    silent: Any = Silent()
    assert silent(DONE) is None


def test_nothing_is_drawn_over_the_question() -> None:
    made = world(terminal=True)
    with observing(made.context, bulk=True):
        made.context.err.write("Go on? ")
    assert made.err == "Go on? "
