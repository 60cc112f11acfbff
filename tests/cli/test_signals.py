"""Signals: the first drains, the second leaves."""

import os
import signal

import pytest

from leadctl.cli.signals import SIGNALS, draining


class Switch:
    def __init__(self) -> None:
        self.requests: list[int] = []

    def request(self, signal_number: int) -> None:
        self.requests.append(signal_number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_drains_and_the_second_leaves(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    switch = Switch()
    restored: list[bool] = []
    left: list[int] = []
    with draining(switch, lambda: restored.append(True), left.append):
        os.kill(os.getpid(), number)
        assert (switch.requests, restored, left) == ([number], [], [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert switch.requests == [number, signal.SIGTERM]
        assert (restored, left) == ([True], [143])
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        switch = Switch()
        with draining(switch, lambda: None):
            os.kill(os.getpid(), signal.SIGHUP)
        assert switch.requests == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
