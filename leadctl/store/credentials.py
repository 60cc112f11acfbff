"""Credentials and links: reading them set-wise, and writing back what a vendor changed."""

import asyncio
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Update, bindparam, column, literal, table, update
from sqlalchemy.exc import SQLAlchemyError

from leadctl.domain.clock import SystemClock
from leadctl.domain.model import Account, CredentialId, ExternalId, sort_key
from leadctl.domain.ports import Clock
from leadctl.settings.mapping import ARROW, KeySource
from leadctl.store.database import Database, SourceTable, canonical_id, external_id
from leadctl.store.encryption import Keyring, Unreadable, open_value, read_value
from leadctl.store.engines import explained, patiently
from leadctl.store.leases import Lease, Leases, process_info
from leadctl.store.ledger import LedgerStore
from leadctl.store.mapping import PROBLEM, InColumn, InJson, bury, dig

_TRUE = frozenset({"1", "y", "yes", "t", "true", "on"})
#: Seconds between two looks at a lease that another process holds.
_LEASE_POLL = 0.1
#: ``--credentials-file`` has no rows.
_FILE = "file:"

Via = tuple[str, ...]
_BY_ENTITY: Via = ("entity",)
_BY_PROJECT: Via = ("project",)
_BY_BOTH: Via = ("entity", "project")


def load_credentials(db: Database, only: Collection[CredentialId] | None = None) -> list[Account]:
    """All credentials that are not deleted (or these of them), enabled or not; numeric ids before text."""
    statement = db.credentials.select(_COLUMNS)
    if only is not None:
        id_type = db.credentials.id_type("id")
        values = [value for identity in only if (value := id_type.value(identity)) is not None]
        among = bindparam("ids", values, type_=id_type.bind, expanding=True)
        statement = statement.where(db.credentials["id"].in_(among))
    rows = db.credentials.read(db.rows(statement), _COLUMNS)
    return sorted((_account(db, row) for row in rows), key=lambda account: sort_key(account.credential_id))


_COLUMNS = ("id", "type", "name", "enabled", "data", "settings")


def _account(db: Database, row: Mapping[Any, Any]) -> Account:
    channel = _channel(db, row)
    problem: str | None = row.get(PROBLEM)
    decoded: dict[str, dict[str, Any]] = {"data": {}, "settings": {}}
    for name in decoded:
        try:
            decoded[name] = _object(db, name, channel, row.get(name))
        except Unreadable as error:
            problem = problem or f"{name} {error}"
    title = row.get("name")
    return Account(
        credential_id=canonical_id(row["id"]),
        channel=channel,
        name=None if title is None else str(title),
        enabled=_truth(row["enabled"]) if "enabled" in row else True,
        data=decoded["data"],
        settings=decoded["settings"],
        problem=problem,
    )


def _channel(db: Database, row: Mapping[Any, Any]) -> str:
    """The type as the application calls it, or the channel that it is an alias of."""
    said = "" if row["type"] is None else str(row["type"])
    return db.mapping.types.get(said, said)


def _object(db: Database, name: str, channel: str, raw: Any) -> dict[str, Any]:
    """``data`` or ``settings`` with our keys. Raises Unreadable."""
    return renamed(read_value(raw, db.keyring), _keys(db, name, channel))


def _keys(db: Database, name: str, channel: str) -> Mapping[str, KeySource]:
    return (db.mapping.data if name == "data" else db.mapping.settings).get(channel, {})


def renamed(found: Mapping[str, Any], keys: Mapping[str, KeySource]) -> dict[str, Any]:
    """The object with the keys that leadctl knows; what has another name there is there under ours only."""
    if not keys:
        return dict(found)
    theirs = {source.key for source in keys.values() if source.key is not None} - keys.keys()
    ours: dict[str, Any] = {key: value for key, value in found.items() if key not in theirs}
    for key, source in keys.items():
        value = dig(found, (source.key or key).split(ARROW))
        if value is None or value == "":
            value = source.default if source.default is not None else ours.get(key)
        if value is not None:
            ours[key] = value
    return ours


def _truth(raw: Any) -> bool:
    if isinstance(raw, bytes):  # MySQL's BIT(1)
        return any(raw) and raw != b"0"
    if isinstance(raw, str):
        return raw.strip().lower() in _TRUE
    return bool(raw)


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
    return Links(
        _pairs(db, "entity_credentials", "external_entity_id", existing),
        _pairs(db, "project_credentials", "external_project_id", existing),
    )


def _pairs(
    db: Database, name: str, external: str, existing: Container[CredentialId]
) -> Iterable[tuple[Any, CredentialId]]:
    links: SourceTable = getattr(db, name)
    outside = _outside(db, db.through(name))
    for raw, credential in db.rows(links.select((external, "credentials_id"))):
        if credential is None or raw is None or (identity := canonical_id(credential)) not in existing:
            continue
        if outside is None:
            yield raw, identity
        elif (owner := outside.get(str(external_id(raw)))) is not None:
            yield owner, identity


def _outside(db: Database, between: SourceTable | None) -> dict[str, Any] | None:
    """The external id of each row of the table between leads and links."""
    if between is None:
        return None
    rows = db.rows(between.select(("id", "external_id")))
    return {str(external_id(identity)): owner for identity, owner in rows if identity is not None}


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
        credentials = self._db.credentials
        if condition is None or "data" not in credentials:
            raise LookupError(f"credential {credential_id} has no row")
        names = ("type", "data")
        rows = list(credentials.read(self._db.rows(credentials.select(names).where(condition)), names))
        if not rows or rows[0]["data"] is None:
            raise LookupError(f"credential {credential_id} has no row with data")
        try:
            return _object(self._db, "data", _channel(self._db, rows[0]), rows[0]["data"])
        except Unreadable as error:
            raise LookupError(f"credential {credential_id}: data {error}") from None

    def _try_to_write(self, credential_id: CredentialId) -> bool:
        """A lock of the application, or a server that is away, says nothing about rights: it is waited for."""

        def tried() -> bool:
            with self._db.writing.connect() as connection:
                stored = self._locked(connection, credential_id)
                if stored is None:
                    return False
                # Not its own value: SQLite would see that nothing changes, and not ask for the right to make a journal.
                changed = stored.with_keys({"leadctl": "never committed"})
                found = connection.execute(self._write(credential_id, stored.column, changed)).rowcount
                connection.rollback()
            return found == 1

        try:
            return patiently(tried)
        except SQLAlchemyError:
            return False

    def _swap(self, credential_id: CredentialId, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        with explained(self._db.location):
            return patiently(lambda: self._swap_once(credential_id, old, new))

    def _swap_once(self, credential_id: CredentialId, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        with self._db.writing.begin() as connection:
            stored = self._locked(connection, credential_id)
            if stored is None:
                return False
            if new and _has(stored.data, new):  # so too where an earlier commit of ours was not answered
                return True
            if not _has(stored.data, old):
                return False
            connection.execute(self._write(credential_id, stored.column, stored.with_keys(new)))
            return True

    def _locked(self, connection: Connection, credential_id: CredentialId) -> "_Stored | None":
        """The row as it is now, locked; None where there is none whose ``data`` can be written back."""
        condition, credentials = self._is(credential_id), self._db.credentials
        place = credentials.fields.get("data")
        if condition is None or not isinstance(place, (InColumn, InJson)):
            return None
        whole = credentials.clause.c[place.column]
        statement = credentials.select(("type",)).add_columns(whole.label("whole")).where(condition)
        row = connection.execute(statement.with_for_update()).first()
        if row is None or row.whole is None:
            return None
        channel = _channel(self._db, next(iter(credentials.read([row], ("type",)))))
        try:
            return _Stored(place, row.whole, self._db.keyring, _keys(self._db, "data", channel))
        except Unreadable:
            return None

    def _write(self, credential_id: CredentialId, name: str, value: Any) -> Update:
        theirs = self._db.credentials
        identity = theirs["id"].name
        # PostgreSQL's driver has decoded JSON and must know that it writes it; the others gave it as text.
        as_it_is = self._db.engine.dialect.name == "postgresql" or not isinstance(value, (str, bytes))
        kind = theirs.column_types[name] if as_it_is else None
        credentials = table(
            theirs.clause.name, column(identity), column(name, kind), schema=theirs.clause.schema
        )  # fmt: skip
        return update(credentials).where(self._is(credential_id, credentials.c[identity])).values({name: value})

    def _is(self, credential_id: CredentialId, identity: Any = None) -> Any:
        """The condition for that row, on another table's ``id`` where one is given; None: there is no such row."""
        if str(credential_id).startswith(_FILE):
            return None
        credentials = self._db.credentials
        id_type = credentials.id_type("id")
        value = id_type.value(credential_id)
        column = credentials["id"] if identity is None else identity
        return None if value is None else column == literal(value, id_type.bind)


class _Stored:
    """``data`` as a row holds it, and how it is written back: in the same place, and in the same form."""

    def __init__(self, place: InColumn | InJson, raw: Any, keyring: Keyring, keys: Mapping[str, KeySource]) -> None:
        self.column = place.column
        self._within = place.keys if isinstance(place, InJson) else ()
        self._whole = open_value(raw, keyring)
        self._keys = keys
        found = dig(self._whole.value, self._within)
        self._found: dict[str, Any] = found if isinstance(found, dict) else {}
        #: With our keys.
        self.data = renamed(self._found, keys)

    def with_keys(self, new: Mapping[str, Any]) -> Any:
        """The column's value with these keys of ours changed, and everything else as it is."""
        changed: Any = self._found
        for key, value in new.items():
            source = self._keys.get(key)
            changed = bury(changed, ((source.key if source else None) or key).split(ARROW), value)
        return self._whole.form.seal(bury(self._whole.value, self._within, changed))


def _has(data: Mapping[str, Any], some: Mapping[str, Any]) -> bool:
    return all(key in data and data[key] == value for key, value in some.items())


def _release(taken: asyncio.Future[Lease | None]) -> None:
    lease = None if taken.cancelled() or taken.exception() is not None else taken.result()
    if lease is not None:
        lease.release()
