"""A vendor that says "too fast" and names a wait; and what the metrics tell of that, and of all the rest."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from leadctl.sandbox import webhooks
from leadctl.services.queueing import metrics
from leadctl.services.requests import Selectors
from leadctl.store.chunks import Chunk, ChunkState
from leadctl.store.rows import to_text
from tests.fleet.desks import Desk
from tests.fleet.fleets import Company
from tests.support.world import wait_until

HOUR = timedelta(hours=1)
#: Around a time that a worker has reckoned.
ABOUT = timedelta(seconds=30)


@pytest.fixture(autouse=True)
def _waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the receiver of webhooks can be scripted to answer: no worker waits for an hour, every one for 20 s."""
    for name, seconds in {"hour": 3600, "moment": 20, "blink": 3}.items():
        monkeypatch.setitem(webhooks.ANSWERS, name, (429, {"Retry-After": str(seconds)}))


@pytest.fixture
def patient(found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Desk]:
    """Makes a company for whose receiver of webhooks, which looks at the time of a signature, hours pass as well."""

    def make(*channels: str) -> Desk:
        desk = found(*channels)
        monkeypatch.setattr(desk.box.vendor("webhooks"), "now", lambda: desk.clock.now().timestamp())
        return desk

    return make


def chunks(desk: Desk, run: str, channel: str = "webhooks") -> list[Chunk]:
    return [chunk for chunk in desk.fleet.rows.of_run(run) if chunk.channel == channel]


def is_in_an_hour(desk: Desk, moment: datetime | None) -> bool:
    return moment is not None and abs(moment - desk.clock.now() - HOUR) < ABOUT


def arrived(desk: Desk, leads: list[int], channel: str = "webhooks") -> Counter[str]:
    by_lead = desk.box.judge.by_lead(channel)
    return Counter({str(lead): by_lead[str(lead)] for lead in leads if by_lead[str(lead)]})


def once(leads: list[int]) -> Counter[str]:
    return Counter(map(str, leads))


# --- a wait that the vendor names ----------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "seconds"), [(1, 0.01), (2, 10.0)])
def test_a_worker_goes_on_with_the_account_when_the_hour_is_over(
    patient: Callable[..., Desk], times: int, seconds: float
) -> None:
    """Not before, whichever of the account's chunks; and other accounts' go on meanwhile."""
    desk = patient("webhooks", "telegram")
    leads = desk.world.new_leads(12)
    desk.box.faults.script("webhooks", leads[0], ["hour"] * times)
    before = desk.box.judge.requests("webhooks")
    run = desk.queue(leads, seconds=seconds)
    others = [(0, 0) for _ in chunks(desk, run)[1:]]
    assert bool(others) is (times == 1)
    with desk.resident():
        for number in range(1, times + 1):
            wait_until(lambda: all(is_in_an_hour(desk, chunk.not_before) for chunk in chunks(desk, run)))
            wait_until(lambda: arrived(desk, leads, "telegram") == once(leads))
            assert {chunk.state for chunk in chunks(desk, run)} == {ChunkState.QUEUED}
            told = [(chunk.tries, chunk.throttled) for chunk in chunks(desk, run)]
            assert told == [(number, number), *others]
            assert desk.box.judge.requests("webhooks") == before + number
            assert not arrived(desk, leads)
            desk.clock.ahead += HOUR.total_seconds() + 1
        wait_until(lambda: desk.ended(run) == ("ok", 0))
    assert desk.box.judge.requests("webhooks") == before + times + 12
    assert arrived(desk, leads) == arrived(desk, leads, "telegram") == once(leads)
    assert desk.report(run)["outcomes"]["delivered"] == 24


def test_another_worker_and_a_later_run_keep_the_hour_too(patient: Callable[..., Desk]) -> None:
    desk = patient("webhooks")
    first, second = desk.world.new_leads(3), desk.world.new_leads(2)
    desk.box.faults.script("webhooks", first[1], ["hour"])
    before = desk.box.judge.requests("webhooks")
    runs = [desk.queue(first)]
    assert desk.work() == 0  # it is called once, and does not wait
    assert arrived(desk, first) == once(first[:1])
    runs.append(desk.queue(second))
    assert desk.work() == 0
    assert desk.box.judge.requests("webhooks") == before + 2
    assert all(is_in_an_hour(desk, chunk.not_before) for run in runs for chunk in chunks(desk, run))
    assert [desk.ended(run) for run in runs] == [("running", None)] * 2
    desk.clock.ahead += HOUR.total_seconds() + 1
    assert desk.work() == 0
    assert [desk.ended(run) for run in runs] == [("ok", 0)] * 2
    assert arrived(desk, first + second) == once(first + second)


def test_a_stop_in_a_wait_that_the_chunk_sits_out_costs_no_try(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    leads = desk.world.new_leads(3)
    desk.box.faults.script("webhooks", leads[1], ["moment"])
    run = desk.queue(leads)
    with desk.resident():
        desk.world.wait_for_row("SELECT 1 FROM leadctl_buckets WHERE paused_until > 0")
        (chunk,) = chunks(desk, run)
        assert (chunk.state, chunk.tries, chunk.not_before) == (ChunkState.RUNNING, 1, None)
    (chunk,) = chunks(desk, run)
    assert (chunk.state, chunk.tries, chunk.worker, chunk.throttled) == (ChunkState.QUEUED, 0, None, 1)
    assert arrived(desk, leads) == once(leads[:1])
    desk.clock.ahead += 21
    assert desk.work() == 0
    assert desk.ended(run) == ("ok", 0)
    assert arrived(desk, leads) == once(leads)


def test_the_real_queue_gives_the_chunk_again_when_the_wait_is_over(company: Company) -> None:
    company.world.write_config("[send]\npatience = 0.5\n")
    leads = company.world.new_leads(10)
    company.box.faults.script("webhooks", leads[0], ["blink"])
    run = company.queue()["run_id"]
    worker = company.work()
    wait_until(lambda: worker.records("chunk_put_back"))
    wait_until(lambda: company.done() == 50)
    assert not company.box.judge.creations("webhooks")
    ((until,),) = company.world.ledger_rows("SELECT not_before FROM leadctl_chunks WHERE not_before IS NOT NULL")
    document = company.finish(run)
    assert (document["status"], document["exit_code"]) == ("ok", 0)
    assert document["outcomes"]["delivered"] == 60
    assert min(creation.at for creation in company.box.judge.creations("webhooks")) >= _unix(until)
    company.assert_once(10)
    assert company.box.judge.requests("webhooks") == 11
    channel = "channel = 'webhooks'"
    assert company.world.ledger_rows(f"SELECT tries, throttled FROM leadctl_chunks WHERE {channel}") == [(2, 1)]


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


# --- metrics -------------------------------------------------------------------------------------------------

_SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z]+="[^"]*",?)+)\} ([0-9.e+-]+)')
#: name → labels, in their order → value
Samples = dict[str, dict[tuple[str, ...], float]]


def parsed(text: str) -> Samples:
    """Prometheus' text format, of which each family has its HELP and TYPE before its samples."""
    found: Samples = {}
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert next(lines) == f"# TYPE {name} gauge"
            found[name] = {}
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        labels = tuple(re.findall(r'="([^"]*)"', match[2]))
        assert labels not in found[match[1]]
        found[match[1]][labels] = float(match[3])
    return found


def aged(desk: Desk, run: str, age: timedelta) -> None:
    """The run was queued so long ago."""
    desk.world.change_ledger(
        "UPDATE leadctl_chunks SET queued_at = ? WHERE run_id = ?", to_text(desk.clock.now() - age), run
    )


def test_metrics_of_what_is_to_be_done(found: Callable[..., Desk]) -> None:
    """One chunk is in a worker's hands, one account must wait, and another queue has its own. The ledger knows it all:
    tables of the queue are not there."""
    desk = found("webhooks", "telegram")
    leads = desk.world.new_leads(12)
    old, new = desk.queue(leads[:8], seconds=0.01), desk.queue(leads[8:])
    night = desk.queue(desk.world.new_leads(1), name="night", selectors=Selectors(channels=("webhooks",)))
    aged(desk, old, HOUR)
    aged(desk, night, 2 * HOUR)
    running, *queued = chunks(desk, old)
    assert desk.fleet.rows.begin(running, "somebody", desk.clock.now())
    desk.fleet.rows.hold_account(chunks(desk, new, "telegram")[0].account, desk.clock.now() + HOUR)
    printed = desk.world.run("queue", "metrics")
    assert (printed.code, printed.err) == (0, "")
    told = parsed(printed.out)
    assert told["leadctl_queue_chunks"] == {
        ("integrations", "webhooks", "queued"): len(queued) + 1,
        ("integrations", "webhooks", "running"): 1,
        ("integrations", "telegram", "queued"): len(chunks(desk, old, "telegram")) + 1,
        ("integrations", "telegram", "running"): 0,
        ("night", "webhooks", "queued"): 1,
        ("night", "webhooks", "running"): 0,
    }
    assert told["leadctl_queue_oldest_seconds"] == {
        ("integrations",): pytest.approx(3600, abs=30),
        ("night",): pytest.approx(7200, abs=30),
    }
    assert told["leadctl_queue_waiting_accounts"] == {
        ("integrations", "webhooks"): 0, ("integrations", "telegram"): 1, ("night", "webhooks"): 0,
    }  # fmt: skip
    assert told["leadctl_queue_deliveries"] == {
        ("webhooks", "pending"): 13, ("telegram", "pending"): 12, ("telegram", "skipped"): 1,
    }  # fmt: skip
    assert set(told["leadctl_queue_throttled"].values()) == {0.0}


def test_metrics_of_what_was_done(patient: Callable[..., Desk]) -> None:
    """Telegram cannot be asked about the message whose answer was lost; webhooks said twice that it was too much."""
    desk = patient("webhooks", "telegram")
    leads = desk.world.new_leads(5)
    desk.box.faults.script("telegram", leads[0], ["reset"])
    desk.box.faults.script("webhooks", leads[0], ["rate_limit"])
    desk.box.faults.script("webhooks", leads[3], ["hour"])
    run = desk.queue(leads)
    desk.work()
    assert desk.ended(run) == ("running", None)
    assert parsed(metrics(desk.app))["leadctl_queue_throttled"] == {("telegram",): 0, ("webhooks",): 2}
    desk.clock.ahead += HOUR.total_seconds() + 1
    desk.work()
    assert desk.ended(run) == ("partial", 6)
    told = parsed(metrics(desk.app))
    assert told["leadctl_queue_deliveries"] == {
        ("webhooks", "delivered"): 5, ("telegram", "delivered"): 4, ("telegram", "unknown"): 1,
    }  # fmt: skip
    assert told["leadctl_queue_throttled"] == {("telegram",): 0, ("webhooks",): 2}
    for nothing in ("chunks", "oldest_seconds", "waiting_accounts"):
        assert told[f"leadctl_queue_{nothing}"] == {}
