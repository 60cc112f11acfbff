"""Locks that die with their holder."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import ConfigError
from leadctl.store.leases import FileLeases, process_info
from tests.store.helpers import powerless

CHILD = """
import json, sys
from pathlib import Path
from leadctl.store.leases import FileLeases, process_info
leases = FileLeases(Path(sys.argv[1]))
lease = leases.acquire("run-1", process_info(since="now"))
print(json.dumps([leases.open_holder(), lease is not None]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "leads.db.leadctl-locks"


@pytest.fixture
def child(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that holds the lease run-1, and its holder's name."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        holder, held = json.loads(process.stdout.readline())
        assert held
        yield process, holder
        process.kill()


def test_one_at_a_time_also_within_a_process(directory: Path) -> None:
    one, other = FileLeases(directory), FileLeases(directory)
    lease = one.acquire("run-1", {"pid": 5})
    assert lease is not None
    assert one.acquire("run-1", {}) is None
    assert other.acquire("run-1", {}) is None
    assert other.holder_info("run-1") == {"pid": 5}
    with other.acquire("run-2", {}) or pytest.fail("names are independent"):
        lease.release()
        lease.release()
    assert other.holder_info("run-1") is None
    with other.acquire("run-1", {"pid": 6}) or pytest.fail("it was released"):
        assert one.holder_info("run-1") == {"pid": 6}
    assert list(directory.iterdir()) == []


def test_nobody_holds_what_was_never_taken(directory: Path) -> None:
    leases = FileLeases(directory)
    assert leases.holder_info("run-1") is None
    assert not leases.is_alive("holder-1")
    assert not directory.exists()


@pytest.mark.parametrize("name", ["run/../../etc", "credential-main-Ж", "x" * 300, "a b", ""])
def test_names_of_any_kind(directory: Path, name: str) -> None:
    leases = FileLeases(directory)
    with leases.acquire(name, {"name": name}) or pytest.fail("not taken"):
        assert leases.holder_info(name) == {"name": name}
        assert leases.holder_info(name + "!") is None
        assert [path.parent for path in directory.iterdir()] == [directory]


def test_a_killed_holder_is_dead_at_once(directory: Path, child: tuple[subprocess.Popen[str], str]) -> None:
    process, holder = child
    leases = FileLeases(directory)
    assert leases.is_alive(holder)
    assert leases.acquire("run-1", {}) is None
    info = leases.holder_info("run-1")
    assert info is not None
    assert (info["pid"], info["since"]) == (process.pid, "now")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not leases.is_alive(holder)
    assert leases.holder_info("run-1") is None
    with leases.acquire("run-1", {}) or pytest.fail("its holder is gone"):
        pass


def test_a_frozen_holder_is_not_robbed(directory: Path, child: tuple[subprocess.Popen[str], str]) -> None:
    process, holder = child
    process.send_signal(signal.SIGSTOP)
    leases = FileLeases(directory)
    assert leases.is_alive(holder)
    assert leases.acquire("run-1", {}) is None


def test_holders_are_alive_to_themselves_and_each_other(directory: Path) -> None:
    one, other = FileLeases(directory), FileLeases(directory)
    first, second = one.open_holder(), other.open_holder()
    assert first != second
    assert one.open_holder() == first
    assert all(leases.is_alive(holder) for leases in (one, other) for holder in (first, second))
    one.close()
    one.close()
    assert not other.is_alive(first)
    assert other.is_alive(second)
    other.close()


def test_a_dead_holders_file_is_swept_and_a_living_ones_is_not(
    directory: Path, child: tuple[subprocess.Popen[str], str]
) -> None:
    _, living = child
    dead = directory / "holder-1-dead.lock"
    dead.write_text("{}")
    leases = FileLeases(directory)
    leases.open_holder()
    assert not dead.exists()
    assert leases.is_alive(living)
    leases.close()


def test_a_program_started_meanwhile_does_not_keep_the_lock(directory: Path) -> None:
    leases = FileLeases(directory)
    lease = leases.acquire("run-1", {})
    assert lease is not None
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        assert leases.is_alive("run-1")
        lease.release()
        assert not leases.is_alive("run-1")
        program.kill()
    with leases.acquire("run-1", {}) or pytest.fail("still held by a program that inherited it"):
        subprocess.run(["true"], close_fds=False, check=True)
        assert leases.is_alive("run-1")


def test_never_two_holders_while_files_come_and_go(directory: Path) -> None:
    """Releasing removes the file: an acquisition that opened it before must notice."""
    inside: list[str] = []
    seen: list[int] = []

    def work(name: str) -> None:
        leases = FileLeases(directory)
        taken = 0
        while taken < 40:
            lease = leases.acquire("run-1", {"name": name})
            if lease is None:
                continue
            inside.append(name)
            seen.append(len(inside))
            inside.remove(name)
            taken += 1
            lease.release()

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 160


def test_a_holder_that_has_said_nothing_yet_or_nonsense(directory: Path) -> None:
    leases = FileLeases(directory)
    with leases.acquire("run-1", {}) or pytest.fail("not taken"):
        (path,) = directory.iterdir()
        for nonsense in ("", "{half", "[1]"):
            path.write_text(nonsense)
            assert leases.holder_info("run-1") == {}


def test_where_nothing_may_be_written(public_directory: Path) -> None:
    public_directory.chmod(0o555)
    leases = FileLeases(public_directory / "locks")
    with powerless(), pytest.raises(ConfigError, match="cannot be written") as caught:
        leases.acquire("run-1", {})
    assert caught.value.exit_code == 2


def test_a_lock_that_may_not_be_looked_at_counts_as_held(public_directory: Path) -> None:
    leases = FileLeases(public_directory)
    (public_directory / "holder-1.lock").touch(0o600)
    assert not leases.is_alive("holder-1")
    with powerless():
        alive = leases.is_alive("holder-1")
    assert alive == (os.geteuid() == 0)


def test_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name() -> str:
        raise KeyError("uid not found")

    info: dict[str, Any] = process_info(since="09:00")
    assert info["pid"] == os.getpid()
    assert info["since"] == "09:00"
    monkeypatch.setattr("getpass.getuser", no_name)
    assert process_info()["who"] == str(os.getuid())
