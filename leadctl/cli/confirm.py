"""The question before a bulk run (CONTRACT §3)."""

import shlex
from collections.abc import Callable, Sequence
from datetime import timedelta
from textwrap import fill
from typing import TYPE_CHECKING

from leadctl.cli.context import Context
from leadctl.cli.signals import Interrupted, interruptible
from leadctl.domain.errors import ConfigError, Declined

if TYPE_CHECKING:
    from leadctl.services.estimating import Estimate
    from leadctl.services.requests import Question

#: Up to so many deliveries nothing is asked.
FREE = 100
#: Seconds from which on an estimate is shown.
_WORTH_SAYING = 5.0
NOTHING_KNOWN = "this ledger knows of no earlier send: what another system has delivered would be sent again"


def never(question: "Question") -> None:
    """``resend`` asks nothing."""
    del question


def asker(context: Context, *, yes: bool, stdin_is_ids: bool) -> Callable[["Question"], None]:
    """What a bulk command asks. Raises Declined, or ConfigError where it would have to ask and cannot."""
    can_ask = context.input_is_terminal and context.err.is_terminal and not stdin_is_ids

    def confirm(question: "Question") -> None:
        number = question.totals.deliveries
        if yes or not can_ask:
            if question.nothing_known:
                context.warn(NOTHING_KNOWN, hint="see: leadctl adopt --help")
            if yes:
                return
            if number > FREE:
                raise ConfigError(
                    f"{number:,} deliveries need a confirmation, and nobody can be asked here; nothing was sent",
                    hint=f"look at the plan, then type: {with_yes(context)}",
                )
            context.warn(f"no --yes: above {FREE} deliveries this command will stop here with exit 2")
            return
        if number > FREE or question.nothing_known:
            _ask(context, question)

    return confirm


def with_yes(context: Context) -> str:
    """The command as it was typed, with ``--yes``."""
    words = list(context.argv)
    words.insert(words.index("--") if "--" in words else len(words), "--yes")
    return shlex.join(["leadctl", *words])


def question_text(context: Context, question: "Question") -> str:
    """The numbers, the age of the oldest lead, and how many are proven already."""
    totals = question.totals
    channels = ", ".join(f"{name} {count:,}" for name, count in totals.by_channel.items())
    verb = "to be recorded" if question.command == "adopt" else "to be sent"
    leads, deliveries = _plural(totals.leads, "lead", "leads"), _plural(totals.deliveries, "delivery", "deliveries")
    lines = [f"{leads}, {deliveries} {verb}: {channels or 'none'}"]
    lines.append(f"{totals.already_delivered:,} delivered already, {totals.skipped:,} skipped")
    if question.missing:
        from leadctl.services.missing import missing_line

        lines.append(missing_line(totals))
    if totals.oldest is not None:
        lines.append(f"the oldest lead is {_age(context.now() - totals.oldest)} old")
    lines += estimate_lines(question.estimates)
    if question.forced:
        lines.append("--force: what is proven is sent AGAIN")
    if question.nothing_known:
        lines.append(f"warning: {NOTHING_KNOWN} (see: leadctl adopt --help)")
    return "\n".join(lines)


def estimate_lines(estimates: "Sequence[Estimate]") -> list[str]:
    """How long the vendors' limits make it, where that is worth saying."""
    from leadctl.cli.progress import duration

    long = [one for one in estimates if one.seconds >= _WORTH_SAYING]
    if not long:
        return []
    each = "; ".join(
        f"{one.channel} {duration(one.seconds)} ({one.requests + one.look_ups:,} requests)" for one in long
    )
    return [f"at the vendors' limits it takes at least {duration(long[0].seconds)}: {each}"]


def _ask(context: Context, question: "Question") -> None:
    try:
        with interruptible():  # before the question is seen: the answer to it may be Ctrl-C
            lines = question_text(context, question).splitlines()
            folded = "\n".join(fill(line, max(40, context.columns), subsequent_indent="  ") for line in lines)
            context.err.write(f"{folded}\nGo on? [y/N] ")
            context.err.flush()
            answer = context.stdin.readline() if context.stdin else ""
    except Interrupted as signal:
        context.err.write("\n")
        declined = Declined("interrupted at the question; nothing was sent")
        declined.exit_code = signal.exit_code
        raise declined from None
    if answer.strip().lower() not in {"y", "yes", "д", "да"}:
        raise Declined("declined; nothing was sent")


def _plural(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _age(age: timedelta) -> str:
    if age < timedelta(hours=1):
        return f"{max(0, int(age.total_seconds() // 60))} minutes"
    if age < timedelta(days=2):
        hours = int(age.total_seconds() // 3600)
        return f"{hours} hour{'s' if hours > 1 else ''}"
    return f"{age.days:,} days"
