"""Options, declared once. A command takes a :class:`Context` and bundles of options; ``register`` tells Typer.

Global options are understood before the command and, hidden from its help, after it.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from leadctl import __version__
from leadctl.cli.context import Context, GlobalValues
from leadctl.domain.errors import ConfigError

Command = Callable[..., int]
LogFormat = Literal["console", "json"]

#: The queue of what names none (the services' own, which are imported only where they are needed).
DEFAULT_QUEUE = "integrations"
CHANNEL_FLAGS = ("--channel", "-c")


@dataclass(frozen=True)
class GlobalOptions:
    """Options of every command; each but ``--version`` has a variable too."""

    config: Annotated[
        str | None,
        typer.Option("--config", metavar="PATH", help="The config file. Else LEADCTL_CONFIG, ./leadctl.toml, …"),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only, no progress.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More in the log, tracebacks too.")] = False
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours. NO_COLOR does the same.")] = False
    log_format: Annotated[
        LogFormat | None,
        typer.Option("--log-format", metavar="FORMAT", help="console, or json: stderr is JSON lines only."),
    ] = None
    log_file: Annotated[str | None, typer.Option("--log-file", metavar="FILE", help="JSON lines, appended.")] = None
    log_personal_data: Annotated[
        bool, typer.Option("--log-personal-data", help="Do not mask e-mail addresses and phones in logs.")
    ] = False


@dataclass(frozen=True)
class SelectorOptions:
    """Which integrations."""

    channel: Annotated[
        list[str], typer.Option(*CHANNEL_FLAGS, metavar="CHANNEL", help="Only there: email,amocrm, or several -c.")
    ] = field(default_factory=list)
    skip_channel: Annotated[list[str], typer.Option("--skip-channel", metavar="CHANNEL", help="Not there.")] = field(
        default_factory=list
    )
    credential: Annotated[list[str], typer.Option("--credential", metavar="ID", help="Only this credential.")] = field(
        default_factory=list
    )
    credentials_file: Annotated[
        str | None,
        typer.Option("--credentials-file", metavar="FILE", help="JSON: these credentials instead of the database's."),
    ] = None
    settings_file: Annotated[
        str | None,
        typer.Option("--settings-file", metavar="FILE", help="JSON: overlays credentials' settings for this run."),
    ] = None


@dataclass(frozen=True)
class NamedOptions:
    """Leads by name."""

    leads: Annotated[list[str], typer.Argument(metavar="LEAD_ID", help="Leads by id.", show_default=False)] = field(
        default_factory=list
    )
    ids_file: Annotated[
        str | None, typer.Option("--ids-file", metavar="FILE", help="One id a line, or CSV; - is stdin.")
    ] = None
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Go on although lines of the file hold no id.")
    ] = False


@dataclass(frozen=True)
class SelectionOptions(NamedOptions):
    """Which leads: named ones, or those that the others match; both together are ANDed."""

    project: Annotated[str | None, typer.Option("--project", metavar="ID", help="Leads of this project.")] = None
    entity: Annotated[str | None, typer.Option("--entity", metavar="ID", help="Leads of this entity.")] = None
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Created then or later: 2026-11-24T09:00, 09:00, 3h, 2d."),
    ] = None
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Created before then.")] = None
    max_age: Annotated[str | None, typer.Option("--max-age", metavar="AGE", help="Not older than 7d.")] = None


@dataclass(frozen=True)
class MissingOptions(SelectionOptions):
    """The same, or of them only those that something is missing for."""

    missing: Annotated[
        bool,
        typer.Option(
            "--missing",
            help="Only leads of which something has not arrived, as far as ledger and delivery log tell; the others "
            "are left out of plan and run. Needs --since or --max-age.",
        ),
    ] = False
    first_run: Annotated[
        bool, typer.Option("--first-run", help="With --missing on a new ledger: nothing was sent before.")
    ] = False


@dataclass(frozen=True)
class SendOptions:
    """How to send."""

    delay: Annotated[str | None, typer.Option("--delay", metavar="30s", help="Wait once before sending.")] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what plan prints; send nothing.")] = False
    force: Annotated[bool, typer.Option("--force", help="Send again what is proven; needs --reason.")] = False
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the ledger.")] = None
    retry_unknown: Annotated[
        bool, typer.Option("--retry-unknown", help="Send what is in doubt again, at the risk of a second one.")
    ] = False
    wait: Annotated[
        str | None, typer.Option("--wait", metavar="10m", help="Wait for another process that holds the run.")
    ] = None


@dataclass(frozen=True)
class QueueOptions:
    """To whom the sending is left."""

    queue: Annotated[
        str | None,
        typer.Option("--queue", metavar="[NAME]", help="Let workers send it: leadctl worker. Default: integrations."),
    ] = None
    priority: Annotated[
        int, typer.Option("--priority", metavar="N", min=-100, max=100, help="With --queue: the higher one goes first.")
    ] = 0
    chunk: Annotated[str, typer.Option("--chunk", metavar="10s", hidden=True)] = "10s"


def _version(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.obj.line(f"leadctl {__version__}")
        raise typer.Exit(0)


VersionFlag = Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="The version.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
LeadArgument = Annotated[str, typer.Argument(metavar="LEAD_ID", help="The lead's id.", show_default=False)]
#: Options whose value is a file: completed as such.
FILE_OPTIONS = frozenset(
    {
        "--config",
        "--log-file",
        "--credentials-file",
        "--settings-file",
        "--ids-file",
        "--path",
        "--results-dir",
        "--health-file",
    }
)


def register(app: typer.Typer, name: str, command: Command) -> None:
    """Make ``command(context, …)`` a command of ``app``."""
    app.command(name, cls=_Command, help=inspect.getdoc(command))(exposed(command))


class _Command(TyperCommand):
    """The name after ``--queue`` may be left out, which Typer knows no way to say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See Click."""
        end = args.index("--") if "--" in args else len(args)
        for place, word in enumerate(args[:end]):
            if word == "--queue" and (place + 1 >= end or args[place + 1].startswith("-")):
                args[place] = f"--queue={DEFAULT_QUEUE}"
        return super().parse_args(ctx, args)


def exposed(command: Command, *, hide_globals: bool = True) -> Callable[..., Any]:
    """A function as Typer wants it: every bundle spread into its options, and put together again for the call."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    bundles: dict[str, type[Any]] = {}
    for parameter in list(inspect.signature(command).parameters.values())[1:]:
        kind = hints[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            bundles[parameter.name] = kind
            parameters += _spread(kind)
        else:
            parameters.append(_keyword(parameter.name, kind, parameter.default))
    parameters += _spread(GlobalOptions, hidden=hide_globals)

    def callback(ctx: typer.Context, **values: Any) -> Any:
        context: Context = ctx.obj
        given = _gathered(GlobalOptions, values)
        context.typed = context.typed.merged(GlobalValues(**{f.name: getattr(given, f.name) for f in fields(given)}))
        context.check_options()
        if ctx.invoked_subcommand is not None:
            _check_group(ctx, values)
            return None
        of_group = ctx.parent.params if ctx.parent else {}
        context.json_output = bool(values.get("json_output") or of_group.get("json_output"))
        context.jsonl_output = bool(values.get("jsonl"))
        arguments = {name: _gathered(kind, values) for name, kind in bundles.items()}
        return command(context, **arguments, **values)

    first = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    callback.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    callback.__annotations__ = {}
    callback.__doc__ = command.__doc__
    return callback


def _check_group(ctx: typer.Context, values: dict[str, Any]) -> None:
    """Options of ``runs`` alone mean nothing to ``runs show``; only ``--json`` and the global ones do."""
    for name, value in values.items():
        if value and name != "json_output":
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} is not an option of {ctx.command_path} {ctx.invoked_subcommand}",
                hint=f"{ctx.command_path} {ctx.invoked_subcommand} --help",
            )


def _spread(kind: type[Any], *, hidden: bool = False) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for item in fields(kind):
        annotation = hints[item.name]
        if hidden and get_origin(annotation) is Annotated:
            plain, option = get_args(annotation)
            option = copy.copy(option)
            option.hidden = True
            annotation = Annotated[plain, option]
        default = item.default if item.default is not MISSING else []
        yield _keyword(item.name, annotation, default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _gathered(kind: type[Any], values: dict[str, Any]) -> Any:
    """The bundle of these values; takes them out. A list that was not given is empty, never None."""
    taken = {item.name: values.pop(item.name) for item in fields(kind)}
    return kind(**{name: value for name, value in taken.items() if value is not None})
