"""README's "use it with your Laravel application", command by command, on tables as migrations make them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.store.engines import parse_url
from tests.laravel.test_plan import APP_KEY
from tests.laravel.test_writing import php
from tests.support.servers import Server, query, query_many, server_of
from tests.support.world import Finished, World

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
(SECTION,) = re.findall(r"### use it with your Laravel application\n(.*?)#### Mapping", README, re.DOTALL)
#: The columns of each table; every text is VARCHAR(191).
TABLES = {
    "migrations": "id INTEGER, migration {text}, batch INTEGER",
    "crm_leads": "id BIGINT PRIMARY KEY, entity_id BIGINT, project_id BIGINT, name {text}, phone {text}, email {text}, "
    "payload {json}, utm_source {text}, utm_medium {text}, created_at {time}, deleted_at {time}",
    "crm_integrations": "id BIGINT PRIMARY KEY, provider {text}, title {text}, is_active SMALLINT, config TEXT, "
    "created_at {time}, deleted_at {time}",
    "crm_entity_integration": "entity_id BIGINT, integration_id BIGINT",
    "crm_integration_project": "project_id BIGINT, integration_id BIGINT",
    "crm_lead_logs": "id BIGINT PRIMARY KEY, lead_id BIGINT, integration_id BIGINT, status {text}, created_at {time}",
}
LEADS = 40
#: What the application's log says has arrived, to the webhook.
LOGGED = range(1, 11)
WEBHOOK, TELEGRAM = 1, 2


def commands() -> list[list[str]]:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("leadctl ")]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_every_command_of_the_how_to(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    server = server_of(request, kind)
    assert server is not None
    with running_sandbox(["webhooks", "telegram"], scale=20) as box:
        follow(application(server, box), box, tmp_path)


def follow(url: str, box: Sandbox, tmp_path: Path) -> None:
    world = World(tmp_path, env={
        "APP_KEY": APP_KEY, "DATABASE_URL": url, "LEADCTL_LEDGER__URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "LEADCTL_NETWORK__ALLOW_PRIVATE": "127.0.0.0/8", "LEADCTL_LIMITS__SCALE": "20",
    })  # fmt: skip
    (tmp_path / "leadctl.toml").unlink()
    ended: dict[str, Finished] = {}
    for line in commands():
        done = ended[" ".join(line)] = world.run(*line)
        assert done.code == 0, (line, done.out, done.err)
    assert "nothing is made in it" in ended["init --path leadctl.toml --database-url env:DATABASE_URL"].out
    assert (
        f"missing: {2 * LEADS - len(LOGGED)} never tried, 0 failed, 0 unknown"
        in ended["plan --missing --since 30d"].out
    )
    hooks, chats = box.judge.by_lead("webhooks"), box.judge.by_lead("telegram")
    for lead in range(1, LEADS + 1):
        assert (hooks[str(lead)], chats[str(lead)]) == (int(lead not in LOGGED), 1)
    again = world.run("bulk-resend", "--missing", "--since", "30d", "--yes", "--json")
    assert (again.code, again.json["status"]) == (0, "nothing")
    engine = create_engine(parse_url(url, "url"))
    assert set(inspect(engine).get_table_names()) == set(TABLES)
    engine.dispose()


def application(server: Server, box: Sandbox) -> str:
    """Its database: forty leads, a webhook for their entity and a bot for their project."""
    url = server.new_database()
    if server.kind == "mariadb":
        query(url, "ALTER DATABASE CHARACTER SET utf8mb4")
    json_type = "JSONB" if server.kind == "postgresql" else "JSON"
    for name, columns in TABLES.items():
        query(
            url, f"CREATE TABLE {name} ({columns.format(json=json_type, text='VARCHAR(191)', time='TIMESTAMP NULL')})"
        )
    hook, bot = dict(box.vendor("webhooks").credential()), dict(box.vendor("telegram").credential())
    bot = {"token": bot["bot_token"], "chat": bot["chat_id"], "base_url": bot["base_url"]}
    sealed = php("encrypt", [hook, bot])
    query_many(url, "INSERT INTO crm_integrations VALUES (%s, %s, %s, 1, %s, NULL, NULL)", [
        (WEBHOOK, "Webhook", "Site", sealed[0]), (TELEGRAM, "Telegram", "Bot", sealed[1]),
    ])  # fmt: skip
    query_many(url, "INSERT INTO crm_entity_integration VALUES (%s, %s)", [(7, WEBHOOK)])
    query_many(url, "INSERT INTO crm_integration_project VALUES (%s, %s)", [(8, TELEGRAM)])
    now = "CURRENT_TIMESTAMP"
    payload = json.dumps({"answers": {"Бюджет": "100"}, "page": "https://example.com/p"})
    query_many(
        url,
        f"INSERT INTO crm_leads VALUES (%s, 7, 8, %s, %s, %s, %s, 'yandex', 'cpc', {now}, NULL)",
        [(n, f"Анна {n}", f"+7900{n:07d}", f"lead{n}@example.com", payload) for n in range(1, LEADS + 1)],
    )
    query_many(
        url, f"INSERT INTO crm_lead_logs VALUES (%s, %s, {WEBHOOK}, %s, {now})",
        [(n, n, "success" if n in LOGGED else "failed") for n in range(1, 21)],
    )  # fmt: skip
    return url
