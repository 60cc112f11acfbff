"""``leadctl runs``: what runs did, and going on with them."""

from typing import Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.cli.render import run_rows, table
from leadctl.cli.sending import running, show_result

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
UnfinishedFlag = Annotated[bool, typer.Option("--unfinished", help="Only those that runs resume goes on with.")]


def runs(context: Context, unfinished: UnfinishedFlag = False, json_output: JsonFlag = False) -> int:
    """List runs, show one, or go on with one.

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
    from leadctl.services.inspecting import run_report

    del json_output
    with context.application() as app:
        show_result(context, app, run_report(app, run))
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
