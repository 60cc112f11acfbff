"""The config that ``leadctl init`` writes: every key of Settings with what it means and its default."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leadctl.settings import Settings

_WIDTH = 100
#: What a key that has no default could look like.
_EXAMPLES: Mapping[str, object] = {"timezone": "Europe/Moscow", "ledger.url": "sqlite:////var/lib/leadctl/ledger.db"}
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


def render_config(database_url: str | None = None) -> str:
    """The whole file. ``database_url``: the default one if None."""
    given = {} if database_url is None else {"database.url": database_url}
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
            lines += _key(f"{name}.{key}", key, field, given)
    lines += ["", *_comment(_RATES), "# [limits.amocrm]", "# rate = 5", "# per = 1"]
    return "\n".join(lines) + "\n"


def _key(dotted: str, key: str, field: FieldInfo, given: Mapping[str, object]) -> Iterator[str]:
    yield from _comment(field.description or "")
    default = field.get_default(call_default_factory=True, validated_data={})
    value = given.get(dotted, _EXAMPLES.get(dotted) if default is None else default)
    mark = "" if dotted in _ALWAYS or dotted in given else "# "
    yield f"{mark}{key} = {_toml(value)}"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False)]


def _toml(value: Any) -> str:
    # JSON's strings, numbers and lists are TOML's too; only DEL must be escaped as well.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
