"""``leadctl watch``: new leads without a hand."""

from typing import Annotated, Any

import typer

from leadctl.cli.confirm import asker
from leadctl.cli.context import Context
from leadctl.cli.options import QueueOptions, SelectorOptions, YesFlag
from leadctl.cli.selection import queueing, seconds, selectors
from leadctl.cli.sending import restore_terminal
from leadctl.cli.signals import draining
from leadctl.cli.times import local_zone, parse_time


def watch(
    context: Context,
    selector: SelectorOptions,
    fleet: QueueOptions,
    project: Annotated[str | None, typer.Option("--project", metavar="ID", help="Leads of this project.")] = None,
    entity: Annotated[str | None, typer.Option("--entity", metavar="ID", help="Leads of this entity.")] = None,
    every: Annotated[str, typer.Option("--every", metavar="30s", help="Between two looks.")] = "30s",
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Where the very first look begins; else now."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="One look, for cron.")] = False,
    yes: YesFlag = False,
) -> int:
    """Send, or queue, the leads that are created from now on, until it is stopped.

    It remembers how far it has looked. Above 100 deliveries in one look it needs --yes.

    \b
    Example:
      leadctl watch --queue --yes
    """
    from leadctl.services.requests import LeadSelection, SendRequest
    from leadctl.services.stopping import StopSwitch
    from leadctl.services.watching import watch as look

    queued = queueing(fleet, selector)
    pause = max(1.0, seconds(every, "--every"))
    zone = local_zone(context.loaded.settings.timezone)
    start = parse_time(since, "--since", now=context.now(), zone=zone) if since else None
    request = SendRequest(
        command="bulk-resend",
        leads=LeadSelection(project=project, entity=entity, since=start, by_name=False),
        selectors=selectors(selector),
        queueing=queued,
        global_options=context.typed.as_arguments(),
    )
    context.logs.bulk = True
    with context.application(create_ledger=True) as app:
        stop = StopSwitch()
        with draining(stop, lambda: restore_terminal(context)):
            return look(
                app,
                request,
                every=pause,
                once=once,
                confirm=asker(context, yes=yes, stdin_is_ids=False),
                observer=context.logs.observe,
                stop=stop,
                done=lambda document: _say(context, document),
            )


def _say(context: Context, document: dict[str, Any]) -> None:
    """A line for every run."""
    from leadctl.cli.render import run_summary

    context.line(run_summary(document))
    context.out.flush()
