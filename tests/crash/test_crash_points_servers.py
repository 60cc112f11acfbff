"""The crashes of ``test_crash_points.py`` with the leads' database and the ledger on a server.

The kernel closes a killed process's connections; the server rolls back, and lets go of the run's lease. The channels
are one of each kind: one whose vendor is asked, with a second step, one that is sent again, one that is blind.
"""

from pathlib import Path

import pytest

from leadctl.sandbox.server import Sandbox
from tests.crash.arena import ASKING, TRACKS, Arena, Track
from tests.crash.cases import Case, cases, crash_a_forced_run, crash_and_go_on, crash_while_looking_up
from tests.support.servers import Server, on_servers

#: What differs here is the ledger, and not the channel.
_HERE = [track for track in TRACKS if track.channel in ("amocrm", "telegram", "webhooks")]

pytestmark = on_servers


@pytest.mark.parametrize("case", cases(_HERE), ids=str)
def test_a_crash(case: Case, box: Sandbox, tmp_path: Path, database: Server) -> None:
    crash_and_go_on(case, Arena(tmp_path, box, case.track, database))


@pytest.mark.parametrize("track", [track for track in ASKING if track in _HERE], ids=str)
def test_a_crash_while_looking_up(track: Track, box: Sandbox, tmp_path: Path, database: Server) -> None:
    crash_while_looking_up(Arena(tmp_path, box, track, database))


@pytest.mark.parametrize("track", [track for track in _HERE if track.channel == "webhooks"], ids=str)
def test_a_crash_of_a_forced_run(track: Track, box: Sandbox, tmp_path: Path, database: Server) -> None:
    crash_a_forced_run(Arena(tmp_path, box, track, database))
