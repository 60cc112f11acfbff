"""A database made by hand (CONTRACT §7, and nothing else of ours), a config, a sandbox, and leadctl as a process."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leadctl.sandbox.server import Sandbox
from tests.support.schemas import validate

SCHEMA = """
CREATE TABLE leads (
  id INTEGER PRIMARY KEY, external_entity_id INTEGER, external_project_id INTEGER, name TEXT, phone TEXT, email TEXT,
  comment TEXT, page_url TEXT, utm TEXT, answers TEXT, created_at TEXT);
CREATE TABLE credentials (
  id INTEGER PRIMARY KEY, type TEXT NOT NULL, name TEXT, enabled INTEGER NOT NULL DEFAULT 1, data TEXT, settings TEXT);
CREATE TABLE entity_credentials (id INTEGER PRIMARY KEY, external_entity_id INTEGER, credentials_id INTEGER);
CREATE TABLE project_credentials (id INTEGER PRIMARY KEY, external_project_id INTEGER, credentials_id INTEGER);
"""
CHANNELS = ("amocrm", "bitrix24", "email", "telegram", "webhooks")
TIMEOUT = 120


@dataclass
class Finished:
    """A finished leadctl process."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document of a known schema."""
        document = json.loads(self.out)
        validate(document)
        return document


@dataclass
class World:
    """A folder with a database and a config."""

    folder: Path
    #: Extra TOML, say ``[send]`` tables.
    config: str = ""
    scale: float = 20.0
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.database() as connection:
            connection.executescript(SCHEMA)
        self.write_config(self.config)

    @property
    def db_path(self) -> Path:
        return self.folder / "leads.db"

    @property
    def ledger_path(self) -> Path:
        return self.folder / "leads.db.leadctl.db"

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.db_path, isolation_level=None)

    def write_config(self, more: str = "", *, allow: str = '["127.0.0.0/8"]') -> None:
        text = f'[database]\nurl = "sqlite:///{self.db_path}"\n[network]\nallow_private = {allow}\n'
        if "[limits]" not in more:
            text += f"[limits]\nscale = {self.scale}\n"
        path = self.folder / "leadctl.toml"
        path.write_text(text + more)
        path.chmod(0o600)

    def execute(self, sql: str, *values: Any) -> None:
        connection = self.database()
        connection.execute(sql, values)
        connection.close()

    def add_leads(self, ids: Iterable[int], **columns: Any) -> None:
        """Leads of entity 1 and project 1 with plausible texts."""
        rows = []
        for number in ids:
            row = {
                "id": number, "external_entity_id": 1, "external_project_id": 1, "name": f"Анна Ким {number}",
                "phone": f"+7900{number:07d}", "email": f"lead{number}@example.com", "comment": f"Комментарий {number}",
                "page_url": "https://example.com/p", "utm": json.dumps({"utm_source": "yandex"}),
                "answers": json.dumps({"budget": "100 000"}), "created_at": "2026-11-24 06:00:00",
            }  # fmt: skip
            rows.append({**row, **columns})
        names = list(rows[0])
        sql = f"INSERT INTO leads ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        connection = self.database()
        connection.execute("BEGIN")
        connection.executemany(sql, [tuple(row.values()) for row in rows])
        connection.execute("COMMIT")
        connection.close()

    def add_credential(
        self,
        number: int,
        channel: str,
        data: Mapping[str, Any] | str,
        settings: Mapping[str, Any] | None = None,
        *,
        entity: int | None = 1,
        project: int | None = None,
        enabled: bool = True,
    ) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self.execute(
            "INSERT INTO credentials VALUES (?, ?, ?, ?, ?, ?)",
            number, channel, f"{channel} {number}", int(enabled), text, json.dumps(settings or {}),
        )  # fmt: skip
        if entity is not None:
            self.execute(
                "INSERT INTO entity_credentials (external_entity_id, credentials_id) VALUES (?, ?)", entity, number
            )
        if project is not None:
            self.execute(
                "INSERT INTO project_credentials (external_project_id, credentials_id) VALUES (?, ?)", project, number
            )

    def connect(self, box: Sandbox, channels: Sequence[str] = CHANNELS) -> dict[str, int]:
        """A working credential per channel, linked to entity 1; channel → id, from 11 on."""
        numbers = {}
        for number, channel in enumerate(channels, 11):
            vendor = box.vendor(channel)
            self.add_credential(number, channel, vendor.credential(), vendor.settings())
            numbers[channel] = number
        return numbers

    def command(self, *arguments: str | int) -> list[str]:
        config = str(self.folder / "leadctl.toml")
        return [sys.executable, "-m", "leadctl", "--config", config, *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LEADCTL_")}
        return {**kept, "PYTHONWARNINGS": "error", "NO_COLOR": "1", **self.env, **more}

    def run(self, *arguments: str | int, stdin: str | None = None, **env: str) -> Finished:
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=self.environment(**env),
            cwd=self.folder,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str | int, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**env),
            cwd=self.folder,
        )

    def ledger_rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.ledger_path}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
