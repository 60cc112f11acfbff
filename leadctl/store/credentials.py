"""Credentials and links: reading them set-wise, and writing back what a vendor changed."""

import asyncio
import json
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Update, column, literal, table, types, update
from sqlalchemy.exc import SQLAlchemyError

from leadctl.domain.clock import SystemClock
from leadctl.domain.model import Account, CredentialId, ExternalId, sort_key
from leadctl.domain.ports import Clock
from leadctl.store.database import Database, SourceTable, canonical_id, external_id
from leadctl.store.engines import explained
from leadctl.store.leases import Lease, Leases, process_info
from leadctl.store.ledger import LedgerStore

#: Base64 of ``{"iv":``: how every value that Laravel's Crypt has encrypted begins.
_LARAVEL = "eyJpdiI6"
_TRUE = frozenset({"1", "y", "yes", "t", "true", "on"})
#: Seconds between two looks at a lease that another process holds.
_LEASE_POLL = 0.1
#: ``--credentials-file`` has no rows.
_FILE = "file:"

Via = tuple[str, ...]
_BY_ENTITY: Via = ("entity",)
_BY_PROJECT: Via = ("project",)
_BY_BOTH: Via = ("entity", "project")


class _Unreadable(Exception):
    """``data`` or ``settings`` cannot be read; the message holds no value of it."""


def load_credentials(db: Database) -> list[Account]:
    """All credentials that are not deleted, enabled or not; numeric ids before text."""
    rows = db.rows(db.credentials.select(("id", "type", "name", "enabled", "data", "settings")))
    return sorted((_account(row._mapping) for row in rows), key=lambda account: sort_key(account.credential_id))


def _account(row: Mapping[Any, Any]) -> Account:
    problem: str | None = None
    decoded: dict[str, dict[str, Any]] = {"data": {}, "settings": {}}
    for name in decoded:
        try:
            decoded[name] = _decode(row.get(name))
        except _Unreadable as error:
            problem = problem or f"{name} {error}"
    title = row.get("name")
    return Account(
        credential_id=canonical_id(row["id"]),
        channel="" if row["type"] is None else str(row["type"]),
        name=None if title is None else str(title),
        enabled=_truth(row["enabled"]) if "enabled" in row else True,
        data=decoded["data"],
        settings=decoded["settings"],
        problem=problem,
    )


def _truth(raw: Any) -> bool:
    if isinstance(raw, bytes):  # MySQL's BIT(1)
        return any(raw) and raw != b"0"
    if isinstance(raw, str):
        return raw.strip().lower() in _TRUE
    return bool(raw)


def _decode(raw: Any) -> dict[str, Any]:
    """A JSON object, from a JSON column or text. Nothing, and PHP's empty array, is an empty object."""
    if isinstance(raw, bytes):
        raw = raw.decode("utf-8", "replace")
    if isinstance(raw, str):
        if not raw.strip():
            return {}
        if raw.strip().strip('"').startswith(_LARAVEL):
            raise _Unreadable("is encrypted; reading it is not supported without app_key")
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise _Unreadable("is not valid JSON") from None
    if raw is None or raw == []:
        return {}
    if not isinstance(raw, dict):
        raise _Unreadable("is not a JSON object")
    return raw


class Links:
    """Which credentials a lead's entity and project use. Ids are compared as text."""

    def __init__(
        self, entities: Iterable[tuple[Any, CredentialId]], projects: Iterable[tuple[Any, CredentialId]]
    ) -> None:
        """Pairs of an external id and a credential; an id that is None matches nothing."""
        self._entities = _grouped(entities)
        self._projects = _grouped(projects)

    def for_lead(
        self, entity_id: ExternalId | None, project_id: ExternalId | None
    ) -> tuple[tuple[CredentialId, Via], ...]:
        """(credential, how it is linked), each credential once, numeric ids before text."""
        return self.of(*self.owners(entity_id, project_id))

    def owners(self, entity_id: ExternalId | None, project_id: ExternalId | None) -> tuple[str | None, str | None]:
        """Entity and project as the links know them; None where nothing is linked, which most ids may share."""
        entity, project = str(entity_id), str(project_id)
        return (
            entity if entity_id is not None and entity in self._entities else None,
            project if project_id is not None and project in self._projects else None,
        )

    def of(self, entity: str | None, project: str | None) -> tuple[tuple[CredentialId, Via], ...]:
        """:meth:`for_lead` of what :meth:`owners` has answered."""
        via: dict[CredentialId, Via] = {}
        if entity is not None:
            via = dict.fromkeys(self._entities[entity], _BY_ENTITY)
        if project is not None:
            for credential in self._projects[project]:
                via[credential] = _BY_BOTH if credential in via else _BY_PROJECT
        return tuple(sorted(via.items(), key=_by_id))


def _by_id(link: tuple[CredentialId, Via]) -> tuple[int, int, str]:
    return sort_key(link[0])


def _grouped(pairs: Iterable[tuple[Any, CredentialId]]) -> dict[str, set[CredentialId]]:
    groups: dict[str, set[CredentialId]] = {}
    for raw, credential in pairs:
        identity = external_id(raw)
        if identity is not None:
            groups.setdefault(str(identity), set()).add(credential)
    return groups


def load_links(db: Database, existing: Container[CredentialId]) -> Links:
    """All links that are not deleted, to credentials that exist and are not deleted."""

    def pairs(links: SourceTable, external: str) -> Iterable[tuple[Any, CredentialId]]:
        for raw, credential in db.rows(links.select((external, "credentials_id"))):
            if credential is not None and (identity := canonical_id(credential)) in existing:
                yield raw, identity

    return Links(
        pairs(db.entity_credentials, "external_entity_id"), pairs(db.project_credentials, "external_project_id")
    )


class CredentialRows:
    """Implements :class:`leadctl.domain.ports.CredentialStore` over the credentials' table and the ledger."""

    def __init__(self, db: Database, ledger: LedgerStore, leases: Leases, *, clock: Clock | None = None) -> None:
        self._db = db
        self._ledger = ledger
        self._leases = leases
        self._clock = clock or SystemClock()

    async def read(self, credential_id: CredentialId) -> Mapping[str, Any]:
        """``data`` as the row has it now. Raises LookupError where there is no row, or it cannot be read."""
        return await asyncio.to_thread(self._read, credential_id)

    async def writable(self, credential_id: CredentialId) -> bool:
        """Whether ``data`` of this row can be written: tried, and rolled back."""
        return await asyncio.to_thread(self._try_to_write, credential_id)

    async def swap(self, credential_id: CredentialId, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Write the keys of ``new`` if those of ``old`` still have their values; all others stay as they are."""
        return await asyncio.to_thread(self._swap, credential_id, old, new)

    async def keep(self, credential_id: CredentialId, key: str, value: Any) -> str:
        """In ``data`` where it can be written, else in the ledger."""
        if await self.writable(credential_id) and await self.swap(credential_id, {}, {key: value}):
            return "data"
        await asyncio.to_thread(self._ledger.make)
        await asyncio.to_thread(self._ledger.keep_override, credential_id, key, value, self._clock.now())
        return "ledger"

    @asynccontextmanager
    async def lease(self, credential_id: CredentialId) -> AsyncIterator[None]:
        """Wait for the lease of this credential, and hold it."""
        name = f"credential-{self._db.name}-{credential_id}"
        while (lease := await self._acquire(name)) is None:
            await self._clock.sleep(_LEASE_POLL)
        with lease:
            yield

    async def _acquire(self, name: str) -> Lease | None:
        taking = asyncio.ensure_future(asyncio.to_thread(self._leases.acquire, name, process_info()))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:  # the thread may still get it, with nobody there to let it go
            taking.add_done_callback(_release)
            raise

    # --- in a thread -----------------------------------------------------------------------------------------

    def _read(self, credential_id: CredentialId) -> dict[str, Any]:
        condition = self._is(credential_id)
        if condition is None or "data" not in self._db.credentials:
            raise LookupError(f"credential {credential_id} has no row")
        rows = self._db.rows(self._db.credentials.select(("data",)).where(condition))
        return _readable(rows[0].data if rows else None, credential_id)

    def _try_to_write(self, credential_id: CredentialId) -> bool:
        try:
            # Not its own value: SQLite would see that nothing changes, and not ask for the right to make a journal.
            changed = {**self._read(credential_id), "leadctl": "never committed"}
            with self._db.writing.connect() as connection:
                found = connection.execute(self._write(credential_id, changed)).rowcount
                connection.rollback()
        except (LookupError, SQLAlchemyError):
            return False
        return found == 1

    def _swap(self, credential_id: CredentialId, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        with explained(self._db.location), self._db.writing.begin() as connection:
            data = self._locked(connection, credential_id)
            if data is None or any(key not in data or data[key] != value for key, value in old.items()):
                return False
            connection.execute(self._write(credential_id, {**data, **new}))
            return True

    def _locked(self, connection: Connection, credential_id: CredentialId) -> dict[str, Any] | None:
        condition = self._is(credential_id)
        if condition is None:
            return None
        row = connection.execute(self._db.credentials.select(("data",)).where(condition).with_for_update()).first()
        try:
            return _readable(row.data if row is not None else None, credential_id)
        except LookupError:
            return None

    def _write(self, credential_id: CredentialId, data: dict[str, Any]) -> Update:
        kind = self._db.credentials.types["data"]
        # Typed as it is: a driver must know that it writes JSON.
        credentials = table("credentials", column("id"), column("data", kind))
        value = data if isinstance(kind, types.JSON) else json.dumps(data)
        return update(credentials).where(self._is(credential_id, credentials.c.id)).values(data=value)

    def _is(self, credential_id: CredentialId, identity: ColumnElement[Any] | None = None) -> Any:
        """The condition for that row, on another table's ``id`` where one is given; None: there is no such row."""
        if str(credential_id).startswith(_FILE):
            return None
        credentials = self._db.credentials
        id_type = credentials.id_type("id")
        value = id_type.value(credential_id)
        column = credentials["id"] if identity is None else identity
        return None if value is None else column == literal(value, id_type.bind)


def _release(taken: asyncio.Future[Lease | None]) -> None:
    lease = None if taken.cancelled() or taken.exception() is not None else taken.result()
    if lease is not None:
        lease.release()


def _readable(raw: Any, credential_id: CredentialId) -> dict[str, Any]:
    try:
        if raw is None:
            raise LookupError(f"credential {credential_id} has no row with data")
        return _decode(raw)
    except _Unreadable as error:
        raise LookupError(f"credential {credential_id}: data {error}") from None
