"""``leadctl queue``: what workers have to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, RunArgument
from leadctl.cli.render import plural, table, word
from leadctl.cli.sending import running, watch_command
from leadctl.cli.times import local_zone, parse_time

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App
    from leadctl.services.queueing import Fleet


def queue(context: Context, json_output: JsonFlag = False) -> int:
    """List what workers have to do, cancel or repeat a run, look after the queue.

    \b
    Example:
      leadctl queue
    """
    return list_queue(context, json_output)


def init(context: Context) -> int:
    """Make the queue's tables beside the ledger, or bring them up to date.

    \b
    Example:
      leadctl queue init
    """
    from leadctl.services.queueing import init as make

    with context.application(create_ledger=True) as app:
        make(app)
        context.line(f"the queue is ready: {app.ledger.location}")
    return 0


def list_queue(context: Context, json_output: JsonFlag = False) -> int:
    """What is to be done, by queue and account.

    \b
    Example:
      leadctl queue list --json
    """
    from leadctl.services.queueing import listing

    del json_output
    with _fleet(context) as (app, fleet):
        document = listing(app, fleet)
    if context.json_output:
        context.print_json(document)
        return 0
    _show_accounts(context, document["accounts"])
    for run_id in document["runs"]:
        context.line(f"run {word(run_id)}: {watch_command(context, run_id)}")
    if document["without_job"]:
        context.line(
            f"{plural(document['without_job'], 'chunk', 'chunks')} without a job: workers put it right in a minute, "
            "or at once: leadctl queue sync"
        )
    return 0


def _show_accounts(context: Context, accounts: list[dict[str, Any]]) -> None:
    if not accounts:
        context.line("nothing is queued")
        return
    rows = [
        (lane["queue"], lane["channel"], lane["account"], f"{lane['queued']:,}", f"{lane['running']:,}",
         f"{lane['deliveries']:,}", _waits(lane))
        for lane in accounts
    ]  # fmt: skip
    headers = ("queue", "channel", "account", "queued", "running", "deliveries", "")
    context.show(table(headers, rows, numbers=(3, 4, 5)))


def _waits(lane: dict[str, Any]) -> str:
    if lane["not_before"]:
        return f"not before {word(lane['not_before'])[:19]}Z"
    return ", ".join(word(name) for name in lane["workers"])


def show(context: Context, run: RunArgument, json_output: JsonFlag = False) -> int:
    """The chunks of a queued run: where each is, and who has it in hand.

    \b
    Example:
      leadctl queue show 20261124-090000-abcd
    """
    from leadctl.services.queueing import chunks_of

    del json_output
    with context.application(create_ledger=True) as app:
        document = chunks_of(app, run)
    if context.json_output:
        context.print_json(document)
        return 0
    rows = [
        (str(chunk["no"]), chunk["state"], chunk["channel"], ", ".join(f"#{name}" for name in chunk["credential_ids"]),
         f"{chunk['deliveries']:,}", str(chunk["tries"]), chunk["worker"] or _waits({**chunk, "workers": []}))
        for chunk in document["chunks"]
    ]  # fmt: skip
    headers = ("chunk", "state", "channel", "credentials", "deliveries", "tries", "worker")
    context.show(table(headers, rows, numbers=(0, 4, 5)))
    return 0


def cancel(context: Context, run: RunArgument, json_output: JsonFlag = False) -> int:
    """Send nothing more of a queued run. What is left is unprocessed; runs resume or queue retry go on with it.

    \b
    Example:
      leadctl queue cancel 20261124-090000-abcd
    """
    from leadctl.services.queueing import cancel as cancel_run

    del json_output
    with _fleet(context) as (app, fleet):
        document = cancel_run(app, fleet, run)
    if context.json_output:
        context.print_json(document)
        return 0
    said = plural(document["cancelled"], "chunk", "chunks")
    also = f"; {plural(document['running'], 'more ends', 'more end')} in a moment" if document["running"] else ""
    context.line(f"cancelled: {said}{also}; see: leadctl runs show {word(run)}")
    return 0


def retry(context: Context, run: RunArgument, json_output: JsonFlag = False) -> int:
    """Queue again what a run has left: failed, unknown or unprocessed.

    \b
    Example:
      leadctl queue retry 20261124-090000-abcd
    """
    from leadctl.services.resending import resume

    del json_output
    options = context.typed.as_arguments()
    with context.application(create_ledger=True) as app:
        return running(
            context,
            app,
            lambda observe, stop: resume(
                app, run, observer=observe, stop=stop, global_options=options, queue=True
            ),
            bulk=True,
        )  # fmt: skip


def sync(context: Context, json_output: JsonFlag = False) -> int:
    """Queue again what the ledger says is to be done and no job carries.

    Workers do it too, when they begin and every minute.

    \b
    Example:
      leadctl queue init && leadctl queue sync
    """
    from leadctl.services.queueing import sync as put_right

    del json_output
    with _fleet(context) as (app, fleet):
        document = put_right(app, fleet)
    if context.json_output:
        context.print_json(document)
        return 0
    closed = f", closed {plural(len(document['closed_runs']), 'run', 'runs')}" if document["closed_runs"] else ""
    context.line(
        f"{plural(document['chunks'], 'chunk', 'chunks')} to do, queued again {document['enqueued']:,}{closed}"
    )
    return 0


def prune(
    context: Context,
    before: Annotated[str, typer.Option("--before", metavar="TIME", help="2026-11-24T09:00, 09:00, 3h, 7d.")] = "7d",
    json_output: JsonFlag = False,
) -> int:
    """Forget how runs that ended before a time were divided, and the engine's own log of them.

    \b
    Example:
      leadctl queue prune --before 7d
    """
    from leadctl.services.queueing import prune as forget

    del json_output
    zone = local_zone(context.loaded.settings.timezone)
    until = parse_time(before, "--before", now=context.now(), zone=zone)
    with _fleet(context) as (_, fleet):
        document = forget(fleet, until)
    if context.json_output:
        context.print_json(document)
        return 0
    context.line(
        f"forgotten: {plural(document['chunks'], 'chunk', 'chunks')}, "
        f"{plural(document['jobs'], 'idle job', 'idle jobs')}, "
        f"{plural(document['log'], 'log entry', 'log entries')}"
    )
    return 0


def metrics(context: Context) -> int:
    """The same in Prometheus' text format, for a textfile collector.

    \b
    Example:
      leadctl queue metrics > /var/lib/node_exporter/leadctl.prom
    """
    from leadctl.services.queueing import metrics as measure

    with context.application(create_ledger=True) as app:
        context.out.write(measure(app))
    return 0


@contextmanager
def _fleet(context: Context) -> "Iterator[tuple[App, Fleet]]":
    from leadctl.services.queueing import open_fleet

    with context.application(create_ledger=True) as app:
        yield app, open_fleet(app)
