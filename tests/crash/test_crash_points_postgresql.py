"""The crashes of ``test_crash_points.py`` with the leads' database and the ledger on a PostgreSQL server.

The kernel closes a killed process's connections; the server rolls back, and lets go of the run's lease.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from leadctl.sandbox.server import Sandbox
from tests.crash.arena import ASKING, TRACKS, Arena, Track
from tests.crash.cases import Case, cases, crash_and_go_on, crash_while_looking_up
from tests.crash.postgresql import require_postgresql, running_postgresql

#: The two-step deal is with the SQLite ones: what differs here is the ledger.
_HERE = [track for track in TRACKS if not track.settings]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    require_postgresql()
    with running_postgresql() as url:
        yield url


@pytest.mark.parametrize("case", cases(_HERE), ids=str)
def test_a_crash(case: Case, box: Sandbox, tmp_path: Path, server: str) -> None:
    crash_and_go_on(case, Arena(tmp_path, box, case.track, server))


@pytest.mark.parametrize("track", [track for track in ASKING if track in _HERE], ids=str)
def test_a_crash_while_looking_up(track: Track, box: Sandbox, tmp_path: Path, server: str) -> None:
    crash_while_looking_up(Arena(tmp_path, box, track, server))
