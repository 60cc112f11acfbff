"""``leadctl demo``: the whole of it in a minute."""

from leadctl.cli.context import Context


def demo(context: Context) -> int:
    """Show all of it in a minute, on a sandbox. Touches nothing of yours.

    \b
    Example:
      leadctl demo
    """
    from leadctl.services.demo import run_demo

    return int(run_demo(context.line))
