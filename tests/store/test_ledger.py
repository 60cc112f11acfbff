"""The ledger: where it is, what a run leaves in it, and what a person may say."""

import asyncio
import itertools
import random
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError
from leadctl.domain.model import CredentialId, LeadId
from leadctl.domain.outcomes import ErrorCode, Outcome, RunStatus, SettledBy, TargetState
from leadctl.store import engines
from leadctl.store.database import Database
from leadctl.store.leads import Standing
from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import ItemRow, RunRow
from leadctl.store.settling import AdoptRow
from tests.store.helpers import (
    DESTINATION,
    NOW,
    Place,
    execute,
    intent,
    make_target,
    on_sqlite,
    opened,
    opened_ledger,
    powerless,
    process,
    sample,
    settings_for,
)

# --- its place -------------------------------------------------------------------------------------------------


@on_sqlite
def test_beside_the_leads_by_default(leads: Path, store: LedgerStore) -> None:
    assert store.path == leads.with_name("leads.db.leadctl.db")
    assert store.location == str(store.path)
    assert store.source == "main"
    assert store.exists
    assert execute(leads, "SELECT name FROM sqlite_master WHERE name LIKE 'leadctl%'") == []


@on_sqlite
def test_every_commit_is_on_disk(store: LedgerStore) -> None:
    with store.writing.begin() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000}


def test_the_installation_is_made_once(place: Place, store: LedgerStore) -> None:
    assert len(store.installation) == 6
    assert store.installation.isalnum()
    assert store.installation == store.installation.lower()
    for create in (True, False):
        with opened_ledger(place, create=create) as again:
            assert again.installation == store.installation


def test_those_who_may_read_the_leads_may_read_the_ledger(tmp_path: Path) -> None:
    leads = sample(tmp_path / "leads.db")
    assert leads.stat().st_mode & 0o777 == 0o600
    with opened_ledger(leads) as store:
        assert store.path is not None
        assert store.path.stat().st_mode & 0o777 == 0o600


def test_without_a_ledger_nothing_is_known_and_nothing_is_made(leads: Path) -> None:
    before = sorted(leads.parent.iterdir())
    with opened_ledger(leads, create=False) as store:
        assert not store.exists
        assert store.installation == ""
        assert not store.has_any_proof()
        assert store.targets_for([1, 2]) == {}
        assert store.overrides() == {}
        assert store.run("x") is None
        assert store.list_runs() == []
        assert store.find_unfinished("d", "resend") is None
        assert list(store.run_lead_ids("x")) == []
        assert list(store.iter_items("x")) == []
        assert store.outcome_counts("x") == {}
        assert store.dispatched_count("x") == 0
        assert store.group_errors("x") == []
        assert store.attempts_for(1) == []
        assert store.history(1).items == ()
        with pytest.raises(LeadctlError, match="reading only"):
            store.new_run("resend", "d", now=NOW)
    assert sorted(leads.parent.iterdir()) == before


def test_an_existing_ledger_is_read_without_the_right_to_write(place: Place) -> None:
    with process(place) as one:
        asyncio.run(one.writer.claim("r", [intent(1)]))
    with opened_ledger(place, create=False) as store:
        assert store.exists
        assert store.targets_for([1])[1][0].state is TargetState.SENDING
        with pytest.raises(LeadctlError, match="reading only"):
            store.keep_override(7, "chat_id", 1, NOW)


def test_where_the_config_says(leads: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "ledger" / "l.db"
    with pytest.raises(ConfigError, match="cannot be written"), opened_ledger(leads, ledger=f"sqlite:///{elsewhere}"):
        pass
    elsewhere.parent.mkdir()
    with opened_ledger(leads, ledger=f"sqlite:///{elsewhere}") as store:
        assert store.path == elsewhere
    assert elsewhere.exists()
    assert not leads.with_name("leads.db.leadctl.db").exists()


def test_in_the_leads_own_file_the_journal_mode_is_kept(leads: Path) -> None:
    with opened_ledger(leads, ledger=f"sqlite:///{leads}") as store:
        store.new_run("resend", "d", now=NOW)
        assert execute(leads, "PRAGMA journal_mode") == [("delete",)]


def test_two_sources_share_a_ledger_and_know_nothing_of_each_other(leads: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    row = AdoptRow(1, DESTINATION, 7, "amocrm", "a", "lc-x-1-7")
    with (
        opened_ledger(leads, ledger=url, name="one") as one,
        opened_ledger(leads, ledger=url, name="two") as two,
    ):
        assert one.installation == two.installation
        assert one.adopt([row], "seen", NOW) == 1
        one.keep_override(7, "chat_id", 1, NOW)
        one.new_run("resend", "d", now=NOW)
        assert one.has_any_proof()
        assert not two.has_any_proof()
        assert two.targets_for([1]) == {}
        assert two.overrides() == {}
        assert two.list_runs() == []
        assert two.find_unfinished("d", "resend") is None
        assert two.attempts_for(1) == []
        assert two.adopt([row], "seen", NOW) == 1


def test_a_ledger_of_a_newer_leadctl(place: Place, store: LedgerStore) -> None:
    place.rows("UPDATE leadctl_meta SET value = '99' WHERE value = '1'")
    for create in (True, False):
        with pytest.raises(ConfigError, match="newer leadctl") as caught, opened_ledger(place, create=create):
            pass
        assert caught.value.hint == "upgrade leadctl"


def test_a_file_that_is_no_ledger(leads: Path) -> None:
    leads.with_name("leads.db.leadctl.db").write_text("nothing of the kind " * 100)
    for create in (True, False):
        with pytest.raises(ConfigError, match="not a sound SQLite database"), opened_ledger(leads, create=create):
            pass


@pytest.mark.parametrize("made", [True, False])
def test_a_directory_that_may_only_be_read(public_directory: Path, made: bool) -> None:
    leads = sample(public_directory / "leads.db")
    leads.chmod(0o644)
    if made:
        with opened_ledger(leads):
            pass
    public_directory.chmod(0o555)
    settings = settings_for(leads)
    with closing(Database.open(settings.database)) as db:
        with powerless(), pytest.raises(ConfigError, match="cannot be written") as caught:
            LedgerStore.open(settings, db, create=True)
        assert caught.value.exit_code == 2


def test_a_server_that_does_not_answer(leads: Path) -> None:
    url = "postgresql://anna:hunter22@127.0.0.1:1/crm"
    for create in (True, False):
        with pytest.raises(DatabaseUnreachable) as caught, opened_ledger(leads, create=create, ledger=url):
            pass
        assert "hunter22" not in caught.value.message


def test_many_open_a_new_ledger_at_once(place: Place) -> None:
    async def race() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(open_once) for _ in range(6)))

    def open_once() -> str:
        with opened_ledger(place) as store:
            return store.installation

    assert len(set(asyncio.run(race()))) == 1


# --- runs ------------------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_written(store: LedgerStore) -> None:
    options = {"ids": [1, "a"], "channels": ["email"], "reason": "ж", "nested": {"since": None}}
    due = NOW + timedelta(seconds=30)
    run = store.new_run(
        "bulk-resend", "d", now=NOW, options=options, due_at=due, total_count=5, filtered_count=1, reason="new price"
    )
    assert store.run(run.id) == run
    assert run.status is RunStatus.RUNNING
    assert run.id.startswith("20260301-100000-")
    assert store.run("nothing") is None


def test_the_life_of_a_run(store: LedgerStore, run: RunRow) -> None:
    store.set_due(run.id, NOW + timedelta(minutes=1))
    store.set_counts(run.id, 10, 2)
    store.finish_run(run.id, RunStatus.STOPPED, 5, NOW + timedelta(minutes=2), "SIGTERM")
    stopped = store.run(run.id)
    assert stopped is not None
    assert (stopped.status, stopped.exit_code, stopped.reason) == (RunStatus.STOPPED, 5, "SIGTERM")
    assert (stopped.total_count, stopped.filtered_count) == (10, 2)
    assert stopped.due_at == NOW + timedelta(minutes=1)
    store.touch_run(run.id, "other-host", 77, NOW + timedelta(hours=1))
    taken = store.run(run.id)
    assert taken == replace(
        stopped, status=RunStatus.RUNNING, host="other-host", pid=77, counter=1, exit_code=None, finished_at=None,
        taken_at=NOW + timedelta(hours=1),
    )  # fmt: skip


def test_unfinished_runs(store: LedgerStore) -> None:
    runs = {
        status: store.new_run("bulk-resend", f"d-{status}", now=NOW + timedelta(seconds=number))
        for number, status in enumerate(RunStatus)
    }
    for status, run in runs.items():
        store.finish_run(run.id, status, 0, NOW)
    unfinished = [RunStatus.INTERRUPTED, RunStatus.RUNNING, RunStatus.STOPPED]
    assert sorted(row.status for row in store.list_runs(unfinished=True)) == unfinished
    assert [row.id for row in store.list_runs(limit=2)] == [
        run.id for run in sorted(runs.values(), key=lambda run: run.started_at, reverse=True)[:2]
    ]
    for status in RunStatus:
        found = store.find_unfinished(f"d-{status}", "bulk-resend")
        assert (found is not None) == (status in unfinished)
    assert store.find_unfinished(f"d-{RunStatus.RUNNING}", "resend") is None


def test_the_latest_unfinished_run_is_found(store: LedgerStore) -> None:
    store.new_run("resend", "d", now=NOW)
    later = store.new_run("resend", "d", now=NOW + timedelta(seconds=1))
    assert store.find_unfinished("d", "resend") == later


# --- the deliveries of a run -----------------------------------------------------------------------------------


def planned(seq: int, credential_id: CredentialId = 7, outcome: Outcome = Outcome.PENDING, **changes: Any) -> ItemRow:
    return replace(
        ItemRow(seq, seq * 10, "amocrm", credential_id, "Main", DESTINATION, outcome=outcome, target="acme.amocrm.ru"),
        **changes,
    )


def test_items_come_back_as_they_were_written(store: LedgerStore, run: RunRow) -> None:
    rows = [
        planned(1),
        planned(2, "file:0123456789ab", Outcome.ALREADY_DELIVERED, remote_id="77", remote_url="https://x", n=2,
                settled_by=SettledBy.OPERATOR, finished_at=NOW),
        planned(3, 8, Outcome.SKIPPED, lead_id="lead-3", reason="invalid_lead", detail="no e-mail", destination=""),
        planned(4, 8, Outcome.REJECTED, error_code="vendor_rejected", error_message="плохо", vendor_code="400"),
    ]  # fmt: skip
    store.add_items(run.id, rows)
    assert list(store.iter_items(run.id)) == rows
    assert list(store.iter_items(run.id, [Outcome.SKIPPED, Outcome.REJECTED])) == rows[2:]


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_items_in_pages_in_the_order_of_leads(store: LedgerStore, run: RunRow, page: int) -> None:
    pairs: list[tuple[int, CredentialId]] = [(seq, credential) for seq in range(20) for credential in (7, 10, "b")]
    shuffled = random.Random(2).sample(pairs, len(pairs))
    store.add_items(run.id, [planned(seq, credential) for seq, credential in shuffled])
    found = [(row.seq, row.credential_id) for row in store.iter_items(run.id, page=page)]
    assert sorted(found, key=str) == sorted(pairs, key=str)
    assert [seq for seq, _ in found] == sorted(seq for seq, _ in pairs)


def test_pending_items_by_credential(store: LedgerStore, run: RunRow) -> None:
    store.add_items(run.id, [planned(seq) for seq in range(1, 6)])
    store.add_items(run.id, [planned(seq, "b", Outcome.SKIPPED if seq == 2 else Outcome.PENDING) for seq in (2, 4)])
    assert store.pending_credentials(run.id) == [(7, "amocrm", 5), ("b", "amocrm", 1)]
    assert [row.seq for row in store.pending_items(run.id, 7, None, 2)] == [1, 2]
    assert [row.seq for row in store.pending_items(run.id, 7, 2, 10)] == [3, 4, 5]
    assert [row.seq for row in store.pending_items(run.id, "b", None, 10)] == [4]
    assert store.pending_items(run.id, 99, None, 10) == []


def test_leads_of_a_run_in_the_order_given(store: LedgerStore, run: RunRow) -> None:
    ids: list[LeadId] = [5, "a", 3, "007", 4]
    standings: tuple[Standing, ...] = ("planned", "not_found", "planned", "filtered", "planned")
    store.add_leads(run.id, [(seq, *pair) for seq, pair in enumerate(zip(ids, standings, strict=True))])
    assert list(store.run_lead_ids(run.id, 2)) == [[5, "a"], [3, "007"], [4]]
    assert list(store.run_lead_ids(run.id, standing="not_found")) == [["a"]]
    assert store.lead_counts(run.id) == {"planned": 3, "not_found": 1, "filtered": 1}


def test_more_than_ten_thousand_of_everything(store: LedgerStore, run: RunRow) -> None:
    count = 10_001
    store.add_leads(run.id, [(seq, seq, "planned") for seq in range(count)])
    store.add_items(run.id, [planned(seq, lead_id=seq) for seq in range(count)])
    assert [identity for page in store.run_lead_ids(run.id) for identity in page] == list(range(count))
    assert sum(1 for _ in store.iter_items(run.id)) == count
    assert store.outcome_counts(run.id) == {("amocrm", Outcome.PENDING): count}
    rows = [AdoptRow(seq, DESTINATION, 7, "amocrm", "a", f"k{seq}") for seq in range(count)]
    assert store.adopt(rows, "seen", NOW) == count
    assert len(store.targets_for(list(range(count)))) == count


def test_the_sums_add_up(store: LedgerStore, run: RunRow) -> None:
    """Whatever the outcomes are: every delivery is counted once, by every way of counting."""
    dice = random.Random(3)
    rows = [
        planned(seq, credential, dice.choice(list(Outcome)), channel="email" if credential == 8 else "amocrm")
        for seq, credential in itertools.product(range(200), (7, 8, 9))
    ]
    store.add_items(run.id, rows)
    counts = store.outcome_counts(run.id)
    assert counts == Counter((row.channel, row.outcome) for row in rows)
    assert sum(counts.values()) == len(rows) == sum(1 for _ in store.iter_items(run.id))
    by_outcome = [sum(1 for _ in store.iter_items(run.id, [outcome])) for outcome in Outcome]
    assert sum(by_outcome) == len(rows)
    waiting = sum(number for _, _, number in store.pending_credentials(run.id))
    assert waiting == sum(row.outcome is Outcome.PENDING for row in rows)
    dispatched = {
        row.lead_id
        for row in rows
        if row.outcome in (Outcome.DELIVERED, Outcome.ALREADY_DELIVERED, Outcome.REJECTED, Outcome.UNKNOWN)
    }
    assert store.dispatched_count(run.id) == len(dispatched)
    closed = store.close_pending(run.id, Outcome.UNPROCESSED, ErrorCode.RUN_STOPPED, "stopped", 7, at=NOW)
    closed += store.close_pending(run.id, Outcome.UNPROCESSED, ErrorCode.RUN_STOPPED, "stopped", at=NOW)
    assert closed == waiting
    after = store.outcome_counts(run.id)
    assert sum(after.values()) == len(rows)
    assert all(outcome is not Outcome.PENDING for _, outcome in after)
    assert sum(group.count for group in store.group_errors(run.id)) == waiting


def test_errors_are_grouped(store: LedgerStore, run: RunRow) -> None:
    failed = {"error_code": "vendor_rejected", "vendor_code": "400"}
    store.add_items(
        run.id,
        [
            planned(3, 7, Outcome.REJECTED, error_message="third", **failed),
            planned(2, 7, Outcome.REJECTED, error_message="second", **failed),
            planned(4, 8, Outcome.REJECTED, error_message="fourth", **failed),
            planned(5, 7, Outcome.UNKNOWN, error_code="maybe_delivered"),
            planned(6, 7, Outcome.DELIVERED),
        ],
    )
    groups = store.group_errors(run.id)
    assert [(g.credential_id, g.error_code, g.vendor_code, g.count, g.first_lead, g.message) for g in groups] == [
        (7, "vendor_rejected", "400", 2, 20, "second"),
        (7, "maybe_delivered", None, 1, 50, None),
        (8, "vendor_rejected", "400", 1, 40, "fourth"),
    ]


def test_a_plan_is_cleared_only_while_the_run_is_unfinished(store: LedgerStore, run: RunRow) -> None:
    other = store.new_run("resend", "d", now=NOW)
    for identity in (run.id, other.id):
        store.add_leads(identity, [(1, 10, "planned")])
        store.add_items(identity, [planned(1)])
    store.finish_run(run.id, RunStatus.STOPPED, 5, NOW)
    store.clear_items(run.id)
    assert list(store.iter_items(run.id)) == []
    assert store.lead_counts(run.id) == {}
    assert len(list(store.iter_items(other.id))) == 1
    store.finish_run(other.id, RunStatus.OK, 0, NOW)
    for identity in (other.id, "no-such-run"):
        with pytest.raises(ConfigError, match="is finished"):
            store.clear_items(identity)
    assert len(list(store.iter_items(other.id))) == 1


def test_texts_from_outside_fit(store: LedgerStore, run: RunRow) -> None:
    store.add_items(run.id, [planned(1, detail="a\x00b\ud83d", remote_id="x" * 5000, target="👍")])
    (row,) = store.iter_items(run.id)
    assert (row.detail, row.remote_id, row.target) == ("ab?", "x" * 2000, "👍")


def test_the_life_of_a_lead(place: Place) -> None:
    with process(place) as one:
        first = one.store.new_run("resend", "d", now=NOW)
        second = one.store.new_run("resend", "d", now=NOW + timedelta(minutes=1))
        one.store.add_items(second.id, [planned(1, lead_id=1, outcome=Outcome.UNKNOWN)])
        one.store.add_items(first.id, [planned(1, lead_id=1), planned(2, lead_id=2)])
        make_target(one, 1, TargetState.FAILED)
        history = one.store.history(1)
    assert [target.state for target in history.targets] == [TargetState.FAILED]
    assert [row.attempt.outcome for row in history.attempts] == ["done"]
    assert [(run_id, row.outcome) for run_id, row in history.items] == [
        (first.id, Outcome.PENDING),
        (second.id, Outcome.UNKNOWN),
    ]


def test_proof_is_what_was_delivered(leads: Path) -> None:
    proven = (TargetState.DELIVERED, TargetState.INCOMPLETE)
    for state in TargetState:
        path = sample(leads.with_name(f"{state}.db"))
        with process(path) as one:
            assert not one.store.has_any_proof()
            make_target(one, 1, state)
            assert one.store.has_any_proof() == (state in proven)


@on_sqlite
def test_the_database_behind_may_be_gone(
    leads: Path, store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.1)
    assert store.path is not None
    store.close()
    for name in ("", "-wal", "-shm"):
        store.path.with_name(store.path.name + name).unlink(missing_ok=True)
    with pytest.raises(DatabaseUnreachable) as caught:
        store.new_run("resend", "d", now=NOW)
    assert caught.value.exit_code == 5
    with opened(leads), opened_ledger(leads) as made_anew:
        assert made_anew.exists
