"""What the server of Bitrix24 does around its methods: PHP's arrays, ``batch``, and the two limits."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

#: Commands that one batch runs; the others are answered with an error each.
MAX_COMMANDS = 50
#: Replaced in every decoded name and value of a command, whoever wrote it.
_REFERENCE = re.compile(r"\$(result|next|total|time|error)(\S*)", re.IGNORECASE)
_BRACKET = re.compile(r"\[([^\]]*)\]")


class RestError(Exception):
    """An error of the REST: ``{"error": code, "error_description": text}``."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.text = text
        self.status = status

    def body(self) -> dict[str, str]:
        return {"error": self.code, "error_description": self.text}


class Killed(Exception):
    """The request has run for longer than the server lets one run."""


@dataclass(frozen=True, slots=True)
class Called:
    """What a method gave back."""

    result: Any
    time: Mapping[str, Any] = field(default_factory=dict)
    total: int | None = None
    next: int | None = None


def parse_str(query: str) -> dict[str, Any]:
    """PHP's ``parse_str``: brackets nest, a plus is a space, dots and spaces of a name become ``_``."""
    found: dict[str, Any] = {}
    for pair in query.split("&"):
        name, _, text = pair.partition("=")
        name = unquote_plus(name, errors="replace").lstrip(" ")
        base, bracket, rest = name.partition("[")
        if not base:
            continue
        path = [re.sub(r"[ .]", "_", base), *_BRACKET.findall(bracket + rest)]
        _put(found, path, unquote_plus(text, errors="replace"))
    return found


def _put(into: dict[str, Any], path: list[str], text: str) -> None:
    for position, step in enumerate(path):
        key = step or str(sum(1 for known in into if known.isdigit()))
        if position == len(path) - 1:
            into[key] = text
            return
        if not isinstance(into.get(key), dict):
            into[key] = {}
        into = into[key]


def php_array(value: Any) -> Any:
    """How PHP writes an array as JSON: an empty map is ``[]``, one with the keys 0..n-1 is a list."""
    if isinstance(value, list):
        return [php_array(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(map(str, value)) == [str(number) for number in range(len(value))]:
        return [php_array(item) for item in value.values()]
    return {key: php_array(item) for key, item in value.items()}


def substitute(value: Any, answers: Mapping[str, Mapping[str, Any]]) -> Any:
    """References replaced by earlier answers, also those that stand in a customer's text."""
    if isinstance(value, dict):
        return {str(substitute(key, answers)): substitute(item, answers) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if whole := _REFERENCE.fullmatch(value):
        # a reference to nothing becomes the array of all answers
        found = _look_up(whole, answers)
        return dict(answers[whole[1].lower()]) if found is None else found
    return _REFERENCE.sub(lambda match: _as_text(_look_up(match, answers)), value)


def _look_up(match: re.Match[str], answers: Mapping[str, Mapping[str, Any]]) -> Any:
    current: Any = answers[match[1].lower()]
    path = _BRACKET.findall(match[2])
    for step in path:
        if isinstance(current, list):
            current = dict(enumerate(current)).get(int(step)) if step.isdigit() else None
        else:
            current = current.get(step) if isinstance(current, dict) else None
    return current if path else None


def _as_text(value: Any) -> str:
    return "Array" if isinstance(value, (dict, list)) else "" if value is None else str(value)


def commands_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """``cmd`` of a batch by key, whether it came as a map or as a list."""
    commands = params.get("cmd")
    if isinstance(commands, list):
        return {str(number): command for number, command in enumerate(commands)}
    if not isinstance(commands, dict):
        raise RestError("ERROR_ARGUMENT", "Argument 'cmd' is null or empty")
    return commands


def run_batch(params: Mapping[str, Any], call: Callable[[str, dict[str, Any]], Called], skip: int = 0) -> Called:
    """Run the commands one after another; the last ``skip`` of them are left out of everything."""
    answers: dict[str, dict[str, Any]] = {kind: {} for kind in ("result", "error", "total", "next", "time")}
    commands = list(commands_of(params).items())
    halt = str(params.get("halt") or "0") not in ("0", "false")
    for position, (key, command) in enumerate(commands[: len(commands) - skip]):
        if not isinstance(command, str):
            continue
        try:
            called = call(*_decoded(position, command, answers))
        except RestError as error:
            answers["error"][key] = error.body()
            if halt:
                break
            continue
        answers["result"][key] = called.result
        answers["time"][key] = called.time
        for kind, number in (("total", called.total), ("next", called.next)):
            if number is not None:
                answers[kind][key] = number
    return Called({("result" if kind == "result" else f"result_{kind}"): answers[kind] for kind in answers})


def _decoded(position: int, command: str, answers: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    if position >= MAX_COMMANDS:
        raise RestError("ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded")
    method, _, query = command.partition("#")[0].partition("?")
    if method.lower().removesuffix(".json") == "batch":
        raise RestError("ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage", 405)
    params = substitute(parse_str(query), answers)
    assert isinstance(params, dict)  # noqa: S101 a map stays a map
    return method, params


class LeakyBucket:
    """So many requests at once, and so many a second after that."""

    def __init__(self, capacity: float, per_second: float) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._level = 0.0
        self._at = time.monotonic()

    def admit(self) -> bool:
        now = time.monotonic()
        self._level = max(0.0, self._level - (now - self._at) * self._per_second)
        self._at = now
        if self._level + 1 > self._capacity:
            return False
        self._level += 1
        return True


class OperatingTime:
    """Execution time per method in ten parts of a minute each (times ``scale``)."""

    def __init__(self, scale: float) -> None:
        self._minute = 60.0 / scale
        self._parts: dict[str, dict[int, float]] = defaultdict(dict)

    def add(self, method: str, seconds: float) -> None:
        part = int(time.time() / self._minute)
        self._parts[method][part] = self._parts[method].get(part, 0.0) + seconds

    def used(self, method: str) -> float:
        return sum(seconds for _, seconds in self._living(method))

    def reset_at(self, method: str) -> float:
        """When the oldest part is forgotten."""
        oldest = next(self._living(method), (int(time.time() / self._minute), 0.0))[0]
        return (oldest + 10) * self._minute

    def _living(self, method: str) -> Iterator[tuple[int, float]]:
        first = int(time.time() / self._minute) - 9
        return ((part, seconds) for part, seconds in sorted(self._parts[method].items()) if part >= first)
