"""PostgreSQL and MariaDB as a ledger finds them: what a session sets, what texts survive, who waits for whom."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, StaticPool, create_engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

from leadctl.channels import channel_class, channel_names
from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError
from leadctl.domain.outcomes import Outcome
from leadctl.store import engines
from leadctl.store.base import set_meta
from leadctl.store.engines import explain, is_away, is_busy, is_read_only, parse_url, server_engine
from leadctl.store.leases import ServerLeases
from leadctl.store.rows import ItemRow
from leadctl.store.schema import buckets, meta
from tests.store.helpers import NOW, Place, claim, delivered, intent, opened_ledger, process, record
from tests.support.servers import KINDS, Server, connected, query, server_of
from tests.support.world import wait_until

on_servers = pytest.mark.parametrize("place", KINDS[1:], indirect=True)


@pytest.fixture(params=KINDS[1:])
def server(request: pytest.FixtureRequest) -> Server:
    found = server_of(request, request.param)
    assert found is not None
    return found


@contextmanager
def an_engine(url: str) -> Iterator[Engine]:
    engine = server_engine(parse_url(url, "url"))
    try:
        yield engine
    finally:
        engine.dispose()


# --- what a session sets -------------------------------------------------------------------------------------------


_SETTINGS: dict[str, dict[str, Any]] = {
    "postgresql": {
        "transaction_isolation": "read committed", "lock_timeout": "5s", "client_encoding": "UTF8",
        "idle_in_transaction_session_timeout": "10s",
    },
    "mariadb": {
        "tx_isolation": "READ-COMMITTED", "innodb_lock_wait_timeout": 5, "lock_wait_timeout": 5,
        "idle_transaction_timeout": 10, "wait_timeout": 31536000, "character_set_client": "utf8mb4",
        "sql_mode": "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
    },
}  # fmt: skip


def test_isolation_and_time_outs_are_set_on_purpose(server: Server) -> None:
    wanted = _SETTINGS[server.kind]
    ask = "@@{}" if server.kind == "mariadb" else "current_setting('{}')"
    question = text("SELECT " + ", ".join(map(ask.format, wanted)))
    with an_engine(server.new_database()) as engine:
        for _ in range(2):  # in every transaction
            with engine.begin() as connection:
                assert tuple(connection.execute(question).one()) == tuple(wanted.values())


def test_what_the_url_says_of_the_connection_stands(server: Server) -> None:
    url = server.new_database()
    query(url, "CREATE TABLE t (name VARCHAR(10))")
    with an_engine(f"{url}?connect_timeout=3") as engine, engine.begin() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM t")).scalar() == 0


def test_a_pooler_finds_nothing_of_ours_in_its_connection(postgresql: Server) -> None:
    """The next transaction there may be the application's. (Poolers of MySQL keep the settings of sessions apart.)"""
    with an_engine(postgresql.new_database()) as engine, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.rollback()
        driver: Any = connection.connection.dbapi_connection
        assert driver.execute("SELECT current_setting('lock_timeout')").fetchone() == ("0",)


# --- texts and numbers ---------------------------------------------------------------------------------------------


@on_servers
def test_tables_do_not_take_the_databases_choice_of_texts(place: Place) -> None:
    """MariaDB's own default is latin1, without emoji, and "a" is "A" there."""
    with opened_ledger(place) as store:
        run = store.new_run("resend", "d", now=NOW, reason="👍 да")
        rows = [ItemRow(seq, lead_id, "email", "b", detail="🙂" * 500, target="Ж" * 2000, credential_name="x" * 2000)
                for seq, lead_id in enumerate(["a", "A", "ä", "a1"])]  # fmt: skip
        store.add_items(run.id, rows)
        assert sorted(store.iter_items(run.id), key=lambda item: item.seq) == rows
        assert store.run(run.id) == run
        store.keep_override("k", "chat_id", "🙂" * 20_000, NOW)  # more than MySQL's TEXT holds
        assert store.overrides() == {"k": {"chat_id": "🙂" * 20_000}}


@on_servers
def test_a_channel_that_nobody_knows_is_kept_as_it_stands(place: Place) -> None:
    with opened_ledger(place) as store:
        run = store.new_run("resend", "d", now=NOW)
        store.add_items(run.id, [ItemRow(0, 1, "c" * 255, 7, outcome=Outcome.SKIPPED)])
        assert store.outcome_counts(run.id) == {("c" * 255, Outcome.SKIPPED): 1}


@on_servers
def test_rows_that_are_met_count_although_nothing_changes(place: Place) -> None:
    """MySQL would count changed rows only, and a value that stays would be inserted again."""
    with opened_ledger(place) as store:
        for _ in range(2):
            store.transact(lambda connection: set_meta(connection, "k", "v"))
        assert place.rows("SELECT value FROM leadctl_meta WHERE value = 'v'") == [("v",)]


def test_what_is_known_among_many(place: Place) -> None:
    with process(place) as one:
        claim(one, *(intent(lead_id) for lead_id in (1, 5, "a'\"\\x", "А1", 7)), intent(7, n=1))
        store = one.store
        assert store.known_among([9, 7, 2, 5, "a'\"\\x", "А1", "a1"]) == [7, 5, "a'\"\\x", "А1"]
        assert list(store.known_among([2, 3])) == []
        assert list(store.known_among([])) == []
        assert store.known_among(list(range(3000))) == [1, 5, 7]


# --- locks ---------------------------------------------------------------------------------------------------------


@on_servers
def test_a_row_that_another_holds_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 1.0)
    with process(place) as one:
        claim(one, intent(1))
        assert place.ledger is not None
        with connected(place.ledger) as connection:
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM leadctl_targets FOR UPDATE")
            timer = threading.Timer(1.3, connection.commit)
            timer.start()
            record(one, delivered(1))
            timer.join()
        assert place.rows("SELECT state FROM leadctl_targets") == [("delivered",)]


@on_servers
def test_a_row_that_is_never_let_go_is_an_outage(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 1.0)
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.1)
    with opened_ledger(place) as store:
        run = store.new_run("resend", "d", now=NOW)
        assert place.ledger is not None
        with connected(place.ledger) as connection:
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM leadctl_runs FOR UPDATE")
            with pytest.raises(DatabaseUnreachable, match="locked by another process") as caught:
                store.set_due(run.id, NOW)
            connection.rollback()
        assert caught.value.exit_code == 5
        store.set_due(run.id, NOW)


@on_servers
def test_of_two_who_lock_each_other_out_both_get_through(place: Place) -> None:
    """The server ends one of the two transactions, which is made again."""
    with opened_ledger(place) as store:
        for scope in "ab":
            store.transact(lambda c, scope=scope: c.execute(  # type: ignore[misc]
                insert(buckets).values(scope=scope, full_until=0, paused_until=0)))  # fmt: skip
        meeting, tries = threading.Barrier(2), []

        def both(first: str, second: str) -> None:
            def work(connection: Connection) -> None:
                tries.append(first)
                raise_full(connection, first)
                if len(tries) <= 2:
                    meeting.wait(10)
                raise_full(connection, second)

            store.transact(work)

        threads = [threading.Thread(target=both, args=names) for names in ("ab", "ba")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(tries) > 2, "nobody was in anybody's way"
        assert sorted(place.rows("SELECT scope, full_until FROM leadctl_buckets")) == [("a", 2.0), ("b", 2.0)]


def raise_full(connection: Connection, scope: str) -> None:
    connection.execute(update(buckets).where(buckets.c.scope == scope).values(full_until=buckets.c.full_until + 1))


def test_a_lease_outlives_the_servers_patience(server: Server) -> None:
    """An idle connection that holds a lock is not ended by the server's own setting."""
    url = server.new_database()
    setting = "idle_session_timeout" if server.kind == "postgresql" else "wait_timeout"
    with opened_on(url) as leases:
        lease = leases.acquire("run-1", {})
        assert lease is not None
        held = leases._connected()
        shown = held.execute(
            text(f"SHOW VARIABLES LIKE '{setting}'" if server.kind == "mariadb" else f"SHOW {setting}")
        )
        assert tuple(shown.one())[-1] in ("0", "31536000")
        lease.release()


def test_the_lease_of_a_machine_that_is_away_for_good_ends_after_the_longest_request(postgresql: Server) -> None:
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    question = ", ".join(f"current_setting('{name}')" for name in names)
    with opened_on(postgresql.new_database()) as leases:
        assert leases.acquire("run-1", {}) is not None
        shown = leases._connected().execute(text(f"SELECT {question}")).one()
    longest = max(channel_class(name).spec.request_timeout for name in channel_names())
    idle, interval, count, unconfirmed = map(int, shown)
    assert longest <= idle + interval * count <= 300
    assert longest <= unconfirmed / 1000 <= 300


@contextmanager
def opened_on(url: str, engine: Engine | None = None) -> Iterator[ServerLeases]:
    with an_engine(url) as making:
        meta.create(making)
    leases = ServerLeases(engine or server_engine(parse_url(url, "url")), "the ledger")
    try:
        yield leases
    finally:
        leases.close()


def test_a_name_of_any_length_can_be_locked(server: Server) -> None:
    with opened_on(server.new_database()) as leases:
        for name in ("credential-main-" + "ж" * 191, "x" * 1000):
            lease = leases.acquire(name, {"name": name})
            assert lease is not None
            assert leases.acquire(name, {}) is None
            assert leases.holder_info(name) == {"name": name}
            lease.release()
            assert leases.holder_info(name) is None


def test_behind_a_pooler_that_changes_connections_nothing_is_locked(server: Server) -> None:
    """As PgBouncer's transaction mode: two clients are served by one connection."""
    url = server.new_database()
    pooled = create_engine(parse_url(url, "url"), poolclass=StaticPool)
    with opened_on(url, pooled) as leases, pytest.raises(ConfigError, match="behind a pooler") as caught:
        leases.acquire("run-1", {})
    assert "session mode" in caught.value.hint
    with an_engine(url) as engine, engine.connect() as connection:
        assert connection.execute(select(meta)).all() == []


def test_what_a_driver_logs_does_not_stand_between_our_lines() -> None:
    """psycopg warns of a pipeline that was cut; what follows is raised."""
    speak = "import logging, leadctl.store.engines; logging.getLogger('psycopg').warning('the connection is lost')"
    done = subprocess.run([sys.executable, "-c", speak], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


# --- what a failure means ------------------------------------------------------------------------------------------


def test_an_account_that_may_only_read_is_told_where_a_ledger_may_be(server: Server, leads: Path) -> None:
    url = server.new_database()
    with opened_ledger(leads, ledger=url) as store:
        run = store.new_run("resend", "d", now=NOW)
    reader = server.reader(url)
    with opened_ledger(leads, ledger=reader, create=False) as store:
        assert store.run(run.id) == run
    query(url, "DROP TABLE leadctl_overrides")
    with pytest.raises(ConfigError, match="cannot be written") as caught, opened_ledger(leads, ledger=reader):
        pass
    assert "[ledger] url" in caught.value.hint


@pytest.mark.parametrize("what", ["user", "database"])
def test_a_wrong_url_is_said_at_once(server: Server, leads: Path, what: str) -> None:
    """PostgreSQL gives a login that fails no code, unless it asked for a password."""
    url = server.new_database()
    wrong = f"{url}nowhere" if what == "database" else url.replace("leadctl@", "nobody:hunter22@")
    with pytest.raises(LeadctlError) as caught, opened_ledger(leads, ledger=wrong):
        pass
    if server.kind == "mariadb":
        assert (caught.value.exit_code, "refuses us" in caught.value.message) == (2, True)
    else:
        assert (caught.value.exit_code, "does not exist" in caught.value.message) == (5, True)
    assert "hunter22" not in caught.value.message


def test_no_room_for_one_more_connection_is_waited_for(server: Server) -> None:
    """Too many connections (1040, 53300): the server is there soon."""
    name = f"few{server.new_database().rpartition('/')[2]}"
    allowed = {"postgresql": f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1",
               "mariadb": f"CREATE USER {name}@'127.0.0.1' WITH MAX_USER_CONNECTIONS 1"}  # fmt: skip
    server.execute(allowed[server.kind])
    place = "postgres" if server.kind == "postgresql" else "information_schema"
    with an_engine(server.url(place, user=name)) as engine, engine.connect() as first:
        first.execute(text("SELECT 1"))
        with pytest.raises(DBAPIError) as caught:
            engine.connect()
    assert is_away(caught.value)
    assert not is_busy(caught.value)


class _Driver(Exception):
    """What pymysql raises, by its number."""

    __module__ = "pymysql.err"


@pytest.mark.parametrize("number", [1021, 1040, 1053, 1203, 1927, 2003, 2006, 2013])
def test_numbers_of_mysql_that_pass(number: int) -> None:
    error = OperationalError("SELECT", {}, _Driver(number, "said"))
    assert is_away(error)
    assert isinstance(explain(error, "the ledger"), DatabaseUnreachable)


@pytest.mark.parametrize(("number", "expected"), [(1142, ConfigError), (1045, ConfigError), (1366, LeadctlError)])
def test_numbers_of_mysql_that_stay(number: int, expected: type[LeadctlError]) -> None:
    error = OperationalError("SELECT", {}, _Driver(number, "said"))
    assert not is_away(error)
    assert not is_busy(error)
    assert type(explain(error, "the ledger")) is expected
    assert is_read_only(error) == (number == 1142)


@pytest.mark.parametrize("number", [1020, 1205, 1213])
def test_locks_of_mysql(number: int) -> None:
    error = OperationalError("SELECT", {}, _Driver(number, "said"))
    assert is_busy(error)
    assert "locked by another process" in explain(error, "the ledger").message


@on_servers
def test_values_that_are_not_there_are_a_bug_at_once(place: Place) -> None:
    """Not every breach of a constraint is a race with another process."""
    nothing: Any = None
    with opened_ledger(place) as store, pytest.raises(LeadctlError, match="refuses a statement") as caught:
        store.transact(lambda connection: connection.execute(insert(meta).values(key="k", value=nothing)))
    assert caught.value.exit_code == 70


@on_servers
def test_what_a_process_says_of_itself_is_json(place: Place) -> None:
    with process(place) as one:
        rows = place.rows("SELECT value FROM leadctl_meta WHERE \"key\" LIKE 'lease:holder-%'")
        assert [set(json.loads(value)) for (value,) in rows] == [{"who", "host", "pid"}]
        assert one.leases.is_alive(one.holder)
    wait_until(lambda: not place.rows("SELECT value FROM leadctl_meta WHERE \"key\" LIKE 'lease:%'"))


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_an_outcome_is_found_without_going_through_its_run(place: Place) -> None:
    """PostgreSQL knows nothing of a table that is new; an index of runs would look as good to it as the key."""
    count = 300
    with process(place) as one:
        run = one.store.new_run("resend", "d", now=NOW)
        one.store.add_items(run.id, [ItemRow(lead, lead, "amocrm", 7) for lead in range(1, count + 1)])
        for lead in range(1, count + 1):
            claim(one, intent(lead))
            asyncio.run(one.writer.record(run.id, [delivered(lead)]))
        assert one.store.outcome_counts(run.id) == {("amocrm", Outcome.DELIVERED): count}
    read = "SELECT coalesce(sum({}), 0) FROM pg_stat_user_{} WHERE relname = 'leadctl_deliveries'"
    wait_until(lambda: place.rows(read.format("n_tup_upd", "tables")) == [(count,)])
    ((by_index,),) = place.rows(read.format("idx_tup_read", "indexes"))
    ((by_scan,),) = place.rows(read.format("seq_tup_read", "tables"))
    assert by_index + by_scan <= 4 * count
