"""Several workers: the limits hold, nothing is lost, nothing comes twice; whatever happens to them."""

import signal
import time

import pytest

from tests.fleet.fleets import HEARTBEAT, Company, Process, counting_refusals
from tests.support.world import wait_until

#: Seconds that a worker is frozen: many times the heartbeat.
FROZEN = 15.0


def begun(worker: Process) -> bool:
    """Whether the worker has chunks in hand."""
    return len(worker.records("chunk_started")) > len(worker.records("chunk_finished"))


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_keep_the_limits(busy_company: Company, workers: int) -> None:
    company = busy_company
    company.world.new_leads(60)
    document = company.queue("--chunk", "0.1s")
    assert (document["status"], document["outcomes"]["pending"], document["exit_code"]) == ("queued", 1200, None)
    with counting_refusals() as refusals:
        for _ in range(workers):
            company.work()
        document = company.finish(document["run_id"])
        assert refusals() == 0
    assert (document["status"], document["exit_code"]) == ("ok", 0)
    assert document["outcomes"]["delivered"] == 1200
    company.assert_once(60)
    assert sum(bool(worker.records("chunk_finished")) for worker in company.workers) >= 2


def test_a_killed_worker(company: Company) -> None:
    company.world.new_leads(200)
    run = company.queue("--chunk", "0.1s")["run_id"]
    first = company.work()
    wait_until(lambda: company.done() > 200 and begun(first))
    first.send(signal.SIGKILL)
    second = company.work()
    document = company.finish(run)
    assert (document["status"], document["exit_code"]) == ("ok", 0)
    assert document["outcomes"]["delivered"] == 1200
    company.assert_once(200)
    assert any(row[0] > 1 for row in company.world.ledger_rows("SELECT tries FROM leadctl_chunks"))
    second.send(signal.SIGTERM)
    assert second.wait() == 143


def test_a_frozen_worker(busy_company: Company) -> None:
    """It is robbed of its chunks, and goes on with them when it thaws: no delivery comes twice, no limit breaks."""
    assert FROZEN > 3 * HEARTBEAT
    company = busy_company
    company.world.new_leads(150)
    run = company.queue("--chunk", "0.2s")["run_id"]
    with counting_refusals() as refusals:
        frozen = company.work()
        wait_until(lambda: company.done() > 200 and begun(frozen))
        frozen.send(signal.SIGSTOP)
        company.work()
        time.sleep(FROZEN)
        robbed = company.world.ledger_rows("SELECT count(*) FROM leadctl_chunks WHERE tries > 1")[0][0]
        frozen.send(signal.SIGCONT)
        document = company.finish(run)
        assert refusals() == 0
    assert robbed
    assert (document["status"], document["exit_code"]) == ("ok", 0)
    company.assert_once(150)


def test_a_drained_worker(company: Company) -> None:
    """SIGTERM: what is begun is answered, what is not goes on elsewhere, and nothing is given up."""
    company.world.new_leads(300)
    run = company.queue("--chunk", "0.5s")["run_id"]
    first = company.work("--health-file", company.world.folder / "healthy")
    wait_until(lambda: company.done() > 100 and begun(first))
    assert (company.world.folder / "healthy").exists()
    first.send(signal.SIGTERM)
    assert first.wait() == 143
    assert not (company.world.folder / "healthy").exists()
    assert first.records("chunk_put_back")
    states = {state for (state,) in company.world.ledger_rows("SELECT state FROM leadctl_chunks")}
    assert states <= {"queued", "done"}
    assert company.world.run("worker", "--once").code == 0
    assert company.finish(run)["outcomes"]["delivered"] == 1800
    company.assert_once(300)
