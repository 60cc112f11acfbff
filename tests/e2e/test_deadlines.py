"""``--share`` and ``--finish-by``: part of a limit, and an end."""

import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.world import World

RATE = 20
#: So many may leave at once.
BURST = 10
LIMITS = f"[limits.webhooks]\nrate = {RATE}\nper = 1\n"


@pytest.fixture
def leads(world: World, box: Sandbox) -> list[int]:
    world.connect(box, ["webhooks"])
    world.write_config(f"[limits]\nscale = 1.0\n{LIMITS}")
    return world.new_leads(30)


def seconds_at(box: Sandbox, leads: list[int]) -> float:
    """From the first arrival to the last."""
    own = set(map(str, leads))
    times = [creation.at for creation in box.judge.creations("webhooks") if creation.lead in own]
    assert len(times) == len(leads)
    return max(times) - min(times)


@pytest.mark.parametrize(("option", "share"), [([], 1.0), (["--share", "40%"], 0.4)])
def test_a_share_of_the_limit(world: World, box: Sandbox, leads: list[int], option: list[str], share: float) -> None:
    done = world.run("--log-format", "json", "-v", "bulk-resend", *leads, *option, "--json")
    assert done.code == 0
    assert done.record("estimated")["at_least_s"] == round((30 - BURST) / RATE / share, 1)
    assert seconds_at(box, leads) > 0.9 * (30 - BURST) / (RATE * share)


@pytest.mark.parametrize("text", ["0%", "101%", "half", "-5", "6.5%", ""])
def test_what_is_no_share(world: World, leads: list[int], text: str) -> None:
    done = world.run("bulk-resend", *leads, "--share", text, "--json")
    assert done.code == 2
    assert "--share" in done.json["message"]


def test_a_deadline_that_the_limits_forbid(world: World, box: Sandbox, leads: list[int]) -> None:
    world.write_config("[limits]\nscale = 1.0\n[limits.webhooks]\nrate = 1\nper = 20\n")
    done = world.run("bulk-resend", *leads, "--finish-by", "5m", "--json")
    assert done.code == 2
    assert "webhooks alone takes 7 minutes" in done.json["message"]
    assert "at the earliest" in done.json["hint"]
    assert not {creation.lead for creation in box.judge.creations("webhooks")} & set(map(str, leads))


def test_what_is_not_done_by_then_is_left_to_the_next_run(world: World, box: Sandbox, leads: list[int]) -> None:
    box.faults.always("webhooks", "rate_limit")
    done = world.run("bulk-resend", *leads, "--finish-by", "4s", "--json")
    assert (done.code, done.json["status"]) == (5, "stopped")
    assert done.json["outcomes"]["unprocessed"] == 30
    assert {error["code"] for error in done.json["errors"]} == {"run_stopped"}
    assert "--finish-by is over" in done.json["errors"][0]["message"]
    assert done.json["next_command"]
    box.faults.clear()
    again = world.run("bulk-resend", *leads, "--json")
    assert (again.code, again.json["outcomes"]["delivered"]) == (0, 30)


def test_a_plan_for_a_person_says_how_long_it_would_take(world: World, leads: list[int]) -> None:
    world.write_config("[limits]\nscale = 1.0\n[limits.webhooks]\nrate = 1\nper = 20\n")
    said = world.run("plan", *leads)
    assert said.code == 0
    assert "at the vendors' limits it takes at least" in said.out
    (line,) = (line for line in said.out.splitlines() if line.startswith("  webhooks"))
    assert line.split() == ["webhooks", "6", "min", "30", "requests"]
    assert "limits" not in world.run("plan", leads[0]).out
