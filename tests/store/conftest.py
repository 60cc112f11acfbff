"""Fixtures of the store's tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.helpers import sample


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
