"""``leadctl resend``: one lead."""

from leadctl.cli.confirm import never
from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, LeadArgument, QueueOptions, SelectorOptions, SendOptions
from leadctl.cli.selection import force_reason, lead_id, queueing, seconds, selectors
from leadctl.cli.sending import dry_run, send


def resend(
    context: Context,
    lead: LeadArgument,
    selector: SelectorOptions,
    how: SendOptions,
    fleet: QueueOptions,
    json_output: JsonFlag = False,
) -> int:
    """Send one lead to the integrations it has not reached. Never asks.

    \b
    Example:
      leadctl resend 42 -c amocrm,email
    """
    from leadctl.services.requests import LeadSelection, SendRequest

    del json_output
    chosen, reason = selectors(selector), force_reason(how)
    queued = queueing(fleet, selector)
    delay, wait = seconds(how.delay, "--delay"), seconds(how.wait, "--wait")
    with context.application(create_ledger=not how.dry_run) as app:
        request = SendRequest(
            command="resend",
            leads=LeadSelection(ids=[lead_id(lead, app.db.lead_id)]),
            selectors=chosen,
            delay=delay,
            force_reason=reason,
            retry_unknown=how.retry_unknown,
            wait=wait,
            queueing=queued,
            global_options=context.typed.as_arguments(),
        )
        return dry_run(context, app, request) if how.dry_run else send(context, app, request, confirm=never)
