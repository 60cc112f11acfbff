"""What a person says: settle, adopt, undo."""

import pytest

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import LeadId, Target
from leadctl.domain.outcomes import OPERATOR_MOVES, SettledBy, TargetState
from leadctl.store.settling import AdoptRow
from tests.store.helpers import DESTINATION, NOW, Place, make_target, process


@pytest.mark.parametrize("delivered", [True, False])
@pytest.mark.parametrize("state", list(TargetState))
def test_settling(place: Place, state: TargetState, delivered: bool) -> None:
    wanted = TargetState.DELIVERED if delivered else TargetState.FAILED
    with process(place) as one:
        before = make_target(one, 1, state)
        one.leases.close()  # the process that sent it is gone

        def settle() -> Target:
            return one.store.settle(
                1, DESTINATION, 0, delivered=delivered, reason="looked", at=NOW, leases=one.leases
            )  # fmt: skip

        if state is wanted:
            assert settle() == before
            assert [row.attempt.trigger for row in one.store.attempts_for(1)] == ["first"]
            return
        if wanted not in OPERATOR_MOVES[state]:
            with pytest.raises(ConfigError, match="cannot become"):
                settle()
            return
        after = settle()
        assert after == one.store.targets_for([1])[1][0]
        assert (after.state, after.settled_by, after.rev) == (wanted, SettledBy.OPERATOR, before.rev + 1)
        assert (after.in_doubt, after.error_code, after.digest) == (False, None, None)
        assert after.done == (before.done if delivered else {})
        assert after.remote_id == (before.remote_id if delivered else None)
        word = one.store.attempts_for(1)[-1].attempt
        assert (word.trigger, word.answer) == ("operator", "looked")
        assert word.outcome == ("found" if delivered else "absent")


def test_what_is_being_sent_is_not_settled(place: Place) -> None:
    with process(place) as one, process(place) as other:
        make_target(one, 1, TargetState.SENDING)
        with pytest.raises(ConfigError, match="by another process just now"):
            other.store.settle(1, DESTINATION, 0, delivered=True, reason="r", at=NOW, leases=other.leases)
        assert one.store.targets_for([1])[1][0].state is TargetState.SENDING


def test_what_the_ledger_does_not_know_is_not_settled(place: Place) -> None:
    with process(place) as one, pytest.raises(ConfigError, match="knows nothing") as caught:
        one.store.settle(1, DESTINATION, 0, delivered=True, reason="r", at=NOW, leases=one.leases)
    assert "leadctl adopt" in caught.value.hint


def adopt_row(lead_id: LeadId, destination: str = DESTINATION) -> AdoptRow:
    return AdoptRow(lead_id, destination, 7, "amocrm", "amocrm:aa", f"lc-abc234-{lead_id}-7")


@pytest.mark.parametrize("state", list(TargetState))
def test_adopting_touches_only_what_is_not_known(place: Place, state: TargetState) -> None:
    with process(place) as one:
        known = make_target(one, 1, state)
        rows = [adopt_row(1), adopt_row(2), adopt_row(2), adopt_row(1, "email:ff")]
        assert one.store.adopt(rows, "sent by\nthe old system", NOW) == 2
        assert one.store.adopt(rows, "again", NOW) == 0
        found = one.store.targets_for([1, 2])
        assert found[1][0] == known
        assert [(target.destination, target.state) for target in found[1][1:]] == [("email:ff", TargetState.DELIVERED)]
        (adopted,) = found[2]
        assert (adopted.settled_by, adopted.first_at, adopted.key) == (SettledBy.OPERATOR, NOW, "lc-abc234-2-7")
        (word,) = one.store.attempts_for(2)
        assert (word.attempt.trigger, word.attempt.answer) == ("operator", "sent by the old system")


def test_undoing_removes_only_what_was_adopted(place: Place) -> None:
    with process(place) as one:
        settled = make_target(one, 1, TargetState.UNKNOWN)
        one.leases.close()
        settled = one.store.settle(1, DESTINATION, 0, delivered=True, reason="r", at=NOW, leases=one.leases)
        sent = make_target(one, 2, TargetState.DELIVERED)
        one.store.adopt([adopt_row(3), adopt_row(4), adopt_row(5)], "seen", NOW)
        denied = one.store.settle(4, DESTINATION, 0, delivered=False, reason="no", at=NOW, leases=one.leases)
        rows = [adopt_row(lead_id) for lead_id in (1, 2, 3, 4, 99)]
        assert one.store.undo_adopt(rows, "a mistake", NOW) == 1
        found = one.store.targets_for([1, 2, 3, 4, 5])
        assert {lead_id: targets[0] for lead_id, targets in found.items() if lead_id != 5} == {
            1: settled, 2: sent, 4: denied,
        }  # fmt: skip
        assert found[5][0].state is TargetState.DELIVERED
        assert [row.attempt.answer for row in one.store.attempts_for(3)] == ["seen", "a mistake"]
