"""``leadctl runs``: what runs did, and going on with them."""

from typing import TYPE_CHECKING, Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.exit_codes import ExitCode
from leadctl.cli.options import JsonFlag, RunArgument
from leadctl.cli.render import plural, run_rows, table, word
from leadctl.cli.sending import restore_terminal, running, show_result
from leadctl.cli.signals import draining
from leadctl.cli.times import local_zone, parse_time

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

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


def show(
    context: Context,
    run: RunArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show its progress until it ends; then exit as it did.")
    ] = False,
    json_output: JsonFlag = False,
) -> int:
    """What a run did, its failures grouped, with what to do about each.

    \b
    Example:
      leadctl runs show 01JB2T9
      leadctl runs show 01JB2T9 --watch
    """
    from leadctl.services.inspecting import forced_reason, run_report

    del json_output
    with context.application() as app:
        signal = _watch(context, app, run) if watch else None
        reason = forced_reason(app, run)
        if reason and not context.json_output:
            context.line(f"forced: {word(reason)}")
        document = run_report(app, run)
        show_result(context, app, document)
    if not watch:
        return 0
    if signal is not None:
        return 128 + signal
    # It has no exit code where it died, and goes on when the same command is typed.
    return int(ExitCode.GO_ON if document["exit_code"] is None else document["exit_code"])


def _watch(context: Context, app: "App", run: str) -> int | None:
    """Show what becomes of a run, whoever carries it, until it ends. The number of the signal that ended the watching;
    the run goes on."""
    from leadctl.cli.progress import displaying
    from leadctl.domain.events import Finished, RunEvent
    from leadctl.domain.outcomes import Outcome
    from leadctl.services.inspecting import run_progress
    from leadctl.services.stopping import StopSwitch

    stop = StopSwitch()
    with draining(stop, lambda: restore_terminal(context)), displaying(context) as display:
        status, before = run_progress(app, run)
        display(RunEvent("run_started", "info", {"by_channel": before}))
        while status.value in {"queued", "running"} and not stop.wait(1.0):
            status, waiting = run_progress(app, run)
            for channel, number in before.items():
                for _ in range(number - waiting.get(channel, 0)):
                    display(Finished(0, channel, 0, Outcome.DELIVERED))
            before = waiting
    return stop.signal


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
