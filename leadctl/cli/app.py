"""The command line: its commands, and the one place where an exception becomes a message and an exit code."""

import contextlib
import importlib
import inspect
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from leadctl.cli.context import Context
from leadctl.cli.exit_codes import ExitCode, worst
from leadctl.cli.options import Command, VersionFlag, exposed, register
from leadctl.domain.errors import ConfigError, LeadctlError

#: Typer carries its own Click; its base of usage errors is reached through what Typer exports.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

HELP_OPTIONS = ["-h", "--help"]
_HELP = """Send leads to the integrations that they have not reached: exactly what is missing, only there, once.

\b
Example:
  leadctl plan 42
  leadctl resend 42

The options below may stand before or after the command. Most have a variable: LEADCTL_CONFIG,
LEADCTL_LOG_FORMAT, LEADCTL_LOG_FILE, LEADCTL_LOG_PERSONAL_DATA, LEADCTL_NO_COLOR, LEADCTL_QUIET,
LEADCTL_VERBOSE."""


#: Command → where its function is; of a group, the function of its name alone and those of its commands.
_COMMANDS: Mapping[str, str | tuple[str, Mapping[str, str]]] = {
    "resend": "resend:resend",
    "bulk-resend": "bulk_resend:bulk_resend",
    "plan": "plan:plan",
    "channels": (
        "channels:channels",
        {"list": "channels:list_channels", "check": "channels:check", "schema": "channels:schema"},
    ),
    "runs": (
        "runs:runs",
        {"list": "runs:list_runs", "show": "runs:show", "resume": "runs:resume", "purge": "runs:purge"},
    ),
    "watch": "watch:watch",
    "worker": "worker:worker",
    "queue": (
        "queue:queue",
        {
            "init": "queue:init",
            "list": "queue:list_queue",
            "show": "queue:show",
            "cancel": "queue:cancel",
            "retry": "queue:retry",
            "sync": "queue:sync",
            "prune": "queue:prune",
            "metrics": "queue:metrics",
        },
    ),
    "history": "history:history",
    "settle": "settle:settle",
    "adopt": "adopt:adopt",
    "init": "init:init",
    "doctor": "doctor:doctor",
    "sandbox": "sandbox:sandbox",
    "demo": "demo:demo",
}
#: Options before the command that take the next word.
_TAKING = frozenset({"--config", "--log-format", "--log-file"})


def build(only: str | None = None) -> typer.Typer:
    """The Typer application; ``only``: no other command is needed, so that no other is imported."""
    app = _group(_root, _HELP)
    for name, where in _COMMANDS.items():
        if only is not None and name != only:
            continue
        if isinstance(where, str):
            register(app, name, _function(where))
        else:
            app.add_typer(_with_list(*where), name=name)
    return app


def _overview() -> typer.Typer:
    """The application as its help shows it: commands have a name and a text, and no options."""
    app = _group(_root, _HELP)
    for name, where in _COMMANDS.items():
        text = inspect.getdoc(_function(where if isinstance(where, str) else where[0]))
        if isinstance(where, str):
            app.command(name, help=text)(_nothing)
        else:
            app.add_typer(typer.Typer(callback=_nothing, help=text, rich_markup_mode=None), name=name)
    return app


def _function(where: str) -> Command:
    module, _, name = where.partition(":")
    function: Command = getattr(importlib.import_module(f"leadctl.cli.{module}"), name)
    return function


def _nothing() -> None:
    """Is never called."""


def _meant(argv: Sequence[str]) -> str | None:
    """The command that is typed; None where that is for Typer to say."""
    words = iter(argv)
    for word in words:
        if word in _TAKING:
            next(words, None)
        elif not word.startswith("-"):
            return word if word in _COMMANDS else None
    return None


def main(argv: Sequence[str], context: Context | None = None) -> int:
    """Run a command and return its exit code. Raises nothing."""
    context = context or Context.real(argv)
    code = _guarded(context, argv)
    context.out.flush()
    context.err.flush()
    if context.out.failure is not None:
        context.say(f"error: stdout could not be written: {context.out.failure.strerror}")
        code = worst([code, ExitCode.FAILED])
    context.close()
    return code


def _guarded(context: Context, argv: Sequence[str]) -> int:
    try:
        if argv and argv[-1] in HELP_OPTIONS and (text := help_text(argv[:-1])) is not None:
            context.out.write(text)
            return 0
        result = typer.main.get_command(build(_meant(argv))).main(
            args=list(argv), prog_name="leadctl", standalone_mode=False, obj=context
        )
        return int(result or 0)
    except LeadctlError as error:
        return context.fail(error)
    except UsageError as error:
        return context.fail(_usage_error(error))
    except (typer.Abort, KeyboardInterrupt):
        return int(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001  a bug must not look like a crash of the data
        return _bug(context, error)


def help_text(path: Sequence[str], width: int | None = None) -> str | None:
    """The help of the command with these words; None if there is none.

    Typer would parse the words before, and import pydantic for that.
    """
    command: Any = typer.main.get_command(build(path[0] if path[0] in _COMMANDS else None) if path else _overview())
    context = None
    for word in ("leadctl", *path):
        if context is not None:
            command = getattr(command, "commands", {}).get(word)
        if command is None:
            return None
        settings = {**command.context_settings, **({"terminal_width": width} if width else {})}
        context = command.context_class(command, info_name=word, parent=context, **settings)
    # Typer names a list argument's Python type, which says nothing to a person.
    return str(command.get_help(context)).replace(" <list[str]>", "") + "\n"


def _usage_error(error: Exception) -> ConfigError:
    """What Click says about the command line, in our words' form."""
    click_context = getattr(error, "ctx", None)
    path = click_context.command_path if click_context else "leadctl"
    said = getattr(error, "format_message", lambda: str(error))()
    message = " ".join(said.split()) or f"{path}: a command is missing"
    return ConfigError(message[:1].lower() + message[1:], hint=f"{path} --help")


def _bug(context: Context, error: Exception) -> int:
    text = "".join(traceback.format_exception(error))
    kept = False
    with contextlib.suppress(Exception):
        kept = context.logs.traceback(text)
    details = "report it with the traceback" if kept else "type it again with -v for the traceback, and report it"
    return context.fail(LeadctlError(f"a bug in leadctl: {type(error).__name__}", hint=details))


def _root(context: Context, version: VersionFlag = False) -> int:
    del context, version
    return 0


def _group(callback: Command, help_text: str | None = None, **how: bool) -> typer.Typer:
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": HELP_OPTIONS},
        **how,  # type: ignore[arg-type]  # booleans of Typer by name
    )
    app.callback(help=help_text or inspect.getdoc(callback))(exposed(callback, hide_globals=help_text is None))
    return app


def _with_list(default: str, commands: Mapping[str, str]) -> typer.Typer:
    """A group whose name alone lists."""
    app = _group(_function(default), invoke_without_command=True)
    for name, where in commands.items():
        register(app, name, _function(where))
    return app
