"""``leadctl runs``: what runs did, and going on with them."""

from typing import Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.cli.render import plural, run_rows, table, word
from leadctl.cli.sending import running, show_result
from leadctl.cli.times import local_zone, parse_time

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
BeforeOption = Annotated[
    str, typer.Option("--before", metavar="TIME", help="2026-11-24T09:00, 09:00, 3h, 90d.", show_default=False)
]
UnfinishedFlag = Annotated[bool, typer.Option("--unfinished", help="Only those that runs resume goes on with.")]


def runs(context: Context, unfinished: UnfinishedFlag = False, json_output: JsonFlag = False) -> int:
    """List runs, show one, go on with one, or forget old ones.

    \b
    Example:
      leadctl runs --unfinished
    """
    return list_runs(context, unfinished, json_output)


def list_runs(context: Context, unfinished: UnfinishedFlag = False, json_output: JsonFlag = False) -> int:
    """Runs that the ledger knows, the newest first.

    \b
    Example:
      leadctl runs list --unfinished --json
    """
    from leadctl.services.inspecting import list_runs as known_runs

    del json_output
    with context.application() as app:
        rows = known_runs(app, unfinished)
    if context.json_output:
        context.print_json({"schema": "leadctl.runs/1", "runs": rows})
    elif not rows:
        context.line("there is no unfinished run" if unfinished else "there was no run yet")
    else:
        headers = ("run", "status", "command", "started", "leads", "outcomes")
        context.show(table(headers, run_rows(rows), numbers=(4,), whole=(0,)))
    return 0


def show(context: Context, run: RunArgument, json_output: JsonFlag = False) -> int:
    """What a run did, its failures grouped, with what to do about each.

    \b
    Example:
      leadctl runs show 01JB2T9
    """
    from leadctl.services.inspecting import forced_reason, run_report

    del json_output
    with context.application() as app:
        reason = forced_reason(app, run)
        if reason and not context.json_output:
            context.line(f"forced: {word(reason)}")
        show_result(context, app, run_report(app, run))
    return 0


def purge(context: Context, before: BeforeOption, json_output: JsonFlag = False) -> int:
    """Forget answers, attempts and finished runs of before a time. What is delivered is never forgotten.

    Unfinished runs stay. Asks nothing.

    \b
    Example:
      leadctl runs purge --before 90d
    """
    from leadctl.services.purging import purge as forget

    del json_output
    zone = local_zone(context.loaded.settings.timezone)
    until = parse_time(before, "--before", now=context.now(), zone=zone)
    with context.application() as app:
        document = forget(app, until)
    if context.json_output:
        context.print_json(document)
        return 0
    context.line(
        f"forgotten: {plural(document['answers'], 'answer', 'answers')}, "
        f"{plural(document['attempts'], 'attempt', 'attempts')}, "
        f"{plural(document['deliveries'], 'delivery', 'deliveries')} of {plural(document['runs'], 'run', 'runs')}; "
        "what is delivered stays known"
    )
    return 0


def resume(context: Context, run: RunArgument, json_output: JsonFlag = False) -> int:
    """Go on with a run: the ids and flags that the ledger kept. Asks nothing.

    \b
    Example:
      leadctl runs resume 01JB2T9
    """
    from leadctl.services.resending import resume as resume_run

    del json_output
    options = context.typed.as_arguments()
    with context.application() as app:
        return running(
            context,
            app,
            lambda observe, stop: resume_run(app, run, observer=observe, stop=stop, global_options=options),
            bulk=True,
        )
