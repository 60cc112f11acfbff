"""``leadctl init``: a config to begin with."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.cli.render import word

#: Columns of a plain paragraph; what has no blank in it is never broken.
WIDTH = 80


def init(
    context: Context,
    path: Annotated[str, typer.Option("--path", metavar="PATH", help="Where to write the config.")] = "leadctl.toml",
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="SQLAlchemy URL; the default is a SQLite file.")
    ] = None,
    json_output: JsonFlag = False,
) -> int:
    """Write a config, and the tables of a new SQLite file.

    The config has mode 0600; an existing one is never overwritten. In a database that is there nothing is made or
    changed: its tables are looked at, and the config says what they are called.

    \b
    Example:
      leadctl init --path leadctl.toml --database-url sqlite:///leads.db
    """
    from leadctl.services.setup import init as write_config

    del json_output
    document = write_config(Path(path), database_url)
    if context.json_output:
        context.print_json(document)
        return 0
    context.line(f"config written: {word(document['config'])}")
    made = "made, with the tables of leads and credentials" if document["created_tables"] else "nothing is made in it"
    context.line(f"database {word(document['database'])}: {made}")
    _show_findings(context, document)
    _show_plan(context, document["plan"])
    context.line("next:")
    for command in document["next"]:
        context.line(f"  {word(command, 1000)}")
    return 0


def _show_findings(context: Context, document: Mapping[str, Any]) -> None:
    """What was recognised, and what a person has to look at."""
    for title, key in (("sure:", "sure"), ("not sure, look at these:", "unsure")):
        notes = document[key]
        if notes:
            context.line(title)
        for note in notes:
            _paragraph(context, f"{word(note['about'])}: {word(note['message'], 1000)}", "  ", "    ")
            if note["key"]:
                _paragraph(context, f"write: {word(note['key'], 300)}", "    ", "      ")


def _show_plan(context: Context, plan: Sequence[Mapping[str, Any]]) -> None:
    """What would be sent for a few leads, were it sent now."""
    if plan:
        context.line("what would be sent for the newest leads (nothing is sent now):")
    for lead in plan:
        owners = [
            f"{name} {word(lead[key], 60)}"
            for name, key in (("entity", "external_entity_id"), ("project", "external_project_id"))
            if lead[key] not in (None, "")
        ]
        context.line(f"  lead {word(lead['lead_id'], 60)}" + (f" ({', '.join(owners)})" if owners else ""))
        lines = [("send", item, item["target"]) for item in lead["deliveries"]]
        lines += [("already", item, item["target"]) for item in lead["already_delivered"]]
        lines += [("skip", item, f"{item['reason']}: {item['detail']}") for item in lead["skipped"]]
        for verb, item, said in lines:
            credential = f"{word(item['channel'], 60)} #{word(item['credential_id'], 60)}"
            _paragraph(context, f"{verb} {credential}: {word(said)}", "    ", "      ")
        for warning in lead["warnings"]:
            _paragraph(context, f"warning: {word(warning)}", "    ", "      ")


def _paragraph(context: Context, text: str, first: str, rest: str) -> None:
    wrapped = textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    for line in wrapped:
        context.line(line)
