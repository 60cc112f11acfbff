"""Which tables are what: decisions over schemas as pure values, each with what is sure and what is asked."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from leadctl.services.recognising import Recognition, recognise, words
from leadctl.services.recognising.tables import Names
from leadctl.services.recognising.values import flag
from leadctl.settings.mapping import MappingSettings
from leadctl.store.inspection import Kind, Place, TableLook

SEALED = "eyJpdiI6" + "QUJD" * 20
KINDS: Mapping[str, Kind] = {
    "i": "integer", "t": "text", "j": "json", "d": "time", "b": "boolean", "u": "uuid", "n": "number", "x": "binary",
}  # fmt: skip


@dataclass
class Database:
    """A look at tables that are given whole."""

    tables: Mapping[str, TableLook]
    key: Mapping[str, Any] | None = None

    def into(self, name: str) -> TableLook:
        table = self.tables[name]
        return replace(table, count=len(table.rows))

    def values(self, name: str, of: str) -> Sequence[Any]:
        return list(dict.fromkeys(row[of] for row in self.tables[name].rows if row[of] is not None))

    def opened(self, raw: Any) -> Any:
        return (self.key or {}).get(raw, raw)

    def share(self, held: Iterable[Any], there: Place) -> float | None:
        wanted = {str(value) for value in held if value is not None}
        rows = self.tables[there[0]].rows
        if not wanted or not rows:
            return None
        return len(wanted & {str(row[there[1]]) for row in rows}) / len(wanted)


def table(
    name: str, columns: str, *rows: Sequence[Any], key: str | None = "id", to: Mapping[str, str] | None = None
) -> TableLook:
    """``columns``: ``id:i name:t``; ``to``: column → table of a foreign key to its id."""
    named = [column.partition(":") for column in columns.split()]
    kinds = {column: KINDS[kind] for column, _, kind in named}
    foreign = {column: (other, "id") for column, other in (to or {}).items()}
    held = [dict(zip(kinds, row, strict=True)) for row in rows]
    return TableLook(name, kinds, (key,) if key else (), foreign, held)


def seen(*tables: TableLook, key: Mapping[str, Any] | None = None) -> Recognition:
    """What is recognised; a mapping that the config takes."""
    found = recognise(Database({one.name: one for one in tables}, key))
    MappingSettings.model_validate(found.mapping)
    for note in (*found.sure, *found.unsure):
        assert note.about
        assert note.message
    return found


def asked(found: Recognition, about: str) -> str:
    return " / ".join(f"{note.message} {note.key}" for note in found.unsure if note.about == about)


def known(found: Recognition, about: str) -> str:
    return " / ".join(note.message for note in found.sure if note.about == about)


LEADS = table(
    "leads", "id:i external_entity_id:i external_project_id:i name:t phone:t email:t comment:t page_url:t utm:t "
    "answers:t created_at:d",
    (1, 10, 100, "Anna", "+79000000001", "a@example.com", "", "", '{"utm_source": "ya"}', '{"Q": "A"}', "2026-01-01"),
    (2, 11, 101, "Ivan", "+79000000002", "i@e.com", "", "", None, '[{"question": "Q", "answer": "A"}]', "2026-01-02"),
)  # fmt: skip
TELEGRAM = '{"bot_token": "t", "chat_id": 1}'
CREDENTIALS = table(
    "credentials", "id:i type:t name:t enabled:i data:t settings:t",
    (7, "telegram", "Chat", 1, TELEGRAM, None), (8, "webhooks", "Site", 0, '{"url": "https://x.example/"}', "{}"),
)  # fmt: skip
ENTITIES = table("entity_credentials", "id:i external_entity_id:i credentials_id:i", (1, 10, 7), (2, 11, 8))
PROJECTS = table("project_credentials", "id:i external_project_id:i credentials_id:i", (1, 100, 7))
DEFAULT = (LEADS, CREDENTIALS, ENTITIES, PROJECTS)


# -- the whole -----------------------------------------------------------------------------------------------------


def test_the_contracts_own_names_need_no_mapping() -> None:
    found = seen(*DEFAULT)
    assert found.mapping == {}
    assert found.unsure == ()
    assert not found.encrypted
    assert found.leads == "leads"
    assert "2 rows" in known(found, "leads")


def test_the_same_without_a_single_row() -> None:
    found = seen(*(replace(one, rows=()) for one in DEFAULT))
    assert found.mapping == {}
    assert "no row shows" in known(found, "entity_credentials")


def test_nothing_is_there() -> None:
    found = seen(
        table("users", "id:i name:t email:t password:t", (1, "a", "b", "c")), table("migrations", "id:i migration:t")
    )
    assert (found.mapping, found.sure, found.leads) == ({}, (), None)
    assert "no table of leads: looked for" in asked(found, "leads")
    assert "database.mapping.leads.table" in asked(found, "leads")
    assert "database.mapping.credentials.table" in asked(found, "credentials")
    assert "come first" in asked(found, "links")


def test_laravels_own_tables_are_never_taken() -> None:
    jobs = table("telescope_entries", "id:i type:t data:t lead_id:i phone:t", (1, "telegram", TELEGRAM, 1, "1"))
    tokens = table("personal_access_tokens", "id:i type:t data:t", (1, "telegram", TELEGRAM))
    assert seen(*DEFAULT, jobs, tokens).mapping == {}


def test_a_prefix_is_said_once() -> None:
    found = seen(*(replace(one, name=f"crm_{one.name}") for one in DEFAULT))
    assert found.mapping == {"prefix": "crm_"}


def test_a_prefix_that_one_table_lacks_is_written_out() -> None:
    others = [replace(one, name=f"crm_{one.name}") for one in DEFAULT[1:]]
    found = seen(replace(LEADS, name="requests"), *others, table("crm_migrations", "id:i migration:t"))
    assert found.mapping["leads"] == {"table": "requests"}
    assert found.mapping["credentials"] == {"table": "crm_credentials"}
    assert "prefix" not in found.mapping


@pytest.mark.parametrize(
    ("tables", "prefix"),
    [
        (["app_migrations", "app_leads", "other"], "app_"),
        (["migrations", "crm_a", "crm_b"], ""),
        (["crm_a", "crm_b"], "crm_"),
        (["leads", "credentials"], ""),
        (["crm_leads"], ""),
        (["crm_a", "crm_b", "leadctl_runs"], "crm_"),
        ([], ""),
    ],
)
def test_prefixes(tables: list[str], prefix: str) -> None:
    assert Names.of(tables).prefix == prefix


def test_a_table_that_may_not_be_read_is_told() -> None:
    shut = replace(CREDENTIALS, refused="permission denied")
    found = seen(LEADS, shut, ENTITIES, PROJECTS)
    assert "cannot be read: permission denied" in asked(found, "credentials")


# -- leads ---------------------------------------------------------------------------------------------------------

PAYLOAD = {"contact": {"name": "Anna", "phone": "+7900"}, "form": {"name": "Landing"}, "email": "a@example.com",
           "utm": {"source": "ya", "medium": "cpc"}, "answers": {"Q": "A"}, "message": "hello"}  # fmt: skip


def requests(payload: Any, kind: str = "j", more: str = "", *values: Any) -> TableLook:
    columns = f"uuid:u entity_id:i project_id:i payload:{kind} created:d {more}"
    rows = [(f"u{n}", 10 + n, 100 + n, payload, "2026-01-01", *values) for n in (0, 1)]
    return table("requests", columns, *rows, key="uuid")


@pytest.mark.parametrize(("payload", "kind"), [(PAYLOAD, "j"), (json.dumps(PAYLOAD), "t")])
def test_a_lead_within_json(payload: Any, kind: str) -> None:
    found = seen(requests(payload, kind), CREDENTIALS, ENTITIES, PROJECTS)
    assert found.mapping["leads"] == {
        "table": "requests", "id": "uuid", "name": "payload->contact->name", "phone": "payload->contact->phone",
        "email": "payload->email", "comment": "payload->message",
        "utm": {"utm_source": "payload->utm->source", "utm_medium": "payload->utm->medium"},
        "answers": "payload->answers", "created_at": "created",
        "external_entity_id": "entity_id", "external_project_id": "project_id",
    }  # fmt: skip
    assert "in 100% of the rows" in known(found, "leads.name")


def test_a_name_in_a_strange_place_is_a_question() -> None:
    found = seen(requests({"form": {"name": "Landing"}, "phone": "+7900"}), CREDENTIALS, ENTITIES, PROJECTS)
    assert found.mapping["leads"]["name"] == "payload->form->name"
    assert "database.mapping.leads.name" in asked(found, "leads.name")


@pytest.mark.parametrize(
    ("payload", "more", "utm"),
    [
        ({}, "utm_source:t utm_term:t", {"utm_source": "utm_source", "utm_term": "utm_term"}),
        ({"utm": {"utm_source": "ya"}}, "", "payload->utm"),
        ({"utm_source": "ya"}, "", {"utm_source": "payload->utm_source"}),
        ({}, "", None),
    ],
)
def test_utm(payload: Mapping[str, Any], more: str, utm: Any) -> None:
    values = ["ya"] * len(more.split())
    found = seen(requests({"phone": "1", **payload}, "j", more, *values), CREDENTIALS, ENTITIES, PROJECTS)
    assert found.mapping["leads"].get("utm") == utm


def test_answers_of_another_form_are_a_question() -> None:
    strange = replace(LEADS, rows=[{**LEADS.rows[0], "answers": '[{"q": "Q", "a": "A"}]'}])
    assert '"question"' in asked(seen(strange, *DEFAULT[1:]), "leads.answers")


@pytest.mark.parametrize(
    ("more", "value", "leads", "about"),
    [
        ("removed_at:d", None, {"deleted_at": "removed_at"}, None),
        ("is_deleted:i", 0, {"where": {"is_deleted": 0}}, None),
        ("is_deleted:b", False, {"where": {"is_deleted": False}}, None),
        ("is_deleted:i", None, {}, "leads"),
        ("deleted:t", "N", {}, "leads"),
    ],
)
def test_soft_deletes(more: str, value: Any, leads: Mapping[str, Any], about: str | None) -> None:
    name, _, kind = more.partition(":")
    rows = [{**row, name: value} for row in LEADS.rows]
    found = seen(replace(LEADS, columns={**LEADS.columns, name: KINDS[kind]}, rows=rows), *DEFAULT[1:])
    assert found.mapping.get("leads", {}) == leads
    assert bool(found.unsure) == (about is not None)


def test_two_tables_that_could_be_leads() -> None:
    other = replace(LEADS, name="submissions")
    found = seen(*DEFAULT, other)
    assert found.leads == "leads"
    assert "leads is taken; it could also be submissions" in asked(found, "leads")


def test_customers_that_log_in_are_no_leads() -> None:
    people = table("contacts", "id:i name:t phone:t email:t password:t entity_id:i", (1, "a", "1", "e", "p", 1))
    assert seen(people, *DEFAULT[1:]).leads is None


def test_a_lead_without_time_or_contact() -> None:
    bare = table("leads", "id:i external_entity_id:i external_project_id:i", (1, 10, 100))
    found = seen(bare, *DEFAULT[1:])
    assert found.mapping == {}
    assert "--since" in asked(found, "leads.created_at")
    assert "neither phone nor e-mail" in asked(found, "leads")


# -- credentials ---------------------------------------------------------------------------------------------------


def credentials(columns: str, *rows: Sequence[Any], name: str = "integrations") -> Recognition:
    links = [replace(one, columns={**one.columns}) for one in (ENTITIES, PROJECTS)]
    return seen(LEADS, table(name, columns, *rows), *links)


@pytest.mark.parametrize(
    ("kind", "values", "enabled", "sure"),
    [
        ("b", [True, False], {}, True),
        ("i", [1, 0], {}, True),
        ("t", ["Y", "N"], {}, True),
        ("t", ["да", "нет"], {"column": "enabled", "equals": ["да"]}, True),
        ("x", [b"\x01", b"\x00"], {}, True),
    ],
)
def test_flags(kind: str, values: Sequence[Any], enabled: Any, sure: bool) -> None:
    rows = [(n, "telegram", value, TELEGRAM) for n, value in enumerate(values)]
    found = credentials(f"id:i type:t enabled:{kind} data:t", *rows)
    assert found.mapping["credentials"].get("enabled", {}) == enabled
    assert bool(known(found, "credentials.enabled")) == sure


@pytest.mark.parametrize(
    ("column", "kind", "values", "enabled", "question"),
    [
        ("is_active", "i", [1, 0], "is_active", ""),
        ("status", "t", ["active", "inactive"], {"column": "status", "equals": ["active"]}, ""),
        ("status", "t", ["on", "trial"], {"column": "status", "equals": ["on"]}, "not where it is trial"),
        ("status", "t", ["alpha", "beta"], {"column": "status", "equals": ["active"]}, "alpha, beta"),
        ("status", "i", [1, 2], {"column": "status", "equals": ["1"]}, "not where it is 2"),
        ("disabled", "i", [0, 1], {"column": "disabled", "equals": ["0"]}, ""),
        ("colour", "t", ["red", "blue"], None, "every row counts"),
    ],
)
def test_enabled_by_other_names(
    column: str, kind: str, values: Sequence[Any], enabled: Any, question: str
) -> None:  # fmt: skip
    rows = [(n, "telegram", value, TELEGRAM) for n, value in enumerate(values)]
    found = credentials(f"id:i type:t {column}:{kind} data:t", *rows)
    assert found.mapping["credentials"].get("enabled") == enabled
    assert question in asked(found, "credentials.enabled")
    assert bool(question) == bool(asked(found, "credentials.enabled"))


@pytest.mark.parametrize(
    ("kind", "channel", "sure"),
    [
        ("telegram", "telegram", True), ("TelegramBot", "telegram", True), ("AmoCRM", "amocrm", True),
        ("amo_crm", "amocrm", True), ("Bitrix24", "bitrix24", True), ("Bitrix", "bitrix24", False),
        ("smtp", "email", True), ("mail", "email", True), ("Webhook", "webhooks", True), ("u-on", "uontravel", False),
        ("App\\Integrations\\LpTracker", "lptracker", True), ("GetResponseIntegration", "getresponse", True),
        ("SendPulse", "sendpulse", True), ("unisender_credentials", "unisender", True),
        ("U-ON.Travel", "uontravel", True),
    ],
)  # fmt: skip
def test_types(kind: str, channel: str, sure: bool) -> None:
    assert words.channel_of(kind, words.DATA_KEYS) == (channel, sure)
    found = credentials("id:i provider:t enabled:i data:t", (1, kind, 1, "{}"))
    assert found.mapping.get("types", {}) == ({} if kind == channel else {kind: channel})
    assert f"{kind} as {channel}" in (known if sure else asked)(found, "types")


@pytest.mark.parametrize("kind", ["Viber", "1", "", "crm"])
def test_types_of_no_channel(kind: str) -> None:
    assert words.channel_of(kind, words.DATA_KEYS) is None


def test_types_that_nobody_knows_are_listed() -> None:
    found = credentials("id:i type:t enabled:i data:t", (1, "telegram", 1, TELEGRAM), (2, "Viber", 1, "{}"))
    assert "of no channel: Viber" in asked(found, "types")


KEYS: Sequence[tuple[str, Mapping[str, Any], Mapping[str, str]]] = [
    ("telegram", {"token": "s3cr3t", "chat": 1}, {"bot_token": "token", "chat_id": "chat"}),
    ("amocrm", {"domain": "acme", "token": "s3cr3t"}, {"access_token": "token", "subdomain": "domain"}),
    ("bitrix24", {"webhook": "https://s3cr3t"}, {"webhook_url": "webhook"}),
    ("webhooks", {"endpoint": "https://s3cr3t"}, {"url": "endpoint"}),
    ("email", {"smtp": {"server": "h", "port": 25, "encryption": "tls"}, "login": "s3cr3t", "pass": "s3cr3t",
               "sender": "a@b.example", "recipients": ["c@d.example"]},
     {"host": "smtp->server", "port": "smtp->port", "security": "smtp->encryption", "username": "login",
      "password": "pass", "from": "sender", "to": "recipients"}),
    ("unisender", {"key": "s3cr3t", "list": 3}, {"api_key": "key", "list_ids": "list"}),
    ("getresponse", {"apiKey": "s3cr3t", "campaign": "c"}, {"api_key": "apiKey", "campaign_id": "campaign"}),
    ("lptracker", {"email": "s3cr3t", "pass": "s3cr3t", "project": 5},
     {"login": "email", "password": "pass", "project_id": "project"}),
    ("uontravel", {"token": "s3cr3t"}, {"api_key": "token"}),
    ("sendpulse", {"user_id": "s3cr3t", "secret": "s3cr3t", "book": 7},
     {"client_id": "user_id", "client_secret": "secret", "address_book_id": "book"}),
]  # fmt: skip


@pytest.mark.parametrize(("channel", "data", "keys"), KEYS, ids=[channel for channel, _, _ in KEYS])
def test_keys_within_data(channel: str, data: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    found = credentials("id:i type:t enabled:i config:j", (1, channel, 1, data))
    assert found.mapping["data"] == {channel: keys}
    assert found.mapping["credentials"]["data"] == "config"
    assert asked(found, "data") == ""
    assert "s3cr3t" not in str(found)


def test_a_key_that_is_not_there_is_asked_for() -> None:
    found = credentials("id:i type:t enabled:i data:j", (1, "telegram", 1, {"token": "t"}))
    assert "nothing is found for chat_id among token" in asked(found, "data")
    assert "database.mapping.data.telegram.chat_id" in asked(found, "data")


def test_two_keys_that_could_be_meant() -> None:
    found = credentials("id:i type:t enabled:i data:j", (1, "telegram", 1, {"token": "t", "key": "k", "chat_id": 1}))
    assert found.mapping["data"]["telegram"] == {"bot_token": "token"}
    assert "it could also be key" in asked(found, "data")


def test_data_under_one_key() -> None:
    found = credentials(
        "id:i type:t enabled:i secrets:j", (1, "telegram", 1, {"account": {"token": "t", "chat_id": 1}})
    )
    assert found.mapping["credentials"]["data"] == "secrets->account"
    assert found.mapping["data"] == {"telegram": {"bot_token": "token"}}


@pytest.mark.parametrize(
    ("columns", "value", "settings"),
    [
        ("data:j settings:j", [{"access_token": "t", "subdomain": "a"}, None], None),
        ("data:j options:j", [{"access_token": "t", "subdomain": "a"}, {"pipeline_id": 1}], "options"),
        ("data:j", [{"access_token": "t", "subdomain": "a", "settings": {"pipeline_id": 1}}], "data->settings"),
        ("data:j", [{"access_token": "t", "subdomain": "a", "pipeline_id": 1}], "data"),
    ],
)
def test_settings(columns: str, value: Sequence[Any], settings: str | None) -> None:
    found = credentials(f"id:i type:t enabled:i {columns}", (1, "amocrm", 1, *value))
    assert found.mapping["credentials"].get("settings") == settings


def test_a_table_without_an_account_in_it_is_asked_about() -> None:
    found = credentials("id:i type:t enabled:i", (1, "telegram", 1))
    assert "no column with JSON" in asked(found, "credentials.data")


def test_what_is_encrypted_needs_the_key() -> None:
    found = credentials("id:i type:t enabled:i data:t", (1, "telegram", 1, SEALED))
    assert found.encrypted == ("integrations.data",)
    assert "app_key is read from APP_KEY" in asked(found, "encryption")
    assert "set APP_KEY" in asked(found, "data")
    assert "data" not in found.mapping
    assert SEALED not in str(found)


def test_with_the_key_it_is_looked_into() -> None:
    integrations = table("integrations", "id:i type:t enabled:i data:t", (1, "telegram", 1, SEALED))
    found = seen(LEADS, integrations, ENTITIES, PROJECTS, key={SEALED: {"token": "t", "chat_id": 1}})
    assert found.encrypted == ("integrations.data",)
    assert found.mapping["data"] == {"telegram": {"bot_token": "token"}}


def test_single_fields_that_are_encrypted() -> None:
    found = credentials("id:i type:t enabled:i data:j", (1, "telegram", 1, {"token": SEALED, "chat_id": 1}))
    assert found.encrypted == ("integrations.data",)
    assert found.mapping["data"] == {"telegram": {"bot_token": "token"}}


def test_columns_of_leads_that_are_encrypted() -> None:
    sealed = replace(LEADS, rows=[{**row, "phone": SEALED} for row in LEADS.rows])
    assert seen(sealed, *DEFAULT[1:]).encrypted == ("leads.phone",)


# -- links ---------------------------------------------------------------------------------------------------------

OWNED = replace(
    LEADS,
    columns={{"external_entity_id": "entity_id", "external_project_id": "project_id"}.get(n, n): k
             for n, k in LEADS.columns.items()},
    rows=[{{"external_entity_id": "entity_id", "external_project_id": "project_id"}.get(n, n): v
           for n, v in row.items()} for row in LEADS.rows],
)  # fmt: skip


def test_pivots_as_laravel_names_them() -> None:
    found = seen(
        OWNED,
        replace(CREDENTIALS, name="integrations"),
        table("entity_integration", "entity_id:i integration_id:i", (10, 7), (11, 8), key=None),
        table("integration_project", "project_id:i integration_id:i", (100, 7), key=None),
    )
    assert found.mapping == {
        "leads": {"external_entity_id": "entity_id", "external_project_id": "project_id"},
        "credentials": {"table": "integrations"},
        "entity_credentials": {
            "table": "entity_integration", "external_entity_id": "entity_id", "credentials_id": "integration_id"},
        "project_credentials": {
            "table": "integration_project", "external_project_id": "project_id", "credentials_id": "integration_id"},
    }  # fmt: skip
    assert found.unsure == ()


def test_credential_id_needs_no_word() -> None:
    links = table("entity_credentials", "external_entity_id:i credential_id:i", (10, 7), key=None)
    assert seen(LEADS, CREDENTIALS, links, PROJECTS).mapping == {}


MORPH = table(
    "integrables", "integration_id:i integrable_id:i integrable_type:t",
    (7, 10, "App\\Models\\Entity"), (8, 11, "App\\Models\\Entity"), (7, 100, "App\\Models\\Project"),
    (7, 1, "App\\Models\\User"), key=None,
)  # fmt: skip


def test_one_polymorphic_table() -> None:
    found = seen(OWNED, replace(CREDENTIALS, name="integrations"), MORPH)
    own = {"table": "integrables", "credentials_id": "integration_id"}
    assert found.mapping["entity_credentials"] == {
        **own, "external_entity_id": "integrable_id", "where": {"integrable_type": "App\\Models\\Entity"}
    }  # fmt: skip
    assert found.mapping["project_credentials"] == {
        **own, "external_project_id": "integrable_id", "where": {"integrable_type": "App\\Models\\Project"}
    }  # fmt: skip


def test_the_aliases_of_a_morph_map() -> None:
    rows = [{**row, "integrable_type": str(row["integrable_type"]).rpartition("\\")[2].lower()} for row in MORPH.rows]
    found = seen(OWNED, replace(CREDENTIALS, name="integrations"), replace(MORPH, rows=rows))
    assert found.mapping["project_credentials"]["where"] == {"integrable_type": "project"}


def owners(name: str, start: int) -> TableLook:
    return table(name, "id:i external_id:t title:t", *((start + n, f"{name}-{n}", "x") for n in range(3)))


THROUGH_LEADS = table(
    "leads", "id:i external_entity_id:t external_project_id:t name:t phone:t created_at:d",
    *((n, f"entities-{n}", f"projects-{n}", "Anna", "+7900", "2026-01-01") for n in range(3)),
)  # fmt: skip


def test_tables_between() -> None:
    found = seen(
        THROUGH_LEADS, CREDENTIALS, owners("entities", 50), owners("projects", 60),
        table("credential_entity", "entity_id:i credential_id:i", (50, 7), (51, 8), key=None),
        table("credential_project", "project_id:i credential_id:i", (60, 7), key=None),
    )  # fmt: skip
    assert found.mapping["entity_credentials"] == {
        "table": "credential_entity", "external_entity_id": "entity_id",
        "through": {"table": "entities", "external_id": "external_id"},
    }  # fmt: skip
    assert found.mapping["project_credentials"]["through"] == {"table": "projects", "external_id": "external_id"}
    assert "through entities.external_id: 100%" in known(found, "entity_credentials")
    assert "leads" not in found.mapping


def test_a_foreign_key_names_the_table_between() -> None:
    found = seen(
        THROUGH_LEADS, CREDENTIALS, owners("organisations", 50), PROJECTS,
        table("links", "entity_id:i credential_id:i", (50, 7), key=None,
              to={"entity_id": "organisations", "credential_id": "credentials"}),
    )  # fmt: skip
    assert found.mapping["entity_credentials"]["through"]["table"] == "organisations"


def test_links_that_have_the_outer_id_of_an_owner_whose_own_id_the_leads_have() -> None:
    leads = replace(OWNED, rows=[{**row, "entity_id": 50 + n} for n, row in enumerate(OWNED.rows)])
    links = table(
        "entity_credentials", "external_entity_id:t credentials_id:i", ("entities-0", 7), ("entities-1", 8), key=None
    )
    found = seen(leads, CREDENTIALS, links, owners("entities", 50), PROJECTS)
    assert found.mapping["entity_credentials"]["through"] == {
        "table": "entities", "id": "external_id", "external_id": "id"
    }  # fmt: skip


def test_a_credential_that_belongs_to_one_entity() -> None:
    own = table(
        "credentials", "id:i type:t enabled:i data:t entity_id:i project_id:i",
        (7, "telegram", 1, TELEGRAM, 10, None), (8, "telegram", 1, TELEGRAM, 11, 100),
    )  # fmt: skip
    found = seen(OWNED, own)
    assert found.mapping["entity_credentials"] == {
        "table": "credentials", "external_entity_id": "entity_id", "credentials_id": "id"
    }  # fmt: skip
    assert found.mapping["project_credentials"]["external_project_id"] == "project_id"


def test_companies_and_sites() -> None:
    names = {"entity_id": "company_id", "project_id": "site_id"}
    leads = replace(
        OWNED, columns={names.get(n, n): k for n, k in OWNED.columns.items()},
        rows=[{names.get(n, n): v for n, v in row.items()} for row in OWNED.rows],
    )  # fmt: skip
    found = seen(
        leads, CREDENTIALS,
        table("company_credentials", "id:i company_id:i credential_id:i", (1, 10, 7)),
        table("site_credentials", "id:i site_id:i credential_id:i", (1, 100, 7)),
    )  # fmt: skip
    assert found.mapping["leads"] == {"external_entity_id": "company_id", "external_project_id": "site_id"}
    assert found.mapping["entity_credentials"]["table"] == "company_credentials"


def test_leads_of_one_kind_of_owner_only() -> None:
    leads = replace(OWNED, columns={n: k for n, k in OWNED.columns.items() if n != "project_id"})
    found = seen(leads, CREDENTIALS, table("credential_entity", "entity_id:i credential_id:i", (10, 7), key=None))
    assert found.mapping["leads"] == {"external_entity_id": "entity_id", "external_project_id": {"value": ""}}
    assert found.mapping["project_credentials"] == {"table": "credential_entity", "external_project_id": "entity_id"}
    assert "no link of credentials to a project" in asked(found, "project_credentials")


def test_a_third_kind_of_owner_is_a_question() -> None:
    leads = replace(
        OWNED, columns={**OWNED.columns, "office_id": "integer"}, rows=[{**row, "office_id": 5} for row in OWNED.rows]
    )
    office = table("credential_office", "office_id:i credential_id:i", (6, 7), key=None)
    entity = table("credential_entity", "entity_id:i credential_id:i", (10, 7), key=None)
    project = table("credential_project", "project_id:i credential_id:i", (100, 7), key=None)
    found = seen(leads, CREDENTIALS, office, entity, project)
    assert found.mapping["entity_credentials"]["table"] == "credential_entity"
    assert "left out" in asked(found, "links")
    assert "credential_office.office_id" in asked(found, "links")


def test_ids_that_never_meet_are_a_question() -> None:
    links = replace(ENTITIES, rows=[{"id": 1, "external_entity_id": 999, "credentials_id": 7}])
    found = seen(LEADS, CREDENTIALS, links, PROJECTS)
    assert found.mapping == {}
    assert "0% of the ids" in asked(found, "entity_credentials")


def test_a_column_whose_values_alone_speak_for_it_is_a_question() -> None:
    names = {"external_entity_id": "buyer"}
    leads = replace(
        LEADS, columns={names.get(n, n): k for n, k in LEADS.columns.items()},
        rows=[{names.get(n, n): v for n, v in row.items()} for row in LEADS.rows],
    )  # fmt: skip
    found = seen(leads, CREDENTIALS, ENTITIES, PROJECTS)
    assert found.mapping["leads"] == {"external_entity_id": "buyer"}
    assert "only its values speak for it: 100%" in asked(found, "entity_credentials")


def test_an_owner_within_json() -> None:
    leads = table(
        "leads", "id:i entity_id:i meta:j phone:t created_at:d",
        (1, 10, {"project": {"id": 100}}, "+7900", "2026-01-01"),
    )  # fmt: skip
    found = seen(leads, CREDENTIALS, ENTITIES, PROJECTS)
    assert found.mapping["leads"] == {"external_entity_id": "entity_id", "external_project_id": "meta->project->id"}


# -- the application's own log ----------------------------------------------------------------------------------------


def log(columns: str, *rows: Sequence[Any], name: str = "lead_logs") -> Recognition:
    return seen(*DEFAULT, table(name, columns, *rows))


def test_a_log_that_leaves_no_doubt() -> None:
    found = log(
        "id:i lead_id:i credential_id:i status:t sent_at:d remote_id:t", (1, 1, 7, "delivered", None, "x"),
        (2, 2, 7, "failed", None, None),
    )  # fmt: skip
    assert found.mapping == {
        "deliveries": {"table": "lead_logs", "credential_id": "credential_id", "status": "status",
                       "delivered": ["delivered"], "at": "sent_at", "remote_id": "remote_id"}
    }  # fmt: skip
    assert "is not sent again" in known(found, "deliveries")


def test_a_log_by_type_with_a_flag() -> None:
    found = log(
        "id:i lead_id:i channel:t success:b created_at:d", (1, 1, "telegram", True, None), (2, 2, "email", False, None)
    )
    assert found.mapping["deliveries"] == {
        "table": "lead_logs", "type": "channel", "status": "success", "delivered": [True], "at": "created_at"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "rows", "why"),
    [
        ("id:i lead_id:i credential_id:i created_at:d", [(1, 1, 7, None)], "no column says what became of it"),
        (
            "id:i lead_id:i credential_id:i status:t",
            [(1, 1, 7, "sent"), (2, 1, 7, "delivered")],
            "which mean delivered?",
        ),
        ("id:i lead_id:i credential_id:i status:t", [(1, 1, 7, "delivered"), (2, 1, 7, "zeta")], "delivered, zeta"),
        ("id:i lead_id:i credential_id:i status:t", [(1, 1, 7, "failed")], "which mean delivered?"),
        ("id:i lead_id:i credential_id:i status:t", [], "no value yet"),
    ],
)
def test_a_log_that_leaves_a_doubt_is_not_used(columns: str, rows: Sequence[Sequence[Any]], why: str) -> None:
    found = log(columns, *rows)
    assert "deliveries" not in found.mapping
    assert why in asked(found, "deliveries")


@pytest.mark.parametrize("columns", ["id:i lead_id:i text:t", "id:i lead_id:i type:t status:t"])
def test_what_is_about_leads_but_no_log_of_deliveries(columns: str) -> None:
    rows = [(1, 1, "note", "done")[: len(columns.split())]]
    found = log(columns, *rows, name="lead_comments")
    assert (found.mapping, asked(found, "deliveries")) == ({}, "")


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plural", "one"),
    [("entities", "entity"), ("leads", "lead"), ("addresses", "address"), ("status", "status"), ("boxes", "box"),
     ("lead_requests", "lead_request"), ("business", "business")],
)  # fmt: skip
def test_singular(plural: str, one: str) -> None:
    assert words.singular(plural) == one


@pytest.mark.parametrize(
    ("column", "word"),
    [("external_entity_id", "entity"), ("entity_ref", "entity"), ("projectId", "project"), ("companies", "company"),
     ("project_external_id", "project"), ("project", "project")],
)  # fmt: skip
def test_whose_id_a_column_holds(column: str, word: str) -> None:
    assert words.owner_word(column) == word


@pytest.mark.parametrize(("raw", "text"), [(True, "1"), (b"\x00", "0"), (b"Y", "Y"), (" on ", "on"), (2, "2")])
def test_flags_as_text(raw: Any, text: str) -> None:
    assert flag(raw) == text
