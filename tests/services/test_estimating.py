"""The arithmetic of the vendors' limits."""

import pytest

from leadctl.channelkit.spec import Bucket, Limit, Retransmit, Step
from leadctl.channels import channel_class
from leadctl.services.estimating import Estimate, Load, estimate

LEAD = Step("lead", Retransmit.LOOKUP, batch=50, looks=(8, 45))
NOTE = Step("note", Retransmit.LOOKUP, batch=50, looks=(8,))
EVENT = Step("event", Retransmit.IDEMPOTENT)
FIVE = Bucket("vendor:a", Limit(5, documented=7))


@pytest.mark.parametrize(("number", "requests"), [(0, 0), (1, 1), (2, 2), (6, 2), (7, 3), (56, 3), (57, 4), (4812, 99)])
def test_batches_begin_small(number: int, requests: int) -> None:
    (found,) = estimate([Load("amocrm", [LEAD], [FIVE], number)], 1.0)
    assert found == Estimate("amocrm", number, requests, 0, max(0, requests - 1) / 5)


@pytest.mark.parametrize("number", [1, 2, 7, 300])
def test_a_channel_without_batches_makes_a_request_a_lead(number: int) -> None:
    (found,) = estimate([Load("webhooks", [EVENT], [FIVE], number)], 1.0)
    assert (found.requests, found.seconds) == (number, (number - 1) / 5)


def test_what_is_in_doubt_is_asked_about_and_may_go_again() -> None:
    (found,) = estimate([Load("amocrm", [LEAD, NOTE], [FIVE], fresh=6, in_doubt=50)], 1.0)
    assert (found.deliveries, found.requests, found.look_ups) == (56, 6, 3)
    assert found.seconds == 8 / 5


def test_what_is_looked_for_one_by_one_takes_a_request_each() -> None:
    amocrm = channel_class("amocrm").spec.steps
    (found,) = estimate([Load("amocrm", amocrm, [FIVE], fresh=0, in_doubt=50)], 1.0)
    assert found.look_ups == 2 * 1 + 2 * 50, "a page of leads, and the notes of each lead"


def test_credentials_behind_one_limit_add_up_and_others_run_beside_them() -> None:
    other = Bucket("vendor:b", Limit(1, per=2))
    loads = [Load("x", [EVENT], [FIVE], 100), Load("x", [EVENT], [FIVE], 50), Load("x", [EVENT], [other], 11)]
    (found,) = estimate(loads, 1.0)
    assert (found.deliveries, found.requests, found.seconds) == (161, 161, 149 / 5)


def test_the_slowest_comes_first_and_a_share_slows_all() -> None:
    loads = [Load("fast", [EVENT], [FIVE], 10), Load("slow", [EVENT], [Bucket("s", Limit(1))], 10)]
    assert [(one.channel, one.seconds) for one in estimate(loads, 0.5)] == [("slow", 18.0), ("fast", 3.6)]
