"""What a ledger meets in its life: it is moved, locked, away, of another version, restored from a backup, lost."""

import asyncio
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from leadctl.domain.errors import ConfigError, DatabaseUnreachable
from leadctl.domain.events import Event, RunEvent
from leadctl.domain.outcomes import TargetState
from leadctl.domain.ports import Record
from leadctl.services.bootstrap import App, open_app
from leadctl.settings import LoadedSettings
from leadctl.store import commits, engines
from leadctl.store.leases import open_leases
from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import to_text
from leadctl.store.state import Remembered, StateFolder
from tests.store.helpers import (
    NOW,
    RUN,
    Process,
    claim,
    execute,
    granted,
    intent,
    on_sqlite,
    opened,
    opened_ledger,
    process,
    record,
    row,
    settings_for,
    write,
)

LATER = NOW + timedelta(days=3650)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for longer than a moment."""
    monkeypatch.setattr(engines, "LOCK_PATIENCE", 0.2)
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)


def path_of(store: LedgerStore) -> Path:
    assert store.path is not None
    return store.path


def after(seconds: float, act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


# --- what this machine remembers -------------------------------------------------------------------------------


def test_what_is_remembered(tmp_path: Path) -> None:
    folder = StateFolder({"XDG_STATE_HOME": str(tmp_path / "state")})
    assert folder.path == tmp_path / "state" / "leadctl"
    assert folder.recall("/a.db", "main") is None
    known = Remembered("abc234", 3)
    folder.remember("/a.db", "main", known)
    folder.remember("/a.db", "other", Remembered("abc234", 9))
    assert folder.recall("/a.db", "main") == known
    assert folder.recall("/a.db", "other") == Remembered("abc234", 9)
    assert folder.recall("/b.db", "main") is None
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()] == [0o600, 0o600]
    folder.forget("/a.db", "main")
    folder.forget("/a.db", "main")
    assert folder.recall("/a.db", "main") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"installation": "a"}', '{"installation":"a","runs":"x","leads":1}']
)
def test_what_cannot_be_read_is_not_remembered(tmp_path: Path, text: str) -> None:
    folder = StateFolder({"XDG_STATE_HOME": str(tmp_path)})
    folder.remember("/a.db", "main", Remembered("abc234", 3))
    (file,) = folder.path.iterdir()
    file.write_text(text)
    assert folder.recall("/a.db", "main") is None


def test_an_old_file_survives_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StateFolder({"XDG_STATE_HOME": str(tmp_path)})
    folder.remember("/a.db", "main", Remembered("abc234", 3))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.remember("/a.db", "main", Remembered("abc234", 4))
    assert folder.recall("/a.db", "main") == Remembered("abc234", 3)
    assert len(list(folder.path.iterdir())) == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/a"}, "/home/a/.local/state/leadctl"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": ""}, "/home/a/.local/state/leadctl"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "relative"}, "/home/a/.local/state/leadctl"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "/var/state"}, "/var/state/leadctl"),
    ],
)
def test_where_it_is_kept(environ: dict[str, str], expected: str) -> None:
    assert StateFolder(environ).path == Path(expected)


def test_a_user_without_a_home_sends_all_the_same(leads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "~nobody-is-called-so")
    with opened_ledger(leads) as store:
        store.new_run("resend", "d", now=NOW)
        assert store.restored_at is None
    assert not Path("~nobody-is-called-so").exists()


# --- restored from a backup --------------------------------------------------------------------------------------


@contextmanager
def backup(path: Path) -> Iterator[None]:
    """The ledger beside these leads is afterwards what it is now."""
    ledger = path.with_name(f"{path.name}.leadctl.db")
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(ledger, path.parent / "backup")
    yield
    for name in ("-wal", "-shm"):
        ledger.with_name(ledger.name + name).unlink(missing_ok=True)
    shutil.copy(path.parent / "backup", ledger)


def two_runs_of_which_one_is_forgotten(leads: Path) -> None:
    with opened_ledger(leads) as store:
        store.new_run("resend", "d", now=NOW)
    with backup(leads), opened_ledger(leads) as store:
        store.new_run("resend", "d", now=NOW + timedelta(seconds=1))


def test_a_ledger_that_knows_less_than_is_remembered_was_restored(leads: Path) -> None:
    two_runs_of_which_one_is_forgotten(leads)
    with opened_ledger(leads, create=False) as store:
        assert store.restored_at is not None
        assert store.restored_why == "it knows of 1 runs, and this machine remembers 2"
    with opened_ledger(leads, create=False) as store:  # a read has written nothing
        assert store.restored_why
    with opened_ledger(leads) as store:
        noticed = store.restored_at
        assert noticed is not None
    with opened_ledger(leads) as store:  # the mark is in the ledger, and the loss is not noticed twice
        assert (store.restored_at, store.restored_why) == (noticed, "")
        store.new_run("resend", "d", now=NOW)
        store.clear_restored()
    with opened_ledger(leads) as store:
        assert store.restored_at is None


def test_restored_again_it_is_noticed_again(leads: Path) -> None:
    two_runs_of_which_one_is_forgotten(leads)
    with backup(leads), opened_ledger(leads) as store:
        store.clear_restored()
    with opened_ledger(leads) as store:
        assert store.restored_why


def test_a_ledger_of_which_nothing_is_remembered_is_believed(leads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_runs_of_which_one_is_forgotten(leads)
    monkeypatch.setenv("XDG_STATE_HOME", str(leads.parent / "another user's"))
    with opened_ledger(leads) as store:
        assert store.restored_at is None


def test_each_source_has_its_own_count(leads: Path) -> None:
    with opened_ledger(leads) as store:
        for _ in range(3):
            store.new_run("resend", "d", now=NOW)
        url = f"sqlite:///{store.path}"
    with opened_ledger(leads, name="other", ledger=url) as other:
        assert other.restored_at is None
        other.new_run("resend", "d", now=NOW)
        other.mark_restored(NOW)
    with opened_ledger(leads) as store:
        assert store.restored_at is None
    with opened_ledger(leads, name="other", ledger=url) as other:
        assert other.restored_at == NOW


def forget_ledger(leads: Path) -> str:
    """A ledger that has seen a run, and is gone. Its installation."""
    with opened_ledger(leads) as store:
        store.new_run("resend", "d", now=NOW)
        installation, path = store.installation, path_of(store)
    for name in ("", "-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    return installation


def test_where_a_ledger_was_lost_a_person_says_what_the_new_one_is(leads: Path) -> None:
    """It may have been put away on purpose: nothing is guessed."""
    installation = forget_ledger(leads)
    with opened_ledger(leads, create=False) as store:
        assert (store.exists, store.restored_at) == (False, None)
        assert store.lost == Remembered(installation, 1)
        store.make(restored=True)
        assert (store.installation, store.restored_at is not None) == (installation, True)


def test_a_person_may_say_so_until_the_new_one_has_sent_something(leads: Path) -> None:
    lost = forget_ledger(leads)
    with opened_ledger(leads) as store:  # a question was asked, and answered with no
        assert store.installation != lost
        assert store.lost == Remembered(lost, 1)
    with opened_ledger(leads, create=False) as store:
        store.make(restored=True)
        assert (store.installation, store.restored_at is not None) == (lost, True)
    with opened_ledger(leads) as store:
        assert (store.installation, store.restored_at is not None, store.lost) == (lost, True, None)


def test_a_new_start_has_new_keys(leads: Path) -> None:
    lost = forget_ledger(leads)
    with opened_ledger(leads) as store:
        assert store.restored_at is None
        assert store.installation != lost
        store.new_run("resend", "d", now=NOW)
        fresh = store.installation
    with opened_ledger(leads, create=False) as store:  # keys of this one may be at the vendors: they stay
        assert store.lost is None
        store.make(restored=True)
        assert store.installation == fresh
    forget_ledger(leads)
    with opened_ledger(leads, create=False) as store:
        store.forget_restored()
    with opened_ledger(leads, create=False) as store:
        assert store.lost is None


# --- versions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    ("version", "said", "hint"),
    [("0", "an older leadctl", "the leadctl that made it"), ("2", "a newer leadctl", "upgrade"), ("?", "an older", "")],
)
def test_another_version_is_refused(leads: Path, create: bool, version: str, said: str, hint: str) -> None:
    with opened_ledger(leads) as store:
        path = path_of(store)
    execute(path, "UPDATE leadctl_meta SET value = ? WHERE key = 'schema_version'", [(version,)])
    with pytest.raises(ConfigError, match=said) as caught, opened_ledger(leads, create=create):
        pass
    assert caught.value.exit_code == 2
    assert f"schema {version}, known: 1" in caught.value.message
    assert hint in caught.value.hint


@on_sqlite
def test_a_process_that_has_begun_goes_on_beside_a_newer_one(leads: Path, one: Process) -> None:
    execute(path_of(one.store), "UPDATE leadctl_meta SET value = ? WHERE key = 'schema_version'", [("2",)])
    granted(claim(one, intent(1))[0])
    record(one, Record(target=write(1)))
    assert row(one, 1).state is TargetState.DELIVERED
    with pytest.raises(ConfigError, match="newer"), opened_ledger(leads):
        pass


def test_tables_without_a_word_about_themselves_were_never_finished(leads: Path) -> None:
    with opened_ledger(leads) as store:
        path = path_of(store)
    execute(path, "DELETE FROM leadctl_meta WHERE key <> ?", [("nothing",)])
    with opened_ledger(leads, create=False) as store:
        assert not store.exists
    with opened_ledger(leads) as store:
        assert len(store.installation) == 6


# --- locked, moved, removed ------------------------------------------------------------------------------------------


def test_at_the_start_a_lock_is_waited_for(leads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)
    with opened_ledger(leads) as store:
        path = path_of(store)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as locker:
        locker.execute("BEGIN EXCLUSIVE")
        timer = after(0.4, lambda: locker.execute("COMMIT"))
        with opened_ledger(leads) as store:
            assert store.exists
        timer.join()


@pytest.mark.usefixtures("impatient")
def test_at_the_start_a_lock_that_stays_is_an_outage(leads: Path) -> None:
    with opened_ledger(leads) as store:
        path = path_of(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseUnreachable, match="locked by another process") as caught, opened_ledger(leads):
            pass
    assert caught.value.exit_code == 5


def test_leads_that_are_locked_are_waited_for(leads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's own file has no log: whoever writes there keeps readers out."""
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)
    with closing(sqlite3.connect(leads, isolation_level=None, check_same_thread=False)) as locker:
        locker.execute("BEGIN EXCLUSIVE")
        timer = after(0.4, lambda: locker.execute("COMMIT"))
        with opened_ledger(leads):
            pass
        timer.join()


def test_while_it_waits_that_is_said_once(leads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(commits, "SAID_AFTER", 0.1)
    said: list[Event] = []
    with process(leads, observer=said.append) as one:

        async def main() -> None:
            with closing(sqlite3.connect(path_of(one.store), isolation_level=None)) as locker:
                locker.execute("BEGIN IMMEDIATE")
                waiting = asyncio.ensure_future(one.writer.claim(RUN, [intent(1)]))
                await asyncio.sleep(0.5)
                locker.execute("COMMIT")
                await waiting

        asyncio.run(main())
    (event,) = said
    assert isinstance(event, RunEvent)
    assert (event.name, event.level) == ("ledger_waiting", "warning")
    assert "is locked by another process" in event.fields["message"]


def moved(path: Path, to: str) -> None:
    path.rename(path.with_name(to))


@on_sqlite
def test_a_ledger_that_is_moved_away_and_back(one: Process) -> None:
    path = path_of(one.store)
    claim(one, intent(1))
    moved(path, "away.db")
    timer = after(0.4, lambda: moved(path.with_name("away.db"), path.name))
    record(one, Record(target=write(1)))
    timer.join()
    assert row(one, 1).state is TargetState.DELIVERED
    moved(path, "away.db")
    timer = after(0.4, lambda: moved(path.with_name("away.db"), path.name))
    assert one.store.targets_for([1]).keys() == {1}
    timer.join()


@pytest.mark.usefixtures("impatient")
@on_sqlite
def test_nothing_is_written_into_a_file_that_is_gone(leads: Path, one: Process) -> None:
    """SQLite would go on with a file that has no name any more, and all of it would be lost."""
    path = path_of(one.store)
    moved(path, "away.db")
    with pytest.raises(DatabaseUnreachable, match="removed or replaced") as caught:
        claim(one, intent(1))
    assert caught.value.exit_code == 5
    shutil.copy(path.with_name("away.db"), path)
    with pytest.raises(DatabaseUnreachable, match="removed or replaced"):
        one.store.new_run("resend", "d", now=NOW)
    with pytest.raises(DatabaseUnreachable, match="removed or replaced"):
        one.store.list_runs()
    moved(path.with_name("away.db"), path.name)
    assert one.store.targets_for([1]) == {}
    granted(claim(one, intent(1))[0])


@pytest.mark.parametrize("call", ["pwrite", "open"])
def test_a_disk_without_space_is_an_outage_not_a_lack_of_rights(
    leads: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with opened(leads) as db:
        monkeypatch.setattr(os, call, full)
        with (
            pytest.raises(DatabaseUnreachable, match=r"the disk of the .* is full") as caught,
            closing(LedgerStore.open(settings_for(leads), db, create=True)) as store,
        ):
            open_leases(store).acquire("run-1", {})
    assert caught.value.exit_code == 5
    assert "free some space" in caught.value.hint


# --- a machine whose state folder is what it is --------------------------------------------------------------------


def app(leads: Path, *, create: bool = False) -> App:
    return open_app(LoadedSettings(settings_for(leads), None), create_ledger=create)


def test_a_person_is_told(leads: Path) -> None:
    forget_ledger(leads)
    with app(leads) as anew:
        ((message, hint),) = anew.warnings()
        assert "another ledger was at" in message
        assert "leadctl doctor --ledger-restored" in hint
        anew.ledger.forget_restored()
    with app(leads, create=True) as fresh:
        assert list(fresh.warnings()) == []
        fresh.ledger.mark_restored(NOW)
        ((message, hint),) = fresh.warnings()
    assert "was restored from a backup" in message
    assert "created before 2026-03-01 10:00 UTC" in message
    assert "leadctl doctor --no-ledger-restored" in hint
    assert execute(path_of(fresh.ledger), "SELECT value FROM leadctl_meta WHERE key = 'restored_at:main'") == [
        (to_text(NOW),)
    ]
