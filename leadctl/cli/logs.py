"""Logs: the events of CONTRACT §8 as console lines or JSON lines, by structlog.

Secrets are hidden always, personal data unless ``--log-personal-data`` was given. The log file takes JSON lines,
everything that stderr gets and the tracebacks.
"""

from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TextIO

from leadctl.domain.errors import ConfigError
from leadctl.domain.events import (
    Attempted,
    Claimed,
    Event,
    Finished,
    Notice,
    Parked,
    RunEvent,
    Throttling,
    TokenRefreshed,
)
from leadctl.domain.masking import clean, mask_personal

if TYPE_CHECKING:
    from structlog.typing import Processor

    from leadctl.cli.context import Context

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: Fields that are ours or the operator's: numbers in them are no phones.
_OURS = frozenset(
    {"event", "level", "timestamp", "run_id", "lead_id", "channel", "credential_id", "credential_name", "outcome",
     "http_status", "vendor_code", "code", "command", "next_command", "remote_id", "started_at", "finished_at",
     "trigger", "status", "worker", "chunk", "queue"}
)  # fmt: skip

Fields = MutableMapping[str, Any]


def named(event: Event) -> tuple[str, str, dict[str, Any]] | None:
    """Level, name and fields of an event; None for what is not logged."""
    match event:
        case RunEvent(name="waiting") | Claimed():
            return None
        case RunEvent(name, level, fields):
            return level, name, fields
        case Attempted():
            return "info", "delivery_attempt", _fields(event)
        case Finished():
            return "debug", "delivery_finished", _fields(event)
        case Throttling():
            return "info", "throttled", _fields(event)
        case Parked():
            return "warning", "credential_parked", _fields(event)
        case TokenRefreshed():
            return "info", "token_refreshed", _fields(event)
        case Notice():
            return "warning", "notice", _fields(event)


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in type(event).__slots__}


class Logs:
    """Writes log events to stderr and to the log file. Safe to call from any thread."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._json = context.log_format == "json"
        self._threshold = "warning" if context.quiet else "debug" if context.verbose else "info"
        self._verbose = context.verbose
        #: On a console, what a bulk run shows by its progress is not said again line by line.
        self.bulk = False
        self._file = _opened(context.log_file) if context.log_file else None
        self._to_file = _renderer(context, json=True) if self._file else None
        self._to_stderr = _renderer(context, json=self._json)

    def observe(self, event: Event) -> None:
        """Log what the engine says."""
        if self.bulk and isinstance(event, (Attempted, Finished)) and not (self._file or self._json or self._verbose):
            return  # of each delivery, and for nobody
        if (known := named(event)) is not None:
            level, name, fields = known
            self.write(level, name, **fields)

    def write(self, level: str, name: str, /, *, to_stderr: bool = True, **fields: Any) -> None:
        """Log one event."""
        level = level if level in LEVELS else "error"
        shown = LEVELS[level] >= LEVELS[self._threshold]
        if name == "delivery_attempt" and self.bulk and not self._json:
            shown = self._context.verbose
        if to_stderr and shown:
            self._context.say(self._to_stderr(level, name, fields))
        if self._file and self._to_file and (level != "debug" or self._context.verbose):
            self._file.write(self._to_file(level, name, fields) + "\n")
            self._file.flush()

    def traceback(self, text: str) -> bool:
        """Keep a traceback: in the log file, on stderr with ``-v``. Says whether it was kept anywhere."""
        self.write("error", "bug", to_stderr=self._context.verbose, exception=text)
        return bool(self._file) or self._context.verbose

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def _opened(path: str) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"--log-file {path}: cannot be written: {error.strerror or error}") from None


def _renderer(context: "Context", *, json: bool) -> Callable[[str, str, dict[str, Any]], str]:
    import structlog

    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hidden(context),
    ]
    if json:
        processors.append(structlog.processors.JSONRenderer(ensure_ascii=not context.err.is_unicode, default=str))
    else:
        processors += [_tracebacks_last, _console_renderer(context)]
    logger = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=processors, wrapper_class=structlog.BoundLogger, context_class=dict
    )

    def render(level: str, name: str, fields: dict[str, Any]) -> str:
        # fields may be named like structlog's own arguments: they are bound, not passed
        return str(getattr(logger.bind(**{_free(key): value for key, value in fields.items()}), level)(name))

    return render


def _free(key: str) -> str:
    return f"{key}_" if key in {"event", "level", "timestamp", "exc_info", "stack_info"} else key


def _hidden(context: "Context") -> Callable[[Any, str, Fields], Fields]:
    """The processor that hides secrets and personal data, and makes one plain line of every text."""

    def texts(value: Any, *, personal: bool) -> Any:
        if isinstance(value, str):
            plain = clean(context.secrets.hide(value), 2000)
            return mask_personal(plain) if personal else plain
        if isinstance(value, Mapping):
            return {str(key): texts(item, personal=personal) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [texts(item, personal=personal) for item in value]
        return value

    def process(logger: Any, method: str, event: Fields) -> Fields:
        del logger, method
        shown = context.log_personal_data
        for key, value in event.items():
            if key == "exception":
                plain = context.secrets.hide(str(value))
                event[key] = plain if shown else mask_personal(plain)
            else:
                event[key] = texts(value, personal=not shown and key not in _OURS)
        return event

    return process


def _tracebacks_last(logger: Any, method: str, event: Fields) -> Fields:
    """A traceback keeps its lines and their indentation on a console; nothing else has any."""
    del logger, method
    if "exception" in event:
        lines = str(event["exception"]).splitlines()
        event["exception"] = "\n".join(
            " " * (len(line) - len(line.lstrip(" "))) + clean(line, 2000) for line in lines
        )  # fmt: skip
    return event


def _console_renderer(context: "Context") -> Callable[[Any, str, Fields], str]:
    colour = context.err.is_terminal and not context.no_color and context.environ.get("TERM") not in {None, "", "dumb"}
    tint = {"warning": "\x1b[33m", "error": "\x1b[31m", "debug": "\x1b[2m"} if colour else {}

    def render(logger: Any, method: str, event: Fields) -> str:
        del logger, method
        clock, level, name = str(event.pop("timestamp"))[11:19], str(event.pop("level")), str(event.pop("event"))
        exception = event.pop("exception", None)
        rest = " ".join(f"{key}={_value(value)}" for key, value in event.items() if value is not None)
        start = f"{clock} {level:<7} {name}"
        line = f"{tint[level]}{start}\x1b[0m {rest}" if level in tint else f"{start} {rest}"
        return f"{line.rstrip()}\n{exception.rstrip()}" if exception else line.rstrip()

    return render


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        text = ",".join(f"{key}:{item}" for key, item in value.items())
    else:
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f'"{text}"' if not text or " " in text or "=" in text else text
