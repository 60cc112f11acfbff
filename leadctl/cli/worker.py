"""``leadctl worker``: one of several processes, here and on other machines, that send what was queued."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import DEFAULT_QUEUE
from leadctl.cli.selection import queue_name, seconds
from leadctl.cli.signals import draining

if TYPE_CHECKING:
    from leadctl.domain.events import Event


def worker(
    context: Context,
    queue: Annotated[str, typer.Option("--queue", metavar="NAME", help="Whose runs are sent.")] = DEFAULT_QUEUE,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, max=500, help="Accounts that are sent to at once.")
    ] = 20,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left that may be begun now.")] = False,
    health_file: Annotated[
        str | None,
        typer.Option("--health-file", metavar="FILE", help="Written anew every second while all is well."),
    ] = None,
    heartbeat: Annotated[
        str,
        typer.Option(
            "--heartbeat", metavar="30s", help="Silent for so long, its chunks go on elsewhere. Same for all."
        ),
    ] = "30s",
    dev: Annotated[
        bool, typer.Option("--dev", help="To try it: ledger and queue in a PostgreSQL that it brings along.")
    ] = False,
) -> int:
    """Send what was queued with --queue, until it is stopped. SIGTERM drains.

    \b
    Example:
      leadctl worker --concurrency 20 --health-file /run/leadctl/worker
    """
    from leadctl.services.queueing import init, open_fleet
    from leadctl.services.stopping import StopSwitch
    from leadctl.services.working import Worker, WorkerOptions

    options = WorkerOptions(
        queue_name(queue),
        concurrency,
        max(1.0, seconds(heartbeat, "--heartbeat")),
        once,
        Path(health_file) if health_file else None,
    )
    context.logs.bulk = True
    with _trial_server(context) if dev else nullcontext(), context.application(create_ledger=True) as app:
        stop = StopSwitch()
        if dev:
            init(app)
        with draining(stop, lambda: None):
            return Worker(app, open_fleet(app), options, lambda event, place: _log(context, event, place), stop).run()


@contextmanager
def _trial_server(context: Context) -> Iterator[None]:
    """The ledger is there while the block runs; other commands are told how to reach it."""
    from leadctl.fleet.embedded import embedded_postgresql
    from leadctl.store.state import StateFolder

    with embedded_postgresql(StateFolder(context.environ).path / "trial-postgresql") as url:
        context.environ = {**context.environ, "LEADCTL_LEDGER__URL": url}
        context.say("in other shells, so that their commands use the same ledger and queue:")
        context.say(f"  export LEADCTL_LEDGER__URL={shlex.quote(url)}")
        yield


def _log(context: Context, event: "Event", place: Mapping[str, Any]) -> None:
    """Log what happened, with run, chunk and worker."""
    from leadctl.cli.logs import named

    if (known := named(event)) is not None:
        level, name, fields = known
        context.logs.write(level, name, **{**fields, **place})
