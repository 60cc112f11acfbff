"""When Python looks for garbage. Most of what a start makes is there to stay, and to look through it again and again
takes a tenth of the time of a short command."""

import gc

#: New objects until Python looks through them: while modules are imported, and afterwards.
_STARTING = 100_000
_WORKING = 10_000


def starting() -> None:
    """The process begins."""
    gc.set_threshold(_STARTING)


def started() -> None:
    """The modules are there: they are never looked through again. Does nothing unless :func:`starting` was called."""
    if gc.get_threshold()[0] == _STARTING:
        gc.freeze()
        gc.set_threshold(_WORKING)
