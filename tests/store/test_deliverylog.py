"""The application's own log of what it has sent, as proof: whatever its columns are called and typed."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import LeadId
from leadctl.settings.mapping import MappingSettings
from leadctl.store.deliverylog import DeliveryLog, LoggedRow
from tests.store.helpers import execute, opened

LOG = (
    "CREATE TABLE app_lead_logs (lead {lead}, integration {credential}, kind TEXT, state {state}, sent_on {at}, "
    "remote TEXT, deleted_at TEXT)"
)
MAPPED = {
    "table": "lead_logs", "lead_id": "lead", "credential_id": "integration", "type": "kind", "status": "state",
    "delivered": ["sent"], "at": "sent_on", "remote_id": "remote",
}  # fmt: skip
NINE = datetime(2026, 11, 24, 9, tzinfo=UTC)


def make(leads: Path, *rows: tuple[Any, ...], lead: str = "INTEGER", credential: str = "INTEGER",
         state: str = "TEXT", at: str = "TEXT") -> None:  # fmt: skip
    """The log with these rows: lead, credential, kind, state, time, remote id, deletion."""
    execute(leads, LOG.format(lead=lead, credential=credential, state=state, at=at))
    execute(leads, "INSERT INTO app_lead_logs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def mapping(**changes: Any) -> MappingSettings:
    deliveries = {name: value for name, value in {**MAPPED, **changes}.items() if value is not None}
    return MappingSettings.model_validate({"prefix": "app_", "deliveries": deliveries, "types": {"AmoCRM": "amocrm"}})


def read(leads: Path, *ids: LeadId, settings: MappingSettings | None = None) -> Mapping[LeadId, list[LoggedRow]]:
    with opened(leads) as db:
        log = DeliveryLog.open(db, settings or mapping())
        assert log is not None
        return log.delivered(ids)


def row(lead: Any, credential: Any = 7, kind: Any = None, state: Any = "sent", at: Any = "2026-11-24 09:00:00",
        remote: Any = None, deleted: Any = None) -> tuple[Any, ...]:  # fmt: skip
    return lead, credential, kind, state, at, remote, deleted


def test_no_log_is_mapped(leads: Path) -> None:
    with opened(leads) as db:
        assert DeliveryLog.open(db, MappingSettings()) is None


def test_only_what_the_status_calls_delivered_is_proof(leads: Path) -> None:
    make(
        leads, row(1, remote="900"), row(2, state="failed"), row(3, deleted="2026-11-25"), row(4, state=None), row(5, 8)
    )
    assert read(leads, 1, 2, 3, 4, 5, 6) == {
        1: [LoggedRow("7", None, NINE, "900")],
        5: [LoggedRow("8", None, NINE, None)],
    }


@pytest.mark.parametrize(
    ("declared", "delivered", "yes", "no"),
    [
        ("INTEGER", [1, 2], 2, 3),
        ("INTEGER", ["1"], 1, 0),
        ("BOOLEAN", [True], 1, 0),
        ("TEXT", [200], "200", "500"),
        ("TEXT", ["sent", "accepted"], "accepted", "Sent"),
    ],
)
def test_a_status_of_any_type(leads: Path, declared: str, delivered: list[Any], yes: Any, no: Any) -> None:
    make(leads, row(1, state=yes), row(2, state=no), state=declared)
    assert list(read(leads, 1, 2, settings=mapping(delivered=delivered))) == [1]


def test_without_a_status_every_row_means_delivered(leads: Path) -> None:
    make(leads, row(1, state="whatever"))
    assert list(read(leads, 1, settings=mapping(status=None, delivered=None))) == [1]


@pytest.mark.parametrize(
    ("where", "found"),
    [({"kind": "lead"}, [1]), ({"kind": ["lead", "call"]}, [1, 2]), ({"state": ["sent", "failed"]}, [1, 2]),
     ({"state": "failed"}, [])],
)  # fmt: skip
def test_rows_of_other_things_are_left_out(leads: Path, where: dict[str, Any], found: list[int]) -> None:
    make(leads, row(1, kind="lead"), row(2, kind="call"), row(3, kind="lead", state="failed"))
    assert list(read(leads, 1, 2, 3, settings=mapping(where=where))) == found


def test_types_are_translated_and_compared_exactly(leads: Path) -> None:
    kinds = ("AmoCRM", "amocrm", "Amocrm", None)
    make(leads, *(row(number, None, kind) for number, kind in enumerate(kinds, 1)))
    channels = {lead: rows[0].channel for lead, rows in read(leads, 1, 2, 3, 4).items()}
    assert channels == {1: "amocrm", 2: "amocrm", 3: "Amocrm", 4: None}


@pytest.mark.parametrize(
    ("declared", "stored", "asked", "found"),
    [
        ("VARCHAR(20)", "42", 42, True),
        ("VARCHAR(20)", "042", 42, False),
        ("BIGINT", 42, "42", True),
        ("BIGINT", 42, "042", False),
        ("BIGINT", 42, "lead-42", False),
        ("NUMERIC(20, 0)", 42, 42, True),
        ("CHAR(36)", "0192d3a0-aaaa-7bbb-8ccc-000000000001", "0192d3a0-aaaa-7bbb-8ccc-000000000001", True),
        ("VARCHAR(20) COLLATE NOCASE", "ABC", "abc", False),
        ("VARCHAR(20)", "'; DROP TABLE leads; --", "'; DROP TABLE leads; --", True),
    ],
)
def test_ids_are_compared_as_text(leads: Path, declared: str, stored: Any, asked: LeadId, found: bool) -> None:
    make(leads, row(stored), lead=declared)
    assert list(read(leads, asked)) == ([asked] if found else [])


def test_credentials_are_text_however_they_are_stored(leads: Path) -> None:
    make(leads, *(row(1, credential) for credential in (7, " 7 ", 7.0, "a-b")), credential="")
    assert [found.credential_id for found in read(leads, 1)[1]] == ["7", "7", "7", "a-b"]


@pytest.mark.parametrize(
    ("stored", "at"),
    [("2026-11-24T12:00:00+03:00", NINE), (NINE.timestamp(), NINE), (None, None), ("some day", None)],
)
def test_times(leads: Path, stored: Any, at: datetime | None) -> None:
    make(leads, row(1, at=stored), at="")
    assert read(leads, 1)[1][0].at == at


def test_one_query_for_a_page(leads: Path) -> None:
    make(leads, *(row(number) for number in range(1, 2001)))
    statements: list[str] = []
    with opened(leads) as db:
        log = DeliveryLog.open(db, mapping())
        event.listen(db.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
        assert log is not None
        assert len(log.delivered(range(1, 1001))) == 1000
        assert len(statements) == 1
        assert len(log.delivered(range(1, 2001))) == 2000
        assert len(statements) == 3


@pytest.mark.parametrize("name", ["lead_id", "credential_id", "type", "status", "at", "remote_id", "deleted_at"])
def test_a_missing_column_names_its_key(leads: Path, name: str) -> None:
    make(leads)
    with pytest.raises(ConfigError) as caught:
        read(leads, settings=mapping(**{name: "no_such"}))
    assert f"database.mapping.deliveries.{name}" in caught.value.message
    assert "no_such" in caught.value.message
    assert caught.value.exit_code == 2


def test_a_missing_table_names_its_key(leads: Path) -> None:
    with pytest.raises(ConfigError, match=r"database\.mapping\.deliveries\.table: .* has no table app_lead_logs"):
        read(leads)


def test_names_are_quoted(leads: Path) -> None:
    execute(leads, 'CREATE TABLE "app_select ""x""" ("group" INTEGER, "order" INTEGER, "a; b" TEXT)')
    execute(leads, 'INSERT INTO "app_select ""x""" VALUES (?, ?, ?)', [(1, 7, "sent")])
    settings = mapping(table='select "x"', lead_id="group", credential_id="order", status="a; b", type=None, at=None,
                       remote_id=None)  # fmt: skip
    assert read(leads, 1, settings=settings) == {1: [LoggedRow("7", None, None, None)]}
