"""A server that goes away: in the middle of a commit, of a read, with our locks, for a moment or for good."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url

from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError
from leadctl.domain.events import Event, RunEvent
from leadctl.domain.outcomes import Outcome, TargetState
from leadctl.domain.ports import Granted, Record
from leadctl.store import commits, engines
from leadctl.store.buckets import BucketRows
from leadctl.store.engines import parse_url, server_engine
from leadctl.store.leases import Lease, ServerLeases, open_leases
from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import ItemRow
from leadctl.store.writer import LedgerWriter
from tests.store.helpers import NOW, RUN, attempt, intent, opened_ledger, write
from tests.support.servers import Server, connected, query, server_of
from tests.support.wire import Wire, running_wire
from tests.support.world import wait_until


@dataclass
class Remote:
    """A ledger on a server, seen over a wire; ``near`` is the same one without it."""

    store: LedgerStore
    writer: LedgerWriter
    leases: ServerLeases
    wire: Wire
    server: Server
    near: str
    holder: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return query(self.near, sql)

    def claim(self, lead_id: int, rev: int | None = None) -> Any:
        return asyncio.run(self.writer.claim(RUN, [intent(lead_id, rev)]))[0]

    def away(self, seconds: float) -> threading.Timer:
        """From now on, for so long."""
        self.wire.cut()
        timer = threading.Timer(seconds, self.wire.mend)
        timer.start()
        return timer

    @contextmanager
    def another(self) -> Iterator[ServerLeases]:
        """The leases as a process has them that was not cut off."""
        leases = ServerLeases(server_engine(parse_url(self.near, "url")), "the ledger")
        try:
            yield leases
        finally:
            leases.close()


@pytest.fixture(params=["postgresql", "mariadb"])
def remote(request: pytest.FixtureRequest, leads: Path) -> Iterator[Remote]:
    server = server_of(request, request.param)
    assert server is not None
    with ExitStack() as stack:
        near = stack.enter_context(server.database())
        wire = stack.enter_context(running_wire(server.port))
        url = server.url(make_url(near).database or "", port=wire.port)
        store = stack.enter_context(opened_ledger(leads, ledger=url))
        leases = open_leases(store)
        assert isinstance(leases, ServerLeases)
        stack.callback(leases.close)
        holder = leases.open_holder()
        writer = LedgerWriter(store, leases, holder)
        stack.callback(writer.close)
        yield Remote(store, writer, leases, wire, server, near, holder)


on_postgresql = pytest.mark.parametrize("remote", ["postgresql"], indirect=True)


def at_next_commit(store: LedgerStore, act: Callable[[Any], object]) -> None:
    """Once, between the last statement of a transaction and its COMMIT."""
    done: list[bool] = []

    def before_commit(connection: Any) -> None:
        if not done:
            done.append(True)
            act(connection)

    event.listen(store.writing, "commit", before_commit)


def arrive_and_cut(remote: Remote, connection: Any) -> None:
    """The COMMIT gets through, and its answer does not."""
    driver = connection.connection.dbapi_connection
    driver.commit()
    driver.cursor().execute("SELECT 1")  # so that the COMMIT that follows is sent, and not answered
    remote.away(0.3)


def test_a_commit_that_did_not_arrive_is_made_again(remote: Remote) -> None:
    remote.claim(1)
    at_next_commit(remote.store, lambda connection: remote.away(0.3))
    asyncio.run(remote.writer.record(RUN, [Record(attempt(1), write(1))]))
    assert remote.rows("SELECT state FROM leadctl_targets") == [("delivered",)]
    assert remote.rows("SELECT COUNT(*) FROM leadctl_attempts") == [(1,)]


def test_a_commit_that_arrived_and_was_not_answered_is_not_made_twice(remote: Remote) -> None:
    def arrive(connection: Any) -> None:
        arrive_and_cut(remote, connection)

    at_next_commit(remote.store, arrive)
    answer = remote.claim(1)
    assert isinstance(answer, Granted)
    assert remote.rows("SELECT state, rev FROM leadctl_targets") == [("sending", 1)]
    at_next_commit(remote.store, arrive)
    asyncio.run(remote.writer.record(RUN, [Record(attempt(1), write(1))]))
    assert remote.rows("SELECT state, rev FROM leadctl_targets") == [("delivered", 2)]
    assert remote.rows("SELECT COUNT(*) FROM leadctl_attempts") == [(1,)]


def test_a_server_that_is_away_for_a_moment(remote: Remote) -> None:
    remote.claim(1)
    timer = remote.away(0.5)
    assert isinstance(remote.claim(2), Granted)
    timer.join()
    timer = remote.away(0.5)
    assert remote.store.targets_for([1, 2]).keys() == {1, 2}
    timer.join()
    timer = remote.away(0.5)
    run = remote.store.new_run("resend", "d", now=NOW)
    timer.join()
    assert remote.store.run(run.id) == run


def test_a_server_that_stays_away_is_an_outage(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.3)
    remote.claim(1)
    remote.wire.cut()
    with pytest.raises(DatabaseUnreachable, match="does not answer") as caught:
        remote.claim(2)
    assert caught.value.exit_code == 5
    with pytest.raises(DatabaseUnreachable, match="does not answer"):
        remote.store.list_runs()
    remote.wire.mend()
    assert remote.store.targets_for([1, 2]).keys() == {1}
    assert isinstance(remote.claim(2), Granted)


def test_a_server_that_forgets_what_it_confirmed(remote: Remote) -> None:
    """A replica that was behind, say. What may have been sent is looked for by the next run."""
    remote.claim(1)
    remote.wire.cut()
    remote.rows("DELETE FROM leadctl_targets")
    remote.rows("""DELETE FROM leadctl_meta WHERE "key" LIKE 'commit:%'""")
    remote.wire.mend()
    with pytest.raises(DatabaseUnreachable, match="has lost what it had confirmed") as caught:
        asyncio.run(remote.writer.record(RUN, [Record(attempt(1), write(1))]))
    assert caught.value.exit_code == 5
    assert remote.store.restored_at is not None
    assert remote.rows("""SELECT COUNT(*) FROM leadctl_meta WHERE "key" = 'restored_at:main'""") == [(1,)]


def test_a_write_whose_commit_was_not_answered_is_not_made_twice(remote: Remote) -> None:
    """Outside of the writer nobody finds out: the same command goes on."""
    at_next_commit(remote.store, lambda connection: remote.away(0.3))
    with pytest.raises(DatabaseUnreachable):
        remote.store.new_run("resend", "d", now=NOW)
    wait_until(lambda: remote.store.list_runs() == [])


def test_places_in_a_limit_whose_commit_was_not_answered_are_taken_again(remote: Remote) -> None:
    """The lanes stand still until the server is back; places that were taken twice are only wasted."""
    buckets = BucketRows(remote.store)
    for cut in (lambda connection: remote.away(0.3), lambda connection: arrive_and_cut(remote, connection)):
        at_next_commit(remote.store, cut)
        places, _ = asyncio.run(buckets.take("amocrm:acme", 1000.0, 1.0, 0.0, 2))
        assert len(places) == 2
    ((full_until, paused_until),) = remote.rows("SELECT full_until, paused_until FROM leadctl_buckets")
    assert (full_until, paused_until) == (1006.0, 0.0)
    at_next_commit(remote.store, lambda connection: arrive_and_cut(remote, connection))
    asyncio.run(buckets.silence("amocrm:acme", 2000.0))
    assert remote.rows("SELECT paused_until FROM leadctl_buckets") == [(2000.0,)]


def test_the_rows_of_a_plan_whose_commit_was_not_answered_are_there_once(remote: Remote) -> None:
    run = remote.store.new_run("resend", "d", now=NOW)
    rows = [ItemRow(seq, seq, "amocrm", 7) for seq in range(3)]
    for cut in (lambda connection: remote.away(0.3), lambda connection: arrive_and_cut(remote, connection)):
        at_next_commit(remote.store, cut)
        remote.store.add_leads(run.id, [(row.seq, row.lead_id, "planned") for row in rows])
        at_next_commit(remote.store, cut)
        remote.store.add_items(run.id, rows)
        assert list(remote.store.iter_items(run.id)) == rows
        at_next_commit(remote.store, cut)
        remote.store.close_unsent(run.id, "stopped")
        assert {row.outcome for row in remote.store.iter_items(run.id)} == {Outcome.UNPROCESSED}
        at_next_commit(remote.store, cut)
        remote.store.clear_items(run.id)
    remote.store.add_items(run.id, rows)
    with pytest.raises(LeadctlError, match="refuses a statement"):
        remote.store.add_items(run.id, rows)


@on_postgresql
def test_who_stands_still_within_a_transaction_does_not_keep_its_locks(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was: frozen, or cut off without a word."""
    monkeypatch.setattr(engines, "_PG_BEGIN", engines._PG_BEGIN.replace("'10s'", "'200ms'"))

    def refused(rev: int | None) -> None:
        claims = asyncio.run(remote.writer.claim(RUN, [intent(lead_id, rev) for lead_id in range(100)]))
        assert all(isinstance(claim, Granted) for claim in claims)
        records = [Record(attempt(lead_id), write(lead_id, TargetState.REJECTED)) for lead_id in range(100)]
        asyncio.run(remote.writer.record(RUN, records))

    began = remote.wire.sent
    refused(None)
    whole = remote.wire.sent - began
    for rev, share in enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)):
        remote.wire.stop_at = remote.wire.sent + int(share * whole)
        stuck = threading.Thread(target=refused, args=(2 * rev + 2,))
        stuck.start()
        try:
            wait_until(lambda: remote.wire.sent > (remote.wire.stop_at or 0))
            with connected(remote.near) as other, other.cursor() as cursor:
                cursor.execute("SET lock_timeout = '5s'")
                cursor.execute("SELECT 1 FROM leadctl_targets FOR UPDATE")
                assert len(cursor.fetchall()) == 100
        finally:
            remote.wire.stop_at = None
            remote.wire.cut()  # now it finds out
            remote.wire.mend()
            stuck.join()
    assert remote.rows("SELECT DISTINCT rev FROM leadctl_targets") == [(20,)]


def test_a_lock_is_waited_for_while_the_server_is_away(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is refreshed under one, in the middle of a run."""
    timer = remote.away(0.3)
    lease = remote.leases.acquire("credential-1", {"who": "me"})
    assert lease is not None
    timer.join()
    timer = remote.away(0.3)
    assert remote.leases.holder_info("credential-1") is None, "it went with the connection"
    timer.join()
    assert remote.leases.acquire("credential-2", {}) is not None
    assert remote.leases.holder_info("credential-1") == {"who": "me"}, "and came back with the next"
    lease.release()
    remote.wire.cut()
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.2)
    with pytest.raises(DatabaseUnreachable, match="does not answer"):
        remote.leases.acquire("credential-1", {})
    remote.wire.mend()


def test_our_locks_go_with_the_connection_and_come_back(remote: Remote) -> None:
    lease = remote.leases.acquire("run-1", {"who": "me"})
    assert lease is not None
    with remote.another() as another:
        remote.away(0.3)
        wait_until(lambda: not another.is_alive(remote.holder))
        assert isinstance(remote.claim(1), Granted)
        assert another.is_alive(remote.holder)
        assert another.acquire("run-1", {}) is None
        assert another.holder_info("run-1") == {"who": "me"}
        lease.release()
        assert another.holder_info("run-1") is None


def test_where_another_process_took_our_lock_we_end(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.5)
    assert remote.leases.acquire("run-1", {"who": "me"}) is not None
    with remote.another() as another:
        remote.wire.cut()
        wait_until(lambda: another.holder_info("run-1") is None)
        theirs = another.acquire("run-1", {"who": "they"})
        assert theirs is not None
        remote.wire.mend()
        for _ in range(2):  # having asked once makes it no more ours
            with pytest.raises(DatabaseUnreachable, match="another process has the lock"):
                remote.claim(1)
        assert another.holder_info("run-1") == {"who": "they"}
        theirs.release()
        assert isinstance(remote.claim(1), Granted)


def test_an_outage_is_said_while_nothing_is_written(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes wait for places in a limit, say; once, however long it lasts."""
    monkeypatch.setattr(commits, "LEASES_EVERY", 0.05)
    said: list[Event] = []

    async def main() -> None:
        writer = LedgerWriter(remote.store, remote.leases, remote.holder, observer=said.append)
        try:
            await writer.claim(RUN, [intent(1)])
            for outage in (1, 2):
                timer = remote.away(0.4)
                await asyncio.to_thread(timer.join)
                await asyncio.to_thread(wait_until, lambda: remote.leases.is_alive(remote.holder))
                await asyncio.sleep(0.1)
                assert len(said) == outage
        finally:
            await asyncio.to_thread(writer.close)

    asyncio.run(main())
    assert all(isinstance(event, RunEvent) and "does not answer" in event.fields["message"] for event in said)


def end_the_locks_connection(remote: Remote) -> None:
    """The server ends it, and says nothing: an idle connection is not read from. The writer's own one stays."""
    connection = remote.leases._connection
    assert connection is not None
    number = remote.leases._locks.identify(connection)
    end = "KILL {}" if remote.server.kind == "mariadb" else "SELECT pg_terminate_backend({})"
    remote.server.execute(end.format(number))


def test_locks_that_are_lost_unseen_are_taken_again_while_nothing_is_written(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remote.leases.acquire("run-1", {"who": "me"}) is not None
    monkeypatch.setattr(commits, "LEASES_EVERY", 0.05)
    remote.claim(1)
    with remote.another() as another:
        end_the_locks_connection(remote)
        wait_until(lambda: another.is_alive(remote.holder) and another.holder_info("run-1") == {"who": "me"})
        assert another.acquire("run-1", {}) is None
    assert isinstance(remote.claim(2), Granted)


def test_locks_that_are_lost_unseen_are_taken_again_before_the_next_claim(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.claim(1)
    with remote.another() as another:
        end_the_locks_connection(remote)
        wait_until(lambda: not another.is_alive(remote.holder))
        remote.claim(2)
        assert not another.is_alive(remote.holder), "it is not asked for at every commit"
        monkeypatch.setattr(commits, "LEASES_EVERY", 0.0)
        assert isinstance(remote.claim(3), Granted)
        assert another.is_alive(remote.holder)


def test_a_run_ends_where_its_lock_was_lost_unseen_and_another_process_has_it(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.3)
    assert remote.leases.acquire("run-1", {"who": "me"}) is not None
    remote.claim(1)
    with remote.another() as another:
        end_the_locks_connection(remote)
        theirs = taken(another, "run-1")
        monkeypatch.setattr(commits, "LEASES_EVERY", 0.0)
        with pytest.raises(DatabaseUnreachable, match="another process has the lock") as caught:
            remote.claim(2)
        assert caught.value.exit_code == 5
        assert remote.rows("SELECT lead_id FROM leadctl_targets") == [("1",)], "nothing more is sent"
        theirs.release()


def taken(leases: ServerLeases, name: str) -> Lease:
    found: list[Lease] = []

    def take() -> bool:
        lease = leases.acquire(name, {"who": "they"})
        found.extend([lease] if lease else [])
        return bool(found)

    wait_until(take)
    return found[0]


@on_postgresql
def test_a_server_that_takes_no_writes(remote: Remote, leads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.2)
    remote.claim(1)
    name = remote.near.rpartition("/")[2]
    remote.rows(f"CREATE DATABASE {name}b")
    for database in (f"{name}b", name):
        remote.rows(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    remote.wire.cut()
    remote.wire.mend()
    with pytest.raises(DatabaseUnreachable, match="takes no writes"):
        remote.claim(2)
    with pytest.raises(ConfigError, match="cannot be written"), opened_ledger(leads, ledger=f"{remote.near}b"):
        pass


def test_what_killed_processes_have_left_is_swept(remote: Remote) -> None:
    remote.claim(1)
    assert remote.rows("""SELECT value FROM leadctl_meta WHERE "key" LIKE 'commit:%'""") == [("1",)]
    remote.rows("INSERT INTO leadctl_meta VALUES ('commit:holder-gone', '9'), ('lease:holder-gone', '{}')")
    remote.store.sweep(remote.leases)
    assert remote.rows("""SELECT "key" FROM leadctl_meta WHERE "key" LIKE '%:holder-%' ORDER BY 1""") == [
        (f"commit:{remote.holder}",), (f"lease:{remote.holder}",)
    ]  # fmt: skip
    remote.writer.close()
    assert remote.rows("""SELECT "key" FROM leadctl_meta WHERE "key" LIKE 'commit:%'""") == []


def test_doubts_and_purges_speak_the_servers_language(remote: Remote) -> None:
    remote.claim(1)
    row = remote.store.targets_for([1])[1][0]
    later = NOW + timedelta(days=3650)
    remote.leases.close()
    remote.store.doubt([row], later, later, remote.leases)
    assert remote.store.targets_for([1])[1][0].state is TargetState.UNKNOWN
    run = remote.store.new_run("resend", "d", now=NOW)
    remote.store.add_leads(run.id, [(0, 1, "planned")])
    assert remote.store.purge_answers(later) == remote.store.purge_attempts(later) == 0
    assert remote.store.purge_runs(later) == (0, 0)
    remote.store.supersede_run(run.id, "another", NOW)
    assert remote.store.purge_runs(later) == (0, 1)
    remote.store.fold()
