"""PHP's query strings and arrays, as the batch of Bitrix24 reads them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

#: What a command may carry: texts, numbers, flags, and maps or lists of them. None is left out.
Value: TypeAlias = "str | int | bool | Mapping[str, Value] | Sequence[Value] | None"

#: The server replaces such a reference in every decoded value, the customer's own text included.
_REFERENCE = re.compile(r"\$(?=result|next|total|time|error)", re.IGNORECASE)


def batch_command(method: str, params: Mapping[str, Value]) -> str:
    """One command of a batch: ``crm.item.add?fields[title]=…``.

    The server runs ``parse_str`` over it, so names and values are percent-encoded; flags become ``Y`` and
    ``N``. A text that holds a reference (``$result[l1]``) is sent with a space after the ``$``, so that it
    arrives as text.
    """
    pairs = (f"{name}={quote(text, safe='', errors='replace')}" for name, text in _flat(params, ""))
    return f"{method}?{'&'.join(pairs)}"


def _flat(value: Value, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool):
        yield name, "Y" if value else "N"
    elif isinstance(value, str):
        yield name, _REFERENCE.sub("$ ", value)
    elif isinstance(value, int):
        yield name, str(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            part = quote(key, safe="")
            yield from _flat(item, f"{name}[{part}]" if name else part)
    elif value is not None:
        yield from _flat({str(number): item for number, item in enumerate(value)}, name)


def php_map(value: object) -> dict[str, Any]:
    """A PHP array as a map: an empty one arrives as ``[]``, and one with the keys 0..n-1 as a list."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, list):
        return {str(number): item for number, item in enumerate(value)}
    return {}
