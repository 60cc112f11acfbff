"""LESSONS 27: nothing holds all of a bulk in memory. The ids of a file are all that grows with its length."""

from pathlib import Path

from tests.support.world import World

#: Leaves the most memory that the process had in use, in kB, where the test finds it. (``ru_maxrss`` would not do: it
#: begins with what the test's own process had in use.)
MEASURED = """
import atexit, pathlib
def leave():
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path("peak").write_text(status.partition("VmHWM:")[2].split()[0])
atexit.register(leave)
"""
#: An id costs 10 to 70. In a run that keeps its plan it would be 280 or more, and with the leads' texts far more.
BYTES_AN_ID = 200
#: What an allocator does not give back at once, whatever the number of ids.
SLACK = 4_000_000


class Measured(World):
    """A world whose credential leads to a port that nobody listens at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.write_config("[send]\npatience = 0.1\ntries = 100\n")  # on a slow machine three are soon spent
        self.add_credential(11, "webhooks", {"url": "http://127.0.0.1:9/x"})

    def ids(self, count: int) -> Path:
        return self.path(f"{count}.txt", "\n".join(map(str, range(1, count + 1))))

    def peak(self, code: int, *arguments: object) -> int:
        """Bytes in use at the most, of a command that ends with that code."""
        done = self.run(*arguments, patch=MEASURED)
        assert done.code == code, done.err
        return 1024 * int((self.folder / "peak").read_text())

    def unfinished(self) -> str:
        ((run_id,),) = self.ledger_rows("SELECT id FROM leadctl_runs ORDER BY started_at DESC, id DESC LIMIT 1")
        return str(run_id)


def assert_bounded(few: int, many: int, more_ids: int) -> None:
    per_id = (many - few - SLACK) / more_ids
    assert per_id < BYTES_AN_ID, f"{few:,} bytes for few ids, {many:,} for {more_ids:,} more: {per_id:.0f} each"


def test_lesson_27_a_plan_of_300000_ids_is_made_in_bounded_memory(tmp_path: Path) -> None:
    world = Measured(tmp_path)
    world.add_leads(range(1, 300_001))
    few, many = (world.peak(0, "plan", "--ids-file", world.ids(count), "-q") for count in (20_000, 300_000))
    assert_bounded(few, many, 280_000)


def test_lesson_27_a_run_and_what_it_left_are_taken_up_again_in_bounded_memory(tmp_path: Path) -> None:
    """The vendor is out: everything is unprocessed, and is read again by who goes on."""
    world = Measured(tmp_path)
    world.add_leads(range(1, 60_001))
    peaks: dict[str, list[int]] = {"run": [], "resume": []}
    for count in (10_000, 60_000):
        peaks["run"].append(world.peak(5, "bulk-resend", "--ids-file", world.ids(count), "--yes", "-q"))
        peaks["resume"].append(world.peak(5, "runs", "resume", world.unfinished(), "-q"))
        left = world.ledger_rows("SELECT count(*) FROM leadctl_deliveries WHERE outcome = 'unprocessed'")
        assert left[0][0] >= count
    for few, many in peaks.values():
        assert_bounded(few, many, 50_000)
