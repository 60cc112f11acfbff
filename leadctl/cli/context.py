"""The world of one command: streams, what they are, options, settings, logs. Replaced whole in tests."""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from leadctl.domain.errors import ConfigError, LeadctlError
from leadctl.domain.masking import Secrets, json_escaped, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from leadctl.cli.logs import Logs
    from leadctl.domain.model import LeadId
    from leadctl.services.bootstrap import App
    from leadctl.settings import LoadedSettings

#: The width of what is not a terminal: nothing is wrapped there.
UNWRAPPED = 100_000


class Output:
    """A text stream that may be closed under us: that stops nothing, and is not an error."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        #: Why writing failed, where it was more than a reader that went away (a full disk).
        self.failure: OSError | None = None

    @property
    def is_terminal(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    @property
    def is_unicode(self) -> bool:
        """Whether every character can be written as itself."""
        return (getattr(self._stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"

    def write(self, text: str) -> int:
        with self._guarded() as stream:
            if stream is not None:
                stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded() as stream:
            if stream is not None:
                stream.flush()

    @contextmanager
    def _guarded(self) -> Iterator[TextIO | None]:
        try:
            yield self._stream
        except ValueError:  # closed by somebody else
            self._stream = None
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.ECONNRESET}:
                self.failure = error
            self._silence()

    def _silence(self) -> None:
        """Let what is still buffered run into nothing, so that the interpreter's exit does not fail on it."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno() if self._stream else nowhere)
            os.close(nowhere)
        self._stream = None


@dataclass(frozen=True, slots=True)
class GlobalValues:
    """The global options as they were typed; None or False: not typed."""

    config: str | None = None
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    log_format: str | None = None
    log_file: str | None = None
    log_personal_data: bool = False

    def merged(self, other: "GlobalValues") -> "GlobalValues":
        """These, overlaid by what was typed after the command."""
        return GlobalValues(
            config=other.config or self.config,
            quiet=other.quiet or self.quiet,
            verbose=other.verbose or self.verbose,
            no_color=other.no_color or self.no_color,
            log_format=other.log_format or self.log_format,
            log_file=other.log_file or self.log_file,
            log_personal_data=other.log_personal_data or self.log_personal_data,
        )

    def as_arguments(self) -> tuple[str, ...]:
        """What to type to have them again."""
        arguments: list[str] = []
        for flag, value in (
            ("--config", self.config),
            ("--log-format", self.log_format),
            ("--log-file", self.log_file),
        ):
            arguments += [flag, value] if value else []
        flags = (("--quiet", self.quiet), ("--verbose", self.verbose), ("--no-color", self.no_color),
                 ("--log-personal-data", self.log_personal_data))  # fmt: skip
        return (*arguments, *(flag for flag, given in flags if given))


@dataclass
class Context:
    """Everything a command touches of the outside."""

    argv: Sequence[str]
    stdin: TextIO | None
    out: Output
    err: Output
    environ: Mapping[str, str]
    columns: int = 80
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    typed: GlobalValues = field(default_factory=GlobalValues)
    json_output: bool = False
    jsonl_output: bool = False
    #: Whether a JSON document stands on stdout already: there is never a second one.
    answered: bool = False
    secrets: Secrets = field(default_factory=Secrets)
    #: Prints a line above a running progress display instead of into it.
    above: Callable[[str], None] | None = None

    @classmethod
    def real(cls, argv: Sequence[str]) -> "Context":
        """The process's own streams and environment."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        return cls(
            argv=tuple(argv),
            stdin=sys.stdin,
            out=Output(sys.stdout),
            err=Output(sys.stderr),
            environ=os.environ,
            columns=shutil.get_terminal_size().columns,
        )

    def __post_init__(self) -> None:
        """What must be known before the arguments are parsed, so that a usage error is said in the right form."""
        words = self.argv[: self.argv.index("--")] if "--" in self.argv else self.argv
        self.json_output = "--json" in words
        self.jsonl_output = "--jsonl" in words
        for before, word in zip(("", *words), words, strict=False):
            value = word.removeprefix("--log-format=") if word.startswith("--log-format=") else word
            if value == "json" and (before == "--log-format" or value != word):
                self.typed = GlobalValues(log_format="json")

    # -- options, flags before environment ------------------------------------------------------------------

    @property
    def log_format(self) -> str:
        found = self.typed.log_format or self.environ.get("LEADCTL_LOG_FORMAT") or "console"
        if found not in {"console", "json"}:
            raise ConfigError(f"LEADCTL_LOG_FORMAT: {found!r} is not a log format", hint="use console or json")
        return found

    @property
    def log_file(self) -> str | None:
        return self.typed.log_file or self.environ.get("LEADCTL_LOG_FILE") or None

    @property
    def quiet(self) -> bool:
        return self.typed.quiet or self._switch("LEADCTL_QUIET")

    @property
    def verbose(self) -> bool:
        return self.typed.verbose or self._switch("LEADCTL_VERBOSE")

    @property
    def log_personal_data(self) -> bool:
        return self.typed.log_personal_data or self._switch("LEADCTL_LOG_PERSONAL_DATA")

    @property
    def no_color(self) -> bool:
        return self.typed.no_color or bool(self.environ.get("NO_COLOR")) or self._switch("LEADCTL_NO_COLOR")

    def _switch(self, name: str) -> bool:
        value = self.environ.get(name, "").strip().lower()
        if value in {"1", "true", "yes", "on"}:
            return True
        if value in {"", "0", "false", "no", "off"}:
            return False
        raise ConfigError(f"{name}: {value!r} is neither yes nor no", hint=f"set {name}=1, or unset it")

    def check_options(self) -> None:
        """Raises ConfigError for a global option of the environment that cannot be read."""
        _ = (self.log_format, self.quiet, self.verbose, self.log_personal_data, self.no_color)

    @property
    def input_is_terminal(self) -> bool:
        try:
            return self.stdin is not None and self.stdin.isatty()
        except ValueError:
            return False

    # -- settings, logs, the application -------------------------------------------------------------------

    @cached_property
    def loaded(self) -> "LoadedSettings":
        """The settings, read once; what is odd about them is said once."""
        from leadctl.settings import load_settings

        loaded = load_settings(self.typed.config, self.environ)
        for warning in loaded.warnings:
            self.warn(warning)
        return loaded

    @cached_property
    def logs(self) -> "Logs":
        from leadctl.cli.logs import Logs

        return Logs(self)

    def close(self) -> None:
        """Close the log file, if there is one."""
        if "logs" in self.__dict__:
            self.logs.close()

    @contextmanager
    def application(self, *, create_ledger: bool = False) -> Iterator["App"]:
        """The services' application; its secrets are hidden in every log from here on."""
        from leadctl.cli.garbage import started
        from leadctl.services.bootstrap import open_app

        with open_app(self.loaded, create_ledger=create_ledger) as app:
            started()
            self.secrets = app.secrets
            for text, hint in app.warnings():
                self.warn(text, hint)
            yield app

    # -- stdout ----------------------------------------------------------------------------------------------

    def print_json(self, document: Mapping[str, Any]) -> None:
        """The one document of this command."""
        self.answered = True
        self.out.write(self.dumps(document, indent=2 if self.out.is_terminal else None) + "\n")

    def dumps(self, document: "Mapping[str, Any] | Sequence[Any] | LeadId | None", indent: int | None = None) -> str:
        separators = (",", ":") if indent is None else None
        text = json.dumps(
            document, ensure_ascii=not self.out.is_unicode, indent=indent, separators=separators, default=str
        )
        return text if text.isascii() else json_escaped(text)

    def line(self, text: str = "") -> None:
        """One line of text on stdout."""
        self.out.write(f"{text}\n")

    def show(self, renderable: "RenderableType") -> None:
        """A table or text on stdout: wrapped on a terminal, one line a row elsewhere."""
        if self.out.is_terminal:
            self.console(self.out).print(renderable)
            return
        console = self.console(self.out)
        with console.capture() as capture:
            console.print(renderable)
        self.out.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))

    def console(self, output: Output) -> "Console":
        """A Rich console that believes us and no variable about what the stream is."""
        from rich.console import Console

        terminal = output.is_terminal
        dumb = self.environ.get("TERM") in {None, "", "dumb"}
        colour = terminal and not self.no_color and not dumb
        return Console(
            file=output,  # type: ignore[arg-type]  # only write and flush are used
            force_terminal=terminal,
            force_interactive=terminal and not dumb,
            color_system="standard" if colour else None,
            no_color=not colour,
            width=max(40, self.columns) if terminal else UNWRAPPED,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
            _environ={},
        )

    # -- stderr ----------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A line of plain text on stderr, above the progress display where there is one."""
        if self.above is not None:
            self.above(text)
            return
        self.err.write(f"{text}\n")
        self.err.flush()

    def warn(self, text: str, hint: str = "") -> None:
        self._tell("warning", text, hint)

    def fail(self, error: LeadctlError) -> int:
        """Say what is wrong, as JSON on stdout too where that was asked for. Returns the exit code."""
        self._drop_bad_options()
        self._tell("error", self.secrets.hide(error.message), self.secrets.hide(error.hint), code=error.code)
        if (self.json_output or self.jsonl_output) and not self.answered:
            document = {key: self.secrets.hide(value) if isinstance(value, str) else value
                        for key, value in error.as_json().items()}  # fmt: skip
            indent = 2 if self.out.is_terminal and not self.jsonl_output else None
            self.out.write(self.dumps(document, indent=indent) + "\n")
            self.answered = True
        return int(error.exit_code)

    def _drop_bad_options(self) -> None:
        """Where the options of the log are what is wrong, that is said without them."""
        if not (self._json_logs() or self.typed.log_file or self.environ.get("LEADCTL_LOG_FILE")):
            return
        try:
            _ = self.logs
        except ConfigError:
            self.typed = GlobalValues(log_format="json" if self._json_logs() else None)
            self.environ = {name: value for name, value in self.environ.items() if not name.startswith("LEADCTL_")}

    def _tell(self, level: str, text: str, hint: str = "", **fields: Any) -> None:
        if self._json_logs():
            self.logs.write(level, level, message=text, hint=hint, **fields)
            return
        self.say(printable(f"{level}: {text}"))
        if hint:
            self.say(printable(f"  hint: {hint}"))
        if self.log_file:
            self.logs.write(level, level, to_stderr=False, message=text, hint=hint, **fields)

    def _json_logs(self) -> bool:
        return (self.typed.log_format or self.environ.get("LEADCTL_LOG_FORMAT")) == "json"
