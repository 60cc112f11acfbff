"""Databases as Laravel applications keep them: each shape with its tables, its mapping, and how Eloquent asks it."""

import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    insert,
)

#: What the application encrypts a column's value with; None: it does not.
Seal = Callable[[Any], str]

LEADS = 60
CREDENTIALS = 24
OWNERS = 12
DELETED = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class Shape:
    """One application's schema. ``eloquent`` is what ``plan.php`` is told of its models."""

    name: str
    mapping: Mapping[str, Any]
    eloquent: Mapping[str, Any]
    #: Of the lead and the credential, by hand: ``SELECT lead, credential`` of enabled, linked, living rows.
    sql: str
    build: Callable[[Connection, random.Random, Seal | None], None]

    def __str__(self) -> str:
        return self.name


@dataclass
class Data:
    """Rows to be filled in: which credential an owner has, and which are alive."""

    rng: random.Random
    #: (owner, credential)
    entity_links: list[tuple[int, int]] = field(default_factory=list)
    project_links: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for links in (self.entity_links, self.project_links):
            for owner in range(1, OWNERS + 1):
                for credential in self.rng.sample(range(1, CREDENTIALS + 1), self.rng.randint(0, 5)):
                    links.append((owner, credential))
            links.append(links[0])  # linked twice counts once

    def owner(self) -> int | None:
        """The entity or project of a lead: some have none, some one that nothing is linked to."""
        owners: list[int | None] = [None, OWNERS + 5, *range(1, OWNERS + 1)]
        return self.rng.choice(owners)

    def often(self, part: float = 0.8) -> bool:
        return self.rng.random() < part


def webhook(number: int, **keys: str) -> dict[str, Any]:
    """Valid data of a webhook, each of its own destination; ``keys``: what the application calls ours."""
    data = {"url": f"https://hooks.example.com/{number}", "secret": "whsec_" + "c2VjcmV0" * 4, "почта": "да"}
    return {keys.get(key, key): value for key, value in data.items()}


def _sealed(value: Mapping[str, Any], seal: Seal | None) -> str:
    return json.dumps(value) if seal is None else seal(value)


# --- the names of the contract ------------------------------------------------------------------------------------


def _build_plain(connection: Connection, rng: random.Random, seal: Seal | None) -> None:
    data, metadata = Data(rng), MetaData()
    leads = Table("leads", metadata, Column("id", BigInteger, primary_key=True, autoincrement=False),
                  Column("external_entity_id", BigInteger), Column("external_project_id", BigInteger),
                  Column("name", String(200)), Column("created_at", DateTime))  # fmt: skip
    credentials = Table("credentials", metadata, Column("id", Integer, primary_key=True, autoincrement=False),
                        Column("type", String(50)), Column("enabled", Boolean), Column("data", Text))  # fmt: skip
    links = [
        Table(f"{owner}_credentials", metadata, Column("id", Integer, primary_key=True),
              Column(f"external_{owner}_id", BigInteger), Column("credentials_id", Integer))
        for owner in ("entity", "project")
    ]  # fmt: skip
    metadata.create_all(connection)
    connection.execute(insert(leads), [
        {"id": number, "external_entity_id": data.owner(), "external_project_id": data.owner(), "name": "Анна",
         "created_at": DELETED} for number in range(1, LEADS + 1)
    ])  # fmt: skip
    connection.execute(insert(credentials), [
        {"id": number, "type": "webhooks", "enabled": data.often(), "data": _sealed(webhook(number), seal)}
        for number in range(1, CREDENTIALS + 1)
    ])  # fmt: skip
    for table, name, pairs in zip(links, ("entity", "project"), (data.entity_links, data.project_links), strict=True):
        rows = [{f"external_{name}_id": owner, "credentials_id": number} for owner, number in (*pairs, (None, 1))]
        connection.execute(insert(table), rows)


PLAIN = Shape(
    "the contract's names",
    mapping={},
    eloquent={
        "style": "links",
        "leads": {"table": "leads", "key": "id", "entity": "external_entity_id", "project": "external_project_id"},
        "credentials": {"table": "credentials", "key": "id", "enabled": ["enabled", True]},
        "entity": {"table": "entity_credentials", "owner": "external_entity_id", "credential": "credentials_id"},
        "project": {"table": "project_credentials", "owner": "external_project_id", "credential": "credentials_id"},
    },
    sql="""
        SELECT l.id, c.id FROM leads l JOIN entity_credentials e ON e.external_entity_id = l.external_entity_id
        JOIN credentials c ON c.id = e.credentials_id WHERE c.enabled
        UNION
        SELECT l.id, c.id FROM leads l JOIN project_credentials p ON p.external_project_id = l.external_project_id
        JOIN credentials c ON c.id = p.credentials_id WHERE c.enabled
    """,
    build=_build_plain,
)


# --- other names, UUIDs, soft deletes, keys of its own ----------------------------------------------------------------


def _build_renamed(connection: Connection, rng: random.Random, seal: Seal | None) -> None:
    data, metadata = Data(rng), MetaData()
    requests = Table("crm_requests", metadata, Column("uuid", Uuid(), primary_key=True),
                     Column("order", BigInteger), Column("project", BigInteger), Column("payload", JSON),
                     Column("utm_source", String(100)), Column("created_at", DateTime),
                     Column("removed_at", DateTime))  # fmt: skip
    integrations = Table("crm_integrations", metadata, Column("id", Integer, primary_key=True, autoincrement=False),
                         Column("provider", String(50)), Column("is_active", SmallInteger), Column("config", Text),
                         Column("deleted_at", DateTime))  # fmt: skip
    # The owners are text here, and numbers in the leads.
    links = [
        Table(f"crm_{owner}_integrations", metadata, Column("id", Integer, primary_key=True),
              Column(f"{owner}_id", String(40)), Column("credential_id", String(20)), Column("deleted_at", DateTime))
        for owner in ("entity", "project")
    ]  # fmt: skip
    metadata.create_all(connection)
    connection.execute(insert(requests), [
        {"uuid": uuid.UUID(int=rng.getrandbits(128), version=4), "order": data.owner(), "project": data.owner(),
         "payload": {"contact": {"name": "Анна", "phone": "+79161234567"}, "answers": {"Бюджет": "100"}},
         "utm_source": "ya", "created_at": DELETED, "removed_at": None if data.often(0.9) else DELETED}
        for _ in range(LEADS)
    ])  # fmt: skip
    connection.execute(insert(integrations), [
        {"id": number, "provider": "WebHook", "is_active": int(data.often()),
         "config": _sealed(webhook(number, url="endpoint"), seal), "deleted_at": None if data.often() else DELETED}
        for number in range(1, CREDENTIALS + 1)
    ])  # fmt: skip
    for table, name, pairs in zip(links, ("entity", "project"), (data.entity_links, data.project_links), strict=True):
        connection.execute(insert(table), [
            {f"{name}_id": str(owner), "credential_id": str(number), "deleted_at": None if data.often() else DELETED}
            for owner, number in pairs
        ])  # fmt: skip


RENAMED = Shape(
    "other names, UUIDs, soft deletes",
    mapping={
        "prefix": "crm_",
        "leads": {"table": "requests", "id": "uuid", "external_entity_id": "order", "external_project_id": "project",
                  "name": "payload->contact->name", "phone": "payload->contact->phone", "answers": "payload->answers",
                  "utm": {"utm_source": "utm_source", "utm_medium": {"value": "site"}},
                  "deleted_at": "removed_at"},
        "credentials": {"table": "integrations", "type": "provider", "enabled": "is_active", "data": "config"},
        "entity_credentials": {"table": "entity_integrations", "external_entity_id": "entity_id"},
        "project_credentials": {"table": "project_integrations", "external_project_id": "project_id"},
        "types": {"WebHook": "webhooks"},
        "data": {"webhooks": {"url": "endpoint"}},
    },
    eloquent={
        "style": "links",
        "prefix": "crm_",
        "leads": {"table": "requests", "key": "uuid", "entity": "order", "project": "project",
                  "deleted_at": "removed_at"},
        "credentials": {"table": "integrations", "key": "id", "enabled": ["is_active", 1],
                        "deleted_at": "deleted_at"},
        "entity": {"table": "entity_integrations", "owner": "entity_id", "credential": "credential_id",
                   "deleted_at": "deleted_at"},
        "project": {"table": "project_integrations", "owner": "project_id", "credential": "credential_id",
                    "deleted_at": "deleted_at"},
    },
    sql="""
        SELECT l.uuid, c.id FROM crm_requests l
        JOIN crm_entity_integrations e ON e.entity_id = CAST(l.{q}order{q} AS CHAR(40)) AND e.deleted_at IS NULL
        JOIN crm_integrations c ON CAST(c.id AS CHAR(20)) = e.credential_id
        WHERE c.is_active = 1 AND c.deleted_at IS NULL AND l.removed_at IS NULL
        UNION
        SELECT l.uuid, c.id FROM crm_requests l
        JOIN crm_project_integrations p ON p.project_id = CAST(l.project AS CHAR(40)) AND p.deleted_at IS NULL
        JOIN crm_integrations c ON CAST(c.id AS CHAR(20)) = p.credential_id
        WHERE c.is_active = 1 AND c.deleted_at IS NULL AND l.removed_at IS NULL
    """,
    build=_build_renamed,
)  # fmt: skip


# --- many to many, through entities and projects ----------------------------------------------------------------------


def _build_through(connection: Connection, rng: random.Random, seal: Seal | None) -> None:
    data, metadata = Data(rng), MetaData()
    leads = Table("leads", metadata, Column("id", BigInteger, primary_key=True, autoincrement=False),
                  Column("entity_ref", String(40)), Column("project_ref", String(40)), Column("name", Text),
                  Column("created_at", DateTime))  # fmt: skip
    connections = Table("connections", metadata, Column("id", Integer, primary_key=True, autoincrement=False),
                        Column("kind", String(50)), Column("active", String(1)), Column("secrets", Text))  # fmt: skip
    owners, pivots = [], []
    for owner, plural in (("entity", "entities"), ("project", "projects")):
        owners.append(Table(plural, metadata, Column("id", Integer, primary_key=True, autoincrement=False),
                            Column("external_id", String(40)), Column("deleted_at", DateTime)))  # fmt: skip
        pivots.append(Table(f"connection_{owner}", metadata, Column(f"{owner}_id", Integer),
                            Column("connection_id", Integer)))  # fmt: skip
    metadata.create_all(connection)
    for table in owners:
        connection.execute(insert(table), [
            {"id": 100 + number, "external_id": f"ext-{number}", "deleted_at": None if data.often(0.9) else DELETED}
            for number in range(1, OWNERS + 1)
        ])  # fmt: skip
    connection.execute(insert(connections), [
        {"id": number, "kind": "webhooks", "active": "Y" if data.often() else "N",
         "secrets": _sealed({"account": webhook(number)}, seal)} for number in range(1, CREDENTIALS + 1)
    ])  # fmt: skip
    for table, name, pairs in zip(pivots, ("entity", "project"), (data.entity_links, data.project_links), strict=True):
        rows = [{f"{name}_id": 100 + owner, "connection_id": number} for owner, number in pairs]
        connection.execute(insert(table), rows)
    connection.execute(insert(leads), [
        {"id": number, "entity_ref": _reference(data.owner()), "project_ref": _reference(data.owner()), "name": "Анна",
         "created_at": DELETED} for number in range(1, LEADS + 1)
    ])  # fmt: skip


def _reference(owner: int | None) -> str | None:
    return None if owner is None else f"ext-{owner}"


THROUGH = Shape(
    "many to many, through entities and projects",
    mapping={
        "leads": {"external_entity_id": "entity_ref", "external_project_id": "project_ref"},
        "credentials": {"table": "connections", "type": "kind", "enabled": {"column": "active", "equals": ["Y"]},
                        "data": "secrets->account"},
        "entity_credentials": {"table": "connection_entity", "external_entity_id": "entity_id",
                               "credentials_id": "connection_id",
                               "through": {"table": "entities", "external_id": "external_id"}},
        "project_credentials": {"table": "connection_project", "external_project_id": "project_id",
                                "credentials_id": "connection_id",
                                "through": {"table": "projects", "external_id": "external_id"}},
    },
    eloquent={
        "style": "through",
        "leads": {"table": "leads", "key": "id", "entity": "entity_ref", "project": "project_ref"},
        "credentials": {"table": "connections", "key": "id", "enabled": ["active", "Y"]},
        "entity": {"table": "entities", "external": "external_id", "pivot": "connection_entity",
                   "owner": "entity_id", "credential": "connection_id", "deleted_at": "deleted_at"},
        "project": {"table": "projects", "external": "external_id", "pivot": "connection_project",
                    "owner": "project_id", "credential": "connection_id", "deleted_at": "deleted_at"},
    },
    sql="""
        SELECT l.id, c.id FROM leads l JOIN entities o ON o.external_id = l.entity_ref AND o.deleted_at IS NULL
        JOIN connection_entity e ON e.entity_id = o.id JOIN connections c ON c.id = e.connection_id
        WHERE c.active = 'Y'
        UNION
        SELECT l.id, c.id FROM leads l JOIN projects o ON o.external_id = l.project_ref AND o.deleted_at IS NULL
        JOIN connection_project e ON e.project_id = o.id JOIN connections c ON c.id = e.connection_id
        WHERE c.active = 'Y'
    """,
    build=_build_through,
)  # fmt: skip


# --- one polymorphic table of links ---------------------------------------------------------------------------------


def _build_morph(connection: Connection, rng: random.Random, seal: Seal | None) -> None:
    data, metadata = Data(rng), MetaData()
    leads = Table("leads", metadata, Column("id", BigInteger, primary_key=True, autoincrement=False),
                  Column("entity_id", BigInteger), Column("meta", JSON), Column("name", Text),
                  Column("created_at", DateTime))  # fmt: skip
    accounts = Table("accounts", metadata, Column("id", Integer, primary_key=True, autoincrement=False),
                     Column("type", String(50)), Column("status", String(20)), Column("data", JSON))  # fmt: skip
    links = Table("accountables", metadata, Column("account_id", Integer), Column("accountable_id", BigInteger),
                  Column("accountable_type", String(100)))  # fmt: skip
    metadata.create_all(connection)
    connection.execute(insert(leads), [
        {"id": number, "entity_id": data.owner(), "meta": {"project": {"id": data.owner()}}, "name": "Анна",
         "created_at": DELETED} for number in range(1, LEADS + 1)
    ])  # fmt: skip
    connection.execute(insert(accounts), [
        {"id": number, "type": "webhooks", "status": rng.choice(["on", "trial", "off"]),
         "data": webhook(number) if seal is None else {**webhook(number), "secret": seal(webhook(number)["secret"])}}
        for number in range(1, CREDENTIALS + 1)
    ])  # fmt: skip
    rows = [(owner, number, "App\\Models\\Entity") for owner, number in data.entity_links]
    rows += [(owner, number, "App\\Models\\Project") for owner, number in data.project_links]
    rows += [(rng.randint(1, OWNERS), number, "App\\Models\\User") for number in range(1, CREDENTIALS)]
    connection.execute(insert(links), [
        {"account_id": number, "accountable_id": owner, "accountable_type": kind} for owner, number, kind in rows
    ])  # fmt: skip


def _link(owner: str, key: str) -> dict[str, Any]:
    return {
        "table": "accountables",
        key: "accountable_id",
        "credentials_id": "account_id",
        "where": {"accountable_type": f"App\\Models\\{owner}"},
    }


MORPH = Shape(
    "one polymorphic table of links",
    mapping={
        "leads": {"external_entity_id": "entity_id", "external_project_id": "meta->project->id"},
        "credentials": {"table": "accounts", "enabled": {"column": "status", "equals": ["on", "trial"]}},
        "entity_credentials": _link("Entity", "external_entity_id"),
        "project_credentials": _link("Project", "external_project_id"),
    },
    eloquent={
        "style": "morph",
        "leads": {"table": "leads", "key": "id", "entity": "entity_id", "project": "meta->project->id"},
        "credentials": {"table": "accounts", "key": "id", "enabled": ["status", ["on", "trial"]]},
        "entity": {"class": "App\\Models\\Entity"},
        "project": {"class": "App\\Models\\Project"},
        "links": {"table": "accountables", "owner": "accountable_id", "type": "accountable_type",
                  "credential": "account_id"},
    },
    sql="""
        SELECT l.id, c.id FROM leads l JOIN accountables e ON e.accountable_id = l.entity_id
        AND e.accountable_type = 'App{b}Models{b}Entity'
        JOIN accounts c ON c.id = e.account_id WHERE c.status IN ('on', 'trial')
        UNION
        SELECT l.id, c.id FROM leads l JOIN accountables e ON e.accountable_id = {project}
        AND e.accountable_type = 'App{b}Models{b}Project'
        JOIN accounts c ON c.id = e.account_id WHERE c.status IN ('on', 'trial')
    """,
    build=_build_morph,
)  # fmt: skip

SHAPES: Sequence[Shape] = (PLAIN, RENAMED, THROUGH, MORPH)
