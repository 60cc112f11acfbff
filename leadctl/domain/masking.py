"""What may be kept or shown of a text that came from outside."""

import re
from collections.abc import Iterable

_EMAIL = re.compile(r"[^\s@<>\"',;:]+@[^\s@<>\"',;:]+\.[^\s@<>\"',;:]+")
_PHONE = re.compile(r"\+?\d[\d\-() ]{6,}\d")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
MASK = "***"


def clean(text: str, limit: int = 500) -> str:
    """A foreign text as one plain line: no control or direction characters, at most ``limit`` characters."""
    flat = " ".join(_CONTROL.sub(" ", text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


class Secrets:
    """The secret values known to this process: what they are must never be shown or kept."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Remember more secrets. Values under 6 characters are too common to be searched for."""
        new = {value for value in values if len(value) >= 6} - self._values
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


def mask_personal(text: str) -> str:
    """E-mail addresses and long numbers (phones) hidden; the rest as it is."""
    return _PHONE.sub(MASK, _EMAIL.sub(MASK, text))
