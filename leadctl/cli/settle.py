"""``leadctl settle``: what a person found out by looking."""

from typing import Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, NamedOptions
from leadctl.cli.render import plural, word
from leadctl.cli.selection import named_ids
from leadctl.domain.errors import ConfigError


def settle(
    context: Context,
    named: NamedOptions,
    credential: Annotated[str | None, typer.Option("--credential", metavar="ID", help="Where a person looked.")] = None,
    delivered: Annotated[bool, typer.Option("--delivered", help="The leads are there.")] = False,
    not_delivered: Annotated[bool, typer.Option("--not-delivered", help="The leads are not there.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="How it is known.")] = None,
    json_output: JsonFlag = False,
) -> int:
    """Record what a person found out by looking at the vendor.

    \b
    Example:
      leadctl settle 42 --credential 7 --delivered --reason "seen in the chat"
    """
    from leadctl.services.settling import settle as settle_leads

    del json_output
    if delivered == not_delivered:
        raise ConfigError("say what was found: either --delivered or --not-delivered")
    if not (credential or "").strip():
        raise ConfigError("--credential is missing: where did a person look?", hint="add --credential ID")
    if not (reason or "").strip():
        raise ConfigError("--reason is missing: how is it known?", hint="add --reason TEXT")
    with context.application() as app:
        ids = named_ids(context, named, app.db.lead_id)
        if ids is None:
            raise ConfigError("no lead is named", hint="name leads, or use --ids-file")
        document = settle_leads(app, ids, str(credential).strip(), delivered, str(reason).strip())
    if context.json_output:
        context.print_json(document)
        return 0
    said = "delivered" if delivered else "not delivered"
    context.line(f"{plural(len(document['settled']), 'delivery', 'deliveries')} settled as {said}")
    for row in document["skipped"]:
        context.line(f"left as it is: {skipped_text(row)}")
    return 0


def skipped_text(row: object) -> str:
    """A lead that was not settled, with why where it is told."""
    if isinstance(row, dict):
        return ", ".join(f"{word(key).replace('_', ' ')} {word(value)}" for key, value in row.items() if value)
    return word(row)
