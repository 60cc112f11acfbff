"""``runs purge``: what is forgotten, in which order, and what never is."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import DatabaseUnreachable
from leadctl.domain.model import LeadId
from leadctl.domain.outcomes import Outcome, RunStatus, TargetState
from leadctl.domain.ports import Record
from leadctl.services.bootstrap import App, open_app
from leadctl.services.purging import purge
from leadctl.settings import LoadedSettings
from leadctl.store import purge as purging
from leadctl.store.purge import PurgeTables
from leadctl.store.rows import ItemRow
from leadctl.store.settling import AdoptRow
from leadctl.store.writer import LedgerWriter
from tests.store.helpers import DESTINATION, NOW, Place, attempt, intent, on_sqlite, settings_for, write
from tests.support.schemas import validate

SAID = "canary-4711: the lead was refused"
DAY = timedelta(days=1)
TABLES = ("leadctl_runs", "leadctl_run_leads", "leadctl_deliveries", "leadctl_attempts", "leadctl_targets")


@pytest.fixture
def app(place: Place) -> Iterator[App]:
    with open_app(LoadedSettings(settings_for(place), None), create_ledger=True) as app:
        yield app


@pytest.fixture
def ledger_file(app: App) -> Path:
    assert app.ledger.path is not None
    return app.ledger.path


async def _attempted(app: App, run_id: str, lead_id: LeadId, at: datetime) -> None:
    writer = LedgerWriter(app.ledger, app.leases, "holder-1")
    try:
        await writer.claim(run_id, [intent(lead_id, first_at=at, sent_at=at)])
        said = attempt(lead_id, started_at=at, ended_at=at, outcome="rejected", answer=SAID)
        await writer.record(run_id, [Record(said, write(lead_id, TargetState.REJECTED))])
    finally:
        writer.close()


def make_run(app: App, at: datetime, status: RunStatus, *leads: LeadId, superseded: bool = False) -> str:
    """A run that sent these leads, and was finished an hour later."""
    run = app.ledger.new_run("bulk-resend", f"d{at}", now=at)
    app.ledger.add_leads(run.id, [(seq, lead_id, "planned") for seq, lead_id in enumerate(leads)])
    items = [ItemRow(seq, lead_id, "amocrm", 7, destination=DESTINATION, outcome=Outcome.REJECTED)
             for seq, lead_id in enumerate(leads)]  # fmt: skip
    app.ledger.add_items(run.id, items)
    for lead_id in leads:
        asyncio.run(_attempted(app, run.id, lead_id, at))
    if superseded:
        app.ledger.supersede_run(run.id, "a-later-run", at + timedelta(hours=1))
    elif status is not RunStatus.RUNNING:
        app.ledger.finish_run(run.id, status, 0, at + timedelta(hours=1))
    return run.id


def counts(place: Place) -> dict[str, int]:
    return {table: place.rows(f"SELECT COUNT(*) FROM {table}")[0][0] for table in TABLES}


def answers(place: Place) -> list[str]:
    return [row[0] for row in place.rows("SELECT answer FROM leadctl_attempts ORDER BY id")]


@pytest.mark.parametrize("status", [RunStatus.OK, RunStatus.NOTHING, RunStatus.PARTIAL])
def test_a_finished_run_is_forgotten_and_its_proof_stays(app: App, place: Place, status: RunStatus) -> None:
    make_run(app, NOW - 10 * DAY, status, 1, 2)
    kept = make_run(app, NOW - 2 * DAY, status, 3)
    document = purge(app, NOW - 5 * DAY)
    validate(document)
    assert {name: document[name] for name in ("answers", "attempts", "deliveries", "runs")} == {
        "answers": 2, "attempts": 2, "deliveries": 2, "runs": 1
    }  # fmt: skip
    assert counts(place) == {
        "leadctl_runs": 1, "leadctl_run_leads": 1, "leadctl_deliveries": 1, "leadctl_attempts": 1, "leadctl_targets": 3
    }  # fmt: skip
    assert [run.id for run in app.ledger.list_runs()] == [kept]
    assert answers(place) == [SAID]
    assert {target.state for rows in app.ledger.targets_for([1, 2, 3]).values() for target in rows} == {
        TargetState.REJECTED
    }
    assert purge(app, NOW - 5 * DAY)["runs"] == 0


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.INTERRUPTED, RunStatus.STOPPED])
def test_of_an_unfinished_run_only_the_answers_go(app: App, place: Place, status: RunStatus) -> None:
    run_id = make_run(app, NOW - 10 * DAY, status, 1, 2)
    before = counts(place)
    document = purge(app, NOW)
    assert (document["answers"], document["attempts"], document["deliveries"], document["runs"]) == (2, 0, 0, 0)
    assert counts(place) == before
    assert answers(place) == ["", ""]
    assert [lead for page in app.ledger.run_lead_ids(run_id) for lead in page] == [1, 2]


def test_a_run_that_was_taken_over_is_finished_unless_it_goes_on_after_all(app: App, place: Place) -> None:
    first = make_run(app, NOW - 10 * DAY, RunStatus.STOPPED, 1, superseded=True)
    app.ledger.touch_run(first, "here", 1, NOW - 9 * DAY)
    assert purge(app, NOW)["runs"] == 0
    app.ledger.finish_run(first, RunStatus.OK, 0, NOW - 9 * DAY)
    make_run(app, NOW - 10 * DAY, RunStatus.STOPPED, 2, superseded=True)
    assert purge(app, NOW)["runs"] == 2
    assert counts(place)["leadctl_targets"] == 2


def test_a_run_that_began_before_and_ended_after_stays(app: App) -> None:
    make_run(app, NOW - 10 * DAY, RunStatus.OK, 1)
    assert purge(app, NOW - 10 * DAY + timedelta(minutes=30))["runs"] == 0
    assert purge(app, NOW - 10 * DAY + timedelta(hours=1))["runs"] == 0
    assert purge(app, NOW - 10 * DAY + timedelta(hours=2))["runs"] == 1


def test_what_an_operator_said_goes_with_its_age(app: App, place: Place) -> None:
    rows = [AdoptRow(lead_id, DESTINATION, 7, "amocrm", "amocrm:aa", f"k{lead_id}") for lead_id in (1, 2)]
    app.ledger.adopt(rows[:1], SAID, NOW - 10 * DAY)
    app.ledger.adopt(rows[1:], SAID, NOW - DAY)
    document = purge(app, NOW - 5 * DAY)
    assert (document["answers"], document["attempts"]) == (1, 1)
    assert answers(place) == [SAID]
    assert {rows[0].state for rows in app.ledger.targets_for([1, 2]).values()} == {TargetState.DELIVERED}


def test_another_source_of_the_same_ledger_is_left_alone(app: App, place: Place) -> None:
    settings = settings_for(place, name="other")
    with open_app(LoadedSettings(settings, None), create_ledger=True) as other:
        make_run(other, NOW - 10 * DAY, RunStatus.OK, 1)
    before = counts(place)
    assert purge(app, NOW)["answers"] == 0
    assert counts(place) == before
    assert answers(place) == [SAID]


def test_in_small_transactions(app: App, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "CHUNK", 3)
    leads = list(range(1, 11))
    make_run(app, NOW - 10 * DAY, RunStatus.OK, *leads)
    most: list[int] = []
    forget = PurgeTables._forget

    def watched(tables: PurgeTables, change: Any) -> int:
        most.append(forget(tables, change))
        return most[-1]

    monkeypatch.setattr(PurgeTables, "_forget", watched)
    document = purge(app, NOW)
    assert (document["answers"], document["attempts"], document["deliveries"], document["runs"]) == (10, 10, 10, 1)
    assert max(most) == 3
    assert counts(place) == dict.fromkeys(TABLES, 0) | {"leadctl_targets": 10}


def test_interrupted_anywhere_answers_are_first_and_the_same_purge_goes_on(
    app: App, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(app, NOW - 10 * DAY, RunStatus.OK, 1, 2, 3)
    forget = PurgeTables._forget
    left = 0

    def interrupted(tables: PurgeTables, change: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise DatabaseUnreachable("cut")
        return forget(tables, change)

    monkeypatch.setattr(PurgeTables, "_forget", interrupted)
    for _ in ("answers", "attempts", "deliveries", "leads"):
        left = 1
        with pytest.raises(DatabaseUnreachable):
            purge(app, NOW)
        assert set(answers(place)) <= {""}
        assert len(app.ledger.list_runs()) == 1  # the run's row is the last to go
    left = 1
    assert purge(app, NOW)["runs"] == 1
    assert counts(place) == dict.fromkeys(TABLES, 0) | {"leadctl_targets": 3}


@on_sqlite
def test_nothing_of_an_answer_is_left_in_the_file(app: App, ledger_file: Path) -> None:
    """A deleted row's bytes stay in SQLite's pages, and its log keeps them too, unless they are overwritten."""
    make_run(app, NOW - 10 * DAY, RunStatus.STOPPED, 1, 2)
    make_run(app, NOW - 10 * DAY, RunStatus.OK, 3)
    files = [path for name in ("", "-wal") if (path := ledger_file.with_name(ledger_file.name + name)).exists()]
    assert any(SAID.encode() in path.read_bytes() for path in files)
    purge(app, NOW)
    assert not any(SAID.encode() in path.read_bytes() for path in files)


@on_sqlite
def test_a_reader_beside_does_not_stop_it(app: App, ledger_file: Path) -> None:
    make_run(app, NOW - 10 * DAY, RunStatus.OK, 1)
    with closing(sqlite3.connect(ledger_file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM leadctl_attempts").fetchall()
        assert purge(app, NOW)["runs"] == 1


def test_the_number_of_runs_does_not_fall(app: App, place: Place) -> None:
    """Else a ledger would look restored after a purge."""
    make_run(app, NOW - 10 * DAY, RunStatus.OK, 1)
    purge(app, NOW)
    with open_app(LoadedSettings(settings_for(place), None)) as later:
        assert later.ledger.restored_at is None


def test_without_a_ledger_there_is_nothing_to_forget(leads: Path) -> None:
    with open_app(LoadedSettings(settings_for(leads), None)) as app:
        document = purge(app, NOW)
        validate(document)
        assert document == {
            "schema": "leadctl.purge/1", "before": "2026-03-01T10:00:00.000Z",
            "answers": 0, "attempts": 0, "deliveries": 0, "runs": 0,
        }  # fmt: skip
        assert app.ledger.path is not None
        assert not app.ledger.path.exists()
