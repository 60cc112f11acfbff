"""Tables by their names: prefixes, candidates, and which of them is the best."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from leadctl.services.recognising import words
from leadctl.services.recognising.values import Look, Notes
from leadctl.store.inspection import TableLook

#: A second candidate with this part of the first one's score is worth a question.
_NEAR = 0.75


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the tables of a database, and the prefix that Laravel puts before them."""

    prefix: str = ""

    @classmethod
    def of(cls, tables: Iterable[str]) -> "Names":
        """Laravel's own table of migrations shows the prefix; else what all tables begin with."""
        names = sorted(name for name in tables if not words.FRAMEWORK.match(words.plain(name)) or "migrations" in name)
        for name in names:
            if name.endswith("_migrations") and name != "leadctl_migrations":
                return cls(name.removesuffix("migrations"))
        if "migrations" in names or len(names) < 2:
            return cls()
        first, _, _ = names[0].partition("_")
        return cls(f"{first}_") if all(name.startswith(f"{first}_") for name in names) else cls()

    def short(self, name: str) -> str:
        """The name without the prefix, as one word of snake case."""
        return words.plain(name.removeprefix(self.prefix))

    def is_framework(self, name: str) -> bool:
        """Whether Laravel, a package of it or leadctl keeps its own things there."""
        return bool(words.FRAMEWORK.match(words.plain(name)) or words.FRAMEWORK.match(self.short(name)))


def name_score(short: str, known: Mapping[str, int]) -> float:
    """How much a table's name says: whole, or by its last words."""
    word = words.singular(short)
    if word in known:
        return known[word]
    ends = [worth for name, worth in known.items() if word.endswith(f"_{name}")]
    return 0.7 * max(ends, default=0)


def best_table(
    look: Look, scores: Mapping[str, float], enough: float, part: str, notes: Notes
) -> TableLook | None:  # fmt: skip
    """The best candidate that can be read, looked into; the next one, if it is near, is a question."""
    ranked = sorted((name for name in scores if scores[name] >= enough), key=lambda name: (-scores[name], name))
    readable = []
    for name in ranked[:6]:
        if refused := look.into(name).refused:
            notes.ask(part, f"the table {name} cannot be read: {refused}")
        else:
            readable.append(name)
    if not readable:
        return None
    first = readable[0]
    near = [name for name in readable[1:] if scores[name] >= _NEAR * scores[first]]
    if near:
        notes.ask(part, f"{first} is taken; it could also be {', '.join(near)}", f"database.mapping.{part}.table")
    return look.into(first)
