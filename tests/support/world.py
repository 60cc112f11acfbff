"""A database made by hand (CONTRACT §7, and nothing else of ours), a config, a sandbox, and leadctl as a process."""

import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect

from leadctl.sandbox.server import Sandbox, vendor_classes
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
#: The first have numbers that tests name (credential 11 is amoCRM's, and so on); the others follow.
_NUMBERED = ("amocrm", "bitrix24", "email", "telegram", "webhooks")
CHANNELS = (*_NUMBERED, *sorted(set(vendor_classes()) - set(_NUMBERED)))
TIMEOUT = 120
#: Lead ids that no other world of this process has: one sandbox may serve many tests, and its judge counts by lead.
_lead_ids = itertools.count(1001)
#: Run after a ``patch``: the command as it is started otherwise.
_MAIN = "\nimport sys\nfrom leadctl.__main__ import main\nsys.exit(main())\n"


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

    @property
    def outcomes(self) -> dict[int | str, str]:
        """credential → outcome, of the run's document, for one lead."""
        return {delivery["credential_id"]: delivery["outcome"] for delivery in self.json["deliveries"]}

    @property
    def records(self) -> list[dict[str, Any]]:
        """stderr, which must be JSON lines only."""
        return [json.loads(line) for line in self.err.splitlines()]

    def record(self, event: str) -> dict[str, Any]:
        """The first log record of that name."""
        return next(record for record in self.records if record["event"] == event)


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

    def path(self, name: str, text: str | bytes) -> Path:
        """A file beside the database."""
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

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

    def new_leads(self, count: int = 1, **columns: Any) -> list[int]:
        """Leads whose ids are in no other world of this process."""
        ids = [next(_lead_ids) for _ in range(count)]
        self.add_leads(ids, **columns)
        return ids

    def set_data(self, number: int, data: Mapping[str, Any]) -> None:
        """Correct a credential."""
        self.execute("UPDATE credentials SET data = ? WHERE id = ?", json.dumps(data), number)

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

    def command(self, *arguments: object) -> list[str]:
        config = str(self.folder / "leadctl.toml")
        return [sys.executable, "-m", "leadctl", "--config", config, *map(str, arguments)]

    def _program(self, arguments: Sequence[object], patch: str | None) -> list[str]:
        command = self.command(*arguments)
        if patch is not None:
            command[1:3] = ["-c", patch + _MAIN]
        return command

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LEADCTL_")}
        return {**kept, "PYTHONWARNINGS": "error", "NO_COLOR": "1", **self.env, **more}

    def run(self, *arguments: object, stdin: str | None = None, patch: str | None = None, **env: str) -> Finished:
        """Run leadctl to its end. ``patch``: Python that is run in its process first, to break something."""
        done = subprocess.run(
            self._program(arguments, patch),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=self.environment(**env),
            cwd=self.folder,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(
        self, *arguments: object, stdin: str | None = None, patch: str | None = None, **env: str
    ) -> "subprocess.Popen[str]":
        """leadctl in the background. ``stdin``: a few lines, which it finds there. ``patch`` as in :meth:`run`."""
        process = subprocess.Popen(
            self._program(arguments, patch),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**env),
            cwd=self.folder,
        )
        if process.stdin is not None:
            with process.stdin as stream:
                stream.write(stdin or "")
            process.stdin = None  # communicate() must not flush it again
        return process

    def finish(self, process: "subprocess.Popen[str]") -> Finished:
        """Wait for what :meth:`start` has started."""
        out, err = process.communicate(timeout=TIMEOUT)
        return Finished(process.returncode, out, err)

    def terminal(self, *arguments: object, patch: str | None = None, **env: str) -> "pexpect.spawn[str]":
        """leadctl on a terminal. ``patch`` as in :meth:`run`."""
        program, *rest = self._program(arguments, patch)
        return pexpect.spawn(
            program,
            rest,
            timeout=TIMEOUT,
            encoding="utf-8",
            cwd=self.folder,
            env=self.environment(TERM="xterm", **env),
            dimensions=(40, 100),
        )

    def ledger_rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.ledger_path}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def wait_for_row(self, sql: str) -> None:
        """Until a query of the ledger has a row; until then not even the ledger need be there."""

        def there() -> bool:
            try:
                return bool(self.ledger_rows(sql))
            except sqlite3.OperationalError:
                return False

        wait_until(there)


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Until it holds; an AssertionError if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
