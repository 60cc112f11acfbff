"""What doctor says of a mapping: right, wrong, and what it keeps to itself."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.model import Answer, Lead
from leadctl.services.verifying import Row, masked, shown_mapping, verify
from leadctl.settings import DatabaseSettings
from leadctl.settings.mapping import MappingSettings
from leadctl.store.database import Database
from leadctl.store.encryption import Keyring
from leadctl.store.sample import create_tables, insert_rows

KEY, OTHER = "k" * 32, "o" * 32
HOOK = {"url": "https://hooks.example.com/s3cr3t"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The four tables with two leads, two credentials and three links."""
    url = f"sqlite:///{tmp_path}/app.db"
    create_tables(url)
    insert_rows(url, "leads", [
        {"id": n, "external_entity_id": n, "external_project_id": None, "name": "Anna", "phone": "+79160000000"}
        for n in (1, 2)
    ])  # fmt: skip
    insert_rows(url, "credentials", [
        {"id": 7, "type": "webhooks", "enabled": 1, "data": json.dumps(HOOK)},
        {"id": 8, "type": "Viber", "enabled": 0, "data": "{}"},
    ])  # fmt: skip
    links = [{"external_entity_id": 1, "credentials_id": 7}, {"external_entity_id": 3, "credentials_id": 99}]
    insert_rows(url, "entity_credentials", links)
    return url


def rows(url: str, mapping: Mapping[str, Any] | None = None, **more: Any) -> dict[str, list[Row]]:
    settings = DatabaseSettings.model_validate({"url": url, "mapping": mapping or {}, **more})
    db = Database.open(settings)
    try:
        found: dict[str, list[Row]] = {}
        for one in verify(db):
            found.setdefault(one["check"], []).append(one)
    finally:
        db.close()
    assert "s3cr3t" not in str(found)
    return found


def changed(url: str, *statements: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def warned(found: Mapping[str, list[Row]]) -> set[str]:
    return {check for check, some in found.items() for one in some if one["verdict"] != "ok"}


def test_what_fits(url: str) -> None:
    found = rows(url)
    assert warned(found) == set()
    assert "table leads, the 2 newest: 100% name, 100% phone, 0% email" in found["mapping leads"][0]["message"]
    assert "2, 1 enabled; webhooks 1; the column of enabled has 0, 1" in found["mapping credentials"][0]["message"]
    assert "of no channel: 'Viber' 1" in found["mapping types"][0]["message"]
    entity, project = (one["message"] for one in found["mapping links"])
    assert "2 links, 50% lead to a credential; of the 2 newest leads 2 have an entity, and 50%" in entity
    assert project == "project: table project_credentials, 0 links; of the 2 newest leads 0 have a project"
    assert "encryption" not in found
    assert found["one lead"][0]["message"].startswith(
        "lead 2, entity 2, no project, name A***, phone +7***00, no e-mail"
    )


def test_nothing_in_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    create_tables(url)
    found = rows(url)
    assert warned(found) == set()
    assert "no lead yet" in found["mapping leads"][0]["message"]
    assert "one lead" not in found


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE leads SET name = NULL, phone = NULL", "mapping leads"),
        ("UPDATE credentials SET enabled = 0", "mapping credentials"),
        ("UPDATE entity_credentials SET credentials_id = 99", "mapping links"),
        ("UPDATE entity_credentials SET external_entity_id = 99", "mapping links"),
    ],
)
def test_what_does_not_fit(url: str, statement: str, check: str) -> None:
    changed(url, statement)
    found = rows(url)
    assert warned(found) == {check}
    assert next(one for one in found[check] if one["verdict"] == "warning")["hint"]


def test_values_of_enabled_that_nobody_has(url: str) -> None:
    found = rows(url, {"credentials": {"enabled": {"column": "enabled", "equals": ["active"]}}})
    assert warned(found) == {"mapping credentials"}
    assert "the column of enabled has 0, 1, none of them is active" in found["mapping credentials"][0]["message"]


LOG = {"table": "log", "credential_id": "credential_id", "status": "state", "delivered": ["sent"]}


def test_the_applications_log(url: str) -> None:
    changed(url, "CREATE TABLE log (lead_id INTEGER, credential_id INTEGER, state TEXT)",
            "INSERT INTO log VALUES (1, 7, 'sent'), (2, 7, 'failed'), (9, 7, 'sent')")  # fmt: skip
    found = rows(url, {"deliveries": LOG})
    message = found["mapping deliveries"][0]["message"]
    assert "of the 2 newest leads 1 have a delivery there; state has failed, sent, of which sent counts" in message
    assert warned(found) == set()
    found = rows(url, {"deliveries": {**LOG, "delivered": ["arrived"]}})
    assert "but nowhere arrived" in found["mapping deliveries"][0]["message"]
    assert warned(found) == {"mapping deliveries"}


@pytest.mark.parametrize(
    ("log", "said"), [({"table": "logs"}, "no table logs"), ({"status": "stat"}, "did you mean state?")]
)
def test_a_log_that_is_not_there(url: str, log: Mapping[str, Any], said: str) -> None:
    changed(url, "CREATE TABLE log (lead_id INTEGER, credential_id INTEGER, state TEXT)")
    (one,) = rows(url, {"deliveries": {**LOG, **log}})["mapping deliveries"]
    assert (one["verdict"], one["code"]) == ("error", "usage")
    assert said in one["message"] + one["hint"]


def seal(url: str, key: str) -> None:
    cipher = Keyring(key).decrypt(_sealed(key))[1]
    sealed = Keyring(key).encrypt(json.dumps(HOOK).encode(), cipher)
    changed(url, f"UPDATE credentials SET data = '{sealed}' WHERE id = 7")


def _sealed(key: str) -> str:
    """Any ciphertext of that key; AES-CBC, Laravel's default."""
    from leadctl.store.encryption import _As

    return Keyring(key).encrypt(b"x", _As.CBC)


def test_encrypted_data_that_opens(url: str) -> None:
    seal(url, KEY)
    found = rows(url, app_key=KEY)
    assert warned(found) == set()
    assert "1 credentials of the newest 200 hold what Laravel has encrypted; all of it opens" in str(
        found["encryption"]
    )
    assert rows(url, app_key=OTHER, previous_keys=[KEY])["encryption"][0]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("keys", "hint"),
    [({}, "set app_key"), ({"app_key": OTHER}, "check app_key and previous_keys")],
)
def test_encrypted_data_that_does_not_open(url: str, keys: Mapping[str, Any], hint: str) -> None:
    seal(url, KEY)
    found = rows(url, **keys)
    (one,) = found["encryption"]
    assert one["verdict"] == "warning"
    assert hint in one["hint"]
    assert "1 cannot be read: credential 7: data is encrypted" in one["message"]
    assert not {KEY, OTHER} & set(str(found).split())


def test_a_key_that_nothing_needs(url: str) -> None:
    assert "not needed" in rows(url, app_key=KEY)["encryption"][0]["message"]


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_a_masked_lead() -> None:
    lead = Lead(
        42, "E-7", None, "Anna\x07 Maria Petrova", "8 (916) 123-45-12", "anna@example.com", "Call me!",
        "https://shop.example/s3cr3t",
        {"utm_source": "ya", "utm_content": "anna@example.com", "utm_term": "+7 916 123-45-12"},
        (Answer("Q", "A"),),
    )  # fmt: skip
    assert masked(lead) == (
        "lead 42, entity E-7, no project, name A*** M*** P***, phone 8 ***12, e-mail a***@***, a comment of 8 "
        "characters, page at shop.example, 1 answer, utm_content ***, utm_source ya, utm_term ***, no time"
    )
    assert masked(Lead("x")) == "lead x, no entity, no project, no name, no phone, no e-mail, 0 answers, no time"
    assert "123" not in masked(Lead(1, phone="123"))
    assert "page at ***" in masked(Lead(1, page_url="https://[broken"))


def test_the_mapping_without_its_secrets() -> None:
    mapping = MappingSettings.model_validate({
        "leads": {"table": "requests", "page_url": {"value": "https://shop.example/"}},
        "credentials": {"data": {"bot_token": {"value": "s3cr3t"}, "chat_id": "chat"}},
        "data": {"telegram": {"bot_token": {"key": "token", "default": "s3cr3t"}, "chat_id": "chat"}},
    })  # fmt: skip
    assert dict(shown_mapping(mapping.model_dump(exclude_defaults=True))) == {
        "leads.table": "requests", "leads.page_url.value": "https://shop.example/",
        "credentials.data.bot_token.value": "***", "credentials.data.chat_id": "chat",
        "data.telegram.bot_token.key": "token", "data.telegram.bot_token.default": "***",
        "data.telegram.chat_id.key": "chat",
    }  # fmt: skip
