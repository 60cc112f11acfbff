"""Killed at each point by name, over each channel: the next command goes on, and everything is there once.

The database and the ledger are SQLite files here; ``test_crash_points_servers.py`` has them on servers.
"""

from pathlib import Path

import pytest

from leadctl.sandbox.server import Sandbox
from tests.crash.arena import ASKING, TRACKS, Arena, Track
from tests.crash.cases import Case, cases, crash_a_forced_run, crash_and_go_on, crash_while_looking_up


@pytest.mark.parametrize("case", cases(TRACKS), ids=str)
def test_a_crash(case: Case, box: Sandbox, tmp_path: Path) -> None:
    crash_and_go_on(case, Arena(tmp_path, box, case.track))


@pytest.mark.parametrize("track", ASKING, ids=str)
def test_a_crash_while_looking_up(track: Track, box: Sandbox, tmp_path: Path) -> None:
    crash_while_looking_up(Arena(tmp_path, box, track))


@pytest.mark.parametrize("track", [track for track in TRACKS if track.passage == 2 and not track.settings], ids=str)
def test_a_crash_of_a_forced_run(track: Track, box: Sandbox, tmp_path: Path) -> None:
    crash_a_forced_run(Arena(tmp_path, box, track))
