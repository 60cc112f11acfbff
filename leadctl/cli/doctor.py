"""``leadctl doctor``: is everything in place?"""

from typing import Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.cli.render import table

RestoredFlag = Annotated[
    bool | None,
    typer.Option(
        "--ledger-restored/--no-ledger-restored",
        help="Say that the ledger was restored from a backup (leads are looked for before they are sent), or was not.",
        show_default=False,
    ),
]


def doctor(context: Context, ledger_restored: RestoredFlag = None, json_output: JsonFlag = False) -> int:
    """Check config, database, mapping, ledger, clock and file modes.

    Each value of the config is shown with its origin, and one lead as leadctl sees it, masked.

    \b
    Example:
      leadctl doctor
    """
    from leadctl.services.setup import doctor as examine
    from leadctl.services.setup import doctor_exit_code

    del json_output
    rows = examine(context.typed.config, restored=ledger_restored)
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
