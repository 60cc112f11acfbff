"""Real SQLite files with leads, and a ledger beside them or on a server."""

import asyncio
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.masking import Secrets
from leadctl.domain.model import LeadId, Target
from leadctl.domain.outcomes import Outcome, TargetState
from leadctl.domain.ports import (
    AttemptRecord,
    Claim,
    Granted,
    Intent,
    ItemOutcome,
    Observer,
    Record,
    Refusal,
    TargetWrite,
)
from leadctl.settings import DatabaseSettings, LedgerSettings, Settings
from leadctl.store.database import Database
from leadctl.store.leases import FileLeases, ServerLeases, open_leases
from leadctl.store.ledger import LedgerStore
from leadctl.store.sample import create_tables
from leadctl.store.writer import LedgerWriter
from tests.support import servers

NOW = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
DESTINATION = "amocrm:0123456789abcdef01234567"
NOBODY = 65534
RUN = "run-1"


def sample(path: Path) -> Path:
    """A new file with the four tables."""
    assert create_tables(f"sqlite:///{path}")
    return path


@dataclass(frozen=True)
class Place:
    """Leads in a SQLite file; their ledger is beside it, or at that URL of a server."""

    leads: Path
    ledger: str | None = None

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Of the ledger, seen from outside."""
        if self.ledger is None:
            return execute(Path(f"{self.leads}.leadctl.db"), sql)
        return servers.query(self.ledger, sql)


def _place(place: Path | Place) -> Place:
    return place if isinstance(place, Place) else Place(place)


def execute(path: Path, statement: str, rows: Sequence[Sequence[Any]] | None = None) -> list[Any]:
    """SQL from outside, as the application would do it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        if rows is None:
            return connection.execute(statement).fetchall()
        connection.executemany(statement, rows)
        return []


def settings_for(place: Path | Place, ledger: str | None = None, **database: Any) -> Settings:
    there = _place(place)
    return Settings(
        database=DatabaseSettings(url=f"sqlite:///{there.leads}", **database),
        ledger=LedgerSettings(url=ledger or there.ledger),
    )


@contextmanager
def opened(place: Path | Place, **database: Any) -> Iterator[Database]:
    db = Database.open(settings_for(place, **database).database)
    try:
        yield db
    finally:
        db.close()


@contextmanager
def opened_ledger(
    place: Path | Place, *, create: bool = True, ledger: str | None = None, **database: Any
) -> Iterator[LedgerStore]:
    """The ledger of these leads."""
    settings = settings_for(place, ledger, **database)
    with opened(place, **database) as db:
        store = LedgerStore.open(settings, db, create=create)
        try:
            yield store
        finally:
            store.close()


@dataclass
class Process:
    """What one process of leadctl has of the ledger."""

    store: LedgerStore
    leases: FileLeases | ServerLeases
    holder: str
    writer: LedgerWriter


@contextmanager
def process(place: Path | Place, secrets: Secrets | None = None, observer: Observer | None = None) -> Iterator[Process]:
    """As another process: a holder, a writer and connections of its own."""
    with opened_ledger(place) as store:
        leases = open_leases(store)
        holder = leases.open_holder()
        writer = LedgerWriter(store, leases, holder, secrets=secrets, observer=observer)
        try:
            yield Process(store, leases, holder, writer)
        finally:
            writer.close()
            leases.close()


#: For what is about SQLite's files.
on_sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


def intent(lead_id: LeadId = 1, rev: int | None = None, **changes: Any) -> Intent:
    values: dict[str, Any] = {
        "lead_id": lead_id, "destination": DESTINATION, "n": 0, "rev": rev, "key": f"lc-abc234-{lead_id}-7",
        "credential_id": 7, "channel": "amocrm", "account": "amocrm:aa", "step": "lead", "first_at": NOW,
        "sent_at": NOW, "context": {"highest": "12"},
    }  # fmt: skip
    return Intent(**{**values, **changes})


def attempt(lead_id: LeadId = 1, **changes: Any) -> AttemptRecord:
    values: dict[str, Any] = {
        "lead_id": lead_id, "destination": DESTINATION, "n": 0, "credential_id": 7, "channel": "amocrm",
        "step": "lead", "trigger": "first", "started_at": NOW, "ended_at": NOW, "outcome": "done", "http_status": 200,
    }  # fmt: skip
    return AttemptRecord(**{**values, **changes})


def write(lead_id: LeadId = 1, state: TargetState = TargetState.DELIVERED, **changes: Any) -> TargetWrite:
    return TargetWrite(**{"lead_id": lead_id, "destination": DESTINATION, "n": 0, "state": state, **changes})


def item(lead_id: LeadId = 1, outcome: Outcome = Outcome.DELIVERED, **changes: Any) -> ItemOutcome:
    return ItemOutcome(**{"lead_id": lead_id, "credential_id": 7, "outcome": outcome, "attempts": 1, **changes})


def delivered(lead_id: LeadId = 1, remote_id: str = "900") -> Record:
    return Record(attempt(lead_id), write(lead_id, remote_id=remote_id), item(lead_id, remote_id=remote_id))


@contextmanager
def powerless() -> Iterator[None]:
    """Without root's right to pass over file modes."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def claim(who: Process, *intents: Intent) -> list[Claim]:
    return list(asyncio.run(who.writer.claim(RUN, intents)))


def record(who: Process, *records: Record) -> None:
    asyncio.run(who.writer.record(RUN, records))


def row(who: Process, lead_id: LeadId = 1) -> Target:
    return who.store.targets_for([lead_id])[lead_id][0]


def granted(answer: Claim) -> Target:
    assert isinstance(answer, Granted)
    return answer.target


def refused(answer: Claim) -> Refusal:
    assert isinstance(answer, Refusal)
    return answer


def make_target(one: Process, lead_id: LeadId, state: TargetState) -> Target:
    """A row in that state, after a claim by ``one``."""
    claim(one, intent(lead_id))
    if state is not TargetState.SENDING:
        target = write(lead_id, state, done={"lead": "900"}, remote_id="900", digest="d", error_code="x")
        record(one, Record(attempt(lead_id), target, item(lead_id)))
    return row(one, lead_id)
