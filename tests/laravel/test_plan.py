"""What leadctl plans is what the application's own Eloquent computes, and what SQL written by hand says: for each
shape of a schema on each database, with the credentials plain and encrypted by the application."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, text

from leadctl.services.bootstrap import open_app
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.settings import DatabaseSettings, LoadedSettings, Settings
from leadctl.store.engines import parse_url
from tests.laravel.shapes import SHAPES, Shape
from tests.support.laravel import run_php
from tests.support.servers import KINDS, server_of

APP_KEY = "base64:" + "bGVhZGN0bC1sZWFkY3RsLWxlYWRjdGwtbGVhZGN0bC0="
HERE = Path(__file__).parent
#: lead → credentials, both as text
Plan = dict[str, list[str]]


@dataclass(frozen=True)
class Case:
    shape: Shape
    sealed: bool

    def __str__(self) -> str:
        return f"{self.shape}, {'encrypted' if self.sealed else 'plain'}"


CASES = [Case(shape, sealed) for shape in SHAPES for sealed in (False, True)]


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """A database of nobody's."""
    server = server_of(request, request.param)
    return parse_url(server.new_database() if server else f"sqlite:///{tmp_path / 'app.db'}", "url")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_plan_is_the_applications(case: Case, url: URL) -> None:
    fill(url, case)
    by_hand = by_sql(url, case.shape)
    assert sum(map(len, by_hand.values())) > 50
    assert by_eloquent(url, case.shape) == by_hand
    assert by_leadctl(url, case) == by_hand


def fill(url: URL, case: Case) -> None:
    sealed = ciphertexts(case.shape) if case.sealed else None
    engine = create_engine(url)
    with engine.begin() as connection:
        if url.get_backend_name() == "mysql":
            connection.execute(text("ALTER DATABASE CHARACTER SET utf8mb4"))
        seal = None if sealed is None else lambda value: sealed[json.dumps(value)]
        case.shape.build(connection, random.Random(7), seal)
    engine.dispose()


def ciphertexts(shape: Shape) -> Mapping[str, str]:
    """What the shape wants encrypted, as PHP's own Encrypter does it."""
    wanted: dict[str, Any] = {}

    def note(value: Any) -> str:
        wanted[json.dumps(value)] = value
        return ""

    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        shape.build(connection, random.Random(7), note)
    engine.dispose()
    sealed = run_php(HERE / "encrypt.php", {"key": APP_KEY, "values": list(wanted.values())})
    assert isinstance(sealed, list)
    return dict(zip(wanted, sealed, strict=True))


def by_sql(url: URL, shape: Shape) -> Plan:
    backend = url.get_backend_name()
    project = {
        "sqlite": "json_extract(l.meta, '$.project.id')",
        "postgresql": "CAST(l.meta->'project'->>'id' AS bigint)",
        "mysql": "CAST(JSON_VALUE(l.meta, '$.project.id') AS SIGNED)",
    }[backend]
    mysql = backend == "mysql"
    statement = shape.sql.format(q="`" if mysql else '"', b="\\\\" if mysql else "\\", project=project)
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text(statement.replace(":", "\\:"))).all()
    engine.dispose()
    return collected((str(lead), str(credential)) for lead, credential in rows)


def by_eloquent(url: URL, shape: Shape) -> Plan:
    drivers = {"sqlite": "sqlite", "postgresql": "pgsql", "mysql": "mysql"}
    connection: dict[str, Any] = {"driver": drivers[url.get_backend_name()], "database": url.database}
    if url.host:
        connection |= {"host": url.host, "port": url.port, "username": url.username, "password": url.password or ""}
        connection |= {"charset": "utf8mb4" if connection["driver"] == "mysql" else "utf8"}
    found = run_php(HERE / "plan.php", {"connection": connection, "models": shape.eloquent})
    assert isinstance(found, dict)
    return collected((lead, str(credential)) for lead, ids in found.items() for credential in ids)


def by_leadctl(url: URL, case: Case) -> Plan:
    database = DatabaseSettings.model_validate({
        "url": url.render_as_string(hide_password=False),
        "mapping": case.shape.mapping,
        "app_key": APP_KEY if case.sealed else None,
    })  # fmt: skip
    with open_app(LoadedSettings(Settings(database=database), None)) as app:
        plans = list(plan_leads(app, LeadSelection(), Selectors()))
    reasons = {str(skip.reason) for plan in plans for skip in plan.skipped}
    assert reasons <= {"disabled"}
    return collected(
        (str(plan.lead_id), str(delivery.account.credential_id)) for plan in plans for delivery in plan.deliveries
    )  # fmt: skip


def collected(pairs: Iterable[tuple[str, str]]) -> Plan:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for lead, credential in pairs:
        found[lead].add(credential)
    return {lead: sorted(credentials) for lead, credentials in sorted(found.items())}
