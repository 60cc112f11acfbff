"""Credentials and links: reading what applications store, and writing back only what changed."""

import asyncio
import base64
import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.domain.model import Account, CredentialId, sort_key
from leadctl.store.credentials import CredentialRows, Links, load_credentials, load_links
from leadctl.store.database import Database
from leadctl.store.leases import FileLeases, open_leases
from leadctl.store.ledger import LedgerStore
from tests.store.helpers import execute, opened, opened_ledger, powerless, sample, settings_for
from tests.support.channels import FakeClock

SECRET = "tok-9f8e7d6c"
ENCRYPTED = base64.b64encode(
    json.dumps({"iv": "x", "value": SECRET, "mac": "y"}, separators=(",", ":")).encode()
).decode()  # fmt: skip


def account_with(leads: Path, **columns: Any) -> Account:
    values = {"id": 7, "type": "amocrm", "data": "{}", **columns}
    names, places = ", ".join(values), ", ".join("?" * len(values))
    execute(leads, f"INSERT INTO credentials ({names}) VALUES ({places})", [tuple(values.values())])
    with opened(leads) as db:
        (account,) = load_credentials(db)
        return account


@pytest.mark.parametrize("raw", [1, "1", "Y", "yes", "true", "TRUE ", b"\x01", b"1", 1.0])
def test_enabled(leads: Path, raw: Any) -> None:
    assert account_with(leads, enabled=raw).enabled is True


@pytest.mark.parametrize("raw", [0, "0", "N", "no", "false", "", b"\x00", b"0"])
def test_disabled(leads: Path, raw: Any) -> None:
    assert account_with(leads, enabled=raw).enabled is False


@pytest.mark.parametrize(
    ("raw", "data", "problem"),
    [
        ('{"a": 1, "ж": [true]}', {"a": 1, "ж": [True]}, None),
        ("", {}, None),
        ("[]", {}, None),
        ("null", {}, None),
        ("{" + SECRET, {}, "data is not valid JSON"),
        (f'["{SECRET}"]', {}, "data is not a JSON object"),
        (f'"{SECRET}"', {}, "data is not a JSON object"),
        (5, {}, "data is not a JSON object"),
        ("[" * 100_000, {}, "data is not valid JSON"),
        (ENCRYPTED, {}, "data is encrypted; set [database] app_key"),
        (f'"{ENCRYPTED}"', {}, "data is encrypted; set [database] app_key"),
    ],
)
def test_data(leads: Path, raw: Any, data: Mapping[str, Any], problem: str | None) -> None:
    account = account_with(leads, data=raw)
    assert (account.data, account.problem) == (data, problem)
    assert SECRET not in repr(account)


@pytest.mark.parametrize(
    ("raw", "settings", "problem"),
    [
        (None, {}, None),
        ('{"pipeline_id": 3}', {"pipeline_id": 3}, None),
        ("{broken", {}, "settings is not valid JSON"),
    ],
)
def test_settings(leads: Path, raw: Any, settings: Mapping[str, Any], problem: str | None) -> None:
    account = account_with(leads, data='{"a": 1}', settings=raw)
    assert (account.data, account.settings, account.problem) == ({"a": 1}, settings, problem)


def test_all_credentials_in_order_without_the_deleted(leads: Path) -> None:
    execute(leads, "DROP TABLE credentials")
    execute(leads, "CREATE TABLE credentials (id TEXT, type TEXT, deleted_at TEXT)")
    execute(
        leads,
        "INSERT INTO credentials VALUES (?, ?, ?)",
        [("b", "Email", None), ("10", "email", None), ("9", None, None), ("8", "email", "2026-01-01")],
    )
    with opened(leads) as db:
        accounts = load_credentials(db)
    assert [(account.credential_id, account.channel) for account in accounts] == [
        (9, ""),
        (10, "email"),
        ("b", "Email"),
    ]
    assert all(account.enabled and account.name is None and account.settings == {} for account in accounts)


# --- links -----------------------------------------------------------------------------------------------------


def test_links_of_the_tables(leads: Path) -> None:
    execute(leads, "ALTER TABLE entity_credentials ADD COLUMN deleted_at")
    execute(leads, "ALTER TABLE credentials ADD COLUMN deleted_at")
    execute(
        leads,
        "INSERT INTO credentials (id, type, data, deleted_at) VALUES (?, 'email', '{}', ?)",
        [(1, None), (2, None), (3, "2026-01-01"), (10, None)],
    )
    execute(
        leads,
        "INSERT INTO entity_credentials (external_entity_id, credentials_id, deleted_at) VALUES (?, ?, ?)",
        [
            (5, 10, None),
            ("5", 2, None),
            (5, 2, None),
            (5, 1, "2026-01-01"),
            (5, 3, None),
            (5, 99, None),
            (None, 1, None),
        ],
    )
    execute(
        leads,
        "INSERT INTO project_credentials (external_project_id, credentials_id) VALUES (?, ?)",
        [("p-1", 2), ("p-1", 1), (None, 1)],
    )
    with opened(leads) as db:
        links = load_links(db, {account.credential_id for account in load_credentials(db)})
    assert links.for_lead(5, None) == ((2, ("entity",)), (10, ("entity",)))
    assert links.for_lead("5", "p-1") == ((1, ("project",)), (2, ("entity", "project")), (10, ("entity",)))
    assert links.for_lead(None, None) == ()
    assert links.for_lead("None", 5) == ()


EXTERNAL = st.one_of(st.none(), st.integers(0, 4), st.integers(0, 4).map(str), st.just("e"))
CREDENTIAL: st.SearchStrategy[CredentialId] = st.one_of(st.integers(1, 12), st.sampled_from(["a", "b"]))
PAIRS = st.lists(st.tuples(EXTERNAL, CREDENTIAL), max_size=25)


@given(PAIRS, PAIRS, st.lists(st.tuples(EXTERNAL, EXTERNAL), max_size=8))
def test_links_are_the_union_each_credential_once(
    entities: list[tuple[Any, CredentialId]],
    projects: list[tuple[Any, CredentialId]],
    asked: list[tuple[Any, Any]],
) -> None:
    links = Links(entities, projects)
    for entity, project in asked:
        by_entity = {
            credential for raw, credential in entities if None not in (raw, entity) and str(raw) == str(entity)
        }
        by_project = {c for raw, c in projects if None not in (raw, project) and str(raw) == str(project)}
        found = links.for_lead(entity, project)
        assert [credential for credential, _ in found] == sorted(by_entity | by_project, key=sort_key)
        for credential, via in found:
            assert ("entity" in via, "project" in via) == (credential in by_entity, credential in by_project)
            assert list(via) == sorted(via)


# --- writing back ----------------------------------------------------------------------------------------------


@pytest.fixture
def row(leads: Path) -> Path:
    data = {"access_token": "old", "refresh_token": "r1", "base_url": "https://ж.example", "kept": [1, {"a": None}]}
    execute(
        leads,
        "INSERT INTO credentials (id, type, data) VALUES (7, 'amocrm', ?)",
        [(json.dumps(data, ensure_ascii=False),)],
    )
    return leads


@pytest.fixture
def rows(row: Path) -> Iterator[CredentialRows]:
    with opened(row) as db, opened_ledger(row) as store:
        leases = open_leases(store)
        yield CredentialRows(db, store, leases)
        leases.close()


def data_of(path: Path) -> dict[str, Any]:
    ((raw,),) = execute(path, "SELECT data FROM credentials WHERE id = 7")
    return dict(json.loads(raw))


def test_swap_writes_only_its_keys(row: Path, rows: CredentialRows) -> None:
    before = data_of(row)
    assert asyncio.run(rows.swap(7, {"access_token": "old"}, {"access_token": "new", "expires_at": 5}))
    assert data_of(row) == {**before, "access_token": "new", "expires_at": 5}
    assert asyncio.run(rows.read(7)) == data_of(row)


@pytest.mark.parametrize("column", ["TEXT", "VARCHAR(2000)", "JSON", ""])
def test_a_column_of_any_type_keeps_what_it_holds(row: Path, column: str) -> None:
    before = data_of(row)
    execute(row, "ALTER TABLE credentials RENAME TO old")
    execute(row, f"CREATE TABLE credentials (id TEXT, type, data {column})")
    execute(row, "INSERT INTO credentials SELECT id, type, data FROM old UNION SELECT 8, type, data FROM old")
    with opened(row) as db, opened_ledger(row) as store:
        rows = CredentialRows(db, store, open_leases(store))
        assert asyncio.run(rows.swap(7, {"kept": [1, {"a": None}]}, {"access_token": "ü\ud83d"}))
    assert data_of(row) == {**before, "access_token": "ü\ud83d"}
    assert execute(row, "SELECT typeof(data) FROM credentials") == [("text",), ("text",)]
    assert json.loads(execute(row, "SELECT data FROM credentials WHERE id = 8")[0][0]) == before


def test_swap_keeps_what_the_application_changed_meanwhile(row: Path, rows: CredentialRows) -> None:
    execute(row, "UPDATE credentials SET data = json_set(data, '$.base_url', 'https://new.example')")
    assert asyncio.run(rows.swap(7, {"access_token": "old"}, {"access_token": "new"}))
    assert data_of(row)["base_url"] == "https://new.example"


@pytest.mark.parametrize("old", [{"access_token": "older"}, {"absent": None}, {"access_token": "old", "kept": []}])
def test_swap_refuses_when_a_key_has_changed(row: Path, rows: CredentialRows, old: dict[str, Any]) -> None:
    before = data_of(row)
    assert not asyncio.run(rows.swap(7, old, {"access_token": "new"}))
    assert data_of(row) == before


def test_only_one_of_many_swaps_wins(row: Path, rows: CredentialRows) -> None:
    async def race() -> list[bool]:
        return await asyncio.gather(
            *(rows.swap(7, {"access_token": "old"}, {"access_token": f"new-{i}"}) for i in range(8))
        )

    won = asyncio.run(race())
    assert won.count(True) == 1
    assert data_of(row)["access_token"] == f"new-{won.index(True)}"


@pytest.mark.parametrize("raw", ["{broken", ENCRYPTED, "[1]"])
def test_what_cannot_be_read_is_not_written(row: Path, rows: CredentialRows, raw: str) -> None:
    execute(row, "UPDATE credentials SET data = ?", [(raw,)])
    assert not asyncio.run(rows.writable(7))
    assert not asyncio.run(rows.swap(7, {}, {"a": 1}))
    with pytest.raises(LookupError):
        asyncio.run(rows.read(7))
    assert execute(row, "SELECT data FROM credentials") == [(raw,)]


@pytest.mark.parametrize("credential_id", [8, "abc", "file:0123456789ab"])
def test_a_credential_without_a_row(rows: CredentialRows, credential_id: CredentialId) -> None:
    assert not asyncio.run(rows.writable(credential_id))
    assert not asyncio.run(rows.swap(credential_id, {}, {"a": 1}))
    with pytest.raises(LookupError):
        asyncio.run(rows.read(credential_id))


def test_a_deleted_credential_is_not_written(row: Path) -> None:
    execute(row, "ALTER TABLE credentials ADD COLUMN deleted_at")
    execute(row, "UPDATE credentials SET deleted_at = '2026-01-01'")
    with opened(row) as db, opened_ledger(row) as store:
        rows = CredentialRows(db, store, open_leases(store))
        assert not asyncio.run(rows.writable(7))
        assert not asyncio.run(rows.swap(7, {}, {"a": 1}))


def test_trying_to_write_changes_nothing(row: Path, rows: CredentialRows) -> None:
    before = execute(row, "SELECT * FROM credentials")
    assert asyncio.run(rows.writable(7))
    assert execute(row, "SELECT * FROM credentials") == before


def test_a_value_is_kept_in_the_row(row: Path, rows: CredentialRows) -> None:
    assert asyncio.run(rows.keep(7, "chat_id", "-100")) == "data"
    assert data_of(row)["chat_id"] == "-100"


def test_a_value_of_a_file_is_kept_in_the_ledger(row: Path) -> None:
    with opened(row) as db, opened_ledger(row) as store:
        rows = CredentialRows(db, store, open_leases(store), clock=FakeClock())
        assert asyncio.run(rows.keep("file:0123456789ab", "chat_id", -100)) == "ledger"
        assert asyncio.run(rows.keep("file:0123456789ab", "chat_id", -200)) == "ledger"
        assert store.overrides() == {"file:0123456789ab": {"chat_id": -200}}


def test_a_row_that_the_database_protects(row: Path, rows: CredentialRows) -> None:
    execute(row, "CREATE TRIGGER keep_out BEFORE UPDATE ON credentials BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert not asyncio.run(rows.writable(7))
    assert asyncio.run(rows.keep(7, "chat_id", 1)) == "ledger"


@pytest.mark.parametrize("closed", ["file", "directory"])
def test_a_file_that_may_only_be_read(public_directory: Path, tmp_path: Path, closed: str) -> None:
    path = sample(public_directory / "leads.db")
    execute(path, "INSERT INTO credentials (id, type, data) VALUES (7, 'telegram', '{\"chat_id\": 1}')")
    settings = settings_for(path, f"sqlite:///{tmp_path / 'ledger.db'}")
    path.chmod(0o444 if closed == "file" else 0o666)
    public_directory.chmod(0o555)
    with closing(Database.open(settings.database)) as db, closing(LedgerStore.open(settings, db, create=True)) as store:
        rows = CredentialRows(db, store, open_leases(store))
        with powerless():
            assert load_credentials(db)[0].data == {"chat_id": 1}
            writable = asyncio.run(rows.writable(7))
        assert not writable


# --- leases ----------------------------------------------------------------------------------------------------


def test_a_credentials_lease_is_held_by_one_at_a_time(row: Path) -> None:
    inside: list[int] = []

    async def work(rows: CredentialRows) -> None:
        async with rows.lease(7):
            inside.append(len(inside))
            await asyncio.sleep(0)
            assert inside == [0]
            inside.pop()

    with opened(row) as db, opened_ledger(row) as store:
        one, other = (CredentialRows(db, store, open_leases(store), clock=FakeClock()) for _ in range(2))

        async def race() -> None:
            await asyncio.gather(*(work(rows) for rows in (one, other, one, other)))

        asyncio.run(race())


def test_a_waiter_that_is_cancelled_leaves_no_lease_behind(row: Path) -> None:
    async def cancelled(rows: CredentialRows) -> None:
        async def wait() -> None:
            async with rows.lease(7):
                await asyncio.sleep(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5), rows.lease(7):
            pass

    with opened(row) as db, opened_ledger(row) as store:
        leases = open_leases(store)
        assert isinstance(leases, FileLeases)
        asyncio.run(cancelled(CredentialRows(db, store, leases)))


def test_the_application_may_hold_the_lock_for_a_while(row: Path, rows: CredentialRows) -> None:
    async def swap_while_locked() -> bool:
        with closing(sqlite3.connect(row, isolation_level=None)) as application:
            application.execute("BEGIN IMMEDIATE")
            application.execute("UPDATE credentials SET data = json_set(data, '$.kept', 2)")
            swap = asyncio.create_task(rows.swap(7, {"access_token": "old"}, {"access_token": "new"}))
            await asyncio.sleep(0.05)
            application.execute("COMMIT")
            return await swap

    assert asyncio.run(swap_while_locked())
    assert (data_of(row)["kept"], data_of(row)["access_token"]) == (2, "new")
