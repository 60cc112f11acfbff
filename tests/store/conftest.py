"""Fixtures of the store's tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import RunRow
from tests.store.helpers import NOW, Process, opened_ledger, process, sample


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


@pytest.fixture
def store(leads: Path) -> Iterator[LedgerStore]:
    with opened_ledger(leads) as store:
        yield store


@pytest.fixture
def run(store: LedgerStore) -> RunRow:
    return store.new_run("bulk-resend", "digest-1", now=NOW)


@pytest.fixture
def one(leads: Path) -> Iterator[Process]:
    with process(leads) as one:
        yield one


@pytest.fixture
def other(leads: Path, one: Process) -> Iterator[Process]:
    with process(leads) as other:
        assert other.holder != one.holder
        yield other
