"""What may be kept or shown of a text that came from outside."""

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

#: Begins only where a word begins: a long text without any "@" is read once, not once per character.
_EMAIL = re.compile(r"(?<![^\s@<>\"',;:])[^\s@<>\"',;:]++@[^\s@<>\"',;:]+\.[^\s@<>\"',;:]+")
#: A date is no phone, though it is made of the same characters.
_PHONE = re.compile(r"(?<!\d)(?P<date>(?:19|20)\d\d-[01]\d-[0-3]\d(?:[T ][0-2]\d:[0-5]\d)?)(?!\d)|\+?\d[\d\-() ]{6,}\d")
#: Half a surrogate pair ("\ud800" in a JSON column) cannot be written as UTF-8, so it is no text either.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MASK = "***"


def clean(text: str, limit: int = 500) -> str:
    """A foreign text as one plain line: no control or direction characters, at most ``limit`` characters."""
    flat = " ".join(_CONTROL.sub(" ", text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def printable(text: str) -> str:
    """The text without what a terminal would act on; lines and spaces stay."""
    return _CONTROL.sub(" ", text)


def json_escaped(document: str) -> str:
    """A JSON document in which what a terminal would act on is escaped, as a JSON reader undoes it."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


class Secrets:
    """The secret values known to this process: what they are must never be shown or kept."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Remember more secrets, also as they stand in a URL. Under 6 characters they are too common to search for."""
        new = {form for value in values if len(value) >= 6 for form in _forms(value)} - self._values
        if new:
            self._values |= new
            self._pattern = None

    def hide(self, text: str) -> str:
        """The text with every known secret replaced."""
        if not self._values:
            return text
        if self._pattern is None:
            longest_first = sorted(self._values, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        return self._pattern.sub(MASK, text)


def _forms(value: str) -> tuple[str, ...]:
    return (
        value,
        quote(value, safe="", errors="replace"),
        quote(value, errors="replace"),
        quote_plus(value, errors="replace"),
    )


def mask_personal(text: str) -> str:
    """E-mail addresses and long numbers (phones) hidden; the rest as it is."""
    return _PHONE.sub(lambda found: found["date"] or MASK, _EMAIL.sub(MASK, text))
