"""``leadctl watch``: leads that are created meanwhile are sent, or queued, once."""

import signal
from pathlib import Path

from leadctl.sandbox.server import running_sandbox
from tests.fleet.fleets import Company
from tests.support.world import World, wait_until

#: Of a lead that is created "now", whenever the test runs.
NEW = "2099-01-01 00:00:00"


def test_new_leads_are_queued_and_sent(company: Company) -> None:
    old = company.world.new_leads(3)
    company.work()
    process = company.world.start("watch", "--queue", "--every", "1s", "--yes")
    try:
        wait_until(lambda: company.world.ledger_rows("SELECT 1 FROM leadctl_meta WHERE key LIKE 'mark:%'"))
        first = company.world.new_leads(2, created_at=NEW)
        wait_until(lambda: company.done() == 2 * 6)
        second = company.world.new_leads(1, created_at=NEW)
        wait_until(lambda: company.done() == 3 * 6)
    finally:
        process.send_signal(signal.SIGTERM)
    done = company.world.finish(process)
    assert done.code == 143
    assert done.out.count("queued: ") == 2
    assert set(company.box.judge.by_lead("webhooks")) == {str(lead) for lead in (*first, *second)}
    assert not {str(lead) for lead in old} & set(company.box.judge.by_lead("webhooks"))


def test_without_workers_on_any_ledger(tmp_path: Path) -> None:
    with running_sandbox(["webhooks"], scale=100.0) as box:
        world = World(tmp_path / "world", scale=100.0)
        world.connect(box, ["webhooks"])
        world.new_leads(1)
        assert world.run("watch", "--once").code == 0
        assert not box.judge.creations()
        world.new_leads(101, created_at=NEW)
        refused = world.run("watch", "--once")
        assert (refused.code, "need a confirmation" in refused.err) == (2, True)
        sent = world.run("watch", "--once", "--yes")
        assert (sent.code, len(box.judge.creations())) == (0, 101)
        assert world.run("watch", "--once", "--yes").out == ""
        wrong = world.run("watch", "--priority", "3")
        assert (wrong.code, "--queue" in wrong.err) == (2, True)
