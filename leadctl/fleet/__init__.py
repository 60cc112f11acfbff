"""Queues for several machines: the only place that knows the engine."""

from leadctl.domain.errors import ConfigError
from leadctl.domain.ports import JobQueue


def open_queue(dsn: str) -> JobQueue:
    """The queue beside the ledger at this PostgreSQL. Raises ConfigError naming the extra where it is missing."""
    try:
        from leadctl.fleet.pgqueuer_queue import PgQueuerQueue
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"what workers need is not installed ({error.name})", hint='install it with: pip install "leadctl[fleet]"'
        ) from None
    return PgQueuerQueue(dsn)
