"""The queue on PostgreSQL, by PgQueuer.

A lane is an entrypoint with a limit of one; the engine keeps it in the database, over all workers. Its tables stand
beside the ledger's, with ``leadctl_`` before their names.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job as Picked
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import JobId, QueueEntrypoint
from pgqueuer.ports.driver import Driver
from pgqueuer.queries import Queries

from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError
from leadctl.domain.ports import Job, JobHandler

#: Jobs in one INSERT.
_BATCH = 5000
#: Seconds between looks for work: the net under a notification that was lost, and a lane's first job.
_POLL = timedelta(seconds=1)
#: Seconds between looks at the lanes.
_LANES_EVERY = 1.0
#: Seconds for one statement: a connection that was cut without a word must not hold a worker for ever.
_TIMEOUT = 30.0
#: Classes of SQLSTATE that pass: connection, conflict with another transaction, resources, operator, system.
_PASSING = ("08", "40", "53", "55", "57", "58")
#: One at a time makes, or brings up to date, the tables.
_INIT_LOCK = 1_818_583_412


#: What asyncpg reads of a URL's query; it takes any other name for a setting of the server.
_READ = frozenset(
    {
        "host",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "service",
        "target_session_attrs",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
        "sslpassword",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
        "application_name",
    }
)
_OPTION = re.compile(r"-c\s*(\w[\w.]*)=(\S*)")


def _for_asyncpg(dsn: str) -> str:
    """The URL without libpq's other parameters; the settings in ``options`` (a search_path, say) are kept."""
    parts = urlsplit(dsn)
    given = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in given if name in _READ]
    kept += [pair for name, value in given if name == "options" for pair in _OPTION.findall(value)]
    return urlunsplit(parts._replace(query=urlencode(kept)))


class PgQueuerQueue:
    """Implements :class:`leadctl.domain.ports.JobQueue`. ``dsn`` is a ``postgresql://`` URL."""

    def __init__(self, dsn: str) -> None:
        self._dsn = _for_asyncpg(dsn)
        self._settings = DBSettings(prefix="leadctl_")
        names = self._settings.qualified
        self._find_waiting = (
            f"SELECT id FROM {names.queue_table} WHERE status = 'queued' AND dedupe_key = ANY($1::text[])"  # noqa: S608
        )
        self._find_all = (
            "SELECT dedupe_key FROM "  # noqa: S608
            f"{names.queue_table} WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL"
        )
        self._forget = f"DELETE FROM {names.queue_table_log} WHERE created < $1"  # noqa: S608

    async def init(self) -> None:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        async with self._connected() as (connection, queries):
            await connection.execute("SELECT pg_advisory_lock($1)", _INIT_LOCK)
            try:
                if await queries.has_table(self._settings.queue_table):
                    await queries.upgrade()
                else:
                    await queries.uninstall()  # what is left of tables that somebody has dropped
                    await queries.install()
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", _INIT_LOCK)

    async def enqueue(self, jobs: Sequence[Job]) -> int:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        added = 0
        async with self._connected() as (_, queries):
            now = datetime.now(UTC)
            for start in range(0, max(1, len(jobs)), _BATCH):
                some = jobs[start : start + _BATCH]
                ids = await queries.enqueue(
                    [job.lane for job in some],
                    [job.key.encode() for job in some],
                    [job.priority for job in some],
                    [max(timedelta(0), job.not_before - now) if job.not_before else None for job in some],
                    [job.key for job in some],
                    on_conflict="skip",
                )
                added += sum(identity is not None for identity in ids)
        return added

    async def cancel(self, keys: Sequence[str]) -> int:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        cancelled = 0
        async with self._connected() as (connection, queries):
            for start in range(0, len(keys), _BATCH):
                rows = await connection.fetch(self._find_waiting, list(keys[start : start + _BATCH]))
                if rows:
                    await queries.mark_job_as_cancelled([JobId(row["id"]) for row in rows])
                cancelled += len(rows)
        return cancelled

    async def keys(self) -> set[str]:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        async with self._connected() as (connection, _):
            rows = await connection.fetch(self._find_all)
        return {row["dedupe_key"] for row in rows}

    async def prune(self, before: datetime) -> int:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        async with self._connected() as (connection, queries):
            await queries.aggregate_logs()
            done = await connection.execute(self._forget, before)
        return int(done.rpartition(" ")[2])

    async def work(
        self,
        handle: JobHandler,
        lanes: Callable[[], Collection[str]],
        stop: asyncio.Event,
        *,
        concurrency: int,
        heartbeat: float,
    ) -> None:
        """See :class:`leadctl.domain.ports.JobQueue`."""
        at_once = asyncio.Semaphore(concurrency)

        async def do(job: Picked) -> None:
            async with at_once:
                again = await handle((job.payload or b"").decode())
            if again is not None:
                raise RetryRequested(timedelta(seconds=again), "it goes on later")

        with _explained(), _quiet():
            async with asyncpg.create_pool(self._dsn, min_size=2, max_size=4, command_timeout=_TIMEOUT) as pool:
                manager = QueueManager(self._queries(AsyncpgPoolDriver(pool)), self._settings.channel)
                watching = asyncio.create_task(_watch(manager, lanes, do, stop))
                try:
                    await manager.run(
                        batch_size=max(1, concurrency // 2),
                        max_concurrent_tasks=max(2, concurrency),
                        dequeue_timeout=_POLL,
                        heartbeat_timeout=timedelta(seconds=heartbeat),
                        # Its first probe may be sent before it listens. A notification only saves a moment of _POLL.
                        shutdown_on_listener_failure=False,
                        log_aggregation_interval=timedelta(0),
                    )
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)

    def _queries(self, driver: Driver) -> Queries:
        settings = self._settings
        return Queries(
            driver,
            qbe=QueryBuilderEnvironment(settings),
            qbq=QueryQueueBuilder(settings),
            qbs=QuerySchedulerBuilder(settings),
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncpg.Connection, Queries]]:
        with _explained():
            connection = await asyncpg.connect(self._dsn, timeout=_TIMEOUT)
            try:
                yield connection, self._queries(AsyncpgDriver(connection))
            finally:
                await connection.close()


async def _watch(
    manager: QueueManager,
    lanes: Callable[[], Collection[str]],
    do: Callable[[Picked], object],
    stop: asyncio.Event,
) -> None:
    """Keep the manager at the lanes that there is work in, and end it when that is asked for."""
    while not stop.is_set():
        wanted = {QueueEntrypoint(lane) for lane in lanes()}
        known = manager.entrypoint_registry
        for lane in wanted - known.keys():
            manager.entrypoint(lane, concurrency_limit=1, accepts_context=False, on_failure="hold")(do)  # type: ignore[type-var]
        try:
            await asyncio.wait_for(stop.wait(), _LANES_EVERY)
        except TimeoutError:
            continue
    manager.shutdown.set()


@contextmanager
def _explained() -> Iterator[None]:
    """The engine's failures in words for people: no SQL, no values."""
    place = "the queue beside the ledger"
    try:
        yield
    except asyncpg.UndefinedTableError:
        raise _no_tables() from None
    except RuntimeError as error:
        if "required" not in str(error) and "missing" not in str(error):
            raise
        raise _no_tables() from None
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise ConfigError(f"{place}: {error}", hint="check [ledger] url") from None
    except asyncpg.InsufficientPrivilegeError:
        raise ConfigError(
            f"{place}: this user may not make or use its tables", hint="grant it CREATE on the schema, or use another"
        ) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        kind = type(error).__name__
        if isinstance(error, asyncpg.PostgresError) and not str(error.sqlstate or "").startswith(_PASSING):
            raise LeadctlError(f"{place} refuses a statement of leadctl ({kind})") from None
        raise DatabaseUnreachable(
            f"{place} does not answer ({kind})", hint="type the same command again later"
        ) from None


def _no_tables() -> ConfigError:
    return ConfigError("the queue's tables are not there, or are of an older release", hint="leadctl queue init")


@contextmanager
def _quiet() -> Iterator[None]:
    """The engine's own log says nothing that ours does not, and would break JSON lines."""
    logger = logging.getLogger("pgqueuer")
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before
