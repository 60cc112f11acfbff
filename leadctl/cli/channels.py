"""``leadctl channels``: what every integration can do, whether credentials work, what they hold."""

from typing import Annotated

import typer

from leadctl.cli.context import Context
from leadctl.cli.options import JsonFlag
from leadctl.cli.render import show_channels, table

ChannelArgument = Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel's name.", show_default=False)]
OptionalChannel = Annotated[
    str | None, typer.Argument(metavar="CHANNEL", help="Only this channel.", show_default=False)
]


def channels(context: Context, json_output: JsonFlag = False) -> int:
    """List the channels, or check credentials.

    \b
    Example:
      leadctl channels check amocrm
    """
    return list_channels(context, json_output)


def list_channels(context: Context, json_output: JsonFlag = False) -> int:
    """Every channel: state, batch, limits, what a repeated send does, config keys.

    \b
    Example:
      leadctl channels list --json
    """
    from leadctl.services.catalog import channel_rows

    del json_output
    rows = channel_rows()
    if context.json_output:
        context.print_json({"schema": "leadctl.channels/1", "channels": rows})
    else:
        show_channels(context, rows)
    return 0


def check(
    context: Context,
    channel: OptionalChannel = None,
    credential: Annotated[str | None, typer.Option("--credential", metavar="ID", help="Only this credential.")] = None,
    json_output: JsonFlag = False,
) -> int:
    """One read-only call per enabled credential; sends no lead. Exit 4: refused, 5: unreachable.

    \b
    Example:
      leadctl channels check amocrm --credential 7
    """
    from leadctl.services.inspecting import check_channels, check_exit_code

    del json_output
    with context.application() as app:
        rows = check_channels(app, channel, credential)
    if context.json_output:
        context.print_json({"schema": "leadctl.check/1", "checks": rows})
    elif not rows:
        context.line("there is no enabled credential to check")
    else:
        context.show(
            table(
                ("verdict", "channel", "credential", "target", "answer"),
                [
                    (row["verdict"], row["channel"], f"#{row['credential_id']} {row['credential_name'] or ''}",
                     row["target"], row["message"])
                    for row in rows
                ],
            )
        )  # fmt: skip
    return int(check_exit_code(rows))


def schema(context: Context, channel: ChannelArgument, json_output: JsonFlag = False) -> int:
    """JSON Schema of the credential's data and settings, with an example. Always JSON.

    \b
    Example:
      leadctl channels schema amocrm
    """
    from leadctl.services.catalog import channel_schema

    del json_output
    context.print_json(channel_schema(channel))
    return 0
