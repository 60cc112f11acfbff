"""``leadctl adopt``: proof from outside."""

from typing import Annotated

import typer

from leadctl.cli.confirm import asker
from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, SelectionOptions, SelectorOptions, YesFlag
from leadctl.cli.render import plural, word
from leadctl.cli.selection import lead_selection, selectors
from leadctl.domain.errors import ConfigError


def adopt(
    context: Context,
    selection: SelectionOptions,
    selector: SelectorOptions,
    delivered: Annotated[bool, typer.Option("--delivered", help="Another system has sent them.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take an earlier adoption back.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="How it is known.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; write nothing.")] = False,
    yes: YesFlag = False,
    json_output: JsonFlag = False,
) -> int:
    """Record what another system has sent already. Touches only what the ledger knows nothing of.

    \b
    Example:
      leadctl adopt --until 2026-11-01 -c amocrm --delivered --reason "the site"
    """
    from leadctl.services.settling import adopt as adopt_leads

    del json_output
    chosen = selectors(selector)
    if delivered == undo:
        raise ConfigError("say what to do: either --delivered or --undo")
    if not chosen.channels:
        raise ConfigError("adopt needs a channel", hint="add -c CHANNEL")
    if not (reason or "").strip():
        raise ConfigError("--reason is missing: how is it known?", hint="add --reason TEXT")
    with context.application(create_ledger=not dry_run) as app:
        document = adopt_leads(
            app,
            lead_selection(context, selection, app.db.lead_id),
            chosen,
            delivered=delivered,
            reason=str(reason).strip(),
            dry_run=dry_run,
            confirm=asker(context, yes=yes, stdin_is_ids=selection.ids_file == "-"),
        )
    if context.json_output:
        context.print_json(document)
        return 0
    number = document.get("adopted", document.get("undone", 0))
    would = "would be " if document["dry_run"] else ""
    verb = "recorded as delivered" if delivered else "taken back"
    context.line(
        f"{plural(document['leads'], 'lead', 'leads')}: {plural(number, 'delivery', 'deliveries')} {would}{verb}, "
        f"{document['known']:,} known already"
    )
    for channel, count in document["by_channel"].items():
        context.line(f"  {word(channel)} {count:,}")
    return 0
