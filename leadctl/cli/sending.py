"""What resend, bulk-resend and ``runs resume`` share: the run, its display, and its end."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leadctl.cli.context import Context
from leadctl.cli.plan import show_plan
from leadctl.cli.render import show_run
from leadctl.cli.signals import draining

if TYPE_CHECKING:
    from leadctl.domain.events import Event
    from leadctl.services.bootstrap import App
    from leadctl.services.requests import Question, SendRequest
    from leadctl.services.stopping import StopSwitch

Document = dict[str, Any]


def send(context: Context, app: "App", request: "SendRequest", *, confirm: "Callable[[Question], None]") -> int:
    """Send what is missing and say what became of it. Returns the run's exit code."""
    from leadctl.services.resending import send as send_leads

    return running(
        context,
        app,
        lambda observe, stop: send_leads(app, request, confirm=confirm, observer=observe, stop=stop),
        bulk=request.command != "resend",
    )


def running(
    context: Context,
    app: "App",
    run: "Callable[[Callable[[Event], None], StopSwitch], Document]",
    *,
    bulk: bool,
) -> int:
    """Run under the signal handlers, with progress; print the document or its summary."""
    from leadctl.cli.progress import observing
    from leadctl.services.stopping import StopSwitch

    stop = StopSwitch()
    with draining(stop, lambda: restore_terminal(context)), observing(context, bulk=bulk) as observe:
        document = run(observe, stop)
    show_result(context, app, document)
    return int(document["exit_code"] or 0)


def show_result(context: Context, app: "App", document: Document) -> None:
    """``leadctl.run/1``, or its summary for a person."""
    from leadctl.services.inspecting import run_groups

    if context.json_output:
        context.print_json(document)
        return
    show_run(
        context,
        document,
        run_groups(app, document["run_id"], context.typed.as_arguments()) if document.get("run_id") else [],
    )
    if document["status"] == "queued":
        context.line(f"watch it with: {watch_command(context, document['run_id'])}")


def watch_command(context: Context, run_id: str) -> str:
    """What shows the progress of a queued run."""
    return shlex.join(["leadctl", *context.typed.as_arguments(), "runs", "show", run_id, "--watch"])


def dry_run(context: Context, app: "App", request: "SendRequest") -> int:
    """Print what ``plan`` prints."""
    return show_plan(
        context, app, request.leads, request.selectors,
        force_reason=request.force_reason, retry_unknown=request.retry_unknown,
    )  # fmt: skip


def restore_terminal(context: Context) -> None:
    """Show the cursor that a progress display has hidden."""
    if context.err.is_terminal:
        context.err.write("\x1b[?25h\n")
        context.err.flush()
