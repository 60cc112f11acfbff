"""What holds for every test."""

import tempfile
from collections.abc import Iterator

import pytest

from tests.support.servers import database, mariadb, postgresql

__all__ = ["database", "mariadb", "postgresql"]

#: Where the long tests are. They begin first, so that at the end no process waits for another one's.
_LONG = ("tests/e2e/test_kill.py", "tests/test_benchmarks.py", "tests/crash/test_random_kills.py", "tests/e2e/",
         "tests/fleet/", "tests/crash/", "tests/test_docs.py", "tests/delivery/test_machine.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of that list, then as they were found."""
    items.sort(key=lambda item: next((n for n, begin in enumerate(_LONG) if item.nodeid.startswith(begin)), len(_LONG)))


@pytest.fixture(scope="session", autouse=True)
def _state_folder() -> Iterator[None]:
    """Nothing of the tests' ledgers is remembered on this machine. Processes that tests start inherit it."""
    with tempfile.TemporaryDirectory(prefix="leadctl-state-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        yield
