"""A token is written back in the form in which the application keeps it, and the application reads it."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, text

from leadctl.settings import DatabaseSettings, LedgerSettings, Settings
from leadctl.store.credentials import CredentialRows
from leadctl.store.database import Database
from leadctl.store.engines import parse_url
from leadctl.store.leases import open_leases
from leadctl.store.ledger import LedgerStore
from tests.laravel.test_plan import APP_KEY
from tests.support.laravel import run_php
from tests.support.servers import KINDS, server_of

HERE = Path(__file__).parent
OLD: Mapping[str, Any] = {"subdomain": "acme", "токен": "one", "refresh_token": "two", "n": [1, None, {"да": True}]}
#: ``токен`` is what this application calls the access token.
KEYS = {"amocrm": {"access_token": "токен"}}
NEW = {"access_token": "three", "refresh_token": "four", "expires_at": 1_800_000_000}
EXPECTED = {**OLD, "токен": "three", "refresh_token": "four", "expires_at": 1_800_000_000}


def php(action: str, values: list[Any]) -> list[Any]:
    """Encrypted or decrypted by the application's own encrypter."""
    found = run_php(HERE / "encrypt.php", {"key": APP_KEY, "action": action, "values": values})
    assert isinstance(found, list)
    return found


@dataclass(frozen=True)
class Form:
    """How a column is typed and what is in it; and what the application makes of it."""

    name: str
    kind: str
    write: Callable[[], str]
    read: Callable[[Any], Any]

    def __str__(self) -> str:
        return self.name


def _decoded(raw: Any) -> Any:
    return json.loads(raw) if isinstance(raw, (str, bytes)) else raw


def _with_fields(action: str, found: Any) -> Any:
    names = ("токен", "refresh_token")
    plain = php(action, [found[name] for name in names])
    return {**found, **dict(zip(names, plain, strict=True))}


FORMS = [
    Form("text", "TEXT", lambda: json.dumps(OLD), _decoded),
    Form("JSON", "JSON", lambda: json.dumps(OLD), _decoded),
    Form("encrypted:array", "TEXT", lambda: str(php("encrypt", [OLD])[0]),
         lambda raw: json.loads(php("decrypt", [raw])[0])),
    Form("Crypt::encrypt of an array", "TEXT", lambda: str(php("serialize", [OLD])[0]),
         lambda raw: php("unserialize", [raw])[0]),
    Form("single encrypted fields", "JSON", lambda: json.dumps(_with_fields("encrypt", OLD)),
         lambda raw: _with_fields("decrypt", _decoded(raw))),
]  # fmt: skip


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    server = server_of(request, request.param)
    return parse_url(server.new_database() if server else f"sqlite:///{tmp_path / 'app.db'}", "url")


TABLES = (
    "CREATE TABLE leads (id INTEGER, external_entity_id INTEGER, external_project_id INTEGER)",
    "CREATE TABLE entity_credentials (external_entity_id INTEGER, credentials_id INTEGER)",
    "CREATE TABLE project_credentials (external_project_id INTEGER, credentials_id INTEGER)",
)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_was_written_is_read_by_the_application(form: Form, url: URL, tmp_path: Path) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in (*TABLES, f"CREATE TABLE credentials (id INTEGER, type VARCHAR(20), data {form.kind})"):
            connection.execute(text(statement))
        connection.execute(text("INSERT INTO credentials VALUES (7, 'amocrm', :data)"), {"data": form.write()})
    assert swapped(url, tmp_path, {"access_token": "one"}) == [True, False]
    with engine.connect() as connection:
        raw = connection.execute(text("SELECT data FROM credentials")).scalar()
    engine.dispose()
    assert form.read(raw) == EXPECTED


def swapped(url: URL, folder: Path, old: Mapping[str, Any]) -> list[bool]:
    """Whether the pair was written, and another one although the old token is not there any more."""
    settings = Settings(
        database=DatabaseSettings.model_validate({
            "url": url.render_as_string(hide_password=False), "app_key": APP_KEY, "mapping": {"data": KEYS},
        }),
        ledger=LedgerSettings(url=f"sqlite:///{folder / 'ledger.db'}"),
    )  # fmt: skip
    db = Database.open(settings.database)
    ledger = LedgerStore.open(settings, db, create=True)
    leases = open_leases(ledger)
    rows = CredentialRows(db, ledger, leases)

    async def write() -> list[bool]:
        assert (await rows.read(7))["access_token"] == "one"
        assert await rows.writable(7)
        return [await rows.swap(7, old, NEW), await rows.swap(7, old, {**NEW, "access_token": "five"})]

    try:
        return asyncio.run(write())
    finally:
        leases.close()
        ledger.close()
        db.close()
