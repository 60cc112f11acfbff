"""Where a repeat does no harm, a bulk run claims a window ahead and commits its outcomes together."""

from collections.abc import Sequence
from typing import Any

import pytest

from leadctl.channelkit.spec import Limit, Step
from leadctl.domain.errors import DatabaseUnreachable, Throttled, Unusable
from leadctl.domain.model import Done
from leadctl.domain.outcomes import Outcome, TargetState
from leadctl.domain.ports import Claim, Intent
from tests.delivery.harness import BLIND, IDEMPOTENT, LOOKUP, Scripted, World
from tests.support.virtual import run_virtual

LEADS = range(1, 41)
#: So many are sent one after the other before anything is claimed ahead.
RAMP = 2


class Watched(World):
    """A bulk run that notes the sizes of its claims, and what was sent before each of them was granted."""

    def __init__(self, step: Step, limit: Limit | None = None) -> None:
        super().__init__(Scripted((step,), limit=limit), bulk=True)
        self.claims: list[int] = []
        claim = self.ledger.claim

        async def watched(run_id: str, intents: Sequence[Intent]) -> Sequence[Claim]:
            self.claims.append(len(intents))
            return await claim(run_id, intents)

        self.ledger.claim = watched  # type: ignore[method-assign]

    def states(self) -> set[TargetState]:
        return {row.state for row in self.ledger.targets.values()}


def sent(world: World) -> list[int]:
    return [lead_id for _, _, ids in world.channel.sent for lead_id in ids]


def test_after_the_ramp_all_that_waits_is_claimed_at_once() -> None:
    w = Watched(IDEMPOTENT)
    run_virtual(w.run(*LEADS))
    assert w.claims == [1, 1, len(LEADS) - RAMP]
    assert sent(w) == list(LEADS)
    assert {w.ledger.outcome(lead_id).outcome for lead_id in LEADS} == {Outcome.DELIVERED}
    assert w.states() == {TargetState.DELIVERED}


@pytest.mark.parametrize("step", [BLIND, Step("lead", LOOKUP.retransmit, looks=LOOKUP.looks)])
def test_what_cannot_be_repeated_is_claimed_at_its_last_moment(step: Step) -> None:
    w = Watched(step)
    run_virtual(w.run(*LEADS))
    assert w.claims == [1] * len(LEADS)
    assert w.ledger.log == ["claim", "record"] * len(LEADS)


def test_a_slow_limit_leaves_nothing_to_claim_ahead() -> None:
    w = Watched(IDEMPOTENT, Limit(5.0, documented=5.0))
    run_virtual(w.run(*range(1, 8)))
    assert w.claims == [1] * 7


def test_outcomes_of_a_window_share_a_commit() -> None:
    w = Watched(IDEMPOTENT)
    run_virtual(w.run(*LEADS))
    assert w.ledger.log.count("record") < RAMP + len(LEADS) / 4


def test_a_parked_credential_gives_its_window_back() -> None:
    w = Watched(IDEMPOTENT)
    w.channel.script[10] = [Unusable("401")]
    run_virtual(w.run(*LEADS))
    assert sent(w) == list(range(1, 11))
    assert [w.ledger.outcome(lead_id).outcome for lead_id in range(10, 41)] == [Outcome.UNPROCESSED] * 31
    assert w.states() == {TargetState.DELIVERED, TargetState.IDLE}


def test_a_stop_gives_the_window_back() -> None:
    w = Watched(IDEMPOTENT)
    w.channel.script[10] = [5.0, Done("slow")]
    report = run_virtual(w.run(*LEADS, stop_after=1.0))
    assert report.stopped
    assert sent(w) == list(range(1, 11))
    assert w.ledger.outcome(10).outcome is Outcome.DELIVERED
    assert w.ledger.outcome(11).outcome is Outcome.UNPROCESSED
    assert w.states() == {TargetState.DELIVERED, TargetState.IDLE}


def test_a_pause_in_a_window_loses_nothing() -> None:
    w = Watched(IDEMPOTENT)
    w.channel.script[10] = [Throttled("slow", retry_after=30.0)]
    run_virtual(w.run(*LEADS))
    assert sorted(sent(w)) == sorted([*LEADS, 10])
    assert {w.ledger.outcome(lead_id).outcome for lead_id in LEADS} == {Outcome.DELIVERED}


def test_outcomes_that_cannot_be_committed_end_the_run_soon() -> None:
    """Nobody waits for that commit: the lanes must hear of it all the same."""
    w = Watched(IDEMPOTENT)
    for lead_id in LEADS:
        w.channel.script[lead_id] = [0.05, Done("x")]
    record = w.ledger.record

    async def gone(run_id: str, records: Any) -> None:
        if len(w.ledger.items) >= RAMP:
            raise DatabaseUnreachable("the ledger is gone")
        await record(run_id, records)

    w.ledger.record = gone  # type: ignore[method-assign]
    with pytest.raises(DatabaseUnreachable):
        run_virtual(w.run(*LEADS), limit=60)
    assert len(sent(w)) < len(LEADS) / 2
    assert TargetState.SENDING in w.states()
