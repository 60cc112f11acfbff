"""``leadctl bulk-resend``: many leads."""

from pathlib import Path
from typing import Annotated

import typer

from leadctl.cli.confirm import asker
from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, MissingOptions, QueueOptions, SelectorOptions, SendOptions, YesFlag
from leadctl.cli.selection import deadline_of, force_reason, missing_selection, percentage, queueing, seconds, selectors
from leadctl.cli.sending import dry_run, send
from leadctl.domain.errors import ConfigError


def bulk_resend(
    context: Context,
    selection: MissingOptions,
    selector: SelectorOptions,
    how: SendOptions,
    fleet: QueueOptions,
    yes: YesFlag = False,
    fail_on_empty: Annotated[bool, typer.Option("--fail-on-empty", help="Exit 3 if no lead is selected.")] = False,
    results_dir: Annotated[
        str | None,
        typer.Option("--results-dir", metavar="DIR", help="CSV files of all outcomes, each a valid --ids-file."),
    ] = None,
    share: Annotated[
        str | None, typer.Option("--share", metavar="60%", help="Use that part of every limit; the rest is for others.")
    ] = None,
    finish_by: Annotated[
        str | None,
        typer.Option("--finish-by", metavar="18:00", help="Stop then; refused at once if the limits forbid it."),
    ] = None,
    json_output: JsonFlag = False,
) -> int:
    """Send many leads to the integrations they have not reached.

    Above 100 deliveries it asks; where nobody can be asked, --yes is needed.

    \b
    Example:
      leadctl bulk-resend --ids-file ids.txt -c amocrm --yes
      leadctl bulk-resend --missing --since 2d --yes
    """
    from leadctl.services.requests import SendRequest

    del json_output
    chosen, reason = selectors(selector), force_reason(how)
    if how.force and not (chosen.channels or chosen.credentials):
        raise ConfigError("--force in bulk needs -c or --credential: it sends again what is proven")
    part, deadline = percentage(share, "--share"), deadline_of(context, finish_by)
    queued = queueing(fleet, selector, {"--results-dir": results_dir, "--finish-by": finish_by})
    delay, wait = seconds(how.delay, "--delay"), seconds(how.wait, "--wait")
    with context.application(create_ledger=not how.dry_run) as app:
        request = SendRequest(
            command="bulk-resend",
            leads=missing_selection(context, selection, app.db.lead_id, forced=how.force, queued=queued is not None),
            selectors=chosen,
            delay=delay,
            force_reason=reason,
            retry_unknown=how.retry_unknown,
            wait=wait,
            fail_on_empty=fail_on_empty,
            share=part,
            finish_by=deadline,
            results_dir=Path(results_dir) if results_dir else None,
            queueing=queued,
            global_options=context.typed.as_arguments(),
        )
        if how.dry_run:
            return dry_run(context, app, request)
        return send(context, app, request, confirm=asker(context, yes=yes, stdin_is_ids=selection.ids_file == "-"))
