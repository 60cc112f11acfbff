"""What holds for every test."""

import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.support.servers import TESTS_ON, database, mariadb, postgresql

__all__ = ["database", "mariadb", "postgresql"]

#: Where the long tests are. They begin first, so that at the end no process waits for another one's.
_LONG = ("tests/e2e/test_kill.py", "tests/test_benchmarks.py", "tests/crash/test_random_kills.py", "tests/e2e/",
         "tests/fleet/", "tests/crash/", "tests/test_docs.py", "tests/delivery/test_machine.py")  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the order of that list, then as they were found; on one server only what does not name its database itself."""
    if TESTS_ON in os.environ:
        named = [item for item in items if "database" in (item.callspec.params if hasattr(item, "callspec") else ())]
        config.hook.pytest_deselected(items=named)
        items[:] = [item for item in items if item not in named]
    items.sort(key=lambda item: next((n for n, begin in enumerate(_LONG) if item.nodeid.startswith(begin)), len(_LONG)))


@pytest.fixture(scope="session", autouse=True)
def _state_folder() -> Iterator[None]:
    """Nothing of the tests' ledgers is remembered on this machine. Processes that tests start inherit it."""
    with tempfile.TemporaryDirectory(prefix="leadctl-state-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        yield
