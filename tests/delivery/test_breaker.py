"""The circuit breaker of a lane, move by move."""

import pytest

from leadctl.delivery.breaker import Breaker, BreakerState


def opened(scale: float = 1.0) -> Breaker:
    breaker = Breaker(scale=scale)
    assert [breaker.failed(now, deliveries) for now, deliveries in ((1.0, 1), (2.0, 2), (3.0, 3))] == [
        False,
        False,
        True,
    ]
    return breaker


def test_it_is_closed_at_first() -> None:
    breaker = Breaker()
    assert (breaker.state, breaker.failures, breaker.probes, breaker.scale) == (BreakerState.CLOSED, 0, 0, 1.0)
    assert (breaker.threshold, breaker.opened_at, breaker.probe_at) == (3, 0.0, 0.0)
    assert breaker.open_for(100.0) == 0.0
    assert not hasattr(breaker, "__dict__")


def test_three_failures_in_a_row_of_different_deliveries_open_it() -> None:
    breaker = opened()
    assert (breaker.state, breaker.opened_at, breaker.probe_at) == (BreakerState.OPEN, 3.0, 8.0)
    assert breaker.open_for(13.0) == 10.0


def test_one_lead_alone_tries_on() -> None:
    breaker = Breaker()
    assert not any(breaker.failed(float(now), 2) for now in range(10))
    assert breaker.state is BreakerState.CLOSED


def test_many_deliveries_of_one_request_are_one_failure() -> None:
    breaker = Breaker()
    assert not breaker.failed(1.0, 50)
    assert not breaker.failed(2.0, 50)
    assert breaker.failed(3.0, 50)


def test_an_answer_between_them_begins_anew() -> None:
    breaker = Breaker()
    breaker.failed(1.0, 1)
    breaker.failed(2.0, 2)
    breaker.succeeded()
    assert breaker.failures == 0
    assert not breaker.failed(3.0, 3)


def test_it_opens_once_and_stays_as_it_was_opened() -> None:
    breaker = opened()
    assert not breaker.failed(4.0, 4)
    assert (breaker.state, breaker.opened_at, breaker.probe_at) == (BreakerState.OPEN, 3.0, 14.0)


@pytest.mark.parametrize(("scale", "waits"), [(1.0, [5, 10, 20, 40, 60, 60]), (10.0, [0.5, 1, 2, 4, 6, 6])])
def test_probes_come_less_and_less_often(scale: float, waits: list[float]) -> None:
    breaker = opened(scale)
    seen = [breaker.probe_at - 3.0]
    for _ in waits[1:]:
        breaker.probe_failed(100.0)
        seen.append(breaker.probe_at - 100.0)
    assert seen == pytest.approx(waits)


def test_a_check_that_passes_lets_one_delivery_go() -> None:
    breaker = opened()
    breaker.probe_passed()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.open_for(13.0) == 10.0


def test_that_delivery_decides() -> None:
    breaker = opened()
    breaker.probe_passed()
    assert not breaker.failed(10.0, 1), "it was open all the time"
    assert (breaker.state, breaker.opened_at, breaker.probe_at) == (BreakerState.OPEN, 3.0, 20.0)
    breaker.probe_passed()
    breaker.succeeded()
    assert (breaker.state, breaker.failures, breaker.open_for(99.0)) == (BreakerState.CLOSED, 0, 0.0)


def test_the_next_outage_begins_its_probes_anew() -> None:
    breaker = opened()
    breaker.probe_failed(10.0)
    breaker.succeeded()
    assert [breaker.failed(now, 3) for now in (20.0, 21.0, 22.0)] == [False, False, True]
    assert (breaker.opened_at, breaker.probe_at) == (22.0, 27.0)


def test_the_words_of_its_states() -> None:
    assert {*BreakerState} == {"closed", "open", "half_open"}
