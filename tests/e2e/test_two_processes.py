"""Two operators at one account: its limit holds for both together, and no lead is carried twice."""

from pathlib import Path

from leadctl.sandbox.server import running_sandbox
from tests.support.servers import Server, everywhere
from tests.support.world import World


@everywhere
def test_two_runs_at_one_chat_stay_below_its_limit_together(tmp_path: Path, database: Server | None) -> None:
    """The group's own bucket (20 a minute, here 33 a second) would run over if each process kept the rate alone."""
    with running_sandbox(["telegram"], scale=100) as box:
        world = World(tmp_path, scale=100, server=database)
        world.add_leads(range(1, 141))
        world.connect(box, ["telegram"])
        processes = [
            world.start("bulk-resend", *range(first, first + 70), "--yes", "--log-format", "json") for first in (1, 71)
        ]
        ended = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ended
        assert not any('"throttled"' in err for _, err in ended)
        assert set(box.judge.by_lead("telegram").values()) == {1}
        assert len(box.judge.by_lead("telegram")) == 140


@everywhere
def test_two_runs_over_the_same_leads_carry_each_once(tmp_path: Path, database: Server | None) -> None:
    with running_sandbox(["webhooks", "telegram"], scale=200) as box:
        world = World(tmp_path, scale=200, server=database)
        world.add_leads(range(1, 101))
        world.connect(box, ["webhooks", "telegram"])
        # Different selections, so that neither waits for the other's lease; the leads are the same.
        commands = (("--entity", 1), ("--project", 1))
        processes = [world.start("bulk-resend", *command, "--yes") for command in commands]
        ended = [process.communicate(timeout=90) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ended
        for channel in ("webhooks", "telegram"):
            assert set(box.judge.by_lead(channel).values()) == {1}
            assert len(box.judge.by_lead(channel)) == 100
            assert not box.judge.twins(channel)
