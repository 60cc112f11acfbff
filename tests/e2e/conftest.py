"""One sandbox a module, one world a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from leadctl.sandbox.server import Sandbox, running_sandbox
from tests.support.servers import Server
from tests.support.world import CHANNELS, World

#: Of the vendors' limits, and of leadctl's own waits and time-outs.
SCALE = 100.0


@pytest.fixture(scope="module")
def _vendors() -> Iterator[Sandbox]:
    with running_sandbox([*CHANNELS, "webhooks"], scale=SCALE) as box:  # the second receiver is another account
        yield box


@pytest.fixture
def box(_vendors: Sandbox) -> Iterator[Sandbox]:
    """The emulated vendors, without any fault. What they have from earlier tests stays: lead ids are never reused."""
    yield _vendors
    _vendors.faults.clear()


@pytest.fixture
def world(tmp_path: Path, database: Server | None) -> World:
    """A database without credentials and leads."""
    return World(tmp_path, scale=SCALE, server=database)
