"""Deliveries that a restored ledger may have forgotten: every step is asked for before it is sent."""

from leadctl.channelkit.spec import Retransmit, Step
from leadctl.domain.errors import LimitReached
from leadctl.domain.model import RESTORED, Absent, CannotTell, Found, Target
from leadctl.domain.outcomes import ErrorCode, Outcome, SettledBy, TargetState
from tests.delivery.harness import Scripted, World
from tests.support.virtual import START, run_virtual

CONTACT = Step("contact", Retransmit.LOOKUP, batch=50, looks=(8.0,), preparatory=True)
DEAL = Step("deal", Retransmit.LOOKUP, batch=50, looks=(8.0,))
NOTE = Step("note", Retransmit.LOOKUP, batch=50, looks=(8.0,))
STEPS = (CONTACT, DEAL, NOTE)
#: The first look-up comes at once: an absence proves nothing so soon.
EARLY = Absent()


def forgetful(*leads: int, bulk: bool = False) -> World:
    """A world whose ledger says of these leads that everything of them is in doubt."""
    world = World(Scripted(STEPS), bulk=bulk)
    for lead in leads:
        world.ledger.targets[lead, "dest", 0] = Target(
            lead, "dest", 0, TargetState.UNKNOWN, f"k{lead}", 7, "scripted", "acc", START, START,
            context={RESTORED: "1", "mark": "0"}, sent_at=START, rev=1,
        )  # fmt: skip
    return world


def steps(calls: list[tuple[float, str, list[object]]]) -> list[str]:
    return [name for _, name, _ in calls]


def test_what_is_there_is_not_sent_step_by_step() -> None:
    w = forgetful(1)
    w.channel.findings[1] = [Found("c1"), Found("d1"), Found("n1")]
    run_virtual(w.run(1))
    assert w.channel.sent == []
    assert steps(w.channel.looked) == ["contact", "deal", "note"]
    row = w.ledger.targets[1, "dest", 0]
    assert (row.state, row.remote_id, row.in_doubt) == (TargetState.DELIVERED, "d1", False)
    assert row.done == {"contact": "c1", "deal": "d1", "note": "n1"}
    assert w.ledger.outcome(1).settled_by is SettledBy.LOOKUP


def test_a_step_that_is_sent_says_nothing_of_the_next() -> None:
    """A contact that somebody has deleted is made anew; the deal is there all the same."""
    w = forgetful(1)
    w.channel.findings[1] = [EARLY, Absent(), Found("d1"), Absent()]
    run_virtual(w.run(1))
    assert steps(w.channel.sent) == ["contact", "note"]
    assert steps(w.channel.looked) == ["contact", "contact", "deal", "note"]
    assert w.ledger.targets[1, "dest", 0].state is TargetState.DELIVERED
    assert w.ledger.outcome(1).remote_id == "d1"


def test_an_interruption_between_two_steps_forgets_nothing() -> None:
    w = forgetful(1)
    w.channel.findings[1] = [Found("c1"), LimitReached("enough for today")]
    run_virtual(w.run(1))
    assert w.ledger.outcome(1).outcome is Outcome.UNKNOWN
    row = w.ledger.targets[1, "dest", 0]
    assert (row.state, row.done, row.context[RESTORED]) == (TargetState.UNKNOWN, {"contact": "c1"}, "1")

    w.ledger.items.clear()
    w.channel.findings[1] = [EARLY, Absent(), LimitReached("enough for today")]
    run_virtual(w.run(1))
    assert steps(w.channel.sent) == ["deal"]
    row = w.ledger.targets[1, "dest", 0]
    assert (row.state, row.in_doubt, row.context[RESTORED]) == (TargetState.INCOMPLETE, True, "1")

    w.ledger.items.clear()
    w.channel.findings[1] = [Found("n1")]
    run_virtual(w.run(1))
    assert steps(w.channel.sent) == ["deal"]
    assert w.ledger.targets[1, "dest", 0].state is TargetState.DELIVERED


def test_a_vendor_that_cannot_tell_is_not_asked_for_ever() -> None:
    w = forgetful(1)
    w.channel.findings[1] = [CannotTell("too many newer entries")] * 100
    run_virtual(w.run(1), limit=3600)
    assert w.channel.sent == []
    # Again and again (back-offs have jitter), until the time of a delivery is over; a hundred answers were prepared.
    assert len(w.channel.looked) in range(2, 100)
    assert w.channel.looked[-1][0] <= w.policy.timeout
    outcome = w.ledger.outcome(1)
    assert (outcome.outcome, outcome.error_code) == (Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED)
    assert w.ledger.targets[1, "dest", 0].state is TargetState.UNKNOWN


def test_all_are_asked_for_at_once_also_where_sending_begins_with_one() -> None:
    leads = range(1, 31)
    w = forgetful(*leads, bulk=True)
    for lead in leads:
        w.channel.findings[lead] = [EARLY, *[Absent()] * 3]
    run_virtual(w.run(*leads))
    assert [len(jobs) for _, name, jobs in w.channel.looked if name == "contact"] == [30, 30]
    assert [len(jobs) for _, name, jobs in w.channel.sent if name == "contact"][:2] == [1, 5]
    assert {w.ledger.outcome(lead).outcome for lead in leads} == {Outcome.DELIVERED}
