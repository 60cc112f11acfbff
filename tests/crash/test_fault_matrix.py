"""Each fault of the sandbox × each channel: what a ``resend`` makes of it, and the same command when it is over."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from leadctl import LeadResendService
from leadctl.sandbox.judge import FAULTS
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.testing.fault_matrix import FAULT_TEXTS, LEGEND, Ending, is_there, matrix, matrix_markdown
from tests.crash.arena import SCALE, notes
from tests.support import world

#: As many as the default of ``[send] tries``.
TRIES = 3


@dataclass
class Bench:
    """A sandbox and a database with a credential a channel, for all cells."""

    world: world.World
    box: Sandbox
    service: LeadResendService

    def resend(self, lead: int, channel: str) -> dict[str, Any]:
        return self.service.resend_lead(lead, [channel])

    def made(self, lead: int, channel: str) -> int:
        return self.box.judge.by_lead(channel)[str(lead)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running_sandbox(scale=SCALE) as box:
        home = world.World(tmp_path_factory.mktemp("matrix"), scale=SCALE)
        home.connect(box)
        service = LeadResendService.from_config(home.folder / "leadctl.toml")
        # Bitrix24 believes an absence only where something of ours can be read.
        service.resend_lead(home.new_leads()[0])
        yield Bench(home, box, service)


@pytest.mark.parametrize("often", ["once", "always"])
@pytest.mark.parametrize("channel", world.CHANNELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(fault: str, channel: str, often: str, bench: Bench) -> None:
    expected = matrix()[channel][fault][often == "always"]
    (lead,) = bench.world.new_leads()
    bench.box.faults.script(channel, lead, [fault] * (TRIES if often == "always" else 1))
    document = bench.resend(lead, channel)
    assert document["exit_code"] == expected.exit_code
    assert _ended(document, channel) == (expected.outcome, expected.settled_by)
    assert bench.made(lead, channel) == is_there(fault, expected)
    bench.box.faults.clear()
    _assert_goes_on(bench, lead, channel, expected)


@pytest.mark.parametrize("often", ["once", "always"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_the_note(fault: str, often: str, bench: Bench) -> None:
    """The lead is there, whatever becomes of its note; the next command completes it, alone."""
    (lead,) = bench.world.new_leads()
    bench.box.faults.script("amocrm", lead, ["ok", *[fault] * (TRIES if often == "always" else 1)])
    assert _ended(bench.resend(lead, "amocrm"), "amocrm")[0] == "delivered"
    assert bench.made(lead, "amocrm") == 1
    bench.box.faults.clear()
    document = bench.resend(lead, "amocrm")
    assert document["exit_code"] == 0
    assert (bench.made(lead, "amocrm"), notes(bench.box)[str(lead)]) == (1, 1)


def _assert_goes_on(bench: Bench, lead: int, channel: str, expected: Ending) -> None:
    """The same command when the fault is over: there once, or, where nothing can be known, still held."""
    before = bench.made(lead, channel)
    document = bench.resend(lead, channel)
    outcome, _ = _ended(document, channel)
    assert outcome == expected.next_outcome
    held = outcome == "unknown"
    assert document["exit_code"] == (6 if held else 0)
    assert bench.made(lead, channel) == (before if held else 1)


def _ended(document: dict[str, Any], channel: str) -> tuple[str, str | None]:
    (delivery,) = (entry for entry in document["deliveries"] if entry["channel"] == channel)
    return delivery["outcome"], delivery["settled_by"]


def test_the_matrix_is_complete() -> None:
    assert set(matrix()) == set(world.CHANNELS)
    for column in matrix().values():
        assert set(column) == set(FAULTS) == set(FAULT_TEXTS)
    assert {ending for column in matrix().values() for cell in column.values() for ending in cell} == set(LEGEND)


def test_the_table() -> None:
    lines = matrix_markdown().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {len(world.CHANNELS) + 1}
    assert len(rows) == len(FAULTS) + 2
    timeout = dict(zip(rows[0], next(row for row in rows if row[0] == "executed, and never answered"), strict=True))
    assert (timeout["amocrm"], timeout["telegram"], timeout["webhooks"]) == ("found", "held", "repeated / unknown")
