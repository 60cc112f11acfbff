"""Fixtures of the store's tests."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import RunRow
from tests.store.helpers import NOW, Place, Process, opened_ledger, process, sample
from tests.support.servers import KINDS, server_of


@pytest.fixture
def leads(tmp_path: Path) -> Path:
    """A SQLite file with the four tables, empty."""
    return sample(tmp_path / "leads.db")


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every user may enter (pytest's own are closed)."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, leads: Path) -> Iterator[Place]:
    """Leads whose ledger is a SQLite file, or a new database of a server. ``on_sqlite`` leaves the servers out."""
    server = server_of(request, request.param)
    with server.database() if server else nullcontext() as url:
        yield Place(leads, url)


@pytest.fixture
def store(place: Place) -> Iterator[LedgerStore]:
    with opened_ledger(place) as store:
        yield store


@pytest.fixture
def run(store: LedgerStore) -> RunRow:
    return store.new_run("bulk-resend", "digest-1", now=NOW)


@pytest.fixture
def one(place: Place) -> Iterator[Process]:
    with process(place) as one:
        yield one


@pytest.fixture
def other(place: Place, one: Process) -> Iterator[Process]:
    with process(place) as other:
        assert other.holder != one.holder
        yield other
