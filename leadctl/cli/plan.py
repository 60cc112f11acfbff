"""``leadctl plan``: what would be sent, and why."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, MissingOptions, SelectorOptions
from leadctl.cli.render import line_of_entry, show_estimates, show_lead_plan, show_plan_end
from leadctl.cli.selection import missing_selection, selectors
from leadctl.domain.errors import ConfigError

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App
    from leadctl.services.planning import Planning
    from leadctl.services.requests import LeadSelection, Selectors

#: So many leads are shown with a row per delivery; more get a line each.
DETAILED = 10
_IN_MEMORY = 8 * 1024 * 1024
#: Lines that are written together: larger texts would be given back to the system, and asked for again, each time.
_TOGETHER = 50


def plan(
    context: Context,
    selection: MissingOptions,
    selector: SelectorOptions,
    json_output: JsonFlag = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="A JSON line per lead, then a summary line.")] = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 10 if there is something to send.")
    ] = False,
) -> int:
    """Show what would be sent where, and why the rest would not. Sends nothing.

    \b
    Example:
      leadctl plan --since 2d -c amocrm,email
    """
    if json_output and jsonl:
        raise ConfigError("--json and --jsonl exclude each other")
    chosen = selectors(selector)
    with context.application() as app:
        leads = missing_selection(context, selection, app.db.lead_id)
        return show_plan(context, app, leads, chosen, detailed=detailed_exitcode)


def show_plan(
    context: Context,
    app: "App",
    leads: "LeadSelection",
    chosen: "Selectors",
    *,
    force_reason: str | None = None,
    retry_unknown: bool = False,
    detailed: bool = False,
) -> int:
    """Plan and print: as JSON, as JSON lines, or for a person. Returns the exit code."""
    from leadctl.services.planning import plan_leads

    planning = plan_leads(app, leads, chosen, force_reason=force_reason, retry_unknown=retry_unknown)
    if context.json_output:
        _print_document(context, planning)
    elif context.jsonl_output:
        _print_lines(context, planning)
    else:
        _print_text(context, app, planning)
    return planning.exit_code(detailed)


def _print_document(context: Context, planning: "Planning") -> None:
    """``leadctl.plan/1``. It reaches stdout only when it is whole: a failure on the way must not leave half of it."""
    from leadctl.cli.plan_json import PlanEncoder
    from leadctl.services.shapes import plan_totals_json

    encoder = PlanEncoder(context.dumps)
    with _spool() as spool:
        spool.write('{"schema":"leadctl.plan/1","leads":[')
        between = "\n"
        for page in planning.entries():
            for text in encoder.leads(page):
                spool.write(between + text)
                between = ",\n"
        totals = context.dumps(plan_totals_json(planning.totals))
        errors = context.dumps(planning.errors())
        spool.write(f'],\n"totals":{totals},\n"errors":{errors}}}\n')
        spool.seek(0)
        context.answered = True
        shutil.copyfileobj(spool, context.out)


@contextmanager
def _spool() -> Iterator[IO[str]]:
    """A text that moves to the disk when it grows."""
    import tempfile

    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass", newline="") as spool:
        yield spool


def _print_lines(context: Context, planning: "Planning") -> None:
    from leadctl.cli.plan_json import PlanEncoder
    from leadctl.services.shapes import plan_summary_line

    encoder = PlanEncoder(context.dumps)
    for page in planning.entries():
        texts = encoder.leads(page)
        while lines := [f"{text}\n" for text in islice(texts, _TOGETHER)]:
            context.out.write("".join(lines))
    context.line(context.dumps(plan_summary_line(planning.totals, planning.errors())))


def _print_text(context: Context, app: "App", planning: "Planning") -> None:
    from leadctl.services.planning import plan_of

    entries = (entry for page in planning.entries() for entry in page)
    first = list(islice(entries, DETAILED + 1))
    if len(first) <= DETAILED:
        for entry in first:
            show_lead_plan(context, plan_of(entry))
    else:
        line = line_of_entry()
        for entry in chain(first, entries):
            context.line(line(entry))
    show_plan_end(context, planning.totals, planning.errors(), missing=planning.missing)
    if len(first) > DETAILED:
        from leadctl.services.estimating import estimate_plan

        show_estimates(context, estimate_plan(app, planning, 1.0))
