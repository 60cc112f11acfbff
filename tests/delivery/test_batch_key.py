"""Two deliveries with one batch key never share a request, and never change places."""

from collections.abc import Sequence

import pytest

from leadctl.channelkit.spec import Step
from leadctl.domain.errors import Ambiguous, DeliveryError, Split, Throttled, Transient
from leadctl.domain.model import Delivery, Verdict
from leadctl.domain.outcomes import Outcome
from tests.delivery.harness import IDEMPOTENT, LOOKUP, Scripted, World
from tests.support.virtual import run_virtual

UPSERT = Step("contact", IDEMPOTENT.retransmit, batch=3)


class Keyed(Scripted):
    """The script's channel, whose leads share keys as told, and some of which travel alone."""

    keys: dict[object, str]
    alone: frozenset[object] = frozenset()

    def batch_key(self, step: Step, delivery: Delivery) -> str | None:
        return self.keys.get(delivery.lead.id)

    def batch_alone(self, step: Step, delivery: Delivery) -> bool:
        return delivery.lead.id in self.alone


class Halving(Scripted):
    """Refuses every batch that lead 11 is in, and never says for whom."""

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        verdict = await super().send(step, batch)
        if any(delivery.lead.id == 11 for delivery in batch):
            raise Split("one of them is refused")
        return verdict


@pytest.mark.parametrize("step", [UPSERT, LOOKUP])
@pytest.mark.parametrize(
    ("keys", "alone", "requests"),
    [
        ({}, (), [[1, 2, 3], [4, 5]]),
        ({2: "a", 3: "a"}, (), [[1, 2, 4], [3, 5]]),
        ({1: "a", 2: "a", 3: "a"}, (), [[1, 4, 5], [2], [3]]),
        ({1: "a", 2: "a", 3: "b", 4: "b", 5: "a"}, (), [[1, 3], [2, 4], [5]]),
        ({2: "a", 3: "a"}, (2,), [[1, 4, 5], [2], [3]]),
    ],
    ids=["no keys", "a pair", "three alike", "two kinds", "passed over because it goes alone"],
)
def test_one_of_a_key_in_a_request(
    step: Step, keys: dict[object, str], alone: tuple[int, ...], requests: list[list[int]]
) -> None:
    channel = Keyed((Step(step.name, step.retransmit, batch=3, looks=step.looks),))
    channel.keys, channel.alone = keys, frozenset(alone)
    world = World(channel)
    run_virtual(world.run(1, 2, 3, 4, 5))
    assert [sent for _, _, sent in channel.sent] == requests
    assert all(world.ledger.outcome(lead).outcome is Outcome.DELIVERED for lead in range(1, 6))


def keyed(keys: dict[object, str], step: Step, bulk: bool = False) -> World:
    channel = Keyed((step,))
    channel.keys = keys
    return World(channel, bulk=bulk)


@pytest.mark.parametrize("answer", [Ambiguous("x"), Transient("x"), Throttled("slow", retry_after=5)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bulk", [False, True])
def test_nothing_overtakes_what_is_tried_again(answer: DeliveryError, batch: int, bulk: bool) -> None:
    """The older lead of a person is there first, whatever happens to its first request."""
    world = keyed({1: "a", 3: "a"}, Step("contact", UPSERT.retransmit, batch=batch), bulk)
    world.channel.script[1] = [answer]
    run_virtual(world.run(1, 2, 3, 4))
    order = [lead for _, _, sent in world.channel.sent for lead in sent]
    assert order.count(1) == 2
    assert order.index(3) > max(place for place, lead in enumerate(order) if lead == 1)
    assert all(world.ledger.outcome(lead).outcome is Outcome.DELIVERED for lead in range(1, 5))


def test_one_that_fails_for_good_keeps_nobody() -> None:
    world = keyed({1: "a", 2: "a"}, UPSERT)
    world.channel.script[1] = [Transient("x")] * 3
    run_virtual(world.run(1, 2))
    assert [world.ledger.outcome(lead).outcome for lead in (1, 2)] == [Outcome.FAILED, Outcome.DELIVERED]


def test_one_refused_lead_does_not_make_all_batches_small() -> None:
    world = World(Halving((Step("contact", UPSERT.retransmit, batch=8),)))
    run_virtual(world.run(*range(1, 65)))
    assert world.ledger.outcome(11).outcome is Outcome.REJECTED
    assert sum(world.ledger.outcome(lead).outcome is Outcome.DELIVERED for lead in range(1, 65)) == 63
    assert len(world.channel.sent) <= 20
