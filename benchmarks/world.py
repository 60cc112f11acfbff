"""The database that is measured on: leads, credentials of every channel, and a config."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: (type, data, settings) of a credential.
Credential = tuple[str, Mapping[str, Any], Mapping[str, Any]]

#: So many credentials are linked to an entity, and so many entities belong to a project.
PER_ENTITY = 3
PER_PROJECT = 10
#: Every so many-th credential is linked to a project as well.
LINKED_TO_PROJECTS = 11

#: What makes the n-th credential of a channel lead to a place of its own.
_APART: Mapping[str, Callable[[int], Mapping[str, Any]]] = {
    "amocrm": lambda n: {"subdomain": f"acme{n}"},
    "bitrix24": lambda n: {"webhook_url": f"https://acme{n}.bitrix24.com/rest/1/k3y0fth3w3bh00k/"},
    "email": lambda n: {"to": [f"sales{n}@example.org"]},
    "getresponse": lambda n: {"campaign_id": f"L{n}"},
    "lptracker": lambda n: {"project_id": 1000 + n},
    "sendpulse": lambda n: {"address_book_id": 1000 + n},
    "telegram": lambda n: {"chat_id": -1001000000000 - n},
    "unisender": lambda n: {"list_ids": [1000 + n]},
    "uontravel": lambda n: {"api_key": f"example{n:06d}key"},
    "webhooks": lambda n: {"url": f"https://crm{n}.example/hooks/leads"},
}


@dataclass(frozen=True, slots=True)
class World:
    """A folder with a SQLite database of leads, and a config."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "leads.db"

    @property
    def ledger(self) -> Path:
        return self.folder / "leads.db.leadctl.db"

    @property
    def config(self) -> Path:
        return self.folder / "leadctl.toml"

    def forget(self) -> None:
        """Remove the ledger: nothing was ever sent."""
        for path in self.folder.glob("leads.db.leadctl.db*"):
            if path.is_file():
                path.unlink()

    def scatter_projects(self, credentials: int) -> None:
        """The leads of an entity are spread over all projects: as many different pairs as there can be."""
        entities, projects = _owners(credentials)
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("UPDATE leads SET external_project_id = 1 + id / ? % ?", (entities, projects))


def every_channel(count: int) -> list[Credential]:
    """So many credentials, of the channels in turn, each with a destination of its own."""
    from leadctl.channels import channel_class

    specs = [(channel_class(name).spec, apart) for name, apart in sorted(_APART.items())]
    # A step of its own per entity, so that the credentials of one are of different channels.
    turns = ((number, specs[(number + number // _owners(count)[0]) % len(specs)]) for number in range(count))
    return [
        (spec.name, {**spec.example_data, **apart(number)}, spec.example_settings) for number, (spec, apart) in turns
    ]


def build(folder: Path, leads: int, credentials: Sequence[Credential], limits: str = "") -> World:
    """Make the database. Neighbouring leads are of different entities; an entity is of one project."""
    from leadctl.store.sample import create_tables

    folder.mkdir()
    world = World(folder)
    create_tables(f"sqlite:///{world.database}")
    entities, projects = _owners(len(credentials))
    with closing(sqlite3.connect(world.database)) as connection, connection:
        connection.executemany(
            "INSERT INTO credentials (id, type, name, enabled, data, settings) VALUES (?, ?, ?, 1, ?, ?)",
            (
                (number, name, f"{name} {number}", json.dumps(data), json.dumps(settings))
                for number, (name, data, settings) in enumerate(credentials, 1)
            ),
        )
        connection.executemany(
            "INSERT INTO entity_credentials (external_entity_id, credentials_id) VALUES (?, ?)",
            (((number - 1) % entities + 1, number) for number in range(1, len(credentials) + 1)),
        )
        connection.executemany(
            "INSERT INTO project_credentials (external_project_id, credentials_id) VALUES (?, ?)",
            ((1 + number % projects, number) for number in range(1, len(credentials) + 1, LINKED_TO_PROJECTS)),
        )
        connection.executemany(f"INSERT INTO leads VALUES ({', '.join('?' * 11)})", _leads(leads, entities))
    world.config.write_text(
        f'[database]\nurl = "sqlite:///{world.database}"\n[network]\nallow_private = ["127.0.0.0/8"]\n{limits}'
    )
    world.config.chmod(0o600)
    return world


def _owners(credentials: int) -> tuple[int, int]:
    """How many entities and projects there are."""
    entities = max(1, credentials // PER_ENTITY)
    return entities, 1 + entities // PER_PROJECT


def _leads(count: int, entities: int) -> Iterator[tuple[Any, ...]]:
    for number in range(1, count + 1):
        entity = number % entities + 1
        yield (
            number, entity, 1 + entity // PER_PROJECT, f"Анна Ким {number}", f"+7900{number:07d}",
            f"lead{number}@example.com", "Перезвоните после 18:00, интересует тур на двоих в мае",
            "https://example.com/landing?from=ad", '{"utm_source": "yandex", "utm_medium": "cpc"}',
            '{"budget": "100 000", "persons": 2}', f"2026-11-{number % 23 + 1:02d} 06:00:00",
        )  # fmt: skip
