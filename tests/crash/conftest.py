"""One sandbox a module."""

from collections.abc import Iterator

import pytest

from leadctl.sandbox.server import Sandbox, running_sandbox
from tests.crash.arena import SCALE


@pytest.fixture(scope="module")
def _vendors() -> Iterator[Sandbox]:
    with running_sandbox(scale=SCALE) as box:
        yield box


@pytest.fixture
def box(_vendors: Sandbox) -> Iterator[Sandbox]:
    """The emulated vendors, without any fault. What they have from earlier tests stays: lead ids are never reused."""
    yield _vendors
    _vendors.faults.clear()
