"""The config that ``leadctl init`` writes: every key of Settings with what it means and its default."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leadctl.settings import Settings
from leadctl.settings.mapping import MappingSettings

_WIDTH = 100
#: A key that TOML takes without quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+")
#: What a key that has no default could look like.
_EXAMPLES: Mapping[str, object] = {
    "database.app_key": "env:APP_KEY",
    "timezone": "Europe/Moscow",
    "ledger.url": "sqlite:////var/lib/leadctl/ledger.db",
}
#: Keys that are written out although they have a default: changing them later loses sight of the ledger.
_ALWAYS = frozenset({"database.name", "database.url"})
_HEADER = (
    "leadctl configuration. A key that is commented out shows its default, or an example where it has none. "
    'Every value may be "env:NAME" or "file:/path"; LEADCTL_<SECTION>__<KEY> in the environment goes first.'
)
_RATES = (
    "A table per channel, or [limits.\"amocrm:7\"] for one credential: rate requests per so many seconds. It may "
    "be raised to the limit that `leadctl channels` names as the vendor's own."
)  # fmt: skip
#: What ``[database.mapping]`` may hold. Every line is a comment: the tables of CONTRACT need none of it.
_MAPPING = """
[database.mapping]
prefix = "crm_"
[database.mapping.leads]
table = "requests"
external_entity_id = "entity_id"
external_project_id = "project_id"
name = "payload->contact->name"
utm = { utm_source = "utm_source", utm_medium = "utm_medium" }
page_url = { value = "https://example.com/" }
[database.mapping.credentials]
table = "integrations"
enabled = { column = "status", equals = ["active"] }
[database.mapping.entity_credentials]
table = "integrables"
external_entity_id = "integrable_id"
credentials_id = "integration_id"
where = { integrable_type = "App\\\\Models\\\\Entity" }
[database.mapping.project_credentials]
table = "integrables"
external_project_id = "integrable_id"
credentials_id = "integration_id"
where = { integrable_type = "App\\\\Models\\\\Project" }
[database.mapping.types]
AmoCRM = "amocrm"
[database.mapping.data.telegram]
bot_token = { key = "token", default = "env:BOT_TOKEN" }
[database.mapping.deliveries]
table = "lead_logs"
lead_id = "lead_id"
credential_id = "integration_id"
status = "state"
delivered = ["sent"]
at = "created_at"
"""
_ABOUT_MAPPING = (
    "Where tables and columns have other names: name only what differs (README has more). For a database whose shape "
    "it knows, `leadctl init` writes this by itself."
)


def render_config(
    database_url: str | None = None, mapping: Mapping[str, Any] | None = None, app_key: str | None = None
) -> str:
    """The whole file. ``database_url``: the default one if None. ``mapping``: ``[database.mapping]``, as far as it
    differs from the defaults; an example of it if there is none."""
    known = {"database.url": database_url, "database.app_key": app_key}
    given = {key: value for key, value in known.items() if value is not None}
    lines = [*_comment(_HEADER), ""]
    sections = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.append((name, field.annotation))
        else:
            lines += _key(name, name, field, given)
    for name, model in sections:
        lines += ["", f"[{name}]"]
        for key, field in model.model_fields.items():
            if field.annotation is not MappingSettings:
                lines += _key(f"{name}.{key}", key, field, given)
    lines += ["", *_comment(_RATES), "# [limits.amocrm]", "# rate = 5", "# per = 1"]
    lines += ["", *_comment(_ABOUT_MAPPING)]
    lines += mapping_toml(mapping) if mapping else (f"# {line}" for line in _MAPPING.strip().splitlines())
    return "\n".join(lines) + "\n"


def mapping_toml(mapping: Mapping[str, Any]) -> Iterator[str]:
    """The lines of ``[database.mapping]``: a table for each of its parts, and for each channel of ``data``."""
    yield from _table(("database", "mapping"), {key: value for key, value in mapping.items() if not _is_table(value)})
    for name, section in mapping.items():
        nested = name in ("data", "settings")
        for key, inner in section.items() if nested else [(None, section)] if _is_table(section) else ():
            yield from _table(("database", "mapping", name, *([key] if key else [])), inner)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _table(path: Sequence[str], values: Mapping[str, Any]) -> Iterator[str]:
    if values:
        yield f"[{'.'.join(map(_bare, path))}]"
        yield from (f"{_bare(key)} = {_toml(value)}" for key, value in values.items())


def _bare(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml(key)


def _key(dotted: str, key: str, field: FieldInfo, given: Mapping[str, object]) -> Iterator[str]:
    yield from _comment(field.description or "")
    default = field.get_default(call_default_factory=True, validated_data={})
    value = given.get(dotted, _EXAMPLES.get(dotted) if default is None else default)
    mark = "" if dotted in _ALWAYS or dotted in given else "# "
    yield f"{mark}{key} = {_toml(value)}"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False)]


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_bare(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    # JSON's strings, numbers and lists are TOML's too; only DEL must be escaped as well.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
