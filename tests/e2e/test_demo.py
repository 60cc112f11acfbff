"""``leadctl demo``, as a newcomer types it: an outage, the same command again, and an account that adds up."""

import re

from tests.support.world import CHANNELS, World


def test_the_demo_adds_up(world: World) -> None:
    done = world.run("demo")
    assert done.code == 0, done.out[-2000:]
    assert done.out.endswith("It adds up: nothing lost, nothing twice.\n")
    before, after = done.out.split("# amoCRM is up again.")
    assert re.search(r"(?m)^(stopped|partial): 300 leads; .* (unknown|unprocessed),", before), (
        "amoCRM goes down while it is sent to"
    )
    counts = re.findall(r"(?m)^  (\w+) +(\d+) +(\d+) +(\d+) +(\d+)$", after)
    assert [row[0] for row in counts] == sorted(CHANNELS)
    for channel, delivered, there, twice, missing in counts:
        assert (int(delivered) > 100, delivered == there, twice, missing) == (True, True, "0", "0"), channel
    assert "\x1b" not in done.out + done.err
