"""PHP's ``serialize`` and ``unserialize``, for arrays and scalars only: objects and references are never read."""

import re
from collections.abc import Iterable
from typing import Any

#: Levels of nesting, here and in JSON: far more than credentials have, far less than Python's stack.
MAX_DEPTH = 64
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

#: What is surely meant as serialized: a name may well be ``a:1``.
_SERIALIZED = re.compile(
    rb'N;|b:[01];|i:[+-]?\d+;|d:[^;"{}]+;|[Rr]:\d+;|s:\d+:".*";|S:\d+:".*";|a:\d+:\{.*\}|[OCE]:\+?\d+:".*[;}]',
    re.DOTALL,
)
_BOOL = re.compile(rb"b:([01]);")
_INT = re.compile(rb"i:([+-]?\d{1,20});")
_FLOAT = re.compile(rb"d:([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|-?INF|NAN);")
_STRING = re.compile(rb's:(\d{1,10}):"')
_ARRAY = re.compile(rb"a:(\d{1,10}):\{")
#: Array keys that PHP turns into integers.
_INT_KEY = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


class PhpError(ValueError):
    """Not what :func:`unserialize` reads, or :func:`serialize` can write; the message holds no value."""


def is_serialized(data: bytes) -> bool:
    """Whether this looks like one serialized value from its first byte to its last; it may still be damaged."""
    return _SERIALIZED.fullmatch(data) is not None


def unserialize(data: bytes) -> Any:
    """None, bool, int, float, str, list (keys 0 to n-1, in order) or dict (any other keys, as text).

    Raises :class:`PhpError` for objects, enumerations, references and custom serializations, text that is not
    UTF-8, and everything that is damaged or nested deeper than ``MAX_DEPTH``.
    """
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise PhpError("damaged PHP data")
    return value


class _Reader:
    """One pass over the bytes; a length is never believed before that much is there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def value(self, depth: int) -> Any:
        kind = self._data[self.at : self.at + 1]
        if kind in (b"O", b"C", b"E", b"R", b"r"):
            raise PhpError("a serialized PHP object or reference, which is never read")
        if kind == b"s":
            return self._string()
        if kind == b"a":
            return self._array(depth + 1)
        return self._scalar(kind)

    def _scalar(self, kind: bytes) -> bool | int | float | None:
        if kind == b"i":
            return self._int()
        if kind == b"b":
            return self._take(_BOOL) == b"1"
        if kind == b"d":
            return float(self._take(_FLOAT))
        self._expect(b"N;")
        return None

    def _int(self) -> int:
        number = int(self._take(_INT))
        if not _INT_MIN <= number <= _INT_MAX:
            raise PhpError("damaged PHP data")
        return number

    def _string(self) -> str:
        length = int(self._take(_STRING))
        text = self._data[self.at : self.at + length]
        self.at += len(text)
        self._expect(b'";')
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise PhpError("text that is not UTF-8") from None

    def _array(self, depth: int) -> list[Any] | dict[str, Any]:
        if depth > MAX_DEPTH:
            raise PhpError("arrays nested too deeply")
        items: dict[str, Any] = {}
        is_list = True
        for place in range(int(self._take(_ARRAY))):
            key = str(self._key())
            is_list = is_list and key == str(place)
            items[key] = self.value(depth)
        self._expect(b"}")
        return list(items.values()) if is_list else items

    def _key(self) -> str | int:
        return self._string() if self._data.startswith(b"s", self.at) else self._int()

    def _take(self, pattern: re.Pattern[bytes]) -> bytes:
        found = pattern.match(self._data, self.at)
        if found is None:
            raise PhpError("damaged PHP data")
        self.at = found.end()
        return found[1]

    def _expect(self, text: bytes) -> None:
        if not self._data.startswith(text, self.at):
            raise PhpError("damaged PHP data")
        self.at += len(text)


def serialize(value: Any) -> bytes:
    """What ``unserialize`` of PHP reads back as equal.

    Raises :class:`PhpError` for what PHP has no such value for: an integer beyond 64 bits, half a surrogate pair,
    any other type.
    """
    match value:
        case None:
            return b"N;"
        case bool():
            return b"b:%d;" % value
        case int() if _INT_MIN <= value <= _INT_MAX:
            return b"i:%d;" % value
        case float():
            return b"d:%s;" % repr(value).upper().encode()
        case str():
            return _text(value)
        case dict():
            return _array((_key(str(key)), item) for key, item in value.items())
        case list():
            return _array((b"i:%d;" % place, item) for place, item in enumerate(value))
    raise PhpError(f"PHP has no value for this {type(value).__name__}")


def _text(value: str) -> bytes:
    try:
        text = value.encode()
    except UnicodeEncodeError:
        raise PhpError("text that is not UTF-8") from None
    return b's:%d:"%s";' % (len(text), text)


def _key(key: str) -> bytes:
    is_int = _INT_KEY.fullmatch(key) is not None and _INT_MIN <= int(key) <= _INT_MAX
    return b"i:%s;" % key.encode() if is_int else _text(key)


def _array(items: Iterable[tuple[bytes, Any]]) -> bytes:
    parts = [key + serialize(item) for key, item in items]
    return b"a:%d:{%s}" % (len(parts), b"".join(parts))
