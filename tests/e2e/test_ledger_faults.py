"""The ledger is locked, full, read-only, moved, removed, of another version or away in the middle of a run: nothing is
sent without its intent on disk, what is wrong is said, and the same command goes on. Judged at the vendors."""

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from leadctl.sandbox.server import Sandbox
from tests.crash.arena import Arena, Track
from tests.support.servers import Server, on_servers, on_sqlite
from tests.support.wire import Wire, running_wire
from tests.support.world import Finished, World, wait_until

CHANNELS = ("webhooks", "amocrm")
#: With the tests' scale, 30 leads a second: a run of :data:`LEADS` leads has a middle.
SLOWLY = "[limits.webhooks]\nrate = 0.3\n[limits.amocrm]\nrate = 0.1\n"
LEADS = 45
#: SQLite gives up a lock at once, and what is waited for is said soon.
SOON = """
from leadctl.store import commits, engines
engines.BUSY_TIMEOUT, commits.SAID_AFTER, commits.LEASES_EVERY = 0.05, 0.2, 0.2
"""
#: Nothing is waited for longer than half a second.
IMPATIENT = f"{SOON}engines.LOCK_PATIENCE = 0.5\n"
#: After some commits the ledger may not grow by a page.
FULL = """
from leadctl.store.commits import Committer
once, left = Committer._once, [4]
def full(self, work):
    left[0] -= 1
    if left[0] == 0:
        self._connection.connection.dbapi_connection.execute("PRAGMA max_page_count = 1")
    once(self, work)
Committer._once = full
"""
#: File modes bind root too: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities(7)).
MODES_BIND = """
import ctypes, os
if os.geteuid() == 0:
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0], sets[1] = sets[0] & ~0b110, sets[1] & ~0b110  # effective and permitted
    assert libc.capset(header, sets) == 0
"""


@pytest.fixture
def going(world: World, box: Sandbox) -> "Going":
    return Going(world, box)


class Going:
    """A bulk run that takes a while, and what the vendors have of it."""

    def __init__(self, world: World, box: Sandbox) -> None:
        self.world, self.box = world, box
        world.write_config(SLOWLY)
        world.connect(box, CHANNELS)
        self.leads = world.new_leads(LEADS, created_at="2020-01-01 00:00:00")
        self.command = ("bulk-resend", *self.leads, "--yes", "--json", "--log-format", "json")

    def made(self, channel: str = "webhooks") -> int:
        return sum(self.box.judge.by_lead(channel)[str(lead)] for lead in self.leads)

    def settled(self) -> int:
        """What is made when nothing more has arrived for a while: what was claimed before is through."""
        made, since, end = self.made(), time.monotonic(), time.monotonic() + 10
        while time.monotonic() - since < 0.4:
            assert time.monotonic() < end, "it goes on sending"
            time.sleep(0.05)
            if self.made() != made:
                made, since = self.made(), time.monotonic()
        return made

    @contextmanager
    def middle(self, patch: str) -> Iterator["subprocess.Popen[str]"]:
        """In the middle of a run, when every vendor has something of it."""
        process = self.world.start(*self.command, patch=patch)
        try:
            wait_until(lambda: all(self.made(channel) > 3 for channel in CHANNELS) or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()
            process.communicate()

    def assert_all_once(self) -> None:
        for channel in CHANNELS:
            there = self.box.judge.by_lead(channel)
            assert {lead: there[str(lead)] for lead in self.leads} == dict.fromkeys(self.leads, 1), channel

    def assert_outage(self, ended: Finished, *said: str) -> None:
        """Exit 5, as a person and a program are told; and what has left was written down before."""
        assert ended.code == 5, ended.err
        assert (ended.json["code"], ended.json["exit_code"]) == ("database_unreachable", 5)
        for text in said:
            assert text in ended.json["message"]
        assert ended.json["hint"]
        assert [record["event"] for record in ended.records if record["level"] == "error"] == ["error"]
        assert self.made() < LEADS
        for channel in CHANNELS:
            rows = self.world.ledger_rows(f"SELECT lead_id FROM leadctl_targets WHERE channel = '{channel}'")
            there = self.box.judge.by_lead(channel)
            assert {str(lead) for lead in self.leads if there[str(lead)]} <= {lead_id for (lead_id,) in rows}

    def assert_goes_on(self) -> Finished:
        """The same command, nothing broken any more."""
        done = self.world.run(*self.command)
        assert done.code == 0, done.err
        assert sum(done.json["outcomes"].values()) == LEADS * len(CHANNELS)
        self.assert_all_once()
        return done


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("COMMIT")


@on_sqlite
def test_while_it_is_locked_the_lanes_stand_still_and_then_go_on(going: Going) -> None:
    with going.middle(SOON) as process:
        with locked(going.world.ledger_path):
            before = going.settled()
            time.sleep(0.8)
            assert going.made() == before
        ended = going.world.finish(process)
    assert ended.code == 0, ended.err
    going.assert_all_once()
    assert "is locked by another process" in ended.record("ledger_waiting")["message"]


@on_sqlite
def test_locked_for_longer_it_is_an_outage(going: Going) -> None:
    with going.middle(IMPATIENT) as process, locked(going.world.ledger_path):
        ended = going.world.finish(process)
    going.assert_outage(ended, str(going.world.ledger_path), "is locked by another process")
    going.assert_goes_on()


@on_sqlite
def test_a_full_disk(going: Going) -> None:
    ended = going.world.run(*going.command, patch=FULL)
    going.assert_outage(ended, f"the disk of the ledger {going.world.ledger_path} is full")
    going.assert_goes_on()


@on_sqlite
def test_moved_away_and_back(going: Going) -> None:
    path = going.world.ledger_path
    with going.middle(SOON) as process:
        path.rename(path.with_name("away.db"))
        time.sleep(0.8)
        before = going.made()
        time.sleep(0.4)
        assert going.made() == before
        path.with_name("away.db").rename(path)
        ended = going.world.finish(process)
    assert ended.code == 0, ended.err
    going.assert_all_once()
    assert "was removed or replaced" in ended.record("ledger_waiting")["message"]


@on_sqlite
def test_removed(going: Going) -> None:
    """What was sent from it is found at the vendors by the keys that it would have given, once a person says so."""
    path = going.world.ledger_path
    with going.middle(IMPATIENT) as process:
        for name in ("", "-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        ended = going.world.finish(process)
    assert (ended.code, ended.json["code"]) == (5, "database_unreachable")
    assert "was removed or replaced while it was in use" in ended.json["message"]
    planned = going.world.run("plan", *going.leads, "--json")
    assert "another ledger was at" in planned.err
    assert "leadctl doctor --ledger-restored" in planned.err
    assert not path.exists()
    told = going.world.run("doctor", "--ledger-restored", "--json")
    assert told.code == 0
    assert any("was restored from a backup" in check["message"] for check in told.json["checks"])
    done = going.assert_goes_on()
    assert {delivery["settled_by"] for delivery in done.json["deliveries"]} >= {"lookup", "resend"}


# --- what cannot be written ----------------------------------------------------------------------------------------


@pytest.fixture
def read_only(going: Going) -> Iterator[Going]:
    yield going
    going.world.folder.chmod(0o755)


@on_sqlite
def test_a_directory_that_cannot_be_written(read_only: Going) -> None:
    world = read_only.world
    world.folder.chmod(0o555)
    refused = world.run(*read_only.command, patch=MODES_BIND)
    assert (refused.code, refused.json["code"]) == (2, "usage")
    assert f"the ledger {world.ledger_path} cannot be written" in refused.json["message"]
    assert "set [ledger] url" in refused.json["hint"]
    doctor = world.run("doctor", "--json", patch=MODES_BIND)
    assert doctor.code == 2
    assert world.run("plan", *read_only.leads, patch=MODES_BIND).code == 0
    assert read_only.made() == 0
    assert not world.ledger_path.exists()
    world.folder.chmod(0o755)
    read_only.assert_goes_on()


@on_sqlite
def test_a_ledger_that_cannot_be_written(read_only: Going) -> None:
    world = read_only.world
    first = world.run("resend", read_only.leads[0])
    assert first.code == 0
    world.ledger_path.chmod(0o444)
    world.folder.chmod(0o555)
    refused = world.run(*read_only.command, patch=MODES_BIND)
    assert (refused.code, refused.json["code"]) == (2, "usage")
    assert f"the ledger {world.ledger_path} cannot be written" in refused.json["message"]
    assert read_only.made() == 1
    world.ledger_path.chmod(0o644)
    world.folder.chmod(0o755)
    read_only.assert_goes_on()


# --- versions ------------------------------------------------------------------------------------------------------


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE leadctl_meta SET value = ? WHERE key = 'schema_version'", (str(version),))


@on_sqlite
def test_a_newer_leadctl_beside_a_run_that_has_begun(going: Going) -> None:
    with going.middle("") as process:
        set_version(going.world.ledger_path, 2)
        ended = going.world.finish(process)
    assert ended.code == 0, ended.err
    going.assert_all_once()
    for command in (going.command, ("plan", *going.leads, "--json"), ("runs", "list", "--json")):
        refused = going.world.run(*command)
        assert (refused.code, refused.json["hint"]) == (2, "upgrade leadctl")
        assert "was made by a newer leadctl (schema 2, known: 1)" in refused.json["message"]
    set_version(going.world.ledger_path, 0)
    refused = going.world.run(*going.command)
    assert refused.code == 2
    assert "was made by an older leadctl (schema 0, known: 1)" in refused.json["message"]


# --- a server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(database: Server, box: Sandbox, tmp_path: Path) -> Iterator["Remote"]:
    with running_wire(database.port) as wire:
        yield Remote(tmp_path, box, database, wire)


class Remote(Arena):
    """Leads and ledger on a server behind a wire."""

    def __init__(self, folder: Path, box: Sandbox, server: Server, wire: Wire) -> None:
        super().__init__(folder, box, Track("webhooks", "event"), server)
        self.write_config("[limits.webhooks]\nrate = 0.01\n")  # 4 a second
        self.wire = wire
        self.env["LEADCTL_DATABASE__URL"] = make_url(self.url).set(port=wire.port).render_as_string()
        self.command_line = ("bulk-resend", *self.leads, "--yes", "--json", "--log-format", "json")

    def start_and_cut(self, patch: str) -> "subprocess.Popen[str]":
        process = self.start(*self.command_line, patch=patch)
        wait_until(lambda: len(self.made()) > 1 or process.poll() is not None)
        self.wire.cut()
        return process


@on_servers
def test_a_server_that_is_away_for_a_while(remote: Remote) -> None:
    process = remote.start_and_cut(SOON)
    time.sleep(1.5)
    between = remote.made()
    remote.wire.mend()
    ended = remote.finish(process)
    assert ended.code == 0, ended.err
    assert len(between) < len(remote.leads)
    assert "does not answer" in ended.record("ledger_waiting")["message"]
    remote.assert_settled(ended, set())


@on_servers
def test_a_server_that_stays_away(remote: Remote) -> None:
    ended = remote.finish(remote.start_and_cut(IMPATIENT))
    assert (ended.code, ended.json["code"]) == (5, "database_unreachable"), ended.err
    assert "does not answer" in ended.json["message"]
    again = remote.run(*remote.command_line)
    assert (again.code, again.json["code"]) == (5, "database_unreachable")
    remote.wire.mend()
    remote.assert_settled(remote.run(*remote.command_line), set())
