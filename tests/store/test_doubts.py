"""What a restored ledger has forgotten is in doubt: the rows that say so."""

from datetime import timedelta
from typing import Any

import pytest

from leadctl.domain.model import RESTORED, Target
from leadctl.domain.outcomes import TargetState
from leadctl.domain.ports import Granted
from tests.store.helpers import DESTINATION, NOW, Process, claim, intent, make_target, row

LATER = NOW + timedelta(days=3650)


def unknown(lead_id: int, **changes: Any) -> Target:
    """A row as the plan makes it for a delivery that the ledger knows nothing of."""
    values: dict[str, Any] = {
        "lead_id": lead_id, "destination": DESTINATION, "n": 0, "state": TargetState.UNKNOWN, "credential_id": 7,
        "key": f"lc-abc234-{lead_id}-7", "channel": "amocrm", "account": "amocrm:aa", "first_at": LATER,
        "updated_at": LATER,
    }  # fmt: skip
    return Target(**{**values, **changes})


def doubt(one: Process, *rows: Target) -> None:
    one.store.doubt(rows, LATER, LATER, one.leases)


def test_a_delivery_without_a_row(one: Process) -> None:
    doubt(one, unknown(1), unknown(2, account="amocrm:other"))
    doubted = row(one, 1)
    assert (doubted.state, doubted.sent_at, doubted.rev, doubted.holder) == (TargetState.UNKNOWN, LATER, 1, None)
    assert doubted.context == {RESTORED: "1"}
    doubt(one, unknown(1))
    assert row(one, 1) == doubted
    assert isinstance(claim(one, intent(1, rev=1))[0], Granted)


def test_what_was_there_before_the_last_known_send_was_there_before_the_forgotten_ones(one: Process) -> None:
    for lead_id, seconds, highest in ((1, 0, "10"), (2, 60, "30"), (3, 30, "20")):
        claim(one, intent(lead_id, sent_at=NOW + timedelta(seconds=seconds), context={"highest": highest}))
    claim(one, intent(4, sent_at=LATER + timedelta(seconds=1), context={"highest": "99"}))
    claim(one, intent(5, sent_at=NOW + timedelta(seconds=90), account="amocrm:other", context={"highest": "77"}))
    claim(one, intent(6, sent_at=NOW + timedelta(seconds=90), context={}))
    doubt(one, unknown(8), unknown(9, account="amocrm:other"))
    assert row(one, 8).context == {"highest": "30", RESTORED: "1"}
    assert row(one, 9).context == {"highest": "77", RESTORED: "1"}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (TargetState.IDLE, (TargetState.UNKNOWN, False)),
        (TargetState.FAILED, (TargetState.UNKNOWN, False)),
        (TargetState.REJECTED, (TargetState.UNKNOWN, False)),
        (TargetState.UNKNOWN, (TargetState.UNKNOWN, False)),
        (TargetState.INCOMPLETE, (TargetState.INCOMPLETE, True)),
    ],
)
def test_a_row_that_may_be_out_of_date(
    one: Process, state: TargetState, expected: tuple[TargetState, bool]
) -> None:  # fmt: skip
    before = make_target(one, 1, state)
    doubt(one, before)
    doubted = row(one, 1)
    assert (doubted.state, doubted.in_doubt) == expected
    assert (doubted.sent_at, doubted.updated_at, doubted.rev) == (LATER, LATER, before.rev + 1)
    assert doubted.context == {"highest": "12", RESTORED: "1"}  # its own is a bound too
    assert (doubted.done, doubted.key, doubted.first_at) == (before.done, before.key, before.first_at)


def test_what_is_certain_stays(one: Process, other: Process) -> None:
    delivered, sending = make_target(one, 1, TargetState.DELIVERED), make_target(other, 2, TargetState.SENDING)
    doubt(one, delivered, sending)
    assert (row(one, 1), row(one, 2)) == (delivered, sending)
    other.leases.close()
    doubt(one, sending)
    assert row(one, 2).state is TargetState.UNKNOWN


def test_a_persons_word_ends_the_doubt(one: Process) -> None:
    doubt(one, unknown(1))
    settled = one.store.settle(1, DESTINATION, 0, delivered=False, reason="looked", at=LATER, leases=one.leases)
    assert (settled.state, settled.context) == (TargetState.FAILED, {})
    assert row(one, 1) == settled


def test_a_row_that_was_written_since_stays(one: Process) -> None:
    before = make_target(one, 1, TargetState.FAILED)
    one.store.doubt([before], NOW - timedelta(days=9999), LATER, one.leases)
    assert row(one, 1) == before
