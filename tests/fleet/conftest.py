"""A company on a PostgreSQL database of its own, its sandbox, and workers that never outlive a test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.services import queueing, working
from leadctl.services.bootstrap import App, open_app
from leadctl.services.queueing import Fleet
from leadctl.settings import load_settings
from leadctl.store.chunks import ChunkRows
from tests.fleet.desks import SCALE, Desk, MovingClock
from tests.fleet.fleets import Company
from tests.fleet.memory_queue import MemoryQueue
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


@pytest.fixture(scope="module")
def vendors() -> Iterator[Sandbox]:
    with running_sandbox(["webhooks", "telegram", "amocrm", "getresponse", "unisender"], scale=SCALE) as box:
        yield box


@pytest.fixture
def found(
    tmp_path: Path, postgresql: Server, vendors: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Desk]]:
    """Makes a company with these channels."""
    opened: list[App] = []
    monkeypatch.setattr(working, "TICK", 0.05)

    def make(*channels: str, config: str = "") -> Desk:
        world = World(tmp_path / "world", scale=SCALE, server=postgresql, config=config)
        world.connect(vendors, channels)
        app = open_app(load_settings(str(world.folder / "leadctl.toml"), {}), create_ledger=True)
        opened.append(app)
        app.clock = clock = MovingClock()
        fleet = Fleet(ChunkRows(app.ledger), MemoryQueue(clock.now))
        monkeypatch.setattr(queueing, "open_fleet", lambda app, ready=True: fleet)
        return Desk(world, vendors, app, fleet, clock)

    yield make
    for app in opened:
        app.close()
    vendors.faults.clear()
