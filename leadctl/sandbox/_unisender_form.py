"""How UniSender reads a form: PHP's nested names, and one of its many limits."""

from collections.abc import Iterable
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

#: What a PHP array becomes: names and indexes → values.
Php: TypeAlias = dict[str, Any]

#: Variables of one request; PHP drops the rest (``max_input_vars``).
MAX_VARIABLES = 5_100


def parse_form(text: str) -> Php:
    """``fields[Name]=x&data[0][1]=y`` as nested dictionaries."""
    form: Php = {}
    for name, value in _pairs(text):
        head, _, rest = name.partition("[")
        keys = [head, *rest.removesuffix("]").split("][")] if rest else [head]
        holder = form
        for key in keys[:-1]:
            inner = holder.setdefault(key, {})
            if not isinstance(inner, dict):
                inner = holder[key] = {}
            holder = inner
        holder[keys[-1] or str(len(holder))] = value
    return form


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True)[:MAX_VARIABLES]


def array(value: object) -> Php:
    """An array, or an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[str]:
    """A comma-separated text."""
    return [item.strip() for item in str(value).split(",") if item.strip()] if isinstance(value, str) else []
