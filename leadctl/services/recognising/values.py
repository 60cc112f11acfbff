"""What can be told of sampled values: are they JSON, encrypted, flags, which keys do their objects have. The values
themselves are not kept."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from leadctl.settings.mapping import ARROW
from leadctl.store.encryption import SEALED
from leadctl.store.inspection import COUNT_LIMIT, Place, TableLook
from leadctl.store.mapping import as_text, dig

#: How an enumeration's value looks: a word or some in one, or a small number. Anything else may be somebody's text.
_ENUMERATED = re.compile(r"[^\W\d_]{1,24}\d{0,2}(?:[_.\\-][^\W\d_]{1,24}\d{0,2}){0,4}|-?\d{1,3}")
_PHP = re.compile(r"a:\d+:\{")
#: How deep objects are looked into.
DEPTH = 3
#: What is true for at least this part of the rows is taken for a rule.
RULE = 0.5


class Look(Protocol):
    """What recognition asks of a database (:class:`leadctl.store.inspection.Inspection`)."""

    @property
    def tables(self) -> Mapping[str, TableLook]: ...
    def into(self, name: str) -> TableLook: ...
    def values(self, name: str, of: str) -> Sequence[Any]: ...
    def opened(self, raw: Any) -> Any: ...
    def share(self, held: Iterable[Any], there: Place) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Note:
    """What is believed, or what is not sure: about what, why, and what could be written (``key``)."""

    about: str
    message: str
    key: str = ""

    def as_json(self) -> dict[str, str]:
        return {"about": self.about, "message": self.message, "key": self.key}


@dataclass
class Notes:
    """What is said of a mapping while it is made."""

    sure: list[Note] = field(default_factory=list)
    unsure: list[Note] = field(default_factory=list)
    #: Columns that hold values which Laravel has encrypted.
    encrypted: list[str] = field(default_factory=list)

    def know(self, about: str, message: str) -> None:
        """It is so."""
        self.sure.append(Note(about, message))

    def ask(self, about: str, message: str, key: str = "") -> None:
        """It may be so; a person has to look."""
        self.unsure.append(Note(about, message, key))

    def say(self, about: str, message: str, *, sure: bool, key: str = "") -> None:
        """Either of them."""
        if sure:
            self.know(about, message)
        else:
            self.ask(about, message, key)


def decoded(raw: Any) -> Any:
    """A JSON object or list; None for all else."""
    if isinstance(raw, bytes):
        raw = raw.decode("utf-8", "replace")
    if isinstance(raw, str):
        if not raw.lstrip().startswith(("{", "[")):
            return None
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            return None
    return raw if isinstance(raw, (dict, list)) else None


def is_encrypted(raw: Any) -> bool:
    """Whether Laravel has encrypted the value, or one within it."""
    if isinstance(raw, bytes):
        raw = raw.decode("utf-8", "replace")
    if isinstance(raw, str) and raw.strip().strip('"').startswith(SEALED):
        return True
    return any(is_encrypted(inner) for inner in _inner(decoded(raw)))


def is_sealed(raw: Any) -> bool:
    """Whether the whole value is encrypted: nothing can be told of what is in it."""
    return is_encrypted(raw) and decoded(raw) is None


def is_php(raw: Any) -> bool:
    """Whether it looks like an array that PHP has serialized."""
    return isinstance(raw, str) and bool(_PHP.match(raw))


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def filled(rows: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    """The values of a column that say something."""
    return [value for row in rows if (value := row.get(column)) is not None and value != ""]


def at(rows: Iterable[Mapping[str, Any]], path: str) -> list[Any]:
    """The values of a column, or of a place within its JSON, that say something."""
    column, *keys = path.split(ARROW)
    values = filled(rows, column)
    if not keys:
        return values
    found = (dig(decoded(value), keys) for value in values)
    return [value for value in found if value is not None and value != ""]


def objects(look: TableLook, column: str) -> list[dict[str, Any]]:
    """The column's JSON objects, if that is what it holds as a rule."""
    if look.columns[column] not in ("json", "text"):
        return []
    values = filled(look.rows, column)
    found = [value for raw in values if isinstance(value := decoded(raw), dict)]
    return found if len(found) >= RULE * len(values) else []


def key_paths(values: Sequence[Any], depth: int = DEPTH) -> Counter[tuple[str, ...]]:
    """The places within these objects → how many of them have something there."""
    found: Counter[tuple[str, ...]] = Counter()
    for value in values:
        found.update(set(_paths(value, (), depth)))
    return found


def _paths(value: Any, before: tuple[str, ...], depth: int) -> Iterator[tuple[str, ...]]:
    if not isinstance(value, dict) or depth == 0:
        return
    for key, inner in value.items():
        if (
            isinstance(key, str)
            and key.strip()
            and key.isprintable()
            and ARROW not in key
            and inner is not None
            and inner != ""
        ):
            yield (*before, key)
            yield from _paths(inner, (*before, key), depth - 1)


def flag(raw: Any) -> str:
    """A value of a flag or of an enumeration as text, as it is compared when it is read."""
    return as_text(raw) or ""


def told(values: Iterable[Any], limit: int = 6) -> str:
    """Values of an enumeration for people. What looks like a text of somebody's is not shown."""
    texts = sorted({text if _ENUMERATED.fullmatch(text := flag(value)) else "(a text)" for value in values})
    return ", ".join(texts[:limit]) + (", …" if len(texts) > limit else "")


def rows_told(look: TableLook) -> str:
    """How much there is in a table."""
    count = look.count or 0
    shown = f"{count:,} row" if count == 1 else f"{count:,} rows"
    return shown if count <= COUNT_LIMIT else f"more than {COUNT_LIMIT:,} rows"
