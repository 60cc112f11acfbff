"""``leadctl init`` in a database that is there: the mapping that it writes, and what it leaves alone."""

import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Column, Integer, MetaData, String, Table, create_engine, insert, inspect, text

from leadctl.domain.errors import ConfigError
from leadctl.services.bootstrap import open_app
from leadctl.services.doctor import doctor
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.services.setup import init
from leadctl.settings import load_settings
from leadctl.store.engines import parse_url
from tests.laravel.shapes import MORPH, SHAPES, Shape
from tests.laravel.test_plan import APP_KEY, CASES, Case, Plan, by_sql, collected, fill
from tests.support.schemas import validate
from tests.support.servers import KINDS, server_of
from tests.support.world import World

CONFIG = Path("leadctl.toml")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("APP_KEY", raising=False)


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """A database of nobody's."""
    server = server_of(request, request.param)
    return parse_url(server.new_database() if server else f"sqlite:///{tmp_path / 'app.db'}", "url")


def made(url: URL | str) -> dict[str, Any]:
    document = init(CONFIG, url if isinstance(url, str) else url.render_as_string(hide_password=False))
    validate(document)
    return document


def everything(url: URL) -> Mapping[str, list[str]]:
    """Every table with its rows."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            name: sorted(map(str, connection.execute(text(f"SELECT * FROM {name}"))))
            for name in inspect(engine).get_table_names()
        }
    engine.dispose()
    return found


def planned() -> Plan:
    with open_app(load_settings(str(CONFIG))) as app:
        plans = list(plan_leads(app, LeadSelection(), Selectors()))
    return collected((str(plan.lead_id), str(one.account.credential_id)) for plan in plans for one in plan.deliveries)


def expected(shape: Shape) -> dict[str, Any]:
    """The mapping by hand, but for what no look can tell."""
    mapping: dict[str, Any] = json.loads(json.dumps(shape.mapping))
    mapping.get("leads", {}).get("utm", {}).pop("utm_medium", None)  # a constant
    enabled = mapping.get("credentials", {}).get("enabled")
    if enabled == {"column": "active", "equals": ["Y"]}:
        mapping["credentials"]["enabled"] = "active"  # Y and N are understood without it
    if shape is MORPH:
        mapping["credentials"]["enabled"]["equals"] = ["on"]  # is a trial enabled? it asks
    return mapping


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_mapping_is_the_one_that_a_person_writes(case: Case, url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(url, case)
    if case.sealed:
        monkeypatch.setenv("APP_KEY", APP_KEY)
    before = everything(url)
    document = made(url)
    assert document["mapping"] == expected(case.shape)
    assert len(document["plan"]) == 3
    assert not [note for note in document["unsure"] if note["about"] == "plan"]
    assert ("encryption" in {note["about"] for note in document["unsure"]}) == case.sealed
    written = CONFIG.read_text(encoding="utf-8")
    assert ('\napp_key = "env:APP_KEY"' in written) == case.sealed
    assert stat.S_IMODE(CONFIG.stat().st_mode) == 0o600
    # What it was not sure of is put right by a person.
    CONFIG.write_text(written.replace('equals = ["on"]', 'equals = ["on", "trial"]'), encoding="utf-8")
    assert planned() == by_sql(url, case.shape)
    assert everything(url) == before
    checks = doctor(str(CONFIG))
    assert [row for row in checks if row["verdict"] == "error"] == []
    assert everything(url) == before


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.mapping], ids=str)
def test_without_the_key_of_what_is_encrypted(shape: Shape, tmp_path: Path) -> None:
    url = parse_url(f"sqlite:///{tmp_path / 'app.db'}", "url")
    fill(url, Case(shape, sealed=True))
    document = made(url)
    (plan,) = [note["message"] for note in document["unsure"] if note["about"] == "plan"]
    assert "APP_KEY is not set" in plan
    assert document["plan"] == []
    assert 'app_key = "env:APP_KEY"' in CONFIG.read_text(encoding="utf-8")


# -- what is not there, and what is refused --------------------------------------------------------------------------


def test_a_database_with_nothing_of_ours(url: URL) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE posts (id INTEGER PRIMARY KEY, title VARCHAR(20))"))
    engine.dispose()
    document = made(url)
    assert document["mapping"] == {}
    assert {"leads", "credentials", "links", "plan"} <= {note["about"] for note in document["unsure"]}
    assert "[database.mapping]" not in [line.strip() for line in CONFIG.read_text().splitlines()]
    assert set(everything(url)) == {"posts"}


def test_an_empty_table_of_leads(tmp_path: Path) -> None:
    World(tmp_path)  # the four tables
    (tmp_path / "leadctl.toml").unlink()
    document = made(f"sqlite:///{tmp_path}/leads.db")
    assert document["mapping"] == {}
    assert "no plan: there is no lead yet" in [note["message"] for note in document["unsure"]]


def test_a_database_that_is_not_there(request: pytest.FixtureRequest) -> None:
    server = server_of(request, "mariadb")
    assert server is not None
    with pytest.raises(ConfigError, match="refuses us") as caught:
        init(CONFIG, server.url("no_such_database"))
    assert caught.value.exit_code == 2
    assert not CONFIG.exists()


def test_a_wrong_password(request: pytest.FixtureRequest) -> None:
    server = server_of(request, "mariadb")
    assert server is not None
    user = f"locked{os.getpid()}"
    server.execute(f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'right'")
    try:
        with pytest.raises(ConfigError, match="refuses us") as caught:
            init(CONFIG, server.url("mysql", user=user).replace("@", ":wr0ng-s3cr3t@"))
    finally:
        server.execute(f"DROP USER {user}@'127.0.0.1'")
    assert "wr0ng-s3cr3t" not in str(caught.value)


def test_names_that_must_be_quoted(url: URL) -> None:
    metadata = MetaData()
    bot = {"token": "123456789:AAHexampleexampleexampleexampleexamp", "chat": -1}
    kind = 'App\\Telegram "Bot"'
    rows: Mapping[str, Mapping[str, Any]] = {
        "lead requests": {"entity id": 10, "project-id": 100, "e-mail": "a@example.com", "select": "x"},
        "integrations": {"type": kind, "order": 1, "data": json.dumps(bot), "status": "1"},
        "entity integrations": {"entity id": 10, "integration id": 1},
        "project integrations": {"project-id": 100, "integration id": 1},
    }
    engine = create_engine(url)
    for name, row in rows.items():
        columns = [Column(one, Integer if type(value) is int else String(200)) for one, value in row.items()]
        Table(name, metadata, Column("id", Integer, primary_key=True), *columns)
    with engine.begin() as connection:
        metadata.create_all(connection)
        for name, row in rows.items():
            connection.execute(insert(metadata.tables[name]), [row])
    engine.dispose()
    document = made(url)
    assert document["mapping"]["leads"]["table"] == "lead requests"
    assert document["mapping"]["leads"]["email"] == "e-mail"
    assert document["mapping"]["types"] == {kind: "telegram"}
    (lead,) = document["plan"]
    assert [(one["channel"], one["via"]) for one in lead["deliveries"]] == [("telegram", ["entity", "project"])]


def test_leads_that_have_entities_only(url: URL) -> None:
    metadata = MetaData()
    columns = {
        "leads": ("id", "company_id", "phone"), "integrations": ("id", "type", "enabled", "data"),
        "company_integration": ("company_id", "integration_id"),
    }  # fmt: skip
    for name, names in columns.items():
        texts = {"phone", "type", "data"}
        Table(name, metadata, *(Column(one, String(99) if one in texts else Integer, primary_key=one == "id",
                                       autoincrement=False) for one in names))  # fmt: skip
    rows: Mapping[str, list[tuple[Any, ...]]] = {
        "leads": [(1, 10, "+79160000001"), (2, None, "+79160000002")],
        "integrations": [(7, "webhooks", 1, '{"url": "https://hooks.example.com/1"}')],
        "company_integration": [(10, 7)],
    }
    engine = create_engine(url)
    with engine.begin() as connection:
        metadata.create_all(connection)
        for name, some in rows.items():
            connection.execute(
                insert(metadata.tables[name]), [dict(zip(columns[name], row, strict=True)) for row in some]
            )
    engine.dispose()
    document = made(url)
    assert "project_credentials" in {note["about"] for note in document["unsure"]}
    assert [[(one["credential_id"], one["via"]) for one in lead["deliveries"]] for lead in document["plan"]] == [
        [], [(7, ["entity"])]
    ]  # fmt: skip
    links = [row["verdict"] for row in doctor(str(CONFIG)) if row["check"] == "mapping links"]
    assert links == ["ok", "ok"]


# -- as a command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[World]:
    """A world whose database has other names."""
    world = World(tmp_path)
    with closing(sqlite3.connect(world.db_path)) as connection, connection:
        connection.executescript("""
            DROP TABLE leads; DROP TABLE credentials; DROP TABLE entity_credentials; DROP TABLE project_credentials;
            CREATE TABLE shop_requests (id INTEGER PRIMARY KEY, entity_id INTEGER, project_id INTEGER, payload TEXT,
              utm_source TEXT, created_at TEXT);
            CREATE TABLE shop_integrations (id INTEGER PRIMARY KEY, provider TEXT, status TEXT, config TEXT);
            CREATE TABLE shop_entity_integration (entity_id INTEGER, integration_id INTEGER);
            CREATE TABLE shop_integration_project (project_id INTEGER, integration_id INTEGER);
            CREATE TABLE shop_request_logs (id INTEGER PRIMARY KEY, request_id INTEGER, integration_id INTEGER,
              status TEXT, sent_at TEXT);
            INSERT INTO shop_integrations VALUES
              (7, 'TelegramBot', 'active', '{"token": "123456789:AAHs3cr3ts3cr3ts3cr3ts3cr3ts3cr3t", "chat": -1001}'),
              (8, 'Webhook', 'trial', '{"endpoint": "https://hooks.example.com/s3cr3t"}');
            INSERT INTO shop_entity_integration VALUES (10, 7), (11, 7), (12, 99);
            INSERT INTO shop_integration_project VALUES (100, 8);
            INSERT INTO shop_request_logs VALUES (1, 1, 7, 'delivered', '2026-01-01 10:00'), (2, 2, 7, 'failed', NULL);
        """)
        contact = {"contact": {"name": "Anna Petrova", "phone": "+79161234512", "email": "anna@example.com"},
                   "answers": {"a": "1", "b": "2", "c": "3"}}  # fmt: skip
        rows = [(n, 9 + n, 100, json.dumps(contact), "yandex", "2026-01-01 09:00:00") for n in range(1, 5)]
        connection.executemany("INSERT INTO shop_requests VALUES (?, ?, ?, ?, ?, ?)", rows)
    (tmp_path / "leadctl.toml").unlink()
    yield world
    assert "leadctl" not in str(list(tmp_path.glob("leads.db.*")))


def test_what_init_says_to_people(shop: World) -> None:
    done = shop.run("init", "--database-url", f"sqlite:///{shop.db_path}")
    assert done.code == 0
    said = done.out.splitlines()
    assert said[0] == "config written: leadctl.toml"
    assert max(len(line) for line in said if "/" not in line) <= 80
    assert "  types: TelegramBot as telegram, Webhook as webhooks" in said
    assert "  credentials.enabled: where status is active; not where it is trial" in said
    assert "    write: database.mapping.credentials.enabled" in said
    assert said.index("sure:") < said.index("not sure, look at these:") < said.index("next:")
    assert "  lead 4 (entity 13, project 100)" in said
    assert "    skip webhooks #8: disabled: the credential is switched off" in said
    assert "    send telegram #7: -1001" in said
    assert "s3cr3t" not in done.out + done.err
    assert "Petrova" not in done.out + done.err


def test_what_doctor_says_of_it(shop: World) -> None:
    shop.run("init", "--database-url", f"sqlite:///{shop.db_path}")
    config = shop.folder / "leadctl.toml"
    more = 'chat_id = { key = "chat", default = "s3cr3t-9" }'
    config.write_text(config.read_text().replace('chat_id = "chat"', more))
    done = shop.run("doctor", "--json")
    assert done.code == 0
    told: dict[str, str] = {}
    for row in done.json["checks"]:
        told[row["check"]] = f"{told.get(row['check'], '')} {row['verdict']}: {row['message']}".strip()
    assert told["config database.app_key"] == "ok: not set (default)"
    assert told["config database.mapping.credentials.table"] == "ok: integrations (file)"
    assert told["config database.mapping.data.telegram.bot_token.key"] == "ok: token (file)"
    assert told["config database.mapping.data.telegram.chat_id.default"] == "ok: *** (file)"
    assert "100% name, 100% phone, 100% email" in told["mapping leads"]
    assert "2, 1 enabled; telegram 1, webhooks 1" in told["mapping credentials"]
    assert "the column of enabled has active, trial" in told["mapping credentials"]
    assert "table shop_entity_integration, 3 links, 67% lead to a credential" in told["mapping links"]
    assert "4 have an entity, and 50% of these have a credential" in told["mapping links"]
    assert "of the 4 newest leads 1 have a delivery there; status has delivered, failed" in told["mapping deliveries"]
    assert told["one lead"] == (
        "ok: lead 4, entity 13, project 100, name A*** P***, phone +7***12, e-mail a***@***, 3 answers, "
        "utm_source yandex, created 2026-01-01 09:00 UTC"
    )
    assert not {"config database.mapping", "encryption"} & told.keys()
    assert "s3cr3t" not in done.out
    assert "Petrova" not in done.out
