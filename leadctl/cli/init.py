"""``leadctl init``: a config to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.cli.render import word


def init(
    context: Context,
    path: Annotated[str, typer.Option("--path", metavar="PATH", help="Where to write the config.")] = "leadctl.toml",
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="SQLAlchemy URL; the default is a SQLite file.")
    ] = None,
    json_output: JsonFlag = False,
) -> int:
    """Write a config, and the tables of a new SQLite file.

    The config has mode 0600; an existing one is never overwritten.

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
    made = "made, with the tables of leads and credentials" if document["created_tables"] else "left as it is"
    context.line(f"database {word(document['database'])}: {made}")
    context.line("next:")
    for command in document["next"]:
        context.line(f"  {word(command, 1000)}")
    return 0
