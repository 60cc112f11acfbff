"""Tables and summaries for people. Foreign text is text: never markup, never a control character."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from leadctl.cli.context import Context
from leadctl.domain.masking import clean

if TYPE_CHECKING:
    from rich.table import Table

    from leadctl.domain.model import LeadPlan, PlannedDelivery, Skip
    from leadctl.services.estimating import Estimate
    from leadctl.services.planning import Entry
    from leadctl.services.requests import PlanTotals

Row = Sequence[Any]
OUTCOMES = ("delivered", "already_delivered", "rejected", "failed", "unknown", "unprocessed", "skipped", "pending")
_REFUSED = frozenset({"credential_refused", "address_not_allowed"})
#: How a word is coloured on a terminal.
_STYLES: Mapping[str, str] = {
    "send": "green",
    "delivered": "green",
    "ok": "green",
    "supported": "green",
    "already_delivered": "dim",
    "already": "dim",
    "skip": "dim",
    "skipped": "dim",
    "nothing": "dim",
    "rejected": "red",
    "failed": "red",
    "refused": "red",
    "error": "red",
    "invalid": "red",
    "bug": "red",
    "unknown": "yellow",
    "unprocessed": "yellow",
    "stopped": "yellow",
    "partial": "yellow",
    "warning": "yellow",
    "interrupted": "yellow",
    "unreachable": "yellow",
    "incomplete": "yellow",
}


def word(value: Any, limit: int = 300) -> str:
    """A value as a person reads it, on one line."""
    if value is None:
        return ""
    return clean(str(value), limit)


def plural(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def table(
    headers: Sequence[str],
    rows: Iterable[Row],
    *,
    numbers: Sequence[int] = (),
    whole: Sequence[int] = (),
    indent: int = 0,
) -> "Table":
    """A table without lines: it survives every width, and a pipe.

    ``numbers``: columns aligned right; ``whole``: columns that are never broken, because they are copied.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=None,
        pad_edge=bool(indent),
        padding=(0, 2, 0, indent),
        show_header=any(headers),
        header_style="bold",
        collapse_padding=True,
    )
    for position, header in enumerate(headers):
        made.add_column(
            header,
            justify="right" if position in numbers else "left",
            overflow="fold",
            no_wrap=position in numbers or position in whole,
        )
    for row in rows:
        made.add_row(*(Text(word(value), style=_STYLES.get(str(value), "")) for value in row))
    return made


# -- plan -----------------------------------------------------------------------------------------------------


def show_lead_plan(context: Context, plan: "LeadPlan") -> None:
    """Everything about one lead: a row per delivery."""
    origin = [
        f"{name} {word(value, 60)}"
        for name, value in (("entity", plan.external_entity_id), ("project", plan.external_project_id))
        if value is not None
    ]
    context.line(f"Lead {word(plan.lead_id, 60)}" + (f" ({', '.join(origin)})" if origin else ""))
    rows = [
        *(_delivery_row("send", item) for item in plan.deliveries),
        *(_delivery_row("already", item) for item in plan.already_delivered),
        *(_skip_row(skip) for skip in plan.skipped),
    ]
    if rows:
        context.show(table(("", "", "", "", "", ""), rows, indent=2))
    for warning in plan.warnings:
        context.line(f"  warning: {word(warning)}")


def _delivery_row(verb: str, item: "PlannedDelivery") -> Row:
    state: str | None = item.state.value if item.state else None
    if item.state is None:
        at, remote_id = item.proof
        told = (f"since {at:%Y-%m-%d %H:%M}Z" if at else "", word(remote_id, 60), "by the log" if item.logged else "")
        state = ", ".join(filter(None, told)) or None
    account = item.account
    return (verb, account.channel, f"#{account.credential_id}", account.name, item.destination.target, state)


def _skip_row(skip: "Skip") -> Row:
    account = skip.account
    why = f"{skip.reason.value}: {skip.detail}" if skip.detail else skip.reason.value
    return ("skip", account.channel, f"#{account.credential_id}", account.name, skip.target, why)


def line_of_entry() -> "Callable[[Entry], str]":
    """Makes :func:`lead_plan_line` of the entries of a plan, that of a shape only once."""
    from leadctl.services.planning import Shape

    known = lru_cache(10_000)(lambda shape: lead_plan_line(shape.plan(0)).removeprefix("0"))

    def line(entry: "Entry") -> str:
        lead_id, found = entry
        return f"{word(lead_id, 60)}{known(found)}" if isinstance(found, Shape) else lead_plan_line(found)

    return line


def lead_plan_line(plan: "LeadPlan") -> str:
    """One lead on one line, for many of them."""
    parts = []
    if plan.deliveries:
        parts.append("send " + ", ".join(_short(d) for d in plan.deliveries))
    if plan.already_delivered:
        parts.append("already " + ", ".join(word(d.account.channel) for d in plan.already_delivered))
    if plan.skipped:
        parts.append("skip " + ", ".join(f"{word(s.account.channel)} ({s.reason.value})" for s in plan.skipped))
    parts += [f"warning: {word(warning)}" for warning in plan.warnings]
    return f"{word(plan.lead_id, 60)}  {'; '.join(parts) or 'nothing to send'}"


def _short(item: "PlannedDelivery") -> str:
    state = f", {item.state.value}" if item.state and item.state.value != "new" else ""
    return f"{word(item.account.channel)} ({word(item.destination.target, 60)}{state})"


def show_plan_end(
    context: Context, totals: "PlanTotals", errors: Sequence[Mapping[str, Any]], *, missing: bool = False
) -> None:
    """The sums of a plan, and what is wrong. ``missing``: of what is missing, every reason counts."""
    channels = ", ".join(f"{name} {count:,}" for name, count in totals.by_channel.items())
    states = ", ".join(f"{name} {count:,}" for name, count in totals.by_state.items() if name != "new" and count)
    context.line()
    context.line(
        f"{plural(totals.leads, 'lead', 'leads')}: {plural(totals.deliveries, 'delivery', 'deliveries')} to send"
        + (f" ({channels})" if channels else "")
        + f", {totals.already_delivered:,} delivered already, {totals.skipped:,} skipped"
    )
    if missing:
        from leadctl.services.missing import missing_line

        context.line(missing_line(totals))
    elif states:
        context.line(f"of those to send: {states}")
    if totals.filtered_count:
        context.line(f"{plural(totals.filtered_count, 'named lead', 'named leads')} left out by the other selectors")
    show_errors(context, errors)


def show_estimates(context: Context, estimates: Sequence["Estimate"]) -> None:
    """What a bulk run would take, the slowest channel first; nothing where all of it is done in a moment."""
    from leadctl.cli.progress import duration
    from leadctl.services.estimating import WORTH_SAYING

    if not estimates or estimates[0].seconds < WORTH_SAYING:
        return
    context.line("at the vendors' limits it takes at least:")
    rows = [
        (
            one.channel,
            duration(one.seconds),
            plural(one.requests, "request", "requests"),
            plural(one.look_ups, "look-up", "look-ups") if one.look_ups else None,
        )
        for one in estimates
    ]
    context.show(table(("", "", "", ""), rows, indent=2))


def show_errors(context: Context, errors: Sequence[Mapping[str, Any]], limit: int = 50) -> None:
    """Error entries of CONTRACT §4, at most so many."""
    for entry in errors[:limit]:
        place = [f"lead {word(entry['lead_id'], 60)}"]
        if entry.get("channel"):
            place.append(f"{word(entry['channel'])} #{word(entry.get('credential_id'))}")
        context.line(f"error: {', '.join(place)}: {word(entry['code'])}: {word(entry['message'])}")
    if len(errors) > limit:
        context.line(f"and {len(errors) - limit:,} more errors")


# -- runs -----------------------------------------------------------------------------------------------------


def show_run(context: Context, document: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """What a run did: per channel, what failed and what to do, and how to go on."""
    if document["command"] == "resend":
        _show_deliveries(context, document["deliveries"])
    elif document["by_channel"]:
        context.show(_outcome_table(document["by_channel"]))
    show_groups(context, groups)
    missing = [word(entry["lead_id"], 60) for entry in document["errors"] if entry["code"] == "lead_not_found"]
    if missing:
        context.line(f"not found: {', '.join(missing[:20])}{', …' if len(missing) > 20 else ''}")
    if document["exit_code"] == 4 and not any(group["code"] in _REFUSED for group in groups):
        context.line("exit 4: a linked credential is invalid, nothing is sent there; see: leadctl channels check")
    context.line(run_summary(document))
    if document["next_command"]:
        context.line(f"go on with: {word(document['next_command'], 2000)}")


def _show_deliveries(context: Context, deliveries: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for item in deliveries:
        error = item.get("error")
        said = f"{error['code']}: {error['message']}" if error else item.get("remote_url") or item.get("remote_id")
        rows.append((item["outcome"], item["channel"], f"#{item['credential_id']}", said))
    if rows:
        context.show(table(("", "", "", ""), rows))


def _outcome_table(by_channel: Mapping[str, Mapping[str, int]]) -> "Table":
    used = [name for name in OUTCOMES if any(counts.get(name) for counts in by_channel.values())]
    rows = [(channel, *(f"{counts.get(name, 0):,}" for name in used)) for channel, counts in by_channel.items()]
    headers = ["channel", *(name.replace("_delivered", "") for name in used)]
    return table(headers, rows, numbers=range(1, len(headers)))


def show_groups(context: Context, groups: Sequence[Mapping[str, Any]]) -> None:
    """Failures by channel, credential and code: how many, the first lead, and what to do."""
    for group in _merged(groups):
        name = f" {word(group['credential_name'], 60)}" if group.get("credential_name") else ""
        vendor = f" [{word(group['vendor_code'], 60)}]" if group.get("vendor_code") else ""
        where = f"{word(group['channel'])} #{word(group['credential_id'])}{name}: " if group.get("channel") else ""
        first = word(group["first_lead"], 60)
        context.line(f"{where}{group['count']:,} × {word(group['code'])}{vendor}, first lead {first}")
        if group.get("message"):
            context.line(f"  {word(group['message'])}")
        if group.get("advice"):
            context.line(f"  what to do: {word(group['advice'], 1000)}")


def _merged(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One group for what differs in the vendor's words only: the first one's words stand for all."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in groups:
        key = (group.get("channel"), group.get("credential_id"), group["code"])
        if key in merged:
            merged[key]["count"] += group["count"]
        else:
            merged[key] = dict(group)
    return list(merged.values())


def run_summary(document: Mapping[str, Any]) -> str:
    """One line for the end of a run."""
    outcomes = document["outcomes"]
    parts = [f"{outcomes[name]:,} {name.replace('_', ' ')}" for name in OUTCOMES if outcomes.get(name)]
    if missing := sum(entry["code"] == "lead_not_found" for entry in document["errors"]):
        parts.append(f"{missing:,} not found")
    said = ", ".join(parts)
    text = f"{word(document['status'])}: {plural(document['total_count'], 'lead', 'leads')}; {said or 'nothing to do'}"
    if document.get("run_id"):
        text += f" (run {word(document['run_id'])}, {document['duration_s']:g} s)"
    return text


def run_rows(runs: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Rows of ``runs list``."""
    for run in runs:
        outcomes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in run["outcomes"].items() if count)
        started = word(run["started_at"])[:19].replace("T", " ")
        yield run["run_id"], run["status"], run["command"], started, f"{run['total_count']:,}", outcomes


# -- the rest ------------------------------------------------------------------------------------------------


def show_history(context: Context, document: Mapping[str, Any]) -> None:
    """The life of a lead, attempt by attempt."""
    context.line(f"Lead {word(document['lead_id'], 60)}")
    if not document["deliveries"]:
        context.line("  nothing is known of it: it was never sent by leadctl")
    for delivery in document["deliveries"]:
        facts = [delivery["state"], delivery.get("remote_id"), delivery.get("key")]
        settled = f", settled by {word(delivery['settled_by'])}" if delivery.get("settled_by") else ""
        said = "  ".join(word(fact, 120) for fact in facts if fact)
        context.line()
        context.line(f"{word(delivery['channel'])} #{word(delivery['credential_id'])}  {said}{settled}")
        rows = [
            (
                word(a.get("started_at"))[:19].replace("T", " "),
                a.get("trigger"),
                a.get("step"),
                a.get("outcome"),
                a.get("http_status"),
                " ".join(word(a[k]) for k in ("vendor_code", "answer") if a.get(k)),
            )
            for a in delivery.get("attempts", ())
        ]
        if rows:
            context.show(table(("when", "why", "step", "outcome", "HTTP", "answer"), rows, indent=2))


def show_channels(context: Context, rows: Iterable[Mapping[str, Any]]) -> None:
    """A block per channel: five texts do not fit beside each other."""
    for row in rows:
        context.line(
            f"{word(row['name'])}  {word(row['title'])}{'' if row['state'] == 'supported' else '  (not supported yet)'}"
        )
        if row["state"] != "supported":
            continue
        facts = (
            ("batch", row["batch"]),
            ("limits", row["limits"]),
            ("repeat", row["repeat"]),
            ("data", keys(row["data_keys"])),
            ("settings", keys(row["settings_keys"])),
        )
        context.show(table(("", ""), ((name, fact) for name, fact in facts if fact), indent=2))


def keys(entries: Iterable[Mapping[str, Any]]) -> str:
    """Config keys, the optional ones with a question mark."""
    return ", ".join(f"{entry['key']}{'' if entry['required'] else '?'}" for entry in entries)
