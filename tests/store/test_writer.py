"""Claims and outcomes: one process carries a delivery, and what is answered is on disk."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import LeadctlError
from leadctl.domain.masking import Secrets
from leadctl.domain.model import Target
from leadctl.domain.outcomes import ALLOWED_MOVES, Outcome, SettledBy, TargetState
from leadctl.domain.ports import Claim, Granted, Record, Refusal
from leadctl.store.rows import ItemRow
from tests.store.helpers import (
    DESTINATION,
    NOW,
    RUN,
    Place,
    Process,
    attempt,
    claim,
    delivered,
    granted,
    intent,
    item,
    process,
    record,
    refused,
    row,
    write,
)
from tests.support.world import wait_until

# --- claims ----------------------------------------------------------------------------------------------------


def test_a_new_row_is_ours(one: Process) -> None:
    target = granted(claim(one, intent(1))[0])
    assert target == row(one)
    assert target == Target(
        1, DESTINATION, 0, TargetState.SENDING, "lc-abc234-1-7", 7, "amocrm", "amocrm:aa", NOW, target.updated_at,
        step="lead", context={"highest": "12"}, sent_at=NOW, run_id=RUN, holder=one.holder, rev=1,
    )  # fmt: skip
    assert target.updated_at.tzinfo is not None


def test_an_intent_is_on_disk_before_it_is_granted(place: Place, one: Process) -> None:
    async def look_at_once() -> list[Any]:
        await one.writer.claim(RUN, [intent(1)])
        return place.rows("SELECT state, holder FROM leadctl_targets")

    assert asyncio.run(look_at_once()) == [("sending", one.holder)]


def test_a_row_that_was_not_planned_is_refused(one: Process, other: Process) -> None:
    target = granted(claim(one, intent(1))[0])
    for rev in (None, 0, 2):
        answer = refused(claim(other, intent(1, rev))[0])
        assert (answer.target, answer.held) == (target, True)


@pytest.mark.parametrize("state", list(TargetState))
def test_from_which_states_sending_is_allowed(one: Process, other: Process, state: TargetState) -> None:
    claim(one, intent(1))
    if state is not TargetState.SENDING:
        record(one, Record(target=write(1, state, done={"contact": "5"}, remote_id="900")))
    before = row(one)
    later = NOW + timedelta(hours=1)
    (answer,) = claim(other, intent(1, before.rev, first_at=later, sent_at=later, step="note", context={}))
    if TargetState.SENDING not in ALLOWED_MOVES[state]:
        assert refused(answer) == Refusal(before, held=state is TargetState.SENDING)
        assert row(one) == before
        return
    target = granted(answer)
    assert target == row(one)
    assert target == replace(
        before, state=TargetState.SENDING, holder=other.holder, rev=before.rev + 1, sent_at=later, step="note",
        updated_at=target.updated_at,
    )  # fmt: skip
    assert target.context == before.context == {"highest": "12"}  # what was there before the first step


def test_our_own_row_in_doubt_may_be_claimed_again(one: Process) -> None:
    claim(one, intent(1))
    assert granted(claim(one, intent(1, 1))[0]).rev == 2
    answer = refused(claim(one, intent(1, 1))[0])
    assert (answer.target.rev, answer.held) == (2, False)


def test_two_intents_on_one_row(one: Process) -> None:
    first, second, third = claim(one, intent(1), intent(1), intent(2))
    assert isinstance(first, Granted)
    assert refused(second) == Refusal(first.target, held=False)
    assert isinstance(third, Granted)
    again, twice = claim(one, intent(1, 1), intent(1, 2))
    assert granted(again).rev == 2
    assert isinstance(twice, Refusal)
    assert row(one).rev == 2


def test_destinations_and_repeats_are_rows_of_their_own(one: Process) -> None:
    answers = claim(one, intent(1), intent(1, n=1), intent(1, destination="email:ff"), intent("1a"))
    assert all(isinstance(answer, Granted) for answer in answers)


def test_nothing_to_claim(one: Process) -> None:
    assert claim(one) == []
    record(one)


def test_of_many_who_claim_at_once_one_is_granted(one: Process, other: Process) -> None:
    async def race() -> list[list[Claim]]:
        calls = [
            who.writer.claim(RUN, [intent(lead_id) for lead_id in range(first, first + 25)])
            for first in range(0, 100, 25)
            for who in (one, other, one, other)
        ]
        return [list(claims) for claims in await asyncio.gather(*calls)]

    answers = [answer for claims in asyncio.run(race()) for answer in claims]
    winners = [answer.target for answer in answers if isinstance(answer, Granted)]
    assert sorted(int(target.lead_id) for target in winners) == list(range(100))
    assert len(answers) == 400
    for target in winners:
        assert row(one, int(target.lead_id)) == target


CHILD = """
import asyncio, sys, time
from pathlib import Path
from tests.store.helpers import Place, intent, process
with process(Place(Path(sys.argv[1]), sys.argv[2] or None)) as child:
    asyncio.run(child.writer.claim("run-0", [intent(1)]))
    print(child.holder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def child(place: Place) -> Iterator[subprocess.Popen[str]]:
    """Another process that has claimed lead 1."""
    command = [sys.executable, "-c", CHILD, str(place.leads), place.ledger or ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("holder-")
        yield child
        child.kill()


def test_a_killed_process_leaves_a_row_in_doubt(place: Place, child: subprocess.Popen[str]) -> None:
    with process(place) as one:
        assert refused(claim(one, intent(1, 1))[0]).held
        child.send_signal(signal.SIGKILL)
        child.wait()
        wait_until(lambda: not refused(claim(one, intent(1))[0]).held)  # a server sees it a moment later
        in_doubt = refused(claim(one, intent(1))[0])
        assert (in_doubt.target.state, in_doubt.target.run_id) == (TargetState.SENDING, "run-0")
        taken = granted(claim(one, intent(1, in_doubt.target.rev))[0])
        assert (taken.holder, taken.rev, taken.run_id) == (one.holder, 2, RUN)
        record(one, delivered(1))


def test_a_frozen_process_is_not_robbed(place: Place, child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGSTOP)
    with process(place) as one:
        assert refused(claim(one, intent(1, 1))[0]).held


# --- outcomes --------------------------------------------------------------------------------------------------


def test_an_outcome_is_written_whole(one: Process) -> None:
    run = one.store.new_run("resend", "d", now=NOW)
    one.store.add_items(run.id, [ItemRow(1, 1, "amocrm", 7), ItemRow(1, 1, "email", 8)])
    claim(one, intent(1))
    target = write(
        1, TargetState.INCOMPLETE, done={"lead": "900"}, remote_id="900", remote_url="https://x", in_doubt=True,
        error_code="incomplete", error_message="the note\nis missing", vendor_code="500", settled_by=SettledBy.LOOKUP,
    )  # fmt: skip
    outcome = item(
        1, attempts=2, remote_id="900", error_code="incomplete", error_message="m", settled_by=SettledBy.LOOKUP
    )
    asyncio.run(one.writer.record(run.id, [Record(attempt(1), target, outcome)]))
    written = row(one)
    assert (written.state, written.rev, written.in_doubt) == (TargetState.INCOMPLETE, 2, True)
    assert (written.done, written.remote_id, written.remote_url) == ({"lead": "900"}, "900", "https://x")
    assert (written.error_message, written.settled_by) == ("the note is missing", SettledBy.LOOKUP)
    mine, others = one.store.iter_items(run.id)
    assert (mine.outcome, mine.attempts, mine.remote_id) == (Outcome.DELIVERED, 2, "900")
    assert mine.finished_at is not None
    assert others.outcome is Outcome.PENDING
    (kept,) = one.store.attempts_for(1)
    assert (kept.run_id, kept.attempt) == (run.id, attempt(1))


def test_what_is_there_is_not_forgotten(one: Process) -> None:
    claim(one, intent(1))
    record(one, Record(target=write(1, TargetState.INCOMPLETE, done={"lead": "900"}, remote_id="900", remote_url="u")))
    claim(one, intent(1, 2, step="note"))
    record(one, Record(target=write(1, TargetState.INCOMPLETE, error_code="incomplete")))
    assert (row(one).done, row(one).remote_id, row(one).remote_url) == ({"lead": "900"}, "900", "u")


def test_a_delivery_of_a_run_has_one_final_outcome(one: Process) -> None:
    run = one.store.new_run("resend", "d", now=NOW)
    one.store.add_items(run.id, [ItemRow(1, 1, "amocrm", 7)])
    for outcome in (Outcome.UNKNOWN, Outcome.DELIVERED):
        asyncio.run(one.writer.record(run.id, [Record(item=item(1, outcome))]))
    assert one.store.outcome_counts(run.id) == {("amocrm", Outcome.UNKNOWN): 1}


@pytest.mark.parametrize(
    "wrong",
    [
        Record(target=write(2)),
        Record(target=write(1, destination="email:ff")),
        Record(target=write(1, TargetState.SENDING)),
    ],
)
def test_an_outcome_for_what_is_not_ours_is_a_bug(one: Process, wrong: Record) -> None:
    claim(one, intent(1))
    before = row(one)
    with pytest.raises(LeadctlError) as caught:
        record(one, Record(attempt(1)), Record(target=write(1)), wrong)
    assert caught.value.exit_code == 70
    assert row(one) == before
    assert one.store.attempts_for(1) == []


def test_an_outcome_for_anothers_row_is_a_bug(one: Process, other: Process) -> None:
    claim(one, intent(1))
    with pytest.raises(LeadctlError, match="not held by this process"):
        record(other, delivered(1))
    record(one, delivered(1))
    with pytest.raises(LeadctlError, match="delivered cannot become failed"):
        record(one, Record(target=write(1, TargetState.FAILED)))


def test_a_bug_of_one_call_does_not_touch_the_others_of_its_group(one: Process) -> None:
    async def together() -> list[Any]:
        await one.writer.claim(RUN, [intent(1)])
        calls = [one.writer.record(RUN, [delivered(lead_id)]) for lead_id in (2, 1, 3)]
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(together())
    assert [type(result) for result in results] == [LeadctlError, type(None), LeadctlError]
    assert row(one).state is TargetState.DELIVERED


def test_answers_are_kept_without_secrets_and_people(leads: Path) -> None:
    answer = '{"token": "tok-9f8e7d6c", "email": "anna@example.com", "phone": "+7 900 000-00-01"}\r\n' + "x\ud83d" * 400
    with process(leads, Secrets(["tok-9f8e7d6c"])) as one:
        claim(one, intent(1))
        record(
            one,
            Record(
                attempt(1, answer=answer, vendor_code="4\x0000"),
                write(1, TargetState.FAILED, error_message="token tok-9f8e7d6c is\nwrong"),
                item(1, Outcome.FAILED, error_message="token tok-9f8e7d6c is wrong"),
            ),
        )
        kept = one.store.attempts_for(1)[0].attempt
        assert one.store.path is not None
        everything = b"".join(path.read_bytes() for path in leads.parent.glob("*.leadctl.db*"))
    assert len(kept.answer) == 300
    assert kept.answer.startswith('{"token": "***", "email": "***", "phone": "***"} x')
    assert kept.vendor_code == "400"
    assert b"tok-9f8e7d6c" not in everything
    assert b"anna@" not in everything
