"""``leadctl plan``: what would be sent, and why."""

import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, TYPE_CHECKING, Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, SelectionOptions, SelectorOptions
from leadctl.cli.render import lead_plan_line, show_lead_plan, show_plan_end
from leadctl.cli.selection import lead_selection, selectors
from leadctl.domain.errors import ConfigError

if TYPE_CHECKING:
    from leadctl.domain.model import LeadPlan
    from leadctl.services.bootstrap import App
    from leadctl.services.planning import Planning
    from leadctl.services.requests import LeadSelection, Selectors

#: So many leads are shown with a row per delivery; more get a line each.
DETAILED = 10
_IN_MEMORY = 8 * 1024 * 1024
_DISTINCT = 10_000


def plan(
    context: Context,
    selection: SelectionOptions,
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
        leads = lead_selection(context, selection, app.db.lead_id)
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
        _print_text(context, planning)
    return planning.exit_code(detailed)


def _print_document(context: Context, planning: "Planning") -> None:
    """``leadctl.plan/1``. It reaches stdout only when it is whole: a failure on the way must not leave half of it."""
    from leadctl.services.shapes import plan_totals_json

    encode = encoder(context)
    with _spool() as spool:
        spool.write('{"schema":"leadctl.plan/1","leads":[')
        for number, lead_plan in enumerate(planning):
            spool.write(f"{',' if number else ''}\n{encode(lead_plan)}")
        totals = context.dumps(plan_totals_json(planning.totals))
        errors = context.dumps(planning.errors())
        spool.write(f'],\n"totals":{totals},\n"errors":{errors}}}\n')
        spool.seek(0)
        context.answered = True
        shutil.copyfileobj(spool, context.out)


def encoder(context: Context) -> "Callable[[LeadPlan], str]":
    """Makes the JSON of a lead. What leads of one entity and project share is encoded once: a million leads have
    few distinct plans."""
    from leadctl.services.shapes import lead_plan_json

    known: dict[Hashable, str] = {}

    def encode(plan: "LeadPlan") -> str:
        lead_id = context.dumps(plan.lead_id)
        if plan.already_delivered:  # has the dates and ids of this lead
            return context.dumps(lead_plan_json(plan))
        key = _shape(plan)
        if key not in known:
            if len(known) >= _DISTINCT:
                known.clear()
            known[key] = context.dumps(lead_plan_json(plan)).removeprefix(f'{{"lead_id":{lead_id}')
        return f'{{"lead_id":{lead_id}{known[key]}'

    return encode


def _shape(plan: "LeadPlan") -> Hashable:
    """All that a lead's JSON says beside its id."""
    return (
        plan.external_entity_id,
        plan.external_project_id,
        tuple((d.account.credential_id, d.state, d.via) for d in plan.deliveries),
        tuple((s.account.credential_id, s.reason, s.detail, s.via) for s in plan.skipped),
        plan.warnings,
    )


@contextmanager
def _spool() -> Iterator[IO[str]]:
    """A text that moves to the disk when it grows."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass", newline="") as spool:
        yield spool


def _print_lines(context: Context, planning: "Planning") -> None:
    from leadctl.services.shapes import plan_summary_line

    encode = encoder(context)
    for lead_plan in planning:
        context.line(encode(lead_plan))
    context.line(context.dumps(plan_summary_line(planning.totals, planning.errors())))


def _print_text(context: Context, planning: "Planning") -> None:
    plans = iter(planning)
    first = list(islice(plans, DETAILED + 1))
    if len(first) <= DETAILED:
        for lead_plan in first:
            show_lead_plan(context, lead_plan)
    else:
        for lead_plan in first:
            context.line(lead_plan_line(lead_plan))
        for lead_plan in plans:
            context.line(lead_plan_line(lead_plan))
    show_plan_end(context, planning.totals, planning.errors())
