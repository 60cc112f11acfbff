"""``leadctl history``: the life of a lead."""

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag, LeadArgument
from leadctl.cli.render import show_history
from leadctl.cli.selection import lead_id


def history(context: Context, lead: LeadArgument, json_output: JsonFlag = False) -> int:
    """The life of a lead over all channels, attempt by attempt.

    \b
    Example:
      leadctl history 42
    """
    from leadctl.services.inspecting import history as lead_history

    del json_output
    with context.application() as app:
        document = lead_history(app, lead_id(lead, app.db.lead_id))
    if context.json_output:
        context.print_json(document)
    else:
        show_history(context, document)
    return 0
