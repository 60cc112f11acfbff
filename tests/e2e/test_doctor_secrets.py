"""``doctor`` and ``init`` look at somebody's tables: whatever is mapped wrongly, they show no secret and no text."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from leadctl.services.config_template import mapping_toml
from leadctl.services.doctor import doctor
from tests.support.servers import on_sqlite
from tests.support.world import Finished, World

pytestmark = on_sqlite  # its columns hold any text

#: In every text that is somebody's, and in every secret.
CANARY = "Kanareika"
TOKEN = f"123456789:AAH{CANARY}-made-up-token-0123456789"
LEADS = 3
#: What stands in a row of leads and of credentials; each with a number behind it, as a person's text never repeats.
TEXTS = {
    "name": f"Anna {CANARY} Petrova", "phone": f"+7916{CANARY}", "email": f"{CANARY}@example.com",
    "comment": f"Call me, {CANARY}", "page_url": f"https://shop.example/{CANARY}",
}  # fmt: skip
ANSWERS = json.dumps({"budget": f"{CANARY} 100"})

#: The mapping that fits, as far as it differs: nothing. Each of these has one thing wrong.
WRONG: Mapping[str, Mapping[str, Any]] = {
    "enabled is a text": {"credentials": {"enabled": "note"}},
    "enabled is chosen by a text": {"credentials": {"enabled": {"column": "note", "equals": ["active"]}}},
    "enabled is the account": {"credentials": {"enabled": "data"}},
    "enabled lies beside secrets": {"credentials": {"enabled": {"column": "data->token", "equals": ["on"]}}},
    "the type is a text": {"credentials": {"type": "note"}},
    "the type is the account": {"credentials": {"type": "data"}},
    "the type is a secret": {"credentials": {"type": "data->token"}},
    "credentials are the leads": {
        "credentials": {"table": "leads", "type": "comment", "enabled": "email", "data": "answers"}
    },
    "an entity is an address": {"leads": {"external_entity_id": "email", "external_project_id": "phone"}},
    "an entity is the answers": {"leads": {"external_entity_id": "answers", "external_project_id": "comment"}},
    "a status is a text": {
        "deliveries": {"table": "lead_logs", "credential_id": "credential_id", "status": "answer",
                       "delivered": ["sent"]},
    },
}  # fmt: skip
SECRETS: Mapping[str, Any] = {
    "credentials": {"settings": {"subject": {"value": f"{CANARY} of all credentials"}}},
    "data": {
        "telegram": {"bot_token": {"key": "token", "default": TOKEN}, "chat_id": {"default": f"{CANARY}-1"}},
        "webhooks": {"headers": {"default": {"X-Api-Key": CANARY}}, "secrets": {"default": [f"whsec_{CANARY}"]}},
    },
    "settings": {"telegram": {"subject": {"default": f"For {CANARY}"}}},
}


@pytest.fixture
def shop(world: World) -> World:
    """Texts and secrets in every column that may be taken for another."""
    for number in range(1, LEADS + 1):
        row = {name: text.replace(CANARY, f"{CANARY}{number}") for name, text in TEXTS.items()}
        world.add_leads([number], **row, answers=ANSWERS, utm=json.dumps({"utm_source": f"of {CANARY}@example.com"}))
        world.add_credential(number + 10, "telegram", {"token": f"{TOKEN}{number}", "chat_id": -1000 - number})
    with closing(sqlite3.connect(world.db_path)) as connection, connection:
        connection.executescript(f"""
            ALTER TABLE credentials ADD COLUMN note TEXT;
            UPDATE credentials SET note = 'Of {CANARY} the ' || id || 'th';
            CREATE TABLE lead_logs (id INTEGER PRIMARY KEY, lead_id INTEGER, credential_id INTEGER, status TEXT,
              answer TEXT);
            INSERT INTO lead_logs SELECT id, id, 11, 'sent', '{CANARY} has it, ' || id FROM leads;
        """)
    return world


def write_mapping(world: World, *mappings: Mapping[str, Any]) -> None:
    merged: dict[str, Any] = {}
    for mapping in mappings:
        for section, keys in mapping.items():
            merged[section] = {**merged.get(section, {}), **keys}
    world.write_config("\n" + "\n".join(mapping_toml(merged)) + "\n")


def shows_nothing(*texts: str) -> None:
    for text in texts:
        assert CANARY.lower() not in text.lower(), text


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_column_shows_nothing_of_what_it_holds(shop: World, wrong: str) -> None:
    write_mapping(shop, SECRETS, WRONG[wrong])
    rows = doctor(str(shop.folder / "leadctl.toml"))
    assert {"one lead", "mapping leads", "mapping credentials"} <= {row["check"] for row in rows}, "it has looked"
    shows_nothing(*(json.dumps(row, ensure_ascii=False) for row in rows))


def test_what_a_flag_or_a_status_has_is_shown(shop: World) -> None:
    """The other side: who has mapped the right column wants to see what is in it."""
    log = {"table": "lead_logs", "credential_id": "credential_id", "status": "status", "delivered": ["done"]}
    write_mapping(shop, SECRETS, {"credentials": {"enabled": {"column": "type", "equals": ["on"]}}, "deliveries": log})
    told = {row["check"]: row["message"] for row in doctor(str(shop.folder / "leadctl.toml"))}
    assert "the column of enabled has telegram, none of them is on" in told["mapping credentials"]
    assert "status has sent, but nowhere done" in told["mapping deliveries"]


def test_of_a_place_in_json_nothing_is_told(shop: World) -> None:
    """What else is in that column is no flag, not even where it looks like one."""
    shop.execute("UPDATE credentials SET note = '\"hidden\"'")
    write_mapping(shop, {"credentials": {"enabled": {"column": "note->state", "equals": ["on"]}}})
    told = {row["check"]: row["message"] for row in doctor(str(shop.folder / "leadctl.toml"))}
    assert told["mapping credentials"] == "table credentials: 3, 0 enabled; telegram 3"


@pytest.mark.parametrize("wrong", ["enabled is a text", "the type is a text"])
def test_doctor_as_a_command(shop: World, wrong: str) -> None:
    write_mapping(shop, SECRETS, WRONG[wrong])
    document = shop.run("doctor", "--json")
    text = shop.run("doctor")
    for done in (document, text):
        shows_nothing(done.out, done.err)
    told = {row["check"]: row["message"] for row in document.json["checks"]}
    assert told["config database.mapping.data.telegram.bot_token.key"] == "token (file)"
    for hidden in (
        "credentials.settings.subject.value", "data.telegram.bot_token.default", "data.telegram.chat_id.default",
        "data.webhooks.headers.default.X-Api-Key", "data.webhooks.secrets.default", "settings.telegram.subject.default",
    ):  # fmt: skip
        assert told[f"config database.mapping.{hidden}"] == "*** (file)"
        assert f"database.mapping.{hidden}" in text.out.replace("\n", "")


def test_init_says_and_writes_nothing_of_it(shop: World, tmp_path: Path) -> None:
    """Columns with the names that it looks for, and other people's texts in them."""
    with closing(sqlite3.connect(shop.db_path)) as connection, connection:
        connection.executescript(f"""
            ALTER TABLE credentials RENAME COLUMN enabled TO active;
            ALTER TABLE credentials RENAME COLUMN note TO status;
            UPDATE credentials SET active = '{CANARY} said on ' || id;
            INSERT INTO credentials (id, type, name, active, data) VALUES
              (20, 'Of {CANARY} and her sister', '{CANARY}', 1, '{{"url": "https://hooks.example.com/{CANARY}"}}');
            ALTER TABLE lead_logs RENAME COLUMN status TO state;
            ALTER TABLE lead_logs RENAME COLUMN answer TO status;
        """)
    url = f"sqlite:///{shop.db_path}"
    said: list[Finished] = []
    for name, flags in (("text.toml", []), ("json.toml", ["--json"])):
        said.append(shop.run("init", "--path", tmp_path / name, "--database-url", url, *flags))
    for done in said:
        assert done.code == 0
        shows_nothing(done.out, done.err)
    shows_nothing((tmp_path / "text.toml").read_text(), (tmp_path / "json.toml").read_text())
    asked = {note["about"]: note["message"] for note in said[1].json["unsure"]}
    assert "(a text)" in asked["credentials.enabled"]
    assert "(a text)" in asked["types"]
    assert "(a text)" in asked["deliveries"]
