"""The crashes of ``test_crash_points*.py``: points × tracks, and how each of them goes."""

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.crash.arena import BLIND, LEADS, Arena, Track, unknown
from tests.support.world import wait_until

#: Points of one request: whether it has left, and whether the ledger says that it may have.
POINTS = {
    "before_intent": (False, False),
    "after_intent": (False, True),
    "in_request": (True, True),
    "after_answer": (True, True),
    "before_commit": (True, True),
    "after_commit": (True, False),
}
#: Here the second command is ``runs resume RUN``; elsewhere it is the same as the first.
RESUMED = frozenset({"after_intent", "before_commit", "after_commit", "in_report"})


@dataclass(frozen=True)
class Case:
    """A point, and whose requests are crashed there."""

    point: str
    track: Track

    def __str__(self) -> str:
        return f"{self.point}-{self.track}"


def cases(tracks: Sequence[Track]) -> list[Case]:
    """Every point of a request for these tracks, and those of a whole run once a channel."""
    firsts = {track.channel: track for track in reversed(tracks)}.values()
    return [
        *(Case(point, track) for point in POINTS for track in tracks),
        *(Case(point, track) for point in ("in_report", "while_planning") for track in firsts),
    ]


def crash_and_go_on(case: Case, arena: Arena) -> None:
    """Killed at the point; then the next command, and everything is there once."""
    _kill(case, arena)
    in_doubt = arena.in_doubt()
    _assert_state(case, arena, in_doubt)
    arena.box.faults.clear()
    if case.point in RESUMED:
        done = arena.run("runs", "resume", arena.run_id(), "--json", "-q")
    else:
        done = arena.run(*arena.bulk)
    arena.assert_settled(done, in_doubt)


def crash_while_looking_up(arena: Arena) -> None:
    """An answer is lost, and the process dies when it has asked the vendor."""
    before = ["ok"] if arena.track.passage == 1 else []  # its lead, or contact, is made by an earlier request
    arena.box.faults.script(arena.track.channel, arena.leads[1], [*before, "reset"])
    arena.crash("while_looking_up", passage=1)
    in_doubt = arena.in_doubt()
    assert in_doubt
    assert in_doubt <= set(arena.made())
    arena.assert_settled(arena.run(*arena.bulk), in_doubt)


def crash_a_forced_run(arena: Arena) -> None:
    """A second send that was meant is killed: the same command would make a third, and says so; ``runs resume`` not."""
    force = ("--force", "--reason", "the CRM lost them", "-c", arena.track.channel)
    assert arena.run(*arena.bulk).code == 0
    arena.crash("after_answer", 2, *force)
    in_doubt, run_id = arena.in_doubt(), arena.run_id()
    refused = arena.run(*arena.bulk, *force)
    assert refused.code == 2
    assert run_id in refused.json["message"]
    done = arena.run("runs", "resume", run_id, "--json", "-q")
    if arena.track.channel == BLIND:
        assert (done.code, unknown(done.json)) == (6, in_doubt)
    else:
        assert done.code == 0, done.err
    assert arena.made() == Counter(dict.fromkeys(arena.everybody(), 2))


def _kill(case: Case, arena: Arena) -> None:
    if case.point != "in_request":
        arena.crash(case.point, passage=case.track.passage if case.point in POINTS else 1)
        return
    # The vendor has it, and says nothing: then the process dies, waiting.
    lead, before = arena.leads[1], ["ok"] if case.track.passage == 1 else []
    arena.box.faults.script(case.track.channel, lead, [*before, "timeout"])
    process = arena.start(*arena.bulk)
    try:
        wait_until(lambda: arena.made()[str(lead)])
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def _assert_state(case: Case, arena: Arena, in_doubt: set[str]) -> None:
    """What the vendor and the ledger say while nobody is there. Without this a crash elsewhere would pass as well."""
    made = set(arena.made())
    if case.point == "while_planning":
        assert not made
        ((planned,),) = arena.ledger_rows("SELECT count(*) FROM leadctl_deliveries")
        assert planned == LEADS // 2
    elif case.point == "in_report":
        assert len(made) == LEADS
        assert not in_doubt
    else:
        has_left, is_doubtful = POINTS[case.point]
        assert bool(in_doubt) is is_doubtful
        assert in_doubt <= made if has_left else not in_doubt & made
        expected = 1 if case.track.passage == 2 else 0
        assert (len(made) > expected) is has_left
