"""What holds for every test."""

import tempfile
from collections.abc import Iterator

import pytest

from tests.support.servers import database, mariadb, postgresql

__all__ = ["database", "mariadb", "postgresql"]


@pytest.fixture(scope="session", autouse=True)
def _state_folder() -> Iterator[None]:
    """Nothing of the tests' ledgers is remembered on this machine. Processes that tests start inherit it."""
    with tempfile.TemporaryDirectory(prefix="leadctl-state-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        yield
