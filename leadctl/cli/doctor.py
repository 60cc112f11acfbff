"""``leadctl doctor``: is everything in place?"""

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.cli.render import table


def doctor(context: Context, json_output: JsonFlag = False) -> int:
    """Check config, database, ledger, clock and file modes.

    Each value of the config is shown with its origin.

    \b
    Example:
      leadctl doctor
    """
    from leadctl.services.setup import doctor as examine
    from leadctl.services.setup import doctor_exit_code

    del json_output
    rows = examine(context.typed.config)
    code = int(doctor_exit_code(rows))
    if context.json_output:
        context.print_json({"schema": "leadctl.doctor/1", "checks": rows, "exit_code": code})
        return code
    lines = []
    for row in rows:
        lines.append((row["verdict"], row["check"], row["message"]))
        if row.get("hint"):
            lines.append(("", "", f"hint: {row['hint']}"))
    context.show(table(("verdict", "check", ""), lines))
    return code
