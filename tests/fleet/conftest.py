"""A company on a PostgreSQL database of its own, its sandbox, and workers that never outlive a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leadctl.sandbox.server import running_sandbox
from tests.fleet.fleets import Company
from tests.support.servers import Server
from tests.support.world import World


@contextmanager
def founded(folder: Path, server: Server, vendors: list[str], scale: float) -> Iterator[Company]:
    """A company with these accounts and no leads yet; the queue is there."""
    with running_sandbox(vendors, scale=scale) as box:
        company = Company(World(folder / "world", scale=scale, server=server), box)
        company.connect()
        made = company.world.run("queue", "init")
        assert made.code == 0, made.err
        try:
            yield company
        finally:
            company.close()


@pytest.fixture
def busy_company(tmp_path: Path, postgresql: Server) -> Iterator[Company]:
    """Twenty accounts whose limits are low: what keeps a run is them, and not this machine."""
    with founded(tmp_path, postgresql, ["amocrm"] * 20, 2.0) as company:
        yield company


@pytest.fixture
def company(tmp_path: Path, postgresql: Server) -> Iterator[Company]:
    """Five accounts that can be asked, and one that knows a repeat; all of them fast."""
    with founded(tmp_path, postgresql, ["amocrm"] * 5 + ["webhooks"], 20.0) as company:
        yield company
